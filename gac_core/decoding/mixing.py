"""The members' distributions over the union, how much each counts, and what they become."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import torch

from gac_core.decoding.answer import Answer
from gac_core.decoding.shared_state import SharedState
from gac_core.errors import MethodError
from gac_core.fusion.rules import Rule, Views
from gac_core.fusion.weighting import Fixed, Weighting
from gac_core.tokens.spaces import Space

_MASS_ERROR: Final = 0.01
_EXACT: Final = 1e-6  # weights whose sum is as near to 1 are left as they are


@dataclass(frozen=True)
class Fused:
    """The members' distributions and what they became.

    Attributes:
        probs: (size,) over the union.
        views: each member's distribution over the union, by member index; those that were asked.

    """

    probs: torch.Tensor
    views: Mapping[int, torch.Tensor]


class Mixer:
    """Makes one distribution of several, for one answer.

    Args:
        shared: what all requests of the ensemble share.
        weighting: of this request.
        answer: of this request.

    """

    def __init__(self, shared: SharedState, weighting: Weighting, answer: Answer) -> None:
        self._shared = shared
        self._weighting = weighting
        self._answer = answer

    def of(self, weighting: Weighting, answer: Answer) -> Self:
        """The same for a fork of the request."""
        return type(self)(self._shared, weighting, answer)

    def to_union(self, member: int, probs: torch.Tensor) -> torch.Tensor:
        """A member's probabilities over its own rows as over the union, (size,).

        At the beginning of an answer, " x" and "x" are one unit where members' templates differ
        in how they open; the member will write the one it prefers here.
        """
        view = self._shared.union.project(member, probs)
        self._answer.leading_space.note(member, view)
        return self._answer.leading_space.merge(view)

    def spread(self, member: int, probs: torch.Tensor) -> torch.Tensor:
        """`to_union` of what is not the member's view of this step."""
        return self._answer.leading_space.merge(self._shared.union.project(member, probs))

    def first_pieces(self, member: int) -> torch.Tensor:
        """For each row of the union, that of the token a member begins to spell it with, (size,).

        Its own where it has one.
        """
        return self._shared.first_pieces(member)

    @property
    def weights_need_probs(self) -> bool:
        """Whether only whole distributions tell how much members count."""
        return self._weighting.reads_probs

    def weights_of(self, members: Sequence[int], probs: torch.Tensor) -> torch.Tensor:
        """How much some members count at this step, (members,) of sum 1.

        Args:
            members: their indices.
            probs: their distributions, (members, rows).

        Raises:
            MethodError: the weighting gave no weights.

        """
        if len(members) == 1 or isinstance(self._weighting, Fixed):
            return self._weighting.shares(members, probs)
        weights = self._weighting.weigh(members, probs)
        total = float(weights.sum()) if isinstance(weights, torch.Tensor) else math.nan
        if not (math.isfinite(total) and total > 0 and weights.shape == (len(members),)):
            raise MethodError(
                f"weighting {self._shared.config.weighting} gave {weights!r:.80}; it must give "
                f"({len(members)},) weights of a positive sum"
            )
        return weights if abs(total - 1) < _EXACT else weights / total

    def fuse(self, views: Mapping[int, torch.Tensor], rule: Rule | None) -> Fused:
        """See `Request.fuse_views`."""
        shared, answer = self._shared, self._answer
        members = tuple(sorted(views))
        primary = shared.config.primary
        probs = torch.stack([views[m] for m in members])  # in the most precise of their types
        fused = (rule or shared.rule)(
            Views(
                probs,
                self.weights_of(members, probs),
                members.index(primary) if primary in members else None,
                shared.union,
                members,
                shared.first_pieces,
                None if answer.constraint is None else answer.allowed(shared.union),
            )
        )
        return Fused(fused, views)

    def mean(self, views: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """The weighted mean of distributions over any one space, (size,)."""
        members = tuple(sorted(views))
        probs = torch.stack([views[m] for m in members])
        return self.weights_of(members, probs) @ probs

    def check(self, probs: torch.Tensor, space: Space) -> None:
        """Refuse what is no distribution over a space.

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
        is_empty = mass == 0.0 and self._answer.constraint is not None  # nothing wanted is allowed
        if not (is_empty or abs(mass - 1) < _MASS_ERROR) or float(probs.min()) < 0:
            config = self._shared.config
            raise MethodError(
                f"the fused distribution (fusion {config.fusion}, method {config.method}) has mass "
                f"{mass:.4g} and minimum {float(probs.min()):.3g}; a rule must return "
                "probabilities, not logits or logs"
            )
