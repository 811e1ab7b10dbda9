"""What every member of an ensemble can write; nothing else is ever written.

A member must be able to spell printable ASCII, tab and newline. Rarer bytes it may lack: units that
some member can not spell are masked for all, and a prompt that holds them is refused.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Final

from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.vocabulary import NEVER_IN_TEXT, Vocabulary, are_same_text

_log = logging.getLogger(__name__)

_BEYOND_ASCII: Final = frozenset(range(0x80, 0x100))
_CONTINUATIONS: Final = frozenset(range(0x80, 0xC0))  # the second and later bytes of a character
_MOST_SHOWN: Final = 8


class CommonSpelling:
    """Which units every member can write.

    A unit of whole characters: each member's tokens can cover its bytes. A unit that begins or ends
    within a character: each member has a token for each of its bytes, and for every byte that a
    character may go on with, so that what is begun can be ended. Members that share one vocabulary
    can write all of it.

    Args:
        vocabularies: one per member.
        by_bytes: whether text is written byte by byte, so that each byte must have a token.

    """

    def __init__(self, vocabularies: Sequence[Vocabulary], *, by_bytes: bool = False) -> None:
        if are_same_text(vocabularies):
            vocabularies = ()
        self._lacking = [v for v in vocabularies if v.missing_bytes]
        self._by_bytes = by_bytes
        missing = frozenset[int]().union(*(v.missing_bytes for v in self._lacking))
        # Units without these bytes can be written.
        self._doubtful = missing if missing.isdisjoint(_CONTINUATIONS) else missing | _BEYOND_ASCII

    @property
    def is_complete(self) -> bool:
        """Whether everything can be written."""
        return not self._doubtful

    def allows(self, unit: bytes) -> bool:
        """Whether every member can write a unit."""
        if self._doubtful.isdisjoint(unit):
            return True
        return (
            not self._by_bytes
            and _is_whole(unit)
            and all(vocabulary.cover(unit)[1] == len(unit) for vocabulary in self._lacking)
        )

    @cached_property
    def characters(self) -> str:
        """Characters that can be written wherever they stand, as a regular expression of one."""
        if not self._doubtful - NEVER_IN_TEXT:
            return "."
        lacking = "".join(f"\\x{byte:02x}" for byte in sorted(self._doubtful - _BEYOND_ASCII))
        beyond = (
            "" if _BEYOND_ASCII.isdisjoint(self._doubtful - NEVER_IN_TEXT) else r"\u{80}-\u{10ffff}"
        )
        return f"[^{lacking}{beyond}]"


def _is_whole(unit: bytes) -> bool:
    """Whether a unit begins and ends between characters."""
    try:
        unit.decode()
    except UnicodeDecodeError:
        return False
    return True


def check_spelling(tokenizers: Mapping[str, ByteTokenizer]) -> None:
    """Refuse members that can not write ordinary text, unless all share one vocabulary.

    What a member lacks beyond that is said in a warning.

    Args:
        tokenizers: of the members, by name.

    Raises:
        VocabularyError: a tokenizer can not spell printable ASCII, tab and newline, or rewrites
            text.

    """
    if are_same_text([tokenizer.vocabulary for tokenizer in tokenizers.values()]):
        return
    for tokenizer in tokenizers.values():
        tokenizer.check()
    for name, tokenizer in tokenizers.items():
        if missing := tokenizer.vocabulary.missing_bytes - NEVER_IN_TEXT:
            warn_of(name, missing)


@cache  # an evaluation builds many ensembles of the same members
def warn_of(name: str, missing: frozenset[int]) -> None:
    """Say once what bytes a member lacks."""
    _log.warning(
        "%s has no tokens for %s; the ensemble never writes what it can not spell, and "
        "refuses a prompt that holds it",
        name,
        _shown(missing),
    )


def _shown(missing: frozenset[int]) -> str:
    """Bytes in words: those of ASCII as characters, the others by their number."""
    plain = sorted(missing - _BEYOND_ASCII)
    parts = []
    if plain:
        more = ", ..." if len(plain) > _MOST_SHOWN else ""
        named = ", ".join(f"U+{byte:04X}" for byte in plain[:_MOST_SHOWN]) + more
        parts.append(f"{len(plain)} control characters ({named})")
    if beyond := len(missing & _BEYOND_ASCII):
        parts.append(f"{beyond} of the bytes of which characters beyond ASCII are made")
    return " and ".join(parts)
