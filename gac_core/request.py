"""One request: what a decoding method reads, and how it says what was chosen.

A method asks for logits with `Ask`, turns them into distributions over the union with
`Request.to_union`, and emits with `Request.emit`, which extends every member's history.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from gac_core import fusion
from gac_core.config import SamplingParams
from gac_core.constraint import Constraint
from gac_core.errors import NonFiniteLogitsError
from gac_core.history import History
from gac_core.sampling import choose, make_warpers, penalise_repetition, top_row, uniform_at
from gac_core.scorer import Query, Scorer
from gac_core.speller import Speller
from gac_core.steps import DecidedBy, MemberView, Step
from gac_core.union import Union


@dataclass(frozen=True)
class Member:
    """One model of an ensemble, as methods see it.

    Attributes:
        name: unique in the ensemble.
        scorer: its model.
        speller: its tokenizer.
        weight: its share; all members' sum to 1.
        opens_with_space: whether its chat template writes answers as " Hello" for "Hello".

    """

    name: str
    scorer: Scorer
    speller: Speller
    weight: float
    opens_with_space: bool = False


@dataclass(frozen=True)
class Ask:
    """A decoder's wish for logits: queries by member index.

    The answer is a mapping from the same indices to lists of (query.last, rows) tensors.
    """

    queries: Mapping[int, Sequence[Query]]


Logits = Mapping[int, Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Settings:
    """What all requests of an ensemble share."""

    members: tuple[Member, ...]
    union: Union
    fusion: fusion.Rule
    threshold: float
    primary: int
    history: str

    @cached_property
    def weights(self) -> torch.Tensor:
        """The members' weights, of sum 1, (members,)."""
        weights = [member.weight for member in self.members]
        return torch.tensor(weights, dtype=torch.float64)


