"""Fusion rules: the members' distributions become one. Pure functions.

A rule takes `Views` and returns (rows,) of mass 1 over the union. Add one of your own with
`register_fusion`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

from gac_core.tokens.union import UnionVocabulary

_UNITE_TOP: Final = 10
_CORE_BETA: Final = 2.0


@dataclass(frozen=True)
class Views:
    """What the members think of the next unit.

    Attributes:
        probs: (members, rows) over the union, each row of mass 1.
        weights: (members,) of sum 1, all positive.
        primary: the index among them of the member asked first; None if it was not asked.
        union: tells the unit of a row, and who has it.
        members: their indices in the union.
        first_pieces: for a member's index, the row of the first token with which it spells the
            unit of each row; its own where it has one, (rows,).
        allowed: with a grammar, the rows that may come, (rows,) of bool.

    """

    probs: torch.Tensor
    weights: torch.Tensor
    primary: int | None
    union: UnionVocabulary
    members: tuple[int, ...]
    first_pieces: Callable[[int], torch.Tensor]
    allowed: torch.Tensor | None = None


Rule = Callable[[Views], torch.Tensor]


def mean(views: Views) -> torch.Tensor:
    """The weighted arithmetic mean (GaC, https://arxiv.org/abs/2406.12585, eq. 4)."""
    return views.weights @ views.probs


def geometric(views: Views) -> torch.Tensor:
    """The weighted geometric mean, normalised: a product of experts.

    A unit that a member lacks counts there as the first token it would spell it with; a unit that
    no member has stays at 0.
    """
    logs = _with_first_pieces(views).clamp_min(torch.finfo(views.probs.dtype).tiny).log()
    nobody = (views.probs <= 0).all(0)
    return (views.weights @ logs).masked_fill(nobody, -torch.inf).softmax(-1)


def _with_first_pieces(views: Views) -> torch.Tensor:
    """The members' distributions, and a first piece's probability for units they lack."""
    return torch.stack(
        [
            torch.where(
                views.union.has(member) | (probs > 0), probs, probs[views.first_pieces(member)]
            )
            for member, probs in zip(views.members, views.probs, strict=True)
        ]
    )


def unite(views: Views) -> torch.Tensor:
    """UniTE (https://arxiv.org/abs/2410.03777): the mean over the union of all top tens only.

    A member that lacks a unit as a token gives it the logit of the first token it would spell it
    with; each member's distribution is then renormalised over those units.
    """
    candidates = views.probs if views.allowed is None else views.probs * views.allowed
    values, tops = candidates.topk(min(_UNITE_TOP, candidates.shape[-1]), dim=-1)
    rows = tops[values > 0].unique()
    chosen = _with_first_pieces(views)[:, rows]
    mass = chosen.sum(-1, keepdim=True)
    fused = views.weights @ torch.where(mass > 0, chosen / mass, chosen)
    total = fused.sum()
    return views.probs.new_zeros(views.probs.shape[-1]).index_put(
        (rows,), fused / total if total > 0 else fused
    )


def core(views: Views) -> torch.Tensor:
    """CoRE (https://arxiv.org/abs/2510.13855): units and members that others confirm count more.

    Each member's probability of a unit is scaled by how near it is to the mean, and the member by
    the sum of these scales over its entropy; the primary counts at least as much as all others.
    Where the winner and the primary's own best unit begin alike, they change places.
    """
    probs, weights = views.probs, views.weights
    distance = (probs - weights @ probs).abs()
    floor = torch.exp(probs.new_tensor(-_CORE_BETA))
    near = (torch.exp(-_CORE_BETA * distance) - floor) / (1 - floor)  # (members, rows)
    has = probs > 0
    trust = weights * (near * has.any(0)).sum(-1) / entropy(probs)
    if views.primary is not None:
        others = trust.sum() - trust[views.primary]
        trust[views.primary] = torch.maximum(trust[views.primary], others)
    tiny = torch.finfo(probs.dtype).tiny
    average = (near * has).sum(-1, keepdim=True) / has.sum(-1, keepdim=True)
    fused = trust @ (near / average.clamp_min(tiny) * probs)
    total = fused.sum()
    fused = fused / total if total > 0 else weights @ probs
    if views.primary is not None:
        best, own = int(fused.argmax()), int(probs[views.primary].argmax())
        if best != own and not views.union.is_end(best) and views.union.begin_alike(best, own):
            fused[[best, own]] = fused[[own, best]]
    return fused


def entropy(probs: torch.Tensor) -> torch.Tensor:
    """In nats, kept above 0 so that one may divide by it. (..., rows) to (...)"""
    nats: torch.Tensor = torch.special.entr(probs).sum(-1)
    return nats.clamp_min(torch.finfo(probs.dtype).eps)
