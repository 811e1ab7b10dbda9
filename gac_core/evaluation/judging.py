"""Ways to judge a free answer: by accepted words, by a regular expression, by compiling it.

What is compared are words: a text in lower case without accents (compatibility characters as their
plain ones: H₂O is h2o), of which only letters and digits count. A number with its sign, its
fraction and without its thousands commas is one word (-1,000.5), and so is each character of a
script that puts no blanks between words (Chinese, Japanese, Thai, ...).
"""

import re
import unicodedata
import warnings
from codeop import compile_command
from collections.abc import Sequence
from textwrap import dedent
from typing import Final, Literal

Match = Literal["first", "contains", "exact"]

_SINGLE: Final = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD: Final = re.compile(
    r"(?:(?<![^\W_])-)?\d+(?:,\d{3})*(?:\.\d+)?(?![^\W_])"
    rf"|[{_SINGLE}]|(?:(?![{_SINGLE}])[^\W_])+"
)
_ACCENTS: Final = re.compile("[\u0300-\u036f]")
_THOUGHT: Final = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_BREAK: Final = re.compile(r"\n|\.(?![\w.])|。")
_GOES_ON: Final = tuple(":!?,")  # what ends no sentence, if it ends a line
_ABBREVIATION: Final = re.compile(r"(?:\b[A-Z]|\b(?:St|Mt|Mr|Mrs|Ms|Dr))\Z")
_NEXT_BLOCK: Final = re.compile(r"\n(?=[^\s)\]}#])")
_FENCED: Final = re.compile(r"^[ \t]*```[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)


def words(text: str) -> tuple[str, ...]:
    """The words of a text, as they are compared."""
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text).replace("\u2212", "-"))
    plain = unicodedata.normalize("NFC", plain).casefold()
    return tuple(word.replace(",", "") for word in _WORD.findall(plain))


def first_sentence(text: str) -> str:
    """A text up to the first full stop or line end with a letter or digit before it.

    A line goes on after a colon, a comma, a mark of exclamation or question ("Sure!"), and if it is
    a heading (#); a full
    stop within a word or number, and after a capital or a title (St.), ends nothing; nor does one
    after a number that begins the text, as in a list.
    """
    text = text.strip()
    for found in _BREAK.finditer(text):
        sentence = text[: found.start()].rstrip()
        bare = sentence.rstrip("*_ ")
        is_heading = bare.rpartition("\n")[2].startswith("#") or bare.endswith(_GOES_ON)
        if not words(bare) or (found[0] == "\n" and is_heading):
            continue
        is_list = bare.isdecimal() and bool(text[found.end() :].strip())
        if found[0] == "." and (_ABBREVIATION.search(bare) or is_list):
            continue
        return sentence
    return text


def says(text: str, accepted: Sequence[str], match: Match) -> bool:
    """Whether an answer gives one of the accepted ones.

    Args:
        text: the answer; what a model thought before it (``<think>``) does not count.
        accepted: texts.
        match: "exact": its words are those of one of them; "contains": somewhere in it stand the
            words of one, in a row; "first": in its first sentence.

    """
    text = _THOUGHT.sub("", text)
    found = words(first_sentence(text) if match == "first" else text)
    if match == "exact":
        return any(words(one) == found for one in accepted)
    joined = f" {' '.join(found)} "
    return any(f" {' '.join(words(one))} " in joined for one in accepted)


def code_in(text: str) -> str:
    """The first fenced block of an answer, or the whole answer without one."""
    text = _THOUGHT.sub("", text)
    found = _FENCED.search(text)
    return text if found is None else dedent(found[1])


def block_after(prompt: str, text: str) -> str:
    """What goes on with the block of code that a prompt opened: up to a line without an indent.

    All of the text if the prompt ends outside any block.
    """
    last = prompt.rstrip().rpartition("\n")[2]
    if not (last[:1].isspace() or last.endswith(":")):
        return text
    found = _NEXT_BLOCK.search(text)
    return text if found is None else text[: found.start() + 1]


def compiles(source: str, *, is_cut: bool = False) -> bool:
    """Whether Python can compile a program; it is not run.

    Args:
        source: the program.
        is_cut: whether a limit cut its end; then its last line is left out, and what stands before
            may be unfinished.

    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of "\d" in a plain string
            if is_cut:
                compile_command(source.rpartition("\n")[0], "<answer>", "exec")
            else:
                compile(source, "<answer>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError):
        return False
    return True
