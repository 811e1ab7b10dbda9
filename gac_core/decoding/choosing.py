"""Deciding between given answers (labels): how probable each member holds each of them, pooled.

Every member scores every label as it would write it itself, after its own prompt, so there is no
loop over tokens: the prompts are asked about first, and then all labels at once, which begin with
the prompts that are in the cache by then.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from gac_core.decoding.request import Decoder, Request
from gac_core.errors import MethodError, NonFiniteLogitsError
from gac_core.fusion.rules import Views
from gac_core.members.base import Answers, Ask, Query
from gac_core.outputs import MemberChoice, Step
from gac_core.tokens.union import UnionVocabulary
from gac_core.tokens.vocabulary import TokenKind, Vocabulary

_AT_ONCE: Final = (
    64  # labels of a member in one ask; the caches and logits of only so many are held
)
_MASS_ERROR: Final = 0.01  # how far from 1 the mass of pooled probabilities may be


@dataclass(frozen=True)
class Reading:
    """A prompt after which the labels are scored.

    Attributes:
        prompts: its ids, by member.
        labels: the ids of each label after it, by member and label.
        is_chat: whether a label begins a turn of its own.

    """

    prompts: Sequence[Sequence[int]]
    labels: Sequence[Sequence[Sequence[int]]]
    is_chat: bool


@dataclass(frozen=True)
class Plan:
    """How labels are scored.

    Attributes:
        labels: two or more, all different.
        readings: of the prompt, and of the neutral prompts after it, if there are any.
        has_end: whether a label counts only if the answer ends after it.
        scales: by which the log-probability of each label is multiplied.
        temperatures: of each member.

    """

    labels: tuple[str, ...]
    readings: Sequence[Reading]
    has_end: bool
    scales: Sequence[float]
    temperatures: Sequence[float]


@dataclass(frozen=True)
class ChoiceStep(Step):
    """The only step of a decision, and what was decided.

    Attributes:
        labels: as they were given.
        probs: pooled, of each label.
        choices: of each member.

    """

    labels: tuple[str, ...] = ()
    probs: tuple[float, ...] = ()
    choices: tuple[MemberChoice, ...] = ()


class Labels(UnionVocabulary):
    """A row for each label, and one for an end that has no probability; for fusion rules."""

    def __init__(self, labels: Sequence[str]) -> None:
        kinds = (*[TokenKind.TEXT] * len(labels), TokenKind.END)
        super().__init__([Vocabulary((*(label.encode() for label in labels), b""), kinds)])

    def begin_alike(self, row: int, other: int) -> bool:
        """Whether they are the same: a label is a whole answer, and no beginning of another."""
        return row == other


def choose(request: Request, plan: Plan) -> Decoder:
    """Score the labels, and end the answer with what was decided.

    Args:
        request: whose weighting and rule pool the members' probabilities.
        plan: how the labels are scored.

    Raises:
        NonFiniteLogitsError: a member gave NaN, or holds all labels impossible.
        MethodError: weighting or rule gave no distribution.

    """
    logs = yield from _scored(request, plan)  # (readings, members, labels)
    probs = _calibrated(request, plan, logs)
    members = tuple(range(len(request.members)))
    padded = torch.nn.functional.pad(probs, (0, 1))  # no member ends without a label
    weights = request.mixer.weights_of(members, padded)
    views = Views(padded, weights, request.primary, Labels(plan.labels), members, None)
    pooled = request.mixer.shared.rule(views)
    _check(request, pooled, padded.shape[-1])
    pooled = pooled[:-1] / pooled[:-1].sum()
    choices = tuple(
        MemberChoice(member.name, float(weight), tuple(own.tolist()), tuple(log.tolist()))
        for member, weight, own, log in zip(request.members, weights, probs, logs[0], strict=True)
    )
    step = request.answer.end_step(b"", float(pooled.max().log()), {}, is_end=True)
    yield ChoiceStep(
        **vars(step), labels=plan.labels, probs=tuple(pooled.tolist()), choices=choices
    )


def _scored(request: Request, plan: Plan) -> Generator[Ask, Answers, torch.Tensor]:
    """The log-probability of each label, (readings, members, labels), in float64 on the CPU.

    Raises:
        NonFiniteLogitsError: some logits are NaN or infinite.

    """
    members, readings = range(len(request.members)), plan.readings
    answers = yield Ask(
        {
            m: [Query(r.prompts[m], branch=(n, 0), whole=True) for n, r in enumerate(readings)]
            for m in members
        }
    )
    firsts = {m: [scored.logits[-1:] for scored in answers[m]] for m in members}
    logs = torch.empty(len(readings), len(members), len(plan.labels), dtype=torch.float64)
    pairs = [(n, label) for n in range(len(readings)) for label in range(len(plan.labels))]
    for begin in range(0, len(pairs), _AT_ONCE):
        part = pairs[begin : begin + _AT_ONCE]
        asked = {m: own for m in members if (own := _queries(plan, m, part))}
        answers = (yield Ask({m: list(own.values()) for m, own in asked.items()})) if asked else {}
        for m in members:
            own = asked.get(m, {})
            rest = dict(zip(own, (scored.logits for scored in answers.get(m, ())), strict=True))
            found = []
            for n, label in part:
                rows = [firsts[m][n], *([rest[n, label]] if (n, label) in rest else [])]
                ends = _ends(request, m, readings[n]) if plan.has_end else []
                ids = readings[n].labels[m][label]
                found.append(_logprob(request, m, torch.cat(rows), ids, ends))
            for (n, label), value in zip(part, torch.stack(found).tolist(), strict=True):
                logs[n, m, label] = value
    wrong = logs.isnan().any(0).any(-1)
    if bool(wrong.any()):
        name = request.members[int(wrong.nonzero()[0])].name
        raise NonFiniteLogitsError(
            f"{name} gave logits that are NaN, infinite or all masked for a label; try dtype "
            "float32 or bfloat16 for it"
        )
    return logs


def _queries(
    plan: Plan, member: int, pairs: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], Query]:
    """What follows the first token of each label, by reading and label; nothing where none counts.

    The first label of a reading goes on with the sequence of its prompt.
    """
    queries = {}
    for n, label in pairs:
        reading = plan.readings[n]
        ids = reading.labels[member][label]
        if more := len(ids) - (not plan.has_end):
            prompt = reading.prompts[member]
            branch = (n, label % _AT_ONCE)
            queries[n, label] = Query([*prompt, *ids[:more]], more, branch=branch, whole=True)
    return queries


def _logprob(
    request: Request, member: int, rows: torch.Tensor, ids: Sequence[int], ends: list[int]
) -> torch.Tensor:
    """The log-probability with which a member writes some ids, and then perhaps ends, ().

    Args:
        request: the member's.
        member: its index.
        rows: the logits before each of the ids, and after the last one if there are ends.
        ids: one or more.
        ends: the ids with any of which the answer ends after them; none if it need not end.

    """
    logits = request.mixer.shared.own_union(member).mask(0, rows)
    totals = logits.logsumexp(-1)
    chosen = logits[torch.arange(len(ids)), list(ids)] - totals[: len(ids)]
    if ends:
        return chosen.sum() + logits[-1, ends].logsumexp(-1) - totals[-1]
    return chosen.sum()


def _ends(request: Request, member: int, reading: Reading) -> list[int]:
    """The ids with which a member ends an answer; for want of a template, begins the next turn."""
    ends = request.members[member].tokenizer.vocabulary.end_ids
    if reading.is_chat:
        ends |= request.mixer.shared.next_turn_ids(member)
    return sorted(ends)


def _calibrated(request: Request, plan: Plan, logs: torch.Tensor) -> torch.Tensor:
    """Each member's probabilities of the labels, (members, labels) of mass 1.

    Args:
        request: whose members they are.
        plan: with scales and temperatures.
        logs: (readings, members, labels).

    """
    impossible = logs.isneginf().all(-1)
    if bool(impossible.any()):
        name = request.members[int(impossible.any(0).nonzero()[0])].name
        raise NonFiniteLogitsError(f"{name} gives none of the labels any probability")
    scores = logs * torch.tensor(plan.scales, dtype=torch.float64)
    temperatures = torch.tensor(plan.temperatures, dtype=torch.float64)[:, None]
    own = scores[0]
    if len(scores) > 1:
        prior = scores[1:].softmax(-1).mean(0)
        own = own - prior.clamp_min(torch.finfo(prior.dtype).tiny).log()
    return (own / temperatures).softmax(-1)


def _check(request: Request, pooled: object, size: int) -> None:
    """Refuse what is no distribution over the labels."""
    if (
        not isinstance(pooled, torch.Tensor)
        or pooled.shape != (size,)
        or not abs(float(pooled[:-1].sum()) - 1) < _MASS_ERROR
        or float(pooled.min()) < 0
    ):
        raise MethodError(
            f"fusion {request.config.fusion} gave {pooled!r:.80} for {size - 1} labels; a rule "
            "must return probabilities of mass 1"
        )
