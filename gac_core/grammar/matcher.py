"""llguidance: how it writes a grammar, and its state within a text.

The state is kept over single bytes for checks and for the search for an end, and over the units of
a union for the mask.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from gac_core.errors import GrammarError
from gac_core.grammar.regex import engine_regex

if TYPE_CHECKING:  # which brings torch, and configurations are read without
    from gac_core.tokens.spelling import CommonSpelling
    from gac_core.tokens.union import UnionVocabulary

# Forced text must not be held to one spelling: members cut it into units each in its own way.
_OPTIONS: Final = '%llguidance {"no_forcing": true}\n'

# What to do about what the engine refuses, by what its message says.
_CURES: Final = {
    "look": r"; write the pattern without look-around, \b, and ^ or $ within it",
    "backreferences": "; write out what the group may be",
    "unimplemented keys": "; leave them out, and check the answer for them afterwards",
    "unknown format": "; leave it out, or say it as a pattern",
}

# ---------------------------------------------------------------- notation


def literal(text: str) -> str:
    """A text as a literal of Lark, which is written as in JSON."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007f")


def regex_literal(pattern: str) -> str:
    """A regular expression, as Python reads it, between slashes."""
    escaped = re.sub(r"(\\.)|/", lambda m: m[1] or r"\/", engine_regex(pattern), flags=re.DOTALL)
    return "/" + escaped.replace("\n", r"\n") + "/"


# ---------------------------------------------------------------- state


def new_matcher(tokenizer: LLTokenizer, lark: str) -> LLMatcher:
    """The state before a text of the language, over the tokens of a tokenizer."""
    return LLMatcher(tokenizer, _OPTIONS + lark, log_level=0)


@cache
def _byte_tokenizer() -> LLTokenizer:
    return LLTokenizer("byte")


def byte_matcher(lark: str) -> LLMatcher:
    """The state before a text of the language, over single bytes."""
    return new_matcher(_byte_tokenizer(), lark)


def bytes_in(mask: bytes) -> list[int]:
    """The bytes that a mask of a state over single bytes allows, ascending."""
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[:256]
    found: list[int] = np.flatnonzero(bits).tolist()
    return found


def is_dead(matcher: LLMatcher) -> bool:
    """Whether no text of the language begins with what the state has read."""
    matcher.compute_bitmask()
    return bool(matcher.is_stopped() and not matcher.is_accepting())


def error_of(matcher: LLMatcher) -> str:
    """The error of the state in one line, without the listing of the grammar."""
    lines = [
        line
        for line in matcher.get_error().splitlines()
        if not re.match(r"\s*\d+ \||\s*\^+\s*$", line)
    ]
    text = " ".join(" ".join(lines).split())
    return re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", text)


def check_language(lark: str, what: str) -> None:
    """Refuse a language that can not be enforced, or that has no text.

    Args:
        lark: the language.
        what: the subject of the error's message.

    Raises:
        GrammarError: it is one of the two, or has half a character.

    """
    try:
        lark.encode()
    except UnicodeEncodeError as error:
        at = error.start
        raise GrammarError(
            f"{what} holds the lone surrogate {lark[at]!r} (in {lark[max(at - 9, 0) : at + 9]!r}), "
            "which no UTF-8 text can hold; decode its source with the right encoding, or with "
            "errors='replace'"
        ) from error
    matcher = byte_matcher(lark)
    if matcher.is_error():
        error_text = error_of(matcher)
        cure = next((cure for sign, cure in _CURES.items() if sign in error_text.lower()), "")
        raise GrammarError(f"{what} can not be enforced: {error_text}{cure}")
    if is_dead(matcher):
        raise GrammarError(f"no text fits {what}")


# ---------------------------------------------------------------- units


def unit_tokenizer(
    union: "UnionVocabulary",
    spelling: "CommonSpelling",
    encode: Callable[[bytes], list[int] | None],
) -> LLTokenizer:
    """The rows of a union as a tokenizer; takes a second for large unions.

    Args:
        union: whose rows.
        spelling: which units every member can write.
        encode: text to rows; None if it can not be written.

    """
    return LLTokenizer(
        _UnitTokens(union, spelling, encode), n_vocab=union.size, eos_token=sorted(union.end_rows)
    )


class _UnitTokens(TokenizerWrapper):
    """The rows of a union in the form in which llguidance reads a tokenizer."""

    def __init__(  # instead of the base class's, which reads a Hugging Face tokenizer
        self,
        union: "UnionVocabulary",
        spelling: "CommonSpelling",
        encode: Callable[[bytes], list[int] | None],
    ) -> None:
        self.is_tokenizer_wrapper = True
        self.bos_token_id = None
        text = {row for unit, row in union.rows.items() if spelling.allows(unit)}
        if union.is_shared:  # where several ids may have the same bytes
            text |= set(union.vocabularies[union.primary].text_ids)
        self.eos_token_id = min(union.end_rows)
        self.tokens = [union.unit(row) if row in text else b"" for row in range(union.size)]
        for row in union.end_rows:
            self.tokens[row] = b"\xff<end>"
        self.special_token_ids = sorted(union.end_rows)
        self._encode = encode

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text.encode() if isinstance(text, str) else text) or []
