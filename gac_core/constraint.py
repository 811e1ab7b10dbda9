"""Holding an answer to a grammar, over the units of a union.

A `Constraint` follows one answer: at each step it says which units may come, and it keeps room for
the end, so that an answer is complete when its steps are used up. What is in the language is
decided on bytes and never depends on how text is cut into units.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from gac_core.closing import short_end
from gac_core.errors import GrammarError
from gac_core.grammar import OPTIONS, Grammar, byte_matcher, reason, shortest_match
from gac_core.union import Union


class GrammarEngine:
    """Grammars over the units of one union.

    Args:
        union: whose units answers are made of.

    """

    def __init__(self, union: Union) -> None:
        self.union = union
        self._first = union.vocabularies[union.primary]
        self._templates = lru_cache(maxsize=64)(self._template)

    def constraint(self, grammar: Grammar, steps: int, rooms: Sequence[int]) -> "Constraint":
        """Follow a new answer through a grammar.

        Args:
            grammar: the answer is held to.
            steps: the answer may have, its end included.
            rooms: tokens that fit into the members' contexts, where these have limits.

        Raises:
            GrammarError: the shortest text of the grammar needs more steps.

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
        end = self._search(self._bytes, b"", lambda end: self._fits(end, steps, rooms))
        if end is None or engine.spell(end) is None:
            raise GrammarError(
                f"no end was found for this grammar ({grammar.kind}); bound its patterns, such as "
                "with maxLength"
            )
        if not self._fits(end, steps, rooms):
            needed = len(engine.spell(end) or ()) + 1
            raise GrammarError(
                f"the shortest text found that fits the grammar, {end.decode(errors='replace')!r}, "
                f"takes {needed} steps with its end, but there is room for {min([steps, *rooms])}; "
                "raise max_new_tokens, or shorten the prompt"
            )
        self.end = end

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

    def _fits(self, end: bytes, steps: int, rooms: Sequence[int]) -> bool:
        # A member may need a token for each byte of what others write.
        tokens = self._engine.spell(end)
        return tokens is not None and len(tokens) < steps and all(len(end) < r for r in rooms)

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
        return self._search(behind, unit, lambda _: True)

    def _search(
        self, behind: LLMatcher, unit: bytes, fits: Callable[[bytes], bool]
    ) -> bytes | None:
        end = short_end(behind, self._grammar.hints, fits)
        if end is None and self._grammar.kind == "regex":
            end = shortest_match(self._grammar.patterns[0], self._written + unit)
        return end
