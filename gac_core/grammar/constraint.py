"""Holding an answer to a grammar, over the units of a union.

A `Constraint` follows one answer: at each step it says which units may come, and it keeps room for
the end, so that an answer is complete when its steps are used up. What is in the language is
decided on bytes and never depends on how text is cut into units.
"""

import json
import re
from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property, lru_cache, partial
from typing import Final, Self

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from gac_core.errors import ContextOverflowError, GrammarError
from gac_core.grammar.call_tags import CALL_OPENS
from gac_core.grammar.completion import short_end
from gac_core.grammar.grammar import (
    OPTIONS,
    Grammar,
    byte_matcher,
    reason,
    rest_of_json_text,
    shortest_match,
)
from gac_core.tokens.union import UnionVocabulary


class GrammarEngine:
    """Grammars over the units of one union.

    Args:
        union: whose units answers are made of.

    """

    def __init__(self, union: UnionVocabulary) -> None:
        self.union = union
        self._first = union.vocabularies[union.primary]
        self._templates = lru_cache(maxsize=64)(self._template)

    def constraint(self, grammar: Grammar, steps: int, rooms: Sequence[int]) -> "Constraint":
        """Follow a new answer through a grammar.

        Args:
            grammar: the answer is held to.
            steps: units of text the answer may have.
            rooms: tokens that fit into the members' contexts, where these have limits.

        Raises:
            GrammarError: the shortest text of the grammar needs more steps.
            ContextOverflowError: there is no room for it in a member's context.

        """
        return Constraint(self, grammar, self._templates(grammar).deep_copy(), steps, rooms)

    def prepare(self) -> None:
        """Build what all grammars need; takes a second for large unions."""
        _ = self._tokenizer

    @property
    def is_prepared(self) -> bool:
        """Whether `prepare` has nothing left to do."""
        return "_tokenizer" in self.__dict__

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        return LLTokenizer(_Units(self), n_vocab=self.union.size, eos_token=sorted(self.ends))

    @property
    def ends(self) -> frozenset[int]:
        """The rows that end an answer."""
        return self.union.end_rows

    @cached_property
    def _longest(self) -> int:
        return min(64, max(map(len, self._first.ids_by_bytes), default=1))

    def _template(self, grammar: Grammar) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer, OPTIONS + grammar.lark, log_level=0)
        if matcher.is_error():
            raise GrammarError(f"the grammar can not be enforced: {reason(matcher.get_error())}")
        return matcher

    def spell(self, data: bytes) -> list[int] | None:
        """These bytes as few of the primary's own tokens, longest first; None if it lacks some."""
        ids, at = [], 0
        tokens = self._first.ids_by_bytes
        while at < len(data):
            for length in range(min(self._longest, len(data) - at), 0, -1):
                token = tokens.get(data[at : at + length])
                if token is not None:
                    ids.append(token)
                    at += length
                    break
            else:
                return None
        return ids


class _Units(TokenizerWrapper):
    """A union as llguidance wants to be told of a tokenizer."""

    def __init__(self, engine: GrammarEngine) -> None:  # not as the base class would
        self.is_tokenizer_wrapper = True
        self.bos_token_id = None
        union = engine.union
        text = set(union.rows.values())
        if union.is_shared:  # where several ids may have the same bytes
            text |= set(union.vocabularies[union.primary].text_ids)
        self.eos_token_id = min(engine.ends)
        self.tokens = [union.unit(row) if row in text else b"" for row in range(union.size)]
        for row in engine.ends:
            self.tokens[row] = b"\xff<end>"
        self.special_token_ids = sorted(engine.ends)
        self._spell = engine.spell

    def __call__(self, text: bytes | str) -> list[int]:
        return self._spell(text.encode() if isinstance(text, str) else text) or []


