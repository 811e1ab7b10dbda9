"""SAFE: the primary drafts, the others verify, and only doubtful tokens are fused.

https://arxiv.org/abs/2510.15346. A drafted token is fused if it begins within no token of any
verifier, and if the ensemble might write another one. With sampling, a drafted token is kept with
the probability min(1, P_ensemble / P_drafter), else another one is drawn from the residual
max(0, P_ensemble - P_drafter) as in speculative sampling, so that verified text is drawn from the
ensemble's distribution.
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
    from gac_core.config import EnsembleConfig
    from gac_core.decoding.mixing import Fused
    from gac_core.decoding.request import Decoder, Request
    from gac_core.sampling_params import SamplingParams

_MAJORITY: Final = 0.5  # probability; a unit with more is the most probable one
_LONGEST_UNIT: Final = 512  # bytes; no unit is longer
_LIKELY: Final = 0.1  # above this, a drafter's token takes the mass of longer ones (the paper's λ)


class SafeOptions(MethodOptions):
    """How much is drafted, and which drafted tokens are verified."""

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
        probs: the drafter's distribution over its own rows, (vocab_size,).
        token: its id.
        step: the step with which it would be emitted.

    """

    probs: torch.Tensor
    token: int
    step: Step


@dataclass(frozen=True)
class _Verified:
    """A verifier's distribution at the position where a drafted token begins.

    Attributes:
        probs: over its own rows, (vocab_size,).
        agreeing: the verifier's ids at this position that agree with the draft: a token, or its end
            ids; empty past the end of its ids.

    """

    probs: torch.Tensor
    agreeing: frozenset[int]


def safe(request: "Request") -> "Decoder":
    """Draft a block, verify it in one pass, fuse at the first doubtful token; over and over."""
    if request.space != "tokens":
        yield from _by_bytes(request)
        return
    while not request.finished:
        draft, future, known = yield from _write_ahead(request)
        verified: dict[int, dict[int, _Verified]] = {}
        if request.others:
            verified = yield from _verify(request, future, draft, known)
        for n, drafted in enumerate(draft):
            views = {m: by_token[n] for m, by_token in verified.items() if n in by_token}
            minus = None
            if len(views) == len(request.others) > 0 and _is_doubtful(request, drafted, views):
                fused = _fuse(request, drafted, views)
                if request.sampling.temperature > 0:
                    minus = _drafter_probs(request, drafted)
                if minus is None or not _is_kept(request, drafted, fused, minus):
                    yield request.emit_fused(fused, minus)
                    break
            step = request.emit_alone(drafted.probs)
            yield step
            if step.unit != drafted.step.unit:  # a context got too full for the drafted token
                break


def _by_bytes(request: "Request") -> "Decoder":
    """SAFE where members meet by bytes.

    No token is torn there, so each drafted one is verified, and nothing need be sharpened.
    """
    from gac_core.decoding.drafting import Plan, drafted

    plan = Plan(request.primary, request.options.block, is_adaptive=False)
    yield from drafted(_questioned(request), request, plan)


def _questioned(request: "Request") -> "Decoder":
    """All members decide each token of which the primary is not sure."""
    threshold = request.options.threshold
    while not request.finished:
        if threshold is None:
            looks = yield from request.look()
        else:
            looks = yield from request.look(request.primary)
            if request.others and not is_sure(request.legal(looks[request.primary]), threshold):
                looks |= yield from request.look(*request.others)
        yield from request.write(looks)


def _write_ahead(
    request: "Request",
) -> "Generator[Ask, Answers, tuple[list[_Drafted], Request, int]]":
    """Draft a block with the primary.

    Returns:
        The block; a fork of the request after it; and the number of tokens that the fork has: all,
        or all but the last if that one fills a context, after which no member can be asked.

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
) -> Generator[Ask, Answers, dict[int, dict[int, _Verified]]]:
    """Score the draft by all verifiers, in one pass each.

    Returns:
        By verifier and index in the draft, for drafted tokens that begin within none of its tokens.

    """
    starts = {m: _starts(request, future, draft, known, m) for m in request.others}
    queries = {}
    for m, by_token in starts.items():
        ids = future.histories[m].ids
        first = min(by_token.values(), default=len(ids))
        queries[m] = (Query(ids, len(ids) - first + 1),)
    answers = yield Ask(queries)
    verified: dict[int, dict[int, _Verified]] = {}
    for m, by_token in starts.items():
        ids, (scored,) = future.histories[m].ids, answers[m]
        offset = len(ids) - len(scored.logits)  # the position after which the first logits come
        verified[m] = {}
        for n, start in by_token.items():
            probs = request.mixer.to_probs(m, scored.logits[start - 1 - offset], ids[:start])
            ends = request.union.vocabularies[m].end_ids if draft[n].step.is_end else frozenset()
            verified[m][n] = _Verified(probs, ends or frozenset(ids[start : start + 1]))
    return verified


def _starts(
    request: "Request", future: "Request", draft: Sequence[_Drafted], known: int, member: int
) -> dict[int, int]:
    """Where in a verifier's ids drafted tokens begin; without those that begin within a token."""
    history = future.histories[member]
    ids, tokens = history.ids, request.union.vocabularies[member].token_bytes
    index_at = {}  # of each of the verifier's tokens, by the number of the answer's bytes before it
    length = len(history.answer)
    for index in range(len(ids), history.prompt_length - 1, -1):
        index_at[length] = index
        if index > history.prompt_length:
            length -= len(tokens[ids[index - 1]])
    begun = len(request.histories[member].answer)
    # Of the verifier only, written with the first drafted token: 0 or 1 byte.
    leading_space = len(history.answer) - begun - sum(len(d.step.unit) for d in draft[:known])
    starts = {}
    for n, drafted in enumerate(draft):
        # A drafted leading space that is only a spelling is not verified.
        if begun in index_at and (drafted.step.unit or drafted.step.is_end):
            starts[n] = index_at[begun]
        begun += len(drafted.step.unit) + (leading_space if n == 0 else 0)
    return starts


