"""The slow, obvious twin of `choose`: one label at a time, one token at a time, no batch, no cache.

It shares nothing with the fast one but the members' vocabularies and tokenizers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.reference import SlowMember

_TURNS = tuple(
    blank + mark for mark in (b"Question:", b"System:", b"Tool:") for blank in (b"\n", b"\n\n")
)
Pool = Callable[[Sequence[float], Sequence[float]], float]  # of a label, by weights and members


@dataclass(frozen=True)
class SlowPrompt:
    """A prompt in one member's ids.

    Attributes:
        ids: these.
        opens: what the member writes before an answer: a space, or nothing.
        ends_at_turns: whether the next turn ends an answer.

    """

    ids: Sequence[int]
    opens: bytes = b""
    ends_at_turns: bool = False


def logprob(member: SlowMember, prompt: SlowPrompt, label: str, *, end: bool) -> float:
    """With which a member writes a label, token by token, and perhaps ends."""
    ids, total = list(prompt.ids), 0.0
    for token in member.tokenizer.encode(prompt.opens + label.encode()):
        total += math.log(member.by_id(ids, frozenset())[token])
        ids.append(token)
    if end:
        probs = member.by_id(ids, frozenset())
        total += math.log(sum(p for i, p in probs.items() if _is_end(member, prompt, i)))
    return total


def _is_end(member: SlowMember, prompt: SlowPrompt, token: int) -> bool:
    unit = member.unit(token)
    return unit is None or (prompt.ends_at_turns and any(turn.startswith(unit) for turn in _TURNS))


def shares(
    member: SlowMember,
    prompt: SlowPrompt,
    neutral: Sequence[SlowPrompt],
    labels: Sequence[str],
    *,
    end: bool,
    per_byte: bool = False,
    temperature: float = 1.0,
) -> list[float]:
    """A member's probabilities of the labels."""
    sizes = [len(label.encode()) for label in labels]
    mean = sum(sizes) / len(sizes)

    def liked(where: SlowPrompt) -> list[float]:
        logs = [logprob(member, where, label, end=end) for label in labels]
        return [
            log * mean / size if per_byte else log for log, size in zip(logs, sizes, strict=True)
        ]

    scores = liked(prompt)
    if neutral:
        unasked = [_softmax(liked(where)) for where in neutral]
        for n in range(len(labels)):
            scores[n] -= math.log(sum(own[n] for own in unasked) / len(unasked))
    return _softmax([score / temperature for score in scores])


def _softmax(scores: Sequence[float]) -> list[float]:
    exps = [math.exp(score - max(scores)) for score in scores]
    return [value / sum(exps) for value in exps]


def pooled(pool: Pool, weights: Sequence[float], members: Sequence[Sequence[float]]) -> list[float]:
    """The ensemble's probabilities of the labels, given each member's."""
    found = [pool(weights, column) for column in zip(*members, strict=True)]
    return [value / sum(found) for value in found]


def mean(weights: Sequence[float], probs: Sequence[float]) -> float:
    return sum(w * p for w, p in zip(weights, probs, strict=True))


def geometric(weights: Sequence[float], probs: Sequence[float]) -> float:
    return math.exp(sum(w * math.log(p) for w, p in zip(weights, probs, strict=True)))


def power(weights: Sequence[float], probs: Sequence[float]) -> float:
    return math.pow(sum(w * math.pow(p, 0.25) for w, p in zip(weights, probs, strict=True)), 4)


POOLS: dict[str, Pool] = {"mean": mean, "geometric": geometric, "power": power}
