"""SAFE: the primary drafts, the others verify, and only doubtful places are fused.

https://arxiv.org/abs/2510.15346. A place is fused if it ends no token of any verifier in the middle
and is not surely what the ensemble would write. With sampling, a drafted token is kept with the
probability min(1, P_ensemble / P_drafter), else another is drawn from what the ensemble has beyond
the drafter, so that the text is drawn from the ensemble wherever it is verified.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import torch
from pydantic import Field

from gac_core.decoding.sampling import top_row, uniform_at
from gac_core.errors import ConfigError
from gac_core.fusion.rules import geometric
from gac_core.members.base import Answers, Ask, Query
from gac_core.method_specs import MethodOptions, MethodSpec
from gac_core.methods.cascade import is_sure
from gac_core.outputs import Step
from gac_core.tokens.union import UnionVocabulary

if TYPE_CHECKING:
    from gac_core.config import EnsembleConfig, SamplingParams
    from gac_core.decoding.mixing import Fused
    from gac_core.decoding.request import Decoder, Request

_MAJORITY: Final = 0.5
_LONGEST_UNIT: Final = 512  # bytes; no unit is longer
_LIKELY: Final = 0.1  # above this, a drafter's token takes the mass of longer ones (the paper's λ)


class SafeOptions(MethodOptions):
    """How much is drafted, and what is questioned."""

    block: int = Field(5, ge=1, le=64, description="tokens the primary drafts at a time")
    sharpen: Literal["geometric", "prefix", "none"] = Field(
        "geometric", description="what is done about a fused distribution without a majority"
    )
    threshold: float | None = Field(
        None, ge=0.0, description="the primary is not questioned above this probability"
    )


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
        own: the verifier's ids at this place that agree with the draft: a token, or its end ids;
            empty past the end of its ids.

    """

    probs: torch.Tensor
    own: frozenset[int]


def safe(request: "Request") -> "Decoder":
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


def _write_ahead(
    request: "Request",
) -> "Generator[Ask, Answers, tuple[list[_Drafted], Request, int]]":
    """A block of the drafter, the request after it, and how many tokens that request knows.

    These are all but the last if that fills a context: no member can be asked about longer ids.
    """
    future = request.fork()
    draft: list[_Drafted] = []
    for _ in range(min(request.options.block, request.steps_left)):
        before = future.fork() if not future.answer.fits(_LONGEST_UNIT) else future
        own = future.read((yield future.ask(request.primary)))[request.primary]
        token = future.answer.choose(own, future.primary_rows)
        step = future.emit_alone(own, token)
        draft.append(_Drafted(own, token, step))
        if not future.answer.fits():
            return draft, before, len(draft) - 1
        if step.is_end:
            break
    return draft, future, len(draft)


def _verify(
    request: "Request", future: "Request", draft: Sequence[_Drafted], known: int
) -> Generator[Ask, Answers, dict[int, dict[int, _Place]]]:
    """By verifier and place in the draft: what it thinks there, unless there is a torn token."""
    starts = {m: _starts(request, future, draft, known, m) for m in request.others}
    queries = {}
    for m, at in starts.items():
        ids = future.histories[m].ids
        first = min(at.values(), default=len(ids))
        queries[m] = (Query(ids, len(ids) - first + 1),)
    answers = yield Ask(queries)
    places: dict[int, dict[int, _Place]] = {}
    for m, at in starts.items():
        ids, (scored,) = future.histories[m].ids, answers[m]
        offset = len(ids) - len(scored.logits)  # the position the first row comes after
        places[m] = {}
        for n, start in at.items():
            probs = request.to_probs(m, scored.logits[start - 1 - offset], ids[:start])
            ends = request.union.vocabularies[m].end_ids if draft[n].step.is_end else frozenset()
            places[m][n] = _Place(probs, ends or frozenset(ids[start : start + 1]))
    return places


def _starts(
    request: "Request", future: "Request", draft: Sequence[_Drafted], known: int, member: int
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


def _is_doubtful(request: "Request", drafted: _Drafted, here: Mapping[int, _Place]) -> bool:
    """Whether fusing might choose something else than the drafter did."""
    threshold = request.options.threshold
    if threshold is not None and is_sure(request.legal(drafted.probs), threshold):
        return False
    if request.sampling.temperature > 0:
        return True
    if all(top_row(place.probs) in place.own for place in here.values()):
        return False
    if request.mixer.weights_need_probs:
        return True
    aligned = {m: float(place.probs[list(place.own)].sum()) for m, place in here.items()}
    aligned[request.primary] = math.exp(drafted.step.logprob)
    members = tuple(sorted(aligned))
    probs = torch.tensor([[aligned[m]] for m in members], dtype=torch.float64)
    return float(request.mixer.weights_of(members, probs) @ probs[:, 0]) <= _MAJORITY


def _fuse(request: "Request", drafted: _Drafted, here: Mapping[int, _Place]) -> "Fused":
    """The ensemble's distribution; sharpened where it has no majority."""
    fused = request.fuse(
        {request.primary: drafted.probs} | {m: place.probs for m, place in here.items()}
    )
    if float(fused.probs.max()) >= _MAJORITY or request.union.is_shared:
        return fused
    match request.options.sharpen:
        case "geometric":
            return request.fuse_views(fused.views, geometric)
        case "prefix":
            likely = (fused.views[request.primary] > _LIKELY).nonzero().flatten().tolist()
            return replace(fused, probs=gather_longer(fused.probs, likely, request.union))
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


def _drafter_mass(request: "Request", drafted: _Drafted) -> torch.Tensor:
    """What the drafter drew from, over the union."""
    drawn = request.answer.sampler.to_draw(request.legal(drafted.probs)).to(drafted.probs)
    return request.mixer.spread(request.primary, drawn).double().cpu()


def _is_kept(request: "Request", drafted: _Drafted, fused: "Fused", drafter: torch.Tensor) -> bool:
    chosen = torch.zeros_like(drafted.probs)
    chosen[drafted.token] = 1.0
    row = top_row(request.mixer.spread(request.primary, chosen))
    ensemble = float(request.answer.sampler.to_draw(request.legal(fused.probs, request.union))[row])
    return (
        uniform_at(request.answer.sampler.seed, request.position, 1) * float(drafter[row])
        < ensemble
    )


def _check(config: "EnsembleConfig", sampling: "SamplingParams") -> None:
    """Refuse what would not be drawn from the members' own distributions.

    Raises:
        ConfigError: sampling with fusion unite.

    """
    if sampling.temperature > 0 and config.fusion == "unite":
        raise ConfigError(
            "method safe takes no temperature with fusion unite, which cuts distributions to their "
            "tops while the drafter draws from all of its own; use fusion mean, or temperature 0"
        )


SPEC: Final = MethodSpec(
    "safe",
    safe,
    summary="the primary drafts `block` tokens, the others verify them in one pass; the first "
    "place is fused at which all tokens align and fusing might change something",
    paper="https://arxiv.org/abs/2510.15346",
    options=SafeOptions,
    ignores=("draft",),
    scores_text=False,
    refuses="sampling with `fusion: unite`",
    check=_check,
    examples=({}, {"block": 3, "history": "append", "sharpen": "prefix"}),
)
