"""SAFE: the primary drafts, the others verify, and only doubtful places are fused.

https://arxiv.org/abs/2510.15346. A place is fused if it ends no token of any verifier in the middle
and is not surely what the ensemble would write. With sampling, a drafted token is kept with the
probability min(1, P_ensemble / P_drafter), else another is drawn from what the ensemble has beyond
the drafter, so that the text is drawn from the ensemble wherever it is verified.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from gac_core.config import EnsembleConfig, SamplingParams
from gac_core.decoding.request import Ask, Fused, Logits, Request
from gac_core.decoding.sampling import top_row, uniform_at
from gac_core.errors import ConfigError
from gac_core.fusion.rules import geometric
from gac_core.members.local import Query
from gac_core.methods.gating import is_sure
from gac_core.outputs import Step
from gac_core.tokens.union import UnionVocabulary

_MAJORITY: Final = 0.5
_LONGEST_UNIT: Final = 512  # bytes
_LIKELY: Final = 0.1  # above this, a drafter's token takes the mass of longer ones (the paper's λ)


@dataclass(frozen=True)
class _Drafted:
    """A token that the drafter wrote ahead.

    Attributes:
        probs: the drafter's distribution over its own rows.
        token: what it chose.
        step: how that would be emitted.

    """

    probs: torch.Tensor
    token: int
    step: Step


@dataclass(frozen=True)
class _Place:
    """What a verifier thinks where a drafted token begins.

    Attributes:
        probs: over its own rows.
        own: the ids with which it would itself go on with what was drafted: a token, or its ends;
            none if what it was asked about ends here.

    """

    probs: torch.Tensor
    own: frozenset[int]


def safe(request: Request) -> Generator[Ask | Step, Logits, None]:
    """Draft a block, verify it in one pass, fuse at the first doubtful place; over and over."""
    while not request.finished:
        draft, future, known = yield from _write_ahead(request)
        places: dict[int, dict[int, _Place]] = {}
        if request.others:
            places = yield from _verify(request, future, draft, known)
        for n, drafted in enumerate(draft):
            here = {m: at[n] for m, at in places.items() if n in at}
            rest = None
            if len(here) == len(request.others) > 0 and _is_doubtful(request, drafted, here):
                fused = _fuse(request, drafted, here)
                if request.sampling.temperature > 0:
                    rest = _drafter_mass(request, drafted)
                if rest is None or not _is_kept(request, drafted, fused, rest):
                    yield request.emit_fused(fused, rest)
                    break
            step = request.emit_alone(drafted.probs)
            yield step
            if step.unit != drafted.step.unit:  # a context got too full for what was drafted
                break


def check(config: EnsembleConfig, sampling: SamplingParams) -> None:
    """Refuse what would not be drawn from the members' own distributions.

    Raises:
        ConfigError: sampling with fusion unite.

    """
    if sampling.temperature > 0 and config.fusion == "unite":
        raise ConfigError(
            "method safe takes no temperature with fusion unite, which cuts distributions to their "
            "tops while the drafter draws from all of its own; use fusion mean, or temperature 0"
        )


def _write_ahead(
    request: Request,
) -> Generator[Ask, Logits, tuple[list[_Drafted], Request, int]]:
    """A block of the drafter, the request behind it, and how many tokens that request knows.

    These are all but the last if that fills a context: nobody can be asked about longer ids.
    """
    future = request.fork()
    draft: list[_Drafted] = []
    for _ in range(min(request.config.block, request.steps_left)):
        before = future.fork() if _may_fill(future) else future
        own = future.read((yield future.ask(request.primary)))[request.primary]
        token = future.choose_alone(own)
        step = future.emit_alone(own, token)
        draft.append(_Drafted(own, token, step))
        if not all(
            (limit := member.scorer.context_size) is None or history.fits(limit)
            for member, history in zip(future.members, future.histories, strict=True)
        ):
            return draft, before, len(draft) - 1
        if step.is_end:
            break
    return draft, future, len(draft)


def _may_fill(request: Request) -> bool:
    """Whether a unit might fill a context; none is longer than this."""
    return any(
        (limit := member.scorer.context_size) is not None
        and history.prompt_length + len(history.answer) + _LONGEST_UNIT > limit
        for member, history in zip(request.members, request.histories, strict=True)
    )


def _verify(
    request: Request, future: Request, draft: Sequence[_Drafted], known: int
) -> Generator[Ask, Logits, dict[int, dict[int, _Place]]]:
    """By verifier and place in the draft: what it thinks there, unless there is a torn token."""
    starts = {m: _starts(request, future, draft, known, m) for m in request.others}
    queries = {}
    for m, at in starts.items():
        ids = future.histories[m].ids
        first = min(at.values(), default=len(ids))
        queries[m] = (Query(ids, len(ids) - first + 1),)
    logits = yield Ask(queries)
    places: dict[int, dict[int, _Place]] = {}
    for m, at in starts.items():
        ids, (rows,) = future.histories[m].ids, logits[m]
        offset = len(ids) - len(rows)  # the position the first row stands behind
        places[m] = {}
        for n, start in at.items():
            probs = request.to_probs(m, rows[start - 1 - offset], ids[:start])
            ends = request.union.vocabularies[m].end_ids if draft[n].step.is_end else frozenset()
            places[m][n] = _Place(probs, ends or frozenset(ids[start : start + 1]))
    return places


def _starts(
    request: Request, future: Request, draft: Sequence[_Drafted], known: int, member: int
) -> dict[int, int]:
    """Where in a verifier's ids the drafted tokens begin, for those that tear none of its own."""
    history = future.histories[member]
    ids, tokens = history.ids, request.union.vocabularies[member].token_bytes
    index_at = {}  # by the bytes of the answer before it
    length = len(history.answer)
    for index in range(len(ids), history.prompt_length - 1, -1):
        index_at[length] = index
        if index > history.prompt_length:
            length -= len(tokens[ids[index - 1]])
    begun = len(request.histories[member].answer)
    lead = len(history.answer) - begun - sum(len(d.step.unit) for d in draft[:known])
    starts = {}
    for n, drafted in enumerate(draft):
        # A space that only opens an answer is no place of its own.
        if begun in index_at and (drafted.step.unit or drafted.step.is_end):
            starts[n] = index_at[begun]
        begun += len(drafted.step.unit) + (lead if n == 0 else 0)
    return starts


