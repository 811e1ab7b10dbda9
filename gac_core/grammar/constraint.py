"""Holding an answer to a grammar, over the units of a union.

A `Constraint` follows one answer: at each step it knows which units may come, and it keeps enough
of the token budget for a known end, so that an answer is complete when its steps are used up. What
is in the language is decided on bytes and never depends on how text is cut into units.
"""

from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property, lru_cache, partial
from typing import Self

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer

from gac_core.errors import ContextOverflowError, GrammarError
from gac_core.grammar.completion import search_end, short_text
from gac_core.grammar.grammar import Grammar
from gac_core.grammar.matcher import byte_matcher, error_of, new_matcher, unit_tokenizer
from gac_core.tokens.spelling import CommonSpelling
from gac_core.tokens.union import UnionVocabulary


class GrammarEngine:
    """Grammars over the units of one union.

    Args:
        union: whose units answers are made of.
        spelling: which units every member can write; what the union says by default.

    """

    def __init__(self, union: UnionVocabulary, spelling: CommonSpelling | None = None) -> None:
        self.union = union
        self.spelling = spelling or union.spelling
        self._templates = lru_cache(maxsize=64)(self._template)

    def constraint(
        self, grammar: Grammar, steps: int, context_budgets: Sequence[int]
    ) -> "Constraint":
        """Follow a new answer through a grammar.

        Args:
            grammar: the answer is held to.
            steps: units of text the answer may have.
            context_budgets: tokens left in the members' contexts, where these have limits.

        Raises:
            GrammarError: the shortest text of the grammar needs more steps.
            ContextOverflowError: the shortest text does not fit into a member's context.

        """
        matcher = self._templates(grammar).deep_copy()
        return Constraint(self, grammar, matcher, steps, context_budgets)

    def prepare(self) -> None:
        """Build what all grammars need; takes a second for large unions."""
        _ = self._tokenizer

    @property
    def is_prepared(self) -> bool:
        """Whether `prepare` has nothing left to do."""
        return "_tokenizer" in self.__dict__

    def encode_greedily(self, data: bytes) -> list[int] | None:
        """The longest of the primary's own tokens, left to right.

        None if it lacks some bytes, or if another member can not write one of these tokens.
        """
        ids, covered = self.union.vocabularies[self.union.primary].cover(data)
        if covered < len(data):
            return None
        can_all_write = all(self.spelling.allows(self.union.unit(row)) for row in ids)
        return ids if can_all_write else None

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        return unit_tokenizer(self.union, self.spelling, self.encode_greedily)

    def _template(self, grammar: Grammar) -> LLMatcher:
        matcher = new_matcher(self._tokenizer, grammar.lark)
        if matcher.is_error():
            raise GrammarError(f"the grammar can not be enforced: {error_of(matcher)}")
        return matcher


