"""What was measured of a system, and how sure it is: results, intervals, gains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from gac_core.outputs import Output

Floats = np.ndarray[Any, np.dtype[np.float64]]
SystemKind = Literal["member", "method", "control"]

_RESAMPLES: Final = 10_000


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval."""

    value: float
    ci95: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        """Plain values; None in place of what is infinite or not to be had."""
        value, low, high = (
            number if math.isfinite(number) else None for number in (self.value, *self.ci95)
        )
        return {"value": value, "ci95": [low, high]}


@dataclass
class Result:
    """How one system did.

    Attributes:
        right: per task, whether each of its items was answered right, (items,).
        tokens: of the answers given, in the tokens of the primary (or of the member that wrote an
            answer alone), each with its end. Not steps, whose units may be bytes; of members whose
            tokens differ, the units are shorter than those of each (1.1 steps a token where all
            pocket members fuse at every step).
        steps: units emitted, ends included.
        fused_steps: those that all members decided together.
        queries: per member, how often it was asked for logits: of all samples and candidates.
        seconds: of wall time, all items asked at once.

    """

    name: str
    kind: SystemKind
    right: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = field(default_factory=dict)
    tokens: int = 0
    steps: int = 0
    fused_steps: int = 0
    queries: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def count(self, output: Output) -> None:
        """Add what an answer took."""
        self.tokens += output.usage.completion_tokens + output.steps[-1].is_end
        self.steps += output.usage.steps
        self.fused_steps += output.usage.fused_steps

    @property
    def average(self) -> float:
        """The mean of the tasks' accuracies."""
        return float(np.mean([right.mean() for right in self.right.values()]))

    @property
    def ci95(self) -> tuple[float, float]:
        """The 95% interval of the average, by Agresti and Coull (never of width 0)."""
        adjusted = [((r.sum() + 2) / (len(r) + 4), len(r) + 4) for r in self.right.values()]
        variance = sum(p * (1 - p) / n for p, n in adjusted) / len(adjusted) ** 2
        half = 1.96 * math.sqrt(variance)
        return max(0.0, self.average - half), min(1.0, self.average + half)

    def part(self, task: str | None = None) -> "Result":
        """The same of one task, or with all questions of all tasks as one."""
        right = np.concatenate([*self.right.values()]) if task is None else self.right[task]
        return Result(self.name, self.kind, {task or "all": right})

    def accuracy(self, task: str | None = None) -> Estimate:
        """The share of right answers to a task, or to all questions."""
        part = self.part(task)
        return Estimate(part.average, part.ci95)

    def difference(self, over: "Result", task: str | None = None) -> Estimate:
        """Its accuracy minus another's, to a task or to all questions; paired bootstrap."""
        part, other = self.part(task), over.part(task)
        ours, theirs = _resampled(part, other)
        low, high = np.quantile(ours - theirs, (0.025, 0.975))
        return Estimate(part.average - other.average, (float(low), float(high)))

    @property
    def fused_share(self) -> float:
        """The share of steps that all members decided together."""
        return self.fused_steps / max(1, self.steps)

    @property
    def forwards_per_token(self) -> dict[str, float]:
        """Per member, how often it was asked for logits per token of the answers."""
        return {name: count / max(1, self.tokens) for name, count in self.queries.items()}

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the answers per second of wall time."""
        return self.tokens / max(self.seconds, 1e-9)

    def as_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "tasks": {task: self._figures(task) for task in self.right},
            "all": self._figures(),
            "average": self.average,
            "ci95": list(self.ci95),
            "fused_share": self.fused_share,
            "forwards_per_token": self.forwards_per_token,
            "tokens_per_second": self.tokens_per_second,
            "seconds": self.seconds,
        }

    def _figures(self, task: str | None = None) -> dict[str, Any]:
        (right,) = self.part(task).right.values()
        return {
            "correct": int(right.sum()),
            "total": len(right),
            "accuracy": self.accuracy(task).as_json(),
        }


@dataclass(frozen=True)
class Gain:
    """How much better one result is than another, relative to it, with the 95% interval."""

    relative: float
    ci95: tuple[float, float]


def gain(result: Result, over: Result) -> Gain:
    """The relative gain in average accuracy; paired bootstrap over the items of each task."""
    ours, theirs = _resampled(result, over)
    low, high = np.quantile(ours / np.maximum(theirs, 1e-9) - 1, (0.025, 0.975))
    return Gain(result.average / max(over.average, 1e-9) - 1, (float(low), float(high)))


def _resampled(result: Result, over: Result) -> tuple[Floats, Floats]:
    """The averages of both over the same resampled items of each task, (resamples,) each."""
    rng = np.random.default_rng(0)
    means = []
    for right, other in zip(result.right.values(), over.right.values(), strict=True):
        pairs = right.astype(int) + 2 * other.astype(int)
        shares = np.bincount(pairs, minlength=4) / len(pairs)
        counts = rng.multinomial(len(pairs), shares, size=_RESAMPLES) / len(pairs)
        means.append((counts[:, 1] + counts[:, 3], counts[:, 2] + counts[:, 3]))
    return np.mean([m for m, _ in means], axis=0), np.mean([m for _, m in means], axis=0)


def best_member(results: Sequence[Result]) -> Result:
    """The member with the highest average."""
    return max((r for r in results if r.kind == "member"), key=lambda r: r.average)


def best_at(results: Sequence[Result], task: str | None = None) -> Result:
    """The member with the most right answers to a task, or to all questions."""
    members = [r for r in results if r.kind == "member"]
    return max(members, key=lambda r: r.part(task).average)


def verdict(results: Sequence[Result]) -> str:
    """A sentence: what fusing at every step gained over the best member; empty if not measured."""
    found = next((r for r in results if r.name == "every_step"), None)
    if found is None:
        return ""
    best = best_member(results)
    gained = gain(found, best)
    low, high = gained.ci95
    return (
        f"Fusing at every step, {gained.relative:+.1%} right answers against {best.name}, "
        f"the best member (95% interval {low:+.1%} to {high:+.1%})."
    )


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """All results as plain values, with what methods and controls gained over the best member."""
    best = best_member(results)
    values = []
    for result in results:
        value = result.as_json()
        if result.kind != "member":
            gained = gain(result, best)
            value["gain_over_best_member"] = {
                "relative": gained.relative,
                "ci95": list(gained.ci95),
            }
            for task, figures in [*value["tasks"].items(), (None, value["all"])]:
                member = best_at(results, task)
                difference = result.difference(member, task).as_json()
                figures["over_best_member"] = {"member": member.name, **difference}
        values.append(value)
    return {"best_member": best.name, "rows": values}