class Request:
    """The state of one request that methods work on.

    Args:
        settings: of the ensemble.
        prompts: each member's prompt ids.
        sampling: how to draw; its seed is set.
        is_chat: whether the answer begins a turn of its own, so that a leading space may be a
            matter of spelling.
        constraint: the grammar the answer is held to.

    Attributes:
        histories: what each member has read, by member index.
        position: how many units were emitted.
        was_closed: whether the grammar took the way to the end instead of what was chosen, since
            behind that there was no room for one, or none was found.
        finished: set by whoever drives the method.

    """

    def __init__(
        self,
        settings: Settings,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        is_chat: bool,
        constraint: Constraint | None = None,
    ) -> None:
        assert sampling.seed is not None
        self.members = settings.members
        self.union = settings.union
        self.primary = settings.primary
        self.threshold = settings.threshold
        self.sampling = sampling
        self.is_chat = is_chat
        self.position = 0
        self.finished = False
        self.was_closed = False
        reencode = settings.history == "reencode" and not self.union.is_shared
        self.histories = tuple(
            History(ids, member.speller, reencode=reencode)
            for ids, member in zip(prompts, self.members, strict=True)
        )
        self._rule = settings.fusion
        self._seed = sampling.seed
        self._warpers = make_warpers(sampling)
        self._weights = settings.weights
        self._constraint = constraint
        self._openings: dict[int, torch.Tensor] = {}

    def ask(self, *members: int) -> Ask:
        """Ask for the next-token logits of these members, or of all."""
        chosen = members or range(len(self.members))
        return Ask({m: (Query(self.histories[m].ids),) for m in chosen})

    def to_probs(self, member: int, logits: torch.Tensor) -> torch.Tensor:
        """A member's probabilities over its own rows; 0 where a row is neither text nor END.

        Args:
            logits: (rows,).

        Raises:
            NonFiniteLogitsError: they are no distribution.

        """
        if self.sampling.repetition_penalty != 1.0:
            ids = torch.tensor(self.histories[member].ids, device=logits.device)
            logits = penalise_repetition(logits, ids, self.sampling.repetition_penalty)
        probs = self.union.mask(member, logits).softmax(-1)
        if not math.isfinite(probs[0]):  # NaN spreads over all rows
            raise NonFiniteLogitsError(
                f"{self.members[member].name} gave logits that are NaN, infinite or all masked at "
                f"step {self.position}; try dtype float32 or bfloat16 for it"
            )
        return probs

    def to_union(self, member: int, probs: torch.Tensor) -> torch.Tensor:
        """A member's probabilities over the union, (size,).

        At the beginning of an answer, " x" and "x" are one unit where members' templates differ
        in how they open.
        """
        out = self.union.project(member, probs)
        if self._merges_openings:
            self._openings[member] = out
            spaced, plain = self.union.spaced_pairs
            out = out.index_add(0, plain, out[spaced]).index_fill(0, spaced, 0.0)
        return out

    def fuse(self, probs: Sequence[torch.Tensor]) -> torch.Tensor:
        """All members' distributions over the union as one, (size,)."""
        stacked = torch.stack(list(probs))  # (members, size), in the most precise of their types
        return self._rule(stacked, self._weights.to(stacked))

    def legal(self, probs: torch.Tensor) -> torch.Tensor:
        """The primary's own distribution given the grammar; unchanged without one. (rows,)"""
        if self._constraint is None:
            return probs
        legal = probs * self._allowed(alone=True)
        mass = legal.sum()
        return legal / mass if mass > 0 else legal

    def _choose(self, probs: torch.Tensor, *, alone: bool) -> int:
        """The row that is greedy, or drawn for this position with the request's seed.

        With a grammar it is one that may come and behind which there is room for the end; where
        nobody wants what may come, the way to the end is taken.
        """
        greedy = self.sampling.temperature == 0.0
        uniform = None if greedy else uniform_at(self._seed, self.position)
        if self._constraint is None:
            return choose(probs, self._warpers, uniform)
        legal = probs * self._allowed(alone=alone)
        if float(legal.max()) > 0.0:
            row = choose(legal, self._warpers, uniform)
            if self._leaves_room(row, alone=alone):
                return row
            self.was_closed = True
        ends = self.union.vocabularies[self.primary].end_ids if alone else self.union.end_rows
        token = self._constraint.next_of_end()
        return min(ends) if token is None else token

    def _allowed(self, *, alone: bool) -> torch.Tensor:
        """Which of the union's rows, or of the primary's own, the grammar lets come."""
        assert self._constraint is not None
        allowed = self._constraint.allowed()
        if self._opens_spaced(alone=alone):  # " x" is a way to write "x" here
            spaced, plain = self.union.spaced_pairs
            mapped = allowed[plain]
            allowed = allowed.index_fill(0, self.union.spaced_rows, value=False)
            allowed[spaced] = mapped
        return allowed[self.union.primary_rows] if alone else allowed

    def _leaves_room(self, row: int, *, alone: bool) -> bool:
        assert self._constraint is not None
        vocabulary = self.union.vocabularies[self.primary]
        if row in vocabulary.end_ids if alone else self.union.is_end(row):
            return True
        unit = vocabulary.token_bytes[row] if alone else self.union.unit(row)
        core = unit.removeprefix(b" ") if self._opens_spaced(alone=alone) else unit
        steps = self.sampling.max_new_tokens - self.position - 1
        rooms = [
            limit - len(history.ids)
            for member, history in zip(self.members, self.histories, strict=True)
            if (limit := member.scorer.context_size) is not None
        ]
        return self._constraint.leaves_room(core, steps, rooms)

    @property
    def is_complete(self) -> bool:
        """Whether a grammar lets nothing more come."""
        return self._constraint is not None and self._constraint.is_complete

    def _opens_spaced(self, *, alone: bool) -> bool:
        """Whether a leading space is only a way to open the answer, for who decides this step."""
        if not self._is_opening:
            return False
        opener = self.members[self.primary if alone else 0]
        return opener.opens_with_space or (not alone and self._merges_openings)

    def emit_fused(self, fused: torch.Tensor, probs: Sequence[torch.Tensor]) -> Step:
        """Choose from the fused distribution and tell every member.

        Args:
            fused: (size,).
            probs: each member's distribution over the union.

        """
        row = self._choose(fused, alone=False)
        tops = [top_row(p) for p in probs]
        unit, is_end = self.union.unit(row), self.union.is_end(row)
        leads = self._fused_leads(unit)
        shown = self._shown if any(leads) else bytes
        views = tuple(
            MemberView(m.name, shown(self.union.unit(top)), float(p[top]), float(p[row]))
            for m, p, top in zip(self.members, probs, tops, strict=True)
        )
        if not is_end:
            core = unit.removeprefix(b" ") if any(leads) else unit
            for history, lead, top in zip(self.histories, leads, tops, strict=True):
                token = row if self.union.is_shared and lead + core == unit else None
                history.append(lead + core, token, is_foreign=top != row)
            unit = core
        decided_by: DecidedBy = "ensemble" if len(self.members) > 1 else "primary"
        step = Step(unit, is_end, "", float(fused[row].log()), decided_by, views)
        return self._emitted(step, fused, self.union.unit, shown)

    def emit_alone(self, probs: torch.Tensor) -> Step:
        """Choose from the primary's distribution over its own rows and tell every member."""
        token = self._choose(probs, alone=True)
        top = top_row(probs)
        member = self.members[self.primary]
        vocabulary = self.union.vocabularies[self.primary]
        tokens = vocabulary.token_bytes
        unit, is_end = tokens[token], token in vocabulary.end_ids
        spaced = self._is_opening and member.opens_with_space and unit.startswith(b" ")
        shown = self._shown if spaced else bytes
        view = MemberView(member.name, shown(tokens[top]), float(probs[top]), float(probs[token]))
        if not is_end:
            core = unit.removeprefix(b" ") if spaced else unit
            for m, history in enumerate(self.histories):
                lead = b" " if spaced and m == self.primary else self._usual_lead(m, core)
                is_own = m == self.primary or (self.union.is_shared and lead + core == unit)
                history.append(lead + core, token if is_own else None, is_foreign=m != self.primary)
            unit = core
        step = Step(unit, is_end, "", float(probs[token].log()), "primary", (view,))
        return self._emitted(step, probs, tokens.__getitem__, shown)

    def _emitted(
        self,
        step: Step,
        probs: torch.Tensor,
        unit_of: Callable[[int], bytes],
        shown: Callable[[bytes], bytes],
    ) -> Step:
        """The step with its alternatives; the request has moved on by one position."""
        self.position += 1
        self._openings.clear()
        if self._constraint is not None and not step.is_end:
            self._constraint.advance(step.unit)
        if not self.sampling.logprobs:
            return step
        values, rows = probs.topk(min(self.sampling.top_logprobs, len(probs)))
        top = tuple(
            (shown(unit_of(row)), math.log(value))
            for row, value in zip(rows.tolist(), values.tolist(), strict=True)
            if value > 0
        )
        return replace(step, top=top)

    # ------------------------------------------------ how an answer opens

    @property
    def _is_opening(self) -> bool:
        return self.is_chat and self.position == 0

    @property
    def _merges_openings(self) -> bool:
        return self._is_opening and len({m.opens_with_space for m in self.members}) > 1

    def _shown(self, unit: bytes) -> bytes:
        """A unit without the space that is only a way to open."""
        return unit.removeprefix(b" ") if len(unit) > 1 else unit

    def _usual_lead(self, member: int, unit: bytes) -> bytes:
        """The space this member's template puts before an answer, if this unit begins one."""
        if member == self.primary:
            return b""
        spaced = self._is_opening and self.members[member].opens_with_space
        return b" " if spaced and not unit.startswith(b" ") else b""

    def _fused_leads(self, unit: bytes) -> list[bytes]:
        """The space each member writes before an answer that opens with this unit."""
        count = len(self.members)
        if not self._merges_openings:
            same = self._is_opening and self.members[0].opens_with_space and unit.startswith(b" ")
            return [b" " if same else b""] * count
        core = unit.removeprefix(b" ")
        if core.startswith(b" "):  # an indent, not a way to open
            return [b""] * count
        spaced, plain = self.union.rows.get(b" " + core), self.union.rows.get(core)
        leads = []
        for m in range(count):
            if spaced is not None and plain is not None:
                likes_space = bool(self._openings[m][spaced] > self._openings[m][plain])
            else:
                likes_space = self.members[m].opens_with_space
            leads.append(b" " if likes_space else b"")
        return leads