class Constraint:
    """One answer on its way through a grammar. Made by `GrammarEngine.constraint`.

    Attributes:
        units: the vocabulary that the answer is made of.
        end: a text that would complete the answer, within the token budget.

    """

    def __init__(
        self,
        engine: GrammarEngine,
        grammar: Grammar,
        matcher: LLMatcher,
        steps: int,
        context_budgets: Sequence[int],
    ) -> None:
        self.units = engine.union
        self._engine = engine
        self._grammar = grammar
        self._matcher = matcher  # over units
        self._bytes = byte_matcher(grammar.lark)
        self._written = b""
        self._last_search: tuple[bytes, bytes | None] = (b"", None)  # a unit, the end after it
        self.end = self._first_end(steps, context_budgets)

    def _first_end(self, steps: int, context_budgets: Sequence[int]) -> bytes:
        """The shortest text that is found, if it is within the token budget."""
        within_budget = partial(self._is_within, steps=steps, context_budgets=context_budgets)
        end = short_text(self._grammar)
        if end is not None and not within_budget(end):
            end = self._search_end(self._bytes, b"", within_budget) or end
        tokens = None if end is None else self._engine.encode_greedily(end)
        if end is not None and tokens is None:
            raise GrammarError(
                f"the shortest text found that fits the grammar, {end.decode(errors='replace')!r}, "
                "has characters that some member can not write; leave them out of the grammar, or "
                "that member out of the ensemble"
            )
        if end is None or tokens is None:
            raise GrammarError(
                f"no end was found for this grammar ({self._grammar.kind}); bound its patterns, "
                "such as with maxLength, or offer fewer tools at once"
            )
        if within_budget(end):
            return end
        found = f"the shortest text found that fits the grammar, {end.decode(errors='replace')!r}"
        if len(tokens) > steps:
            raise GrammarError(
                f"{found}, takes {len(tokens)} steps, but there are {steps}; raise max_new_tokens, "
                "or shorten the prompt"
            )
        raise ContextOverflowError(
            f"{found}, needs room for {len(end)} tokens, but the fullest context has "
            f"{min(context_budgets)} left; shorten the prompt"
        )

    def copy(self) -> Self:
        """A constraint in the same state, which then goes its own way."""
        other = copy(self)
        other._matcher, other._bytes = self._matcher.deep_copy(), self._bytes.deep_copy()
        return other

    def allowed(self) -> torch.Tensor:
        """Which units may come next, (size,) of bool.

        Raises:
            GrammarError: the engine gave up, since the grammar is too complex.

        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise GrammarError(f"the grammar is too complex: {error_of(self._matcher)}")
        union = self._engine.union
        mask = np.unpackbits(bits, bitorder="little")[: union.size]
        return torch.from_numpy(mask.view(np.bool_)).to(union.device)

    def has_budget(self, unit: bytes, steps: int, context_budgets: Sequence[int]) -> bool:
        """Whether the answer can still be completed after a unit that may come next.

        Args:
            unit: its bytes.
            steps: left after it.
            context_budgets: tokens left before it in the members' contexts, where these have
                limits.

        """
        end = self._end_after(unit)
        left = [budget - len(unit) for budget in context_budgets]
        return end is not None and self._is_within(end, steps, left)

    def next_of_end(self) -> int | None:
        """The primary's token with which the known end begins; None if the answer is complete."""
        tokens = self._engine.encode_greedily(self.end)
        return tokens[0] if tokens else None

    def advance(self, unit: bytes) -> None:
        """Follow a unit that was written; an empty one is the space that only opens an answer.

        Raises:
            GrammarError: it was not allowed.

        """
        if not unit:
            return
        row = self._engine.union.rows.get(unit)
        rows = self._engine.encode_greedily(unit) if row is None else [row]
        end = self._end_after(unit)
        if rows is None or end is None or not self._matcher.consume_tokens(rows):
            raise GrammarError(f"{unit!r} after {self._written!r} does not fit the grammar")
        self._bytes.consume_tokens(list(unit))
        self._written += unit
        self._last_search = (b"", None)
        self.end = end

    @property
    def is_complete(self) -> bool:
        """Whether nothing more may come."""
        return bool(self._matcher.is_stopped())

    @property
    def needed(self) -> tuple[int, int]:
        """The steps and the bytes of the known end."""
        return len(self._engine.encode_greedily(self.end) or ()), len(self.end)

    def _is_within(self, end: bytes, steps: int, context_budgets: Sequence[int]) -> bool:
        """Whether an end can be written with so many steps and tokens left."""
        # A member may need a token for each byte of what others write.
        tokens = self._engine.encode_greedily(end)
        return (
            tokens is not None
            and len(tokens) <= steps
            and all(len(end) < budget for budget in context_budgets)
        )

    def _end_after(self, unit: bytes) -> bytes | None:
        """How the answer could end after this unit; None if it may not come or no end is found."""
        if self._last_search[0] != unit:
            self._last_search = (unit, self._search_end_after(unit))
        return self._last_search[1]

    def _search_end_after(self, unit: bytes) -> bytes | None:
        if self.end.startswith(unit):
            return self.end[len(unit) :]
        after = self._bytes.deep_copy()
        if after.try_consume_tokens(list(unit)) < len(unit):
            return None
        # Often the known end still completes the text after one more character of a string.
        probe = after.deep_copy()
        if probe.try_consume_tokens(list(self.end)) == len(self.end) and probe.is_accepting():
            return self.end
        return self._search_end(after, self._written + unit, self._can_be_written)

    def _search_end(
        self, matcher: LLMatcher, written: bytes, is_enough: Callable[[bytes], bool]
    ) -> bytes | None:
        characters = self._engine.spelling.characters
        return search_end(self._grammar, matcher, written, is_enough, characters=characters)

    def _can_be_written(self, end: bytes) -> bool:
        return self._engine.encode_greedily(end) is not None
