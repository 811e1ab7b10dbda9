"""From the members' logits to one distribution: reading, projecting, weighting and fusing."""

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Final, Self

import torch

from gac_core.decoding.answer import Answer
from gac_core.decoding.proof import Bounds, unknown
from gac_core.decoding.shared_state import SharedState
from gac_core.errors import MethodError, NonFiniteLogitsError
from gac_core.fusion.rules import Rule, Views
from gac_core.fusion.weighting import Fixed, Weighting
from gac_core.members.base import Answers, Ask, Query
from gac_core.tokens.spaces import Space

_MASS_ERROR: Final = 0.01  # how far from 1 the mass of a fused distribution may be
_SUM_ERROR: Final = 1e-6  # weights whose sum is as near to 1 are not scaled


@dataclass(frozen=True)
class Fused:
    """The members' distributions over the union, and the one into which they were fused.

    Attributes:
        probs: the fused distribution, (size,).
        views: the distributions of the members that were asked, by member index, (size,) each.
        agreed: bytes on which all members agree; see `scoring.agreed`.

    """

    probs: torch.Tensor
    views: Mapping[int, torch.Tensor]
    agreed: bytes = b""


class Mixer:
    """Fuses the members' distributions, for one answer.

    Args:
        shared: the state that all requests of the ensemble share.
        answer: of this request.

    Attributes:
        shared: the state that all requests of the ensemble share.
        answer: of this request.
        weighting: how much each member counts, for this request.
        hidden: the last hidden state that the primary was asked for, (hidden_size,); or None.

    """

    def __init__(self, shared: SharedState, answer: Answer) -> None:
        self.shared = shared
        self.answer = answer
        weighting = shared.weighting if len(shared.members) > 1 else Fixed
        self.weighting: Weighting = weighting(shared.weights.clone(), shared.config.temper)
        self.hidden: torch.Tensor | None = None
        # Of members that gave their likeliest tokens: their logprobs, and which are known.
        self._partial: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def fork(self, answer: Answer) -> Self:
        """A mixer for a fork of the request, whose weights go their own way.

        Args:
            answer: of the fork.

        """
        other = copy(self)
        other.answer, other.weighting = answer, self.weighting.copy()
        other._partial = dict(self._partial)
        return other

    # ------------------------------------------------ asking and reading

    def start(self) -> Generator[Ask, Answers, None]:
        """See `Request.prepare`."""
        asks = self.weighting.start([history.ids for history in self.answer.histories])
        if not isinstance(asks, Generator):
            raise MethodError(
                f"`start` of weighting {self.shared.config.weighting} must be a generator "
                "function; let it end with `yield from ()` if it asks nothing"
            )
        yield from asks

    def ask(self, members: Sequence[int] = (), *, hidden: bool = False) -> Ask:
        """See `Request.ask`."""
        queries = {}
        for m in members or range(len(self.shared.members)):
            ids = self.answer.histories[m].ids
            queries[m] = (Query(ids, self.weighting.positions(m, ids), hidden=hidden),)
        return Ask(queries)

    def widened(self, member: int, queries: tuple[Query, ...]) -> tuple[Query, ...]:
        """A member's queries, the first with the positions that a weighting by the text needs."""
        first, *others = queries
        if not self.weighting.reads_text:
            return queries
        last = max(first.last, self.weighting.positions(member, first.ids))
        return (replace(first, last=last), *others)

    def see(self, member: int, query: Query, logits: torch.Tensor) -> None:
        """Show a weighting by the text the answer to a query, (positions, vocab_size)."""
        if self.weighting.reads_text:
            self.weighting.see(member, query.ids, self.shared.union.mask(member, logits))

    def keep_hidden(self, answers: Answers) -> None:
        """Keep the primary's last hidden state, if it was asked for."""
        for scored in answers.get(self.shared.config.primary, ()):
            if scored.hidden is not None:
                self.hidden = scored.hidden[-1]

    def read(self, answers: Answers) -> dict[int, torch.Tensor]:
        """See `Request.read`."""
        if not isinstance(answers, Mapping):
            what = f"answers, not {type(answers).__name__}"
            raise MethodError(f"`read` takes {what}: yield the ask, read((yield request.ask()))")
        self.keep_hidden(answers)
        own = {}
        for m in sorted(answers):
            (scored,) = answers[m]
            own[m] = self.to_probs(m, scored.logits[-1])
            self._partial.pop(m, None)
            if scored.known is not None:
                self._partial[m] = (scored.logits[-1], scored.known[-1])
            self.see(m, Query(self.answer.histories[m].ids), scored.logits)
        return own

    def to_probs(
        self, member: int, logits: torch.Tensor, ids: Sequence[int] | None = None
    ) -> torch.Tensor:
        """A member's probabilities over its own rows; 0 where a row is neither text nor END.

        Args:
            member: its index.
            logits: (vocab_size,).
            ids: the ids after which they come; the member's history by default.

        Raises:
            NonFiniteLogitsError: the logits are NaN, infinite or all masked.

        """
        ids = ids or self.answer.histories[member].ids
        logits = self.answer.sampler.penalised(logits, ids)
        logits = self.answer.part.ending(member, self.shared.members[member], logits)
        probs = self.shared.union.mask(member, logits).softmax(-1)
        if not math.isfinite(probs[0]):  # NaN spreads over all rows
            raise NonFiniteLogitsError(
                f"{self.shared.members[member].name} gave logits that are NaN, infinite or all "
                f"masked at step {self.answer.position}; try dtype float32 or bfloat16 for it"
            )
        return probs

    def bounds(self, looks: Iterable[int]) -> dict[int, Bounds]:
        """What is known of those distributions of which only the likeliest tokens are.

        Args:
            looks: indices of members that were just read.

        Returns:
            By member index, over the member's own rows.

        """
        found = {}
        for m in self._partial.keys() & set(looks):
            logprobs, known = self._partial[m]
            most, rest = unknown(logprobs, known)
            low = self._masked_probs(m, most.masked_fill(~known, -torch.inf))
            found[m] = Bounds.of(low, self._masked_probs(m, most), rest)
        return found

    def _masked_probs(self, member: int, logprobs: torch.Tensor) -> torch.Tensor:
        logprobs = self.answer.part.ending(member, self.shared.members[member], logprobs)
        return self.shared.union.mask(member, logprobs).exp()

    def bounds_over_union(self, member: int, bounds: Bounds) -> Bounds:
        """A member's bounds over its own rows as those over the union, (size,) each."""
        project = self.shared.union.project
        return Bounds(project(member, bounds.low), project(member, bounds.high))

    def to_union(self, member: int, probs: torch.Tensor) -> torch.Tensor:
        """A member's probabilities over its own rows as its view over the union, (size,).

        At the first step, " x" and "x" are one unit if only some members' templates write a leading
        space; the member will write the spelling that it prefers here.

        Args:
            member: its index.
            probs: over its own rows, (vocab_size,).

        """
        view = self.shared.union.project(member, probs)
        self.answer.leading_space.note(member, view)
        return self.answer.leading_space.merge(view)

    def spread(self, member: int, probs: torch.Tensor) -> torch.Tensor:
        """As `to_union`, for probabilities that are not the member's view of this step."""
        return self.answer.leading_space.merge(self.shared.union.project(member, probs))

    def first_pieces(self, member: int) -> torch.Tensor:
        """For each row of the union, the row of the token with which a member begins its unit.

        The row itself if the member has it as a token. (size,)
        """
        return self.shared.first_pieces(member)

    @property
    def weights_need_probs(self) -> bool:
        """Whether the weights depend on whole distributions."""
        return self.weighting.reads_probs

    def weights_of(self, members: Sequence[int], probs: torch.Tensor) -> torch.Tensor:
        """The weights of some members at this step, (members,) of sum 1.

        Args:
            members: their indices.
            probs: their distributions, (members, size).

        Raises:
            MethodError: the weighting gave no weights.

        """
        if len(members) == 1 or isinstance(self.weighting, Fixed):
            return self.weighting.shares(members, probs)
        weights = self.weighting.weigh(members, probs)
        total = float(weights.sum()) if isinstance(weights, torch.Tensor) else math.nan
        if not (math.isfinite(total) and total > 0 and weights.shape == (len(members),)):
            raise MethodError(
                f"weighting {self.shared.config.weighting} gave {weights!r:.80}; it must give "
                f"({len(members)},) weights of a positive sum"
            )
        weights = weights.to(probs)
        return weights if abs(total - 1) < _SUM_ERROR else weights / total

    def fuse(self, views: Mapping[int, torch.Tensor], rule: Rule | None) -> Fused:
        """As `Request.fuse`, of distributions that are over the space already, (size,) each."""
        shared, answer = self.shared, self.answer
        members = tuple(sorted(views))
        primary = shared.config.primary
        probs = torch.stack([views[m] for m in members])  # (members, size), in the widest type
        fused = (rule or shared.rule)(
            Views(
                probs,
                self.weights_of(members, probs),
                members.index(primary) if primary in members else None,
                shared.units,
                members,
                shared.first_pieces if shared.space == "tokens" else None,
                None if answer.constraint is None else answer.allowed(shared.step_rows),
            )
        )
        return Fused(fused, views)

    def check(self, probs: torch.Tensor, space: Space) -> None:
        """Refuse a tensor that is no distribution over a space.

        Raises:
            MethodError: it has another shape, another mass than 1, or negative rows.

        """
        if not isinstance(probs, torch.Tensor) or probs.shape != (space.size,):
            shape = getattr(probs, "shape", type(probs).__name__)
            raise MethodError(
                f"what is emitted must be a Fused with ({space.size},) probabilities over the "
                f"union, or as many as the space has rows, not {shape}; `fuse` gives one"
            )
        mass = float(probs.sum())
        # With a grammar, all units that members give any probability may be forbidden.
        is_empty = mass == 0.0 and self.answer.constraint is not None
        if not (is_empty or abs(mass - 1) < _MASS_ERROR) or float(probs.min()) < 0:
            config = self.shared.config
            raise MethodError(
                f"the fused distribution (fusion {config.fusion}, method {config.method}) has mass "
                f"{mass:.4g} and minimum {float(probs.min()):.3g}; a rule must return "
                "probabilities, not logits or logs"
            )