def _is_doubtful(request: "Request", drafted: _Drafted, views: Mapping[int, _Verified]) -> bool:
    """Whether the ensemble might choose another token than the drafted one."""
    threshold = request.options.threshold
    if threshold is not None and is_sure(request.legal(drafted.probs), threshold):
        return False
    if request.sampling.temperature > 0:
        return True
    if all(top_row(view.probs) in view.agreeing for view in views.values()):
        return False
    if request.mixer.weights_need_probs:
        return True
    agreeing = {m: float(view.probs[list(view.agreeing)].sum()) for m, view in views.items()}
    agreeing[request.primary] = math.exp(drafted.step.logprob)
    members = tuple(sorted(agreeing))
    probs = torch.tensor([[agreeing[m]] for m in members], dtype=torch.float64)
    return float(request.mixer.weights_of(members, probs) @ probs[:, 0]) <= _MAJORITY


def _fuse(request: "Request", drafted: _Drafted, views: Mapping[int, _Verified]) -> "Fused":
    """The ensemble's distribution; sharpened if no unit has a majority."""
    fused = request.fuse(
        {request.primary: drafted.probs} | {m: view.probs for m, view in views.items()}
    )
    if float(fused.probs.max()) >= _MAJORITY or request.union.is_shared:
        return fused
    match request.options.sharpen:
        case "geometric":
            return request.mixer.fuse(fused.views, geometric)
        case "prefix":
            likely = (fused.views[request.primary] > _LIKELY).nonzero().flatten().tolist()
            return replace(fused, probs=gather_longer(fused.probs, likely, request.union))
        case _:
            return fused


def gather_longer(probs: torch.Tensor, rows: Sequence[int], union: UnionVocabulary) -> torch.Tensor:
    """The mass of every unit moved to the longest of some given units that are prefixes of it.

    Args:
        probs: over the union, (size,).
        rows: of the given units.
        union: the union vocabulary.

    """
    probs = probs.clone()
    shortest_first = sorted(
        (r for r in rows if not union.is_end(r)), key=lambda r: len(union.unit(r))
    )
    for row in reversed(shortest_first):  # the longest first, so that shorter ones find 0 there
        longer = union.rows_beginning(union.unit(row))
        others = longer[~torch.isin(longer, torch.tensor(rows, device=longer.device))]
        taken = probs[others].sum()
        probs[others] = 0.0
        probs[row] += taken
    return probs


def _drafter_probs(request: "Request", drafted: _Drafted) -> torch.Tensor:
    """The distribution from which the drafter drew, over the union, (size,)."""
    drawn = request.answer.sampler.to_draw(request.legal(drafted.probs)).to(drafted.probs)
    return request.mixer.spread(request.primary, drawn).double().cpu()


def _is_kept(request: "Request", drafted: _Drafted, fused: "Fused", drafter: torch.Tensor) -> bool:
    """Whether a drafted token is accepted, with probability min(1, P_ensemble / P_drafter)."""
    chosen = torch.zeros_like(drafted.probs)
    chosen[drafted.token] = 1.0
    row = top_row(request.mixer.spread(request.primary, chosen))
    ensemble = float(request.answer.sampler.to_draw(request.legal(fused.probs, request.union))[row])
    return (
        uniform_at(request.answer.sampler.seed, request.position, 1) * float(drafter[row])
        < ensemble
    )


def _check(config: "EnsembleConfig", sampling: "SamplingParams") -> None:
    """Refuse sampling that would not be from the members' whole distributions.

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
    spaces=("tokens", "scored", "bytes"),
    ignores=("draft",),
    scores_text=False,
    refuses="sampling with `fusion: unite`",
    check=_check,
    examples=(
        {"space": "tokens"},
        {"space": "tokens", "block": 3, "history": "append", "sharpen": "prefix"},
        {"space": "scored"},
        {"space": "bytes", "block": 3},
    ),
)