def _is_doubtful(request: Request, drafted: _Drafted, here: Mapping[int, _Place]) -> bool:
    """Whether fusing might choose something else than the drafter did."""
    threshold = request.config.threshold
    if threshold is not None and is_sure(request.legal(drafted.probs), threshold):
        return False
    if request.sampling.temperature > 0:
        return True
    if all(top_row(place.probs) in place.own for place in here.values()):
        return False
    if request.config.weighting == "entropy":  # weights that only whole distributions tell
        return True
    aligned = {m: float(place.probs[list(place.own)].sum()) for m, place in here.items()}
    aligned[request.primary] = math.exp(drafted.step.logprob)
    members = tuple(sorted(aligned))
    probs = torch.tensor([[aligned[m]] for m in members], dtype=torch.float64)
    return float(request.weights_of(members, probs) @ probs[:, 0]) <= _MAJORITY


def _fuse(request: Request, drafted: _Drafted, here: Mapping[int, _Place]) -> Fused:
    """The ensemble's distribution; sharpened where it has no majority."""
    fused = request.fuse(
        {request.primary: drafted.probs} | {m: place.probs for m, place in here.items()}
    )
    if float(fused.probs.max()) >= _MAJORITY or request.union.is_shared:
        return fused
    match request.config.sharpen:
        case "geometric":
            return request.fuse_views(fused.views, geometric)
        case "prefix":
            likely = (fused.views[request.primary] > _LIKELY).nonzero().flatten().tolist()
            return Fused(gather_longer(fused.probs, likely, request.union), fused.views)
        case _:
            return fused


def gather_longer(probs: torch.Tensor, rows: Sequence[int], union: UnionVocabulary) -> torch.Tensor:
    """The mass of every unit moved to the longest of some units that it begins with.

    Args:
        probs: (size,).
        rows: of those units.
        union: tells the bytes of a row.

    """
    probs = probs.clone()
    shortest_first = sorted(
        (r for r in rows if not union.is_end(r)), key=lambda r: len(union.unit(r))
    )
    for row in reversed(shortest_first):  # the longest takes first; what is taken is 0 by then
        longer = union.rows_beginning(union.unit(row))
        others = longer[~torch.isin(longer, torch.tensor(rows, device=longer.device))]
        taken = probs[others].sum()
        probs[others] = 0.0
        probs[row] += taken
    return probs


def _drafter_mass(request: Request, drafted: _Drafted) -> torch.Tensor:
    """What the drafter drew from, over the union."""
    drawn = request.to_draw(request.legal(drafted.probs)).to(drafted.probs)
    return request.spread(request.primary, drawn).double().cpu()


def _is_kept(request: Request, drafted: _Drafted, fused: Fused, drafter: torch.Tensor) -> bool:
    chosen = torch.zeros_like(drafted.probs)
    chosen[drafted.token] = 1.0
    row = top_row(request.spread(request.primary, chosen))
    ensemble = float(request.to_draw(request.legal(fused.probs, alone=False))[row])
    return uniform_at(request.seed, request.position, 1) * float(drafter[row]) < ensemble
