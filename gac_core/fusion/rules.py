"""Fusion rules: the members' distributions become one. Pure functions.

A rule takes `Views` and returns probabilities over the union, (size,) of mass 1. Add one of your
own with `register_fusion`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

from gac_core.tokens.union import UnionVocabulary

_UNITE_TOP: Final = 10  # units of each member that UniTE fuses
_POWER: Final = 0.25  # chosen by measurement: docs/evaluation.md
_CORE_BETA: Final = 2.0  # how fast a unit counts less with its distance from the mean, in CoRE


@dataclass(frozen=True)
class Views:
    """The distributions of the members that were asked over the next unit, and their weights.

    Attributes:
        probs: over the units, (members, size), of mass 1 for each member.
        weights: (members,) of sum 1, all positive.
        primary: the primary's index in `probs`; None if it was not asked.
        union: the vocabulary of the rows: the union, bytes, or the primary's tokens.
        members: the indices in the ensemble of the members in `probs`.
        first_pieces: a function from an index in the ensemble to (size,): for each row, the row of
            the first token with which that member writes the row's unit; the row itself if the
            member has it. None in a space in which no member lacks a row.
        allowed: with a grammar, which rows it allows next, (size,) of bool.

    """

    probs: torch.Tensor
    weights: torch.Tensor
    primary: int | None
    union: UnionVocabulary
    members: tuple[int, ...]
    first_pieces: Callable[[int], torch.Tensor] | None
    allowed: torch.Tensor | None = None


Rule = Callable[[Views], torch.Tensor]


def mean(views: Views) -> torch.Tensor:
    """The weighted arithmetic mean (GaC, https://arxiv.org/abs/2406.12585, eq. 4)."""
    return views.weights @ views.probs


def geometric(views: Views) -> torch.Tensor:
    """The weighted geometric mean, normalised: a product of experts.

    For a unit that a member lacks, it gives the probability of the first token with which it would
    write that unit; a unit to which all members give 0 stays at 0.
    """
    logs = _with_first_pieces(views).clamp_min(torch.finfo(views.probs.dtype).tiny).log()
    is_impossible = (views.probs <= 0).all(0)
    return (views.weights @ logs).masked_fill(is_impossible, -torch.inf).softmax(-1)


def power(views: Views) -> torch.Tensor:
    """The weighted power mean with exponent 1/4, normalised: between `mean` and `geometric`.

    A unit that one member holds nearly impossible can hardly win, as in a product, but no single
    member can veto it. A unit that a member lacks counts as in `geometric`.
    """
    probs = _with_first_pieces(views)
    fused = (views.weights @ probs**_POWER) ** (1 / _POWER)
    fused = fused.masked_fill((views.probs <= 0).all(0), 0.0)
    total = fused.sum()
    return fused / total if total > 0 else views.weights @ views.probs


def _with_first_pieces(views: Views) -> torch.Tensor:
    """The members' distributions, with a first piece's probability for units they lack."""
    if views.first_pieces is None:
        return views.probs
    return torch.stack(
        [
            torch.where(
                views.union.has(member) | (probs > 0), probs, probs[views.first_pieces(member)]
            )
            for member, probs in zip(views.members, views.probs, strict=True)
        ]
    )


def unite(views: Views) -> torch.Tensor:
    """UniTE (https://arxiv.org/abs/2410.03777): the mean over the union of the members' top tens.

    A member that lacks a unit as a token gives it the logit of the first token with which it would
    write it; each member's distribution is then renormalised over those units.
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
    If the most probable unit and the primary's own begin alike, their probabilities are swapped.
    """
    probs, weights = views.probs, views.weights
    distance = (probs - weights @ probs).abs()
    floor = torch.exp(probs.new_tensor(-_CORE_BETA))
    near = (torch.exp(-_CORE_BETA * distance) - floor) / (1 - floor)  # (members, size)
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
    """The entropy in nats, kept above 0 so that one may divide by it: (..., size) to (...)."""
    nats: torch.Tensor = torch.special.entr(probs).sum(-1)
    return nats.clamp_min(torch.finfo(probs.dtype).eps)
