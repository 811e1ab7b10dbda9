"""One request: what a decoding method reads, and how it says what was chosen.

A method asks for logits (`Request.ask`), reads them as distributions (`read`), perhaps fuses these
(`fuse`), and emits (`emit_alone`, `emit_fused`), which extends every member's history.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Final, Self

import torch

from gac_core.config import EnsembleConfig, SamplingParams
from gac_core.decoding.byte_paths import BYTES
from gac_core.decoding.gate_head import GateHead
from gac_core.decoding.sampling import (
    choose,
    draw,
    make_warpers,
    penalise_repetition,
    top_row,
    uniform_at,
    warped,
)
from gac_core.errors import CannotSpellError, MethodError, NonFiniteLogitsError
from gac_core.fusion.rules import Rule, Views
from gac_core.fusion.weighting import Likelihood, by_entropy, by_evidence
from gac_core.grammar.constraint import Constraint
from gac_core.members.local import Query, Scorer
from gac_core.outputs import DecidedBy, MemberView, Step
from gac_core.tokens.history import History
from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.union import UnionVocabulary

_MASS_ERROR: Final = 0.01
_PROMPT_CHUNK: Final = 256  # positions of a prompt whose logits are held at a time


@dataclass(frozen=True)
class Member:
    """One model of an ensemble, as methods see it.

    Attributes:
        name: unique in the ensemble.
        scorer: its model.
        tokenizer: its tokenizer.
        weight: its share; all members' sum to 1.
        leading_space: whether its chat template writes answers as " Hello" for "Hello".

    """

    name: str
    scorer: Scorer
    tokenizer: ByteTokenizer
    weight: float
    leading_space: bool = False


@dataclass(frozen=True)
class Ask:
    """A decoder's wish for logits: queries by member index.

    The answer is a mapping from the same indices to lists of (query.last, rows) tensors.
    """

    queries: Mapping[int, Sequence[Query]]


Logits = Mapping[int, Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Settings:
    """What all requests of an ensemble share.

    Attributes:
        config: the options, those of the method among them.
        fusion: the rule of that name.
        primary: its index in `members`, which lack those of weight 0.
        gate: of method co_llm.

    """

    members: tuple[Member, ...]
    union: UnionVocabulary
    config: EnsembleConfig
    fusion: Rule
    primary: int
    gate: GateHead | None = None

    @cached_property
    def weights(self) -> torch.Tensor:
        """The members' weights, of sum 1, (members,)."""
        weights = [member.weight for member in self.members]
        return torch.tensor(weights, dtype=torch.float64)

    def first_pieces(self, member: int) -> torch.Tensor:
        """For each row of the union, the row of the token a member begins to spell it with.

        Its own where it has one, or where the row is no text; (size,). Made when first needed,
        which takes a second for large vocabularies.
        """
        if member not in self._first_pieces:
            union, tokenizer = self.union, self.members[member].tokenizer
            lacking = set((~union.has(member)).nonzero().flatten().tolist())
            pieces = torch.arange(union.size)
            for unit, row in union.rows.items():
                if row in lacking:
                    with suppress(CannotSpellError):  # nobody may write it then
                        pieces[row] = union.row_of(member, tokenizer.encode(unit)[0])
            self._first_pieces[member] = pieces.to(union.device)
        return self._first_pieces[member]

    @cached_property
    def _first_pieces(self) -> dict[int, torch.Tensor]:
        return {}

    @property
    def units(self) -> UnionVocabulary:
        """Whose rows answers are made of: the union of the members', or single bytes."""
        by_bytes = self.config.method == "chared" and not self.union.is_shared
        return BYTES if by_bytes else self.union


