r"""Regular expressions as Python's `re` reads them, in the notation of the grammar engine.

The engine reads those of Rust, in which some of the same texts mean something else, or nothing:
sets within sets, `\<`, `\Z`, `{,2}`. What only Rust has, such as `\p{L}`, is left as it is.
"""

import re
import unicodedata
from typing import Final

from gac_core.errors import GrammarError

_ESCAPE: Final = r"\\(?:N\{[^}]*\}|[pPxu]\{[^}]*\}|0[0-7]{0,2}|[1-3][0-7]{2}|.)"
_PIECE: Final = re.compile(
    rf"(?P<escape>{_ESCAPE})"
    r"|\[(?P<negated>\^?)(?P<set>\]?(?:\[:\^?[a-z]+:\]|\\.|[^\]\\])*)\]"
    r"|(?P<comment>\(\?#[^)]*\))"
    r"|(?P<repeat>[*+?]|\{(?P<least>\d+(?=[,}])|(?=,))(?P<most>(?:,\d*)?)\})(?P<how>[?+]?)"
    r"|(?P<brace>\{)",
    re.DOTALL,
)
_IN_SET: Final = re.compile(  # in a set there are no groups to refer to, so any number is octal
    r"(?P<posix>\[:\^?[a-z]+:\])"
    rf"|(?P<low>\\[0-7]{{1,3}}|{_ESCAPE}|.)(?:-(?P<high>\\[0-7]{{1,3}}|{_ESCAPE}|.))?",
    re.DOTALL,
)
_VERBOSE: Final = re.compile(r"\(\?([a-wyzA-Z]*)x([a-zA-Z]*)\)")
_BLANK_OR_COMMENT: Final = re.compile(
    r"(\\.|\[\^?\]?(?:\\.|[^\]\\])*\])|\(\?\#[^)]*\)|[ \t\n\r\f\v]+|\#[^\n]*", re.DOTALL
)


def engine_regex(pattern: str) -> str:
    """A regular expression that means to the engine what the pattern means to Python.

    Raises:
        GrammarError: it has a possessive quantifier, or no character has a name it gives.

    """
    if flags := _VERBOSE.match(pattern):
        bare = _BLANK_OR_COMMENT.sub(lambda piece: piece[1] or "", pattern[flags.end() :])
        others = flags[1] + flags[2]
        pattern = (f"(?{others})" if others else "") + bare
    return _PIECE.sub(_translated, pattern)


def _translated(piece: re.Match[str]) -> str:
    if piece["escape"]:
        return {r"\Z": r"\z"}.get(piece[0]) or _escape(piece[0])
    if piece["set"] is not None:
        return f"[{piece['negated']}{_IN_SET.sub(_set_item, piece['set'])}]"
    if piece["comment"]:
        return ""
    if piece["brace"]:
        return r"\{"
    if piece["how"] == "+":
        raise GrammarError(
            f"the regular expression has {piece[0]!r}, which never gives back what it took; leave "
            "the second sign out"
        )
    if piece["most"] is None:
        return piece[0]
    return f"{{{piece['least'] or 0}{piece['most']}}}{piece['how']}"


def _set_item(item: re.Match[str]) -> str:
    """A character, a range or a class of a set."""
    if item["posix"]:
        return item[0]
    low = _in_set(item["low"])
    return low if item["high"] is None else f"{low}-{_in_set(item['high'])}"


def _in_set(text: str) -> str:
    if re.fullmatch(r"\\[0-7]{1,3}", text):
        return _code(chr(int(text[1:], 8)))
    if text == r"\b":
        return _code("\b")
    return _escape(text) if text[0] == "\\" else f"\\{text}" if text in "[]&~-^" else text


def _escape(text: str) -> str:
    r"""An escape that stands for the same character or class; \< is `<` for Python."""
    if re.match(r"\\0|\\[1-3][0-7]{2}$", text):
        return _code(chr(int(text[1:], 8)))
    if text.startswith(r"\N{"):
        try:
            return _code(unicodedata.lookup(text[3:-1]))
        except KeyError:
            raise GrammarError(
                f"the regular expression has {text}, and no character has this name"
            ) from None
    is_kept = "!" <= text[1] <= "~" and text[1] not in "<>"
    is_half = "\ud800" <= text[1] <= "\udfff"  # of a character, which is refused by that name
    return text if is_kept or is_half else _code(text[1])


def _code(character: str) -> str:
    """A character as its number, which stands for nothing else anywhere."""
    return rf"\u{ord(character):04X}" if character <= "\uffff" else rf"\U{ord(character):08X}"