class Constraint:
    """One answer on its way through a grammar. Made by `GrammarEngine.constraint`.

    Attributes:
        end: a text that would complete the answer, and for which there is room.

    """

    def __init__(
        self,
        engine: GrammarEngine,
        grammar: Grammar,
        matcher: LLMatcher,
        steps: int,
        rooms: Sequence[int],
    ) -> None:
        self._engine = engine
        self._grammar = grammar
        self._matcher = matcher  # over units
        self._bytes = byte_matcher(grammar.lark)
        self._written = b""
        self._past: list[tuple[int, int, bytes]] = []  # per unit: tokens, bytes, the end before it
        self._looked_at: tuple[bytes, bytes | None] = (b"", None)  # a unit, the end behind it
        end = short_text(grammar)
        if end is not None and not self._fits(end, steps, rooms):
            fits = partial(self._fits, steps=steps, rooms=rooms)
            end = search_end(grammar, self._bytes, b"", fits) or end
        if end is None or engine.spell(end) is None:
            raise GrammarError(
                f"no end was found for this grammar ({grammar.kind}); bound its patterns, such as "
                "with maxLength"
            )
        if not self._fits(end, steps, rooms):
            needed = len(engine.spell(end) or ())
            found = (
                f"the shortest text found that fits the grammar, {end.decode(errors='replace')!r}"
            )
            if needed > steps:
                raise GrammarError(
                    f"{found}, takes {needed} steps, but there are {steps}; raise max_new_tokens, "
                    "or shorten the prompt"
                )
            raise ContextOverflowError(
                f"{found}, needs room for {len(end)} tokens, but the fullest context has "
                f"{min(rooms)} left; shorten the prompt"
            )
        self.end = end

    def copy(self) -> Self:
        """Another one that goes its own way from here."""
        other = copy(self)
        other._matcher, other._bytes = self._matcher.deep_copy(), self._bytes.deep_copy()
        other._past = list(self._past)
        return other

    def allowed(self) -> torch.Tensor:
        """Which units may come next, (size,) of bool.

        Raises:
            GrammarError: the engine gave up, since the grammar is too complex.

        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise GrammarError(f"the grammar is too complex: {reason(self._matcher.get_error())}")
        union = self._engine.union
        mask = np.unpackbits(bits, bitorder="little")[: union.size]
        return torch.from_numpy(mask.view(np.bool_)).to(union.device)

    def leaves_room(self, unit: bytes, steps: int, rooms: Sequence[int]) -> bool:
        """Whether the answer can still be completed behind a unit that may come next.

        Args:
            unit: its bytes.
            steps: left behind it.
            rooms: tokens left before it in the members' contexts, where these have limits.

        """
        end = self._end_behind(unit)
        return end is not None and self._fits(end, steps, [room - len(unit) for room in rooms])

    def next_of_end(self) -> int | None:
        """The primary's token with which the known end begins; None if it is the end itself."""
        tokens = self._engine.spell(self.end)
        return tokens[0] if tokens else None

    def advance(self, unit: bytes) -> None:
        """The unit was written; empty is the space that only opens an answer.

        Raises:
            GrammarError: it was not allowed.

        """
        if not unit:
            self._past.append((0, 0, self.end))
            return
        row = self._engine.union.rows.get(unit)
        rows = self._engine.spell(unit) if row is None else [row]
        end = self._end_behind(unit)
        if rows is None or end is None or not self._matcher.consume_tokens(rows):
            raise GrammarError(f"{unit!r} behind {self._written!r} does not fit the grammar")
        self._bytes.consume_tokens(list(unit))
        self._written += unit
        self._past.append((len(rows), len(unit), self.end))
        self._looked_at = (b"", None)
        self.end = end

    def roll_back(self, units: int) -> None:
        """Take back the last units, such as those of a draft that was not accepted."""
        for _ in range(units):
            tokens, length, self.end = self._past.pop()
            self._matcher.rollback(tokens)
            self._bytes.rollback(length)
            self._written = self._written[: len(self._written) - length]
        self._looked_at = (b"", None)

    @property
    def is_complete(self) -> bool:
        """Whether nothing more may come."""
        return bool(self._matcher.is_stopped())

    def _fits(self, end: bytes, steps: int, rooms: Sequence[int]) -> bool:
        # A member may need a token for each byte of what others write.
        tokens = self._engine.spell(end)
        return tokens is not None and len(tokens) <= steps and all(len(end) < r for r in rooms)

    def _end_behind(self, unit: bytes) -> bytes | None:
        """How the answer could end after this unit; None if it may not come or no end is found."""
        if self._looked_at[0] != unit:
            self._looked_at = (unit, self._search_behind(unit))
        return self._looked_at[1]

    def _search_behind(self, unit: bytes) -> bytes | None:
        if self.end.startswith(unit):
            return self.end[len(unit) :]
        behind = self._bytes.deep_copy()
        if behind.try_consume_tokens(list(unit)) < len(unit):
            return None
        same = behind.deep_copy()  # one more letter of a text ends as the text without it
        if same.try_consume_tokens(list(self.end)) == len(self.end) and same.is_accepting():
            return self.end
        return search_end(self._grammar, behind, self._written + unit, lambda _: True)


@lru_cache(maxsize=256)
def short_text(grammar: Grammar) -> bytes | None:
    """A short text of a grammar; None if none was found."""
    return search_end(grammar, byte_matcher(grammar.lark), b"", lambda _: True)


def search_end(
    grammar: Grammar, matcher: LLMatcher, written: bytes, fits: Callable[[bytes], bool]
) -> bytes | None:
    """How a text could end that is written so far; None if no end was found.

    Args:
        grammar: of the text.
        matcher: its state over single bytes behind what is written.
        written: so far.
        fits: whether an end is short enough; the search for a shorter one stops there.

    """
    if grammar.kind == "regex":
        return shortest_match(grammar.patterns[0], written)
    text = _open_text(written) if grammar.patterns else None
    for pattern in grammar.patterns if text is not None else ():
        assert text is not None
        rest = rest_of_json_text(pattern, text)
        if rest is None or matcher.validate_tokens([*rest, _QUOTE]) <= len(rest):
            continue
        behind = matcher.deep_copy()
        behind.consume_tokens([*rest, _QUOTE])
        closed = rest + b'"'
        end = short_end(behind, grammar.hints, partial(_fits_behind, closed, fits))
        if end is not None:
            return closed + end
    return short_end(matcher, grammar.hints, fits)


def _fits_behind(begun: bytes, fits: Callable[[bytes], bool], end: bytes) -> bool:
    return fits(begun + end)


_QUOTE: Final = ord('"')


def _open_text(written: bytes) -> str | None:
    """The JSON text within which what is written ends, if there is one."""
    body = written[written.rfind(CALL_OPENS.encode()) + 1 :]
    quotes = [m.start() for m in re.finditer(rb'\\.|(")', body, re.DOTALL) if m[1]]
    if len(quotes) % 2 == 0:
        return None
    try:
        return str(json.loads(body[quotes[-1] :] + b'"', strict=False))
    except ValueError:  # half an escape, or half a character
        return None