@dataclass(frozen=True)
class Fused:
    """The members' distributions and what they became.

    Attributes:
        probs: (size,) over the union.
        views: each member's distribution over the union, by member index; those that were asked.

    """

    probs: torch.Tensor
    views: Mapping[int, torch.Tensor]


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
        was_truncated: whether the grammar took the way to the end instead of what was chosen, since
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
        self.settings = settings
        self.config = settings.config
        self.members = settings.members
        self.union = settings.union
        self.primary = settings.primary
        self.sampling = sampling
        self.is_chat = is_chat
        self.position = 0
        self.finished = False
        self.was_truncated = False
        reencode = self.config.history == "reencode" and not self.union.is_shared
        self.histories = tuple(
            History(ids, member.tokenizer, reencode=reencode)
            for ids, member in zip(prompts, self.members, strict=True)
        )
        self.seed = sampling.seed
        self.warpers = make_warpers(sampling)
        self.constraint = constraint
        self._weights = settings.weights
        self._shares: dict[object, torch.Tensor] = {}  # the weights of some members, of sum 1
        self._texts: tuple[Likelihood, ...] | None = None
        if self.config.weighting == "posterior" and len(self.members) > 1:
            self._texts = tuple(Likelihood(history.ids) for history in self.histories)
        self._openings: dict[int, torch.Tensor] = {}

    @property
    def others(self) -> tuple[int, ...]:
        """The members but the primary."""
        return tuple(m for m in range(len(self.members)) if m != self.primary)

    @property
    def steps_left(self) -> int:
        """How many units may still be emitted."""
        return self.sampling.max_new_tokens - self.position

    def fork(self, *, free: bool = False) -> Self:
        """A copy to try out what comes next; what it emits leaves this one as it is.

        Args:
            free: of the grammar, too.

        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.histories = tuple(history.copy() for history in self.histories)
        other._openings = dict(self._openings)
        if self.constraint is not None:
            other.constraint = None if free else self.constraint.copy()
        return other

    def assume(self, unit: bytes, token: int | None = None) -> None:
        """Go on as if all members had written a unit in agreement; for a `fork`.

        Args:
            unit: its bytes.
            token: the primary's id of it, if it is one of its own.

        """
        for m, history in enumerate(self.histories):
            own = token if self.union.is_shared or m == self.primary else None
            is_own = own is not None or unit in self.union.vocabularies[m].ids_by_bytes
            history.append(unit, own, is_foreign=not is_own)
        self.position += 1
        if self.constraint is not None:
            self.constraint.advance(unit)

    def preview(self, member: int, logits: torch.Tensor) -> int | None:
        """The row that one member alone would choose here; None if it would end."""
        probs = self.to_union(member, self.to_probs(member, logits))
        row = self._choose(probs, alone=False)
        return None if self.union.is_end(row) else row

    def place_of(self, index: int) -> int:
        """Where a member of the configuration is among those that take part."""
        return sum(weight > 0 for weight in self.config.weights[:index])

    # ------------------------------------------------ asking and reading

    def prepare(self) -> Generator[Ask, Logits, None]:
        """What must be known before the first step: how well members predict the prompt.

        Its logits are asked for in pieces, since all of them would be large.
        """
        if self.config.weighting != "prompt" or len(self.members) == 1:
            return
        scores = [Likelihood(history.ids[:1]) for history in self.histories]
        longest = max(len(history.ids) for history in self.histories)
        for end in range(_PROMPT_CHUNK, longest + _PROMPT_CHUNK, _PROMPT_CHUNK):
            parts = {
                m: part
                for m, history in enumerate(self.histories)
                if len(part := history.ids[:end]) > max(1, end - _PROMPT_CHUNK)
            }
            logits = yield Ask(
                {m: (Query(part, scores[m].last(part)),) for m, part in parts.items()}
            )
            for m, part in parts.items():
                scores[m].see(part, logits[m][0])
        logs = [
            s.total / max(1, len(h.ids) - 1) for s, h in zip(scores, self.histories, strict=True)
        ]
        self._weights = by_evidence(
            self._weights, torch.tensor(logs, dtype=torch.float64), self.config.temper
        )
        self._shares.clear()

    def ask(self, *members: int, hidden: bool = False) -> Ask:
        """Ask for the next-token logits of these members, or of all.

        Args:
            members: their indices.
            hidden: also for the last hidden state, see `hidden_state`.

        """
        queries = {}
        for m in members or range(len(self.members)):
            ids = self.histories[m].ids
            last = 1 if self._texts is None else self._texts[m].last(ids)
            queries[m] = (Query(ids, last, hidden=hidden),)
        return Ask(queries)

    def read(self, logits: Logits) -> dict[int, torch.Tensor]:
        """The probabilities of each member that was asked over its own rows, by member index.

        Args:
            logits: the answer to `ask`.

        Raises:
            NonFiniteLogitsError: they are no distribution.

        """
        own = {}
        for m in sorted(logits):
            (rows,) = logits[m]
            rows = rows[:, : self.members[m].scorer.rows]
            own[m] = self.to_probs(m, rows[-1])
            if self._texts is not None:
                self._texts[m].see(self.histories[m].ids, self.union.mask(m, rows))
        return own

    def hidden_state(self, member: int, logits: Logits) -> torch.Tensor:
        """A member's last hidden state behind its history, (width,), if it was asked for."""
        return logits[member][0][-1, self.members[member].scorer.rows :]

    def to_probs(
        self, member: int, logits: torch.Tensor, ids: Sequence[int] | None = None
    ) -> torch.Tensor:
        """A member's probabilities over its own rows; 0 where a row is neither text nor END.

        Args:
            member: whose they are.
            logits: (rows,).
            ids: behind which they stand; its history by default.

        Raises:
            NonFiniteLogitsError: they are no distribution.

        """
        if self.sampling.repetition_penalty != 1.0:
            ids = self.histories[member].ids if ids is None else ids
            seen = torch.tensor(ids, device=logits.device)
            logits = penalise_repetition(logits, seen, self.sampling.repetition_penalty)
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
        if self._merges_openings:
            self._openings[member] = self.union.project(member, probs)
        return self.spread(member, probs)

    def spread(self, member: int, probs: torch.Tensor) -> torch.Tensor:
        """`to_union` of what is not a member's view of this step."""
        out = self.union.project(member, probs)
        if self._merges_openings:
            spaced, plain = self.union.spaced_pairs
            out = out.index_add(0, plain, out[spaced]).index_fill(0, spaced, 0.0)
        return out

    # ------------------------------------------------ deciding

    def weights_of(self, members: Sequence[int], probs: torch.Tensor) -> torch.Tensor:
        """How much these members count at this step, of sum 1.

        Args:
            members: their indices.
            probs: their distributions, (members, rows).

        """
        key = (tuple(members), probs.dtype, probs.device)
        if key not in self._shares:
            weights = self._weights[list(members)]
            self._shares[key] = (weights / weights.sum()).to(probs)
        weights = self._shares[key]
        if len(members) == 1:
            return weights
        if self.config.weighting == "entropy":
            return by_entropy(weights, probs, self.config.temper)
        if self._texts is not None:
            logs = torch.tensor([self._texts[m].total for m in members]).to(probs)
            return by_evidence(weights, logs, self.config.temper)
        return weights

    def fuse(self, own: Mapping[int, torch.Tensor], rule: Rule | None = None) -> Fused:
        """The distributions of some members over their own rows as one over the union.

        Args:
            own: by member index, as `read` gives them.
            rule: instead of the ensemble's.

        """
        members = tuple(sorted(own))
        views = {m: self.to_union(m, own[m]) for m in members}
        return self.fuse_views(views, rule)

    def fuse_views(self, views: Mapping[int, torch.Tensor], rule: Rule | None = None) -> Fused:
        """`fuse`, of distributions that are over the union already."""
        members = tuple(sorted(views))
        probs = torch.stack([views[m] for m in members])  # in the most precise of their types
        fused = (rule or self.settings.fusion)(
            Views(
                probs,
                self.weights_of(members, probs),
                members.index(self.primary) if self.primary in members else None,
                self.union,
                members,
                self.settings.first_pieces,
                None if self.constraint is None else self._allowed(alone=False),
            )
        )
        return Fused(fused, views)

    def legal(self, probs: torch.Tensor, *, alone: bool = True) -> torch.Tensor:
        """A distribution given the grammar; unchanged without one. (rows,)

        Args:
            probs: over the primary's own rows, or the union's.
            alone: which of the two.

        """
        if self.constraint is None:
            return probs
        legal = probs * self._allowed(alone=alone)
        mass = legal.sum()
        return legal / mass if mass > 0 else legal

    def _choose(
        self, probs: torch.Tensor, *, alone: bool, beyond: torch.Tensor | None = None
    ) -> int:
        """The row that is greedy, or drawn for this position with the request's seed."""
        if self.constraint is None:
            return self._drawn(probs, beyond)
        legal = probs * self._allowed(alone=alone)
        ends = self.union.vocabularies[self.primary].end_ids if alone else self.union.end_rows
        return self._choose_legal(
            legal, partial(self._leaves_room, alone=alone), min(ends), beyond=beyond
        )

    def _choose_legal(
        self,
        legal: torch.Tensor,
        leaves_room: Callable[[int], bool],
        end: int,
        *,
        beyond: torch.Tensor | None = None,
    ) -> int:
        """A row that may come and behind which there is room for the end.

        Where nobody wants what may come, or there is no room, the known way to the end is taken.
        """
        assert self.constraint is not None
        if float(legal.max()) > 0.0:
            row = self._drawn(legal, beyond)
            if leaves_room(row):
                return row
            self.was_truncated = True
        token = self.constraint.next_of_end()
        return end if token is None else token

    def choose_alone(self, probs: torch.Tensor) -> int:
        """The primary's token that `emit_alone` would choose."""
        return self._choose(probs, alone=True)

    def _drawn(self, probs: torch.Tensor, beyond: torch.Tensor | None = None) -> int:
        if self.sampling.temperature == 0.0:
            return choose(probs, self.warpers, None)
        if beyond is not None:
            rest = (self.to_draw(probs) - beyond).clamp_min(0.0)
            if float(rest.sum()) > 0.0:
                return draw(rest, uniform_at(self.seed, self.position, 2))
        return choose(probs, self.warpers, uniform_at(self.seed, self.position))

    def to_draw(self, probs: torch.Tensor) -> torch.Tensor:
        """A distribution after temperature and filters, of mass 1, in float64 on the CPU."""
        probs = warped(probs, self.warpers)
        return probs / probs.sum()

    def _allowed(self, *, alone: bool) -> torch.Tensor:
        """Which of the union's rows, or of the primary's own, the grammar lets come."""
        assert self.constraint is not None
        allowed = self.constraint.allowed()
        if self._opens_spaced(alone=alone):  # " x" is a way to write "x" here
            spaced, plain = self.union.spaced_pairs
            mapped = allowed[plain]
            allowed = allowed.index_fill(0, self.union.spaced_rows, value=False)
            allowed[spaced] = mapped
        return allowed[self.union.primary_rows] if alone else allowed

    def _leaves_room(self, row: int, *, alone: bool) -> bool:
        assert self.constraint is not None
        vocabulary = self.union.vocabularies[self.primary]
        if row in vocabulary.end_ids if alone else self.union.is_end(row):
            return True
        unit = vocabulary.token_bytes[row] if alone else self.union.unit(row)
        return self._has_room(unit.removeprefix(b" ") if self._opens_spaced(alone=alone) else unit)

    def _has_room(self, unit: bytes) -> bool:
        """Whether behind this unit of text there is room for an end."""
        assert self.constraint is not None
        steps = self.sampling.max_new_tokens - self.position - 1
        rooms = [
            limit - len(history.ids)
            for member, history in zip(self.members, self.histories, strict=True)
            if (limit := member.scorer.context_size) is not None
        ]
        return self.constraint.has_budget(unit, steps, rooms)

    @property
    def is_complete(self) -> bool:
        """Whether a grammar lets nothing more come."""
        return self.constraint is not None and self.constraint.is_complete

    def _opens_spaced(self, *, alone: bool) -> bool:
        """Whether a leading space is only a way to open the answer, for who decides this step."""
        if not self._is_opening:
            return False
        opener = self.members[self.primary if alone else 0]
        return opener.leading_space or (not alone and self._merges_openings)

    def emit_fused(self, fused: Fused, beyond: torch.Tensor | None = None) -> Step:
        """Choose from the fused distribution and tell every member.

        Args:
            fused: as `fuse` gives it.
            beyond: draw from what the distribution has beyond this one, (size,): the rest of
                speculative sampling, after a unit drawn from this one was not accepted.

        """
        probs = self._checked(fused)
        row = self._choose(probs, alone=False, beyond=beyond)
        unit, is_end = self.union.unit(row), self.union.is_end(row)
        tops = {m: top_row(view) for m, view in fused.views.items()}
        leads = self._fused_leads(unit)
        shown = self._shown if any(leads) else bytes
        views = tuple(
            MemberView(
                self.members[m].name,
                shown(self.union.unit(tops[m])),
                float(view[tops[m]]),
                float(view[row]),
            )
            for m, view in fused.views.items()
        )
        if not is_end:
            core = unit.removeprefix(b" ") if any(leads) else unit
            for m, (history, lead) in enumerate(zip(self.histories, leads, strict=True)):
                token = row if self.union.is_shared and lead + core == unit else None
                history.append(lead + core, token, is_foreign=tops.get(m) != row)
            unit = core
        decided_by: DecidedBy = "ensemble" if len(self.members) > 1 else "primary"
        step = Step(unit, is_end, "", float(probs[row].log()), decided_by, views)
        return self._emitted(step, probs, self.union.unit, shown)

    def _checked(self, fused: Fused) -> torch.Tensor:
        """The fused distribution, if it is one."""
        probs = getattr(fused, "probs", None)
        if not isinstance(probs, torch.Tensor) or probs.shape != (self.union.size,):
            shape = getattr(probs, "shape", type(fused).__name__)
            raise MethodError(
                f"what is emitted must be a Fused with ({self.union.size},) probabilities over the "
                f"union, not {shape}; `fuse` gives one"
            )
        mass = float(probs.sum())
        is_empty = mass == 0.0 and self.constraint is not None  # nobody wants what may come
        if not (is_empty or abs(mass - 1) < _MASS_ERROR) or float(probs.min()) < 0:
            raise MethodError(
                f"the fused distribution (fusion {self.config.fusion}, method "
                f"{self.config.method}) has mass {mass:.4g} and minimum {float(probs.min()):.3g}; "
                "a rule must return probabilities, not logits or logs"
            )
        return probs

    def emit_alone(self, probs: torch.Tensor, token: int | None = None) -> Step:
        """Choose from the primary's distribution over its own rows and tell every member.

        Args:
            probs: (rows,).
            token: what was chosen already.

        """
        if token is None:
            token = self._choose(probs, alone=True)
        top = top_row(probs)
        member = self.members[self.primary]
        vocabulary = self.union.vocabularies[self.primary]
        tokens = vocabulary.token_bytes
        unit, is_end = tokens[token], token in vocabulary.end_ids
        spaced = self._is_opening and member.leading_space and unit.startswith(b" ")
        shown = self._shown if spaced else bytes
        view = MemberView(member.name, shown(tokens[top]), float(probs[top]), float(probs[token]))
        if not is_end:
            core = unit.removeprefix(b" ") if spaced else unit
            for m, history in enumerate(self.histories):
                if self._merges_openings and m != self.primary:
                    lead = self._usual_lead(m, core)
                else:
                    lead = b" " if spaced else b""
                is_own = m == self.primary or (self.union.is_shared and lead + core == unit)
                history.append(lead + core, token if is_own else None, is_foreign=m != self.primary)
            unit = core
        step = Step(unit, is_end, "", float(probs[token].log()), "primary", (view,))
        return self._emitted(step, probs, tokens.__getitem__, shown)

    def emit_byte(self, probs: torch.Tensor) -> Step:
        """Choose the next byte, or END, from the mean of all members' and tell every member.

        Args:
            probs: of each member, over the rows of `BYTES`, (members, 257).

        """
        fused = self.weights_of(range(len(self.members)), probs) @ probs
        row = self._choose_byte(fused)
        unit = BYTES.unit(row)
        tops = [top_row(view) for view in probs]
        views = tuple(
            MemberView(member.name, BYTES.unit(top), float(view[top]), float(view[row]))
            for member, view, top in zip(self.members, probs, tops, strict=True)
        )
        if not BYTES.is_end(row):
            for member, history in zip(self.members, self.histories, strict=True):
                lead = b" " if self._is_opening and member.leading_space else b""
                history.append(lead + unit)
        step = Step(unit, BYTES.is_end(row), "", float(fused[row].log()), "ensemble", views)
        return self._emitted(step, fused, BYTES.unit, bytes)

    def _choose_byte(self, probs: torch.Tensor) -> int:
        if self.constraint is None:
            return self._drawn(probs)

        def leaves_room(row: int) -> bool:
            return BYTES.is_end(row) or self._has_room(BYTES.unit(row))

        legal = probs * self.constraint.allowed()
        return self._choose_legal(legal, leaves_room, min(BYTES.end_rows))

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
        if self.constraint is not None and not step.is_end:
            self.constraint.advance(step.unit)
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
        return self._is_opening and len({m.leading_space for m in self.members}) > 1

    def _shown(self, unit: bytes) -> bytes:
        """A unit without the space that is only a way to open."""
        return unit.removeprefix(b" ") if len(unit) > 1 else unit

    def _usual_lead(self, member: int, unit: bytes) -> bytes:
        """The space this member's template puts before an answer, if this unit begins one."""
        spaced = self._is_opening and self.members[member].leading_space
        return b" " if spaced and not unit.startswith(b" ") else b""

    def _fused_leads(self, unit: bytes) -> list[bytes]:
        """The space each member writes before an answer that opens with this unit."""
        count = len(self.members)
        if not self._merges_openings:
            same = self._is_opening and self.members[0].leading_space and unit.startswith(b" ")
            return [b" " if same else b""] * count
        core = unit.removeprefix(b" ")
        if core.startswith(b" "):  # an indent, not a way to open
            return [b""] * count
        spaced, plain = self.union.rows.get(b" " + core), self.union.rows.get(core)
        leads = []
        for m in range(count):
            if spaced is not None and plain is not None and m in self._openings:
                view = self._openings[m]
                likes_space = bool(view[spaced] > view[plain])
            else:
                likes_space = self.members[m].leading_space
            leads.append(b" " if likes_space else b"")
        return leads
