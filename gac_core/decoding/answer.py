"""The answer of one request so far: choosing its next unit, and writing it to every history."""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Final, Self

import torch

from gac_core.decoding.forced import ForcedText
from gac_core.decoding.leading_space import LeadingSpace, Spelling
from gac_core.decoding.part import Part
from gac_core.decoding.sampling import Sampler, top_row
from gac_core.decoding.shared_state import SharedState
from gac_core.errors import MethodError
from gac_core.grammar.constraint import Constraint
from gac_core.outputs import DecidedBy, MemberView, Step
from gac_core.sampling_params import SamplingParams
from gac_core.tokens.history import History
from gac_core.tokens.spaces import BYTES, Space

_MOST_AGREED: Final = 64  # rows among which the best one is that contradicts no agreed byte


class Answer:
    """The text written so far, in each member's own ids, and how it may go on.

    Args:
        shared: the state that all requests of the ensemble share.
        prompts: each member's prompt ids.
        sampling: how units are chosen; its seed is set.
        part: what is written: the rest of a text, a thought, or an answer.
        constraint: the grammar the answer is held to.

    Attributes:
        part: what is written.
        constraint: the grammar the answer is held to, or None.
        sampler: chooses from distributions.
        leading_space: the space that may stand before the answer.
        histories: what each member has read, by member index.
        position: the number of steps that were emitted.
        drawn: the number of rows that were chosen: one a step, or one a byte.
        forced: the text that is written whatever is probable, or None; see `force`.
        was_truncated: whether the token budget forced the shortest completion of the grammar
            instead of the unit that was chosen.

    """

    def __init__(
        self,
        shared: SharedState,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        part: Part,
        *,
        constraint: Constraint | None,
    ) -> None:
        self._shared = shared
        self._sampling = sampling
        self.part = part
        primary = shared.config.primary
        self.constraint = constraint
        self.sampler = Sampler(sampling)
        self.leading_space = LeadingSpace(
            shared.members,
            shared.units,
            primary,
            begins_turn=part.begins_turn,
            by_bytes=shared.space != "tokens",
        )
        self.forced: ForcedText | None = None
        self.position = 0
        self.drawn = part.drawn
        self.was_truncated = False
        self.histories = tuple(
            History(
                ids,
                member.tokenizer,
                reencode=shared.reencodes(m),
                context_size=part.room(m, member),
            )
            for m, (ids, member) in enumerate(zip(prompts, shared.members, strict=True))
        )

    def fork(self, *, free: bool = False) -> Self:
        """A copy to which other units can be written; no text is forced on it.

        Args:
            free: whether the copy drops the grammar.

        """
        other = copy(self)
        other.forced = None
        other.histories = tuple(history.copy() for history in self.histories)
        other.leading_space = self.leading_space.copy()
        if self.constraint is not None:
            other.constraint = None if free else self.constraint.copy()
        return other

    def force(self, text: str) -> None:
        """Have every choice go on with a text, and end after it, whatever is probable.

        For an answer that goes on with a raw text and has no grammar. What a method gave the text
        is then the sum of its steps' `logprob`. Forks choose freely, so a draft is the method's.

        Raises:
            CannotSpellError: the primary has no tokens for some bytes of it.

        """
        primary = self._shared.members[self._shared.config.primary]
        self.forced = ForcedText(text.encode(), primary.tokenizer)

    def _forced_row(self, space: Space) -> int:
        assert self.forced is not None
        primary = self._shared.config.primary
        return self.forced.row(len(self.histories[primary].answer), space)

    # ------------------------------------------------ budget

    @property
    def steps_left(self) -> int:
        """The number of steps that may still be emitted."""
        return self._sampling.max_new_tokens - self.position

    @property
    def top_logprobs(self) -> int:
        """The number of alternatives that a step keeps."""
        return self._sampling.top_logprobs if self._sampling.logprobs else 0

    def fits(self, more: int = 0) -> bool:
        """Whether every member's context holds the answer, even after `more` further bytes."""
        return all(history.fits(more) for history in self.histories)

    def _has_budget_after(self, row: int, space: Space) -> bool:
        """Whether the grammar can still be completed after this row."""
        assert self.constraint is not None
        if space.is_end(row):
            return True
        unit = space.unit(row)
        if self.leading_space.is_spelling(space):
            unit = unit.removeprefix(b" ")
        contexts = [b for history in self.histories if (b := history.budget) is not None]
        return self.constraint.has_budget(unit, self.steps_left - 1, contexts)

    # ------------------------------------------------ choosing

    def allowed(self, space: Space) -> torch.Tensor:
        """Which rows of a space the grammar allows next, (size,) of bool.

        Raises:
            MethodError: the answer is held to its grammar in other units.

        """
        assert self.constraint is not None
        if (space is BYTES) != (self.constraint.units is BYTES):
            raise MethodError(
                f"space {self._shared.space} holds answers to grammars in other units than were "
                "emitted; a method that emits by itself must name its spaces in its spec"
            )
        return space.from_units(self.leading_space.allow(self.constraint.allowed(), space))

    @property
    def is_held_to_bytes(self) -> bool:
        """Whether the answer is held to a grammar over bytes."""
        return self.constraint is not None and self.constraint.units is BYTES

    def legal(self, probs: torch.Tensor, space: Space) -> torch.Tensor:
        """See `Request.legal`."""
        if self.constraint is None:
            return probs
        constrained = probs * self.allowed(space)
        mass = constrained.sum()
        return constrained / mass if mass > 0 else constrained

    def choose(
        self,
        probs: torch.Tensor,
        space: Space,
        minus: torch.Tensor | None = None,
    ) -> int:
        """The row that is greedy, or drawn for this position with the request's seed.

        With a grammar it is a row that the grammar allows. If all of these have probability 0, or
        the chosen one leaves no budget for the end, it is the next row of the known completion.

        Args:
            probs: over the space, (size,).
            space: the space whose rows they are.
            minus: draw from the residual over this distribution; see `Sampler.choose`.

        """
        if self.forced is not None:
            return self._forced_row(space)
        if self.constraint is None:
            return self.sampler.choose(probs, self.drawn, minus)
        constrained = probs * self.allowed(space)
        if float(constrained.max()) > 0.0:
            row = self.sampler.choose(constrained, self.drawn, minus)
            if self._has_budget_after(row, space):
                return row
            self.was_truncated = True
        token = self.constraint.next_of_end()
        return space.end_row if token is None else token

    def _choose_agreed(self, probs: torch.Tensor, space: Space, agreed: bytes, own: int) -> int:
        """The greedy row that contradicts no byte on which all members agree.

        Args:
            probs: over the primary's rows, (size,).
            space: these rows.
            agreed: the bytes.
            own: the primary's most probable row; it is chosen if all of it is agreed.

        """
        hidden = b" " if self.leading_space.is_spelling(space) else b""
        if agreed.startswith(space.unit(own).removeprefix(hidden)) and float(probs[own]) > 0:
            return own
        values, rows = probs.topk(min(_MOST_AGREED, len(probs)))
        for row, value in zip(rows.tolist(), values.tolist(), strict=True):
            unit = space.unit(row).removeprefix(hidden)
            is_agreed = unit.startswith(agreed) or agreed.startswith(unit)
            if is_agreed and value > 0 and not space.is_end(row):
                return int(row)
        return self.choose(probs, space)  # a rule that forbids what is agreed

    # ------------------------------------------------ writing

    def emit(
        self,
        probs: torch.Tensor,
        space: Space,
        views: Mapping[int, torch.Tensor],
        *,
        row: int | None = None,
        minus: torch.Tensor | None = None,
        agreed: bytes = b"",
    ) -> Step:
        """Choose a row and write its unit to every history.

        Args:
            probs: the distribution to choose from, over the space, (size,).
            space: the space whose rows they are.
            views: the distributions of the members that were asked, by member index, (size,) each.
            row: the row, if it is chosen already.
            minus: see `choose`.
            agreed: bytes on which all members agree; a greedy row contradicts none of them.

        Raises:
            MethodError: a text is forced, and the row is another.

        """
        if row is None:
            is_free = self.constraint is None and self.forced is None
            if agreed and is_free and self.sampler.is_greedy:
                own = top_row(views[self._shared.config.primary])
                row = self._choose_agreed(probs, space, agreed, own)
            else:
                row = self.choose(probs, space, minus)
        elif self.forced is not None and row != self._forced_row(space):
            raise MethodError(
                "the method chose a unit by itself, so no text can be forced on it; let `emit` "
                "choose, or `Answer.choose`"
            )
        unit, is_end = space.unit(row), space.is_end(row)
        spelling = self.leading_space.spelling(space, unit)
        tops = {m: top_row(view) for m, view in views.items()}
        members = tuple(
            MemberView(
                self._shared.members[m].name,
                spelling.without_space(space.unit(tops[m])),
                float(view[tops[m]]),
                float(view[row]),
            )
            for m, view in views.items()
        )
        if not is_end:
            for m, history in enumerate(self.histories):
                written = spelling.leading_spaces[m] + spelling.unit
                token = space.token(m, row) if written == unit else None
                is_foreign = not space.is_choice(m, row, tops.get(m))
                history.append(written, token, is_foreign=is_foreign)
            unit = spelling.unit
        decided_by = self._decided_by(views)
        step = Step(unit, is_end, "", float(probs[row].log()), decided_by, members)
        self._move_on(unit, is_end=is_end)
        return self._with_top(step, probs, space, spelling)

    def append_agreed(self, unit: bytes, token: int | None = None) -> None:
        """Write a unit as if all members had chosen it; for a `fork`.

        Args:
            unit: its bytes.
            token: the primary's id of it, if the primary has it as a token.

        """
        union = self._shared.union
        for m, history in enumerate(self.histories):
            own = token if union.is_shared or m == union.primary else None
            is_own = own is not None or unit in union.vocabularies[m].ids_by_bytes
            history.append(unit, own, is_foreign=not is_own)
        self._move_on(unit, is_end=False)

    def append_byte(self, byte: bytes) -> None:
        """Write one byte of a step, which `end_step` ends."""
        spelling = self.leading_space.spelling(BYTES, byte)
        for history, space in zip(self.histories, spelling.leading_spaces, strict=True):
            history.append(space + byte)
        self.drawn += 1
        self.leading_space.pass_first_step()
        if self.constraint is not None:
            self.constraint.advance(byte)

    def end_step(
        self,
        unit: bytes,
        logprob: float,
        members: Mapping[int, MemberView],
        top: tuple[tuple[bytes, float], ...] = (),
        *,
        is_end: bool = False,
    ) -> Step:
        """The step of the bytes that were appended.

        Args:
            unit: these bytes.
            logprob: of all of them, in nats.
            members: the views of the members that were asked, by member index.
            top: the most probable bytes to begin with and their logprobs, best first.
            is_end: whether the step is the end.

        """
        self.position += 1
        views = tuple(members[m] for m in sorted(members))
        top = top[: self.top_logprobs]
        return Step(unit, is_end, "", logprob, self._decided_by(members), views, top)

    def _decided_by(self, views: Mapping[int, object]) -> DecidedBy:
        primary = self._shared.config.primary
        is_alone = len(self._shared.members) == 1 or views.keys() == {primary}
        return "primary" if is_alone else "ensemble"

    def _move_on(self, unit: bytes, *, is_end: bool) -> None:
        self.position += 1
        self.drawn += 1
        self.leading_space.pass_first_step()
        if self.constraint is not None and not is_end:
            self.constraint.advance(unit)

    def _with_top(self, step: Step, probs: torch.Tensor, space: Space, spelling: Spelling) -> Step:
        """The step with its most probable alternatives, if logprobs are wanted."""
        if not self._sampling.logprobs:
            return step
        values, rows = probs.topk(min(self._sampling.top_logprobs, len(probs)))
        top = tuple(
            (spelling.without_space(space.unit(row)), math.log(value))
            for row, value in zip(rows.tolist(), values.tolist(), strict=True)
            if value > 0
        )
        return replace(step, top=top)
