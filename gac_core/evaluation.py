"""Each member alone, the ensemble and its cascade on the same questions, side by side.

The questions are the pocket tasks: program-generated, held out from the pocket members' training,
each with one right answer. Any ensemble can be asked them.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

import numpy as np

from gac_core.assembly import load_used
from gac_core.config import EnsembleConfig, SamplingParams
from gac_core.ensemble import Ensemble
from gac_core.errors import ConfigError
from gac_core.loading import member_names
from gac_core.pocket import tasks
from gac_core.pocket.tasks import Item
from gac_core.steps import Output

Kind = Literal["member", "method", "control"]

THRESHOLDS: Final = (0.5, 0.9, 0.95, 0.99)
_LONGEST_ANSWER: Final = 160  # tokens; right answers have at most about 100
_RESAMPLES: Final = 10_000


@dataclass(frozen=True)
class Settings:
    """What is asked of every system.

    Attributes:
        items: questions per task.
        seed: of the questions.
        thresholds: of the cascades.
        tasks: of `gac_core.pocket.tasks.JUDGED`; all if empty.

    Raises:
        ConfigError: an unknown task, or no items.

    """

    items: int = 300
    seed: int = 0
    thresholds: tuple[float, ...] = THRESHOLDS
    tasks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = ", ".join(tasks.JUDGED)
        if unknown := [name for name in self.tasks if name not in tasks.JUDGED]:
            raise ConfigError(f"there is no task {unknown[0]!r}; choose from {known}")
        if self.items < 1:
            raise ConfigError(f"items must be 1 or more, not {self.items}")
        if wrong := [t for t in self.thresholds if not t >= 0]:
            raise ConfigError(f"a threshold must be 0 or more, not {wrong[0]}")

    def questions(self) -> dict[str, list[Item]]:
        """The items of each task."""
        names = self.tasks or tuple(tasks.JUDGED)
        return {name: list(tasks.heldout(name, self.items, self.seed)) for name in names}


@dataclass(frozen=True)
class System:
    """What is evaluated: a name and the configuration behind it."""

    name: str
    kind: Kind
    config: EnsembleConfig


@dataclass
class Row:
    """How one system did.

    Attributes:
        right: per task, whether each of its items was answered right, (items,).
        steps: units emitted, ends included.
        fused_steps: those that all members decided together.
        queries: per member, how often it was asked for logits.
        seconds: of wall time, all items asked at once.

    """

    name: str
    kind: Kind
    right: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = field(default_factory=dict)
    steps: int = 0
    fused_steps: int = 0
    queries: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

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

    @property
    def fused_share(self) -> float:
        """The share of steps that all members decided together."""
        return self.fused_steps / max(1, self.steps)

    @property
    def tokens_per_second(self) -> float:
        """Emitted units per second of wall time."""
        return self.steps / max(self.seconds, 1e-9)

    def as_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "tasks": {
                task: {"correct": int(right.sum()), "total": len(right)}
                for task, right in self.right.items()
            },
            "average": self.average,
            "ci95": list(self.ci95),
            "fused_share": self.fused_share,
            "forwards_per_token": {
                name: count / max(1, self.steps) for name, count in self.queries.items()
            },
            "tokens_per_second": self.tokens_per_second,
        }


def systems_of(
    config: EnsembleConfig, thresholds: Sequence[float] = THRESHOLDS
) -> Iterator[System]:
    """Each member alone, fusing at every step (histories re-encoded, and appended), cascades.

    Raises:
        ConfigError: there is but one member with a weight.

    """
    names = member_names(config.members)
    used = [index for index, weight in enumerate(config.weights) if weight > 0]
    if len(used) < 2:
        raise ConfigError("to compare members with their ensemble takes two members or more")
    for index in used:
        alone = tuple(
            m.model_copy(update={"weight": float(i == index)}) for i, m in enumerate(config.members)
        )
        yield System(
            names[index],
            "member",
            config.model_copy(
                update={
                    "members": alone,
                    "primary": index,
                    "method": "every_step",
                    "threshold": None,
                }
            ),
        )
    every_step = config.model_copy(update={"method": "every_step", "threshold": None})
    yield System("every_step", "method", every_step.model_copy(update={"history": "reencode"}))
    yield System("every_step_append", "method", every_step.model_copy(update={"history": "append"}))
    for threshold in thresholds:
        cascade = {"method": "cascade", "threshold": threshold}
        yield System(f"cascade_{threshold:g}", "method", config.model_copy(update=cascade))


def evaluate(
    config: EnsembleConfig,
    settings: Settings,
    *,
    on_system: Callable[[str, int], None] = lambda name, questions: None,  # noqa: ARG005
    on_answer: Callable[[], None] = lambda: None,
) -> Iterator[Row]:
    """Ask every system the same held-out items; one row after another.

    Args:
        config: the ensemble; its models are loaded once.
        settings: what is asked.
        on_system: told before each system: its name and how many questions it is asked.
        on_answer: told of each answer.

    Raises:
        ConfigError: fewer than two members have a weight.

    """
    systems = list(systems_of(config, settings.thresholds))
    asked = settings.questions()
    loaded = dict(zip(_used(config), load_used(config, progress=False), strict=True))
    for system in systems:
        on_system(system.name, sum(map(len, asked.values())))
        own = [loaded[index] for index in _used(system.config)]
        with Ensemble(system.config, partial(list, own)) as ensemble:
            yield _row(system, ensemble, asked, on_answer)


def _used(config: EnsembleConfig) -> list[int]:
    return [index for index, weight in enumerate(config.weights) if weight > 0]


def _row(
    system: System,
    ensemble: Ensemble,
    asked: Mapping[str, Sequence[Item]],
    on_answer: Callable[[], None],
) -> Row:
    row = Row(system.name, system.kind)
    began = time.perf_counter()
    for task, items in asked.items():
        right = []
        streams = [
            ensemble.stream(item.messages, SamplingParams(max_new_tokens=_LONGEST_ANSWER))
            for item in items
        ]
        for item, stream in zip(items, streams, strict=True):
            output = Output.of(list(stream))
            right.append(item.is_correct(output.text))
            row.steps += output.usage.steps
            row.fused_steps += output.usage.fused_steps if len(ensemble.members) > 1 else 0
            on_answer()
        row.right[task] = np.array(right)
    row.seconds = time.perf_counter() - began
    row.queries = {m.name: m.scorer.stats.queries for m in ensemble.members}
    return row


@dataclass(frozen=True)
class Gain:
    """How much better one row is than another, relative to it, with the 95% interval."""

    relative: float
    ci95: tuple[float, float]


def gain(row: Row, over: Row) -> Gain:
    """The relative gain in average accuracy; paired bootstrap over the items of each task."""
    rng = np.random.default_rng(0)
    means = []
    for right, other in zip(row.right.values(), over.right.values(), strict=True):
        pairs = right.astype(int) + 2 * other.astype(int)
        shares = np.bincount(pairs, minlength=4) / len(pairs)
        counts = rng.multinomial(len(pairs), shares, size=_RESAMPLES) / len(pairs)
        means.append((counts[:, 1] + counts[:, 3], counts[:, 2] + counts[:, 3]))
    ours = np.mean([m for m, _ in means], axis=0)
    theirs = np.maximum(np.mean([m for _, m in means], axis=0), 1e-9)
    low, high = np.quantile(ours / theirs - 1, (0.025, 0.975))
    return Gain(row.average / max(over.average, 1e-9) - 1, (float(low), float(high)))


def best_member(rows: Sequence[Row]) -> Row:
    """The member with the highest average."""
    return max((row for row in rows if row.kind == "member"), key=lambda row: row.average)


def verdict(rows: Sequence[Row]) -> str:
    """A sentence: what fusing at every step gained over the best member; empty if not measured."""
    found = next((row for row in rows if row.name == "every_step"), None)
    if found is None:
        return ""
    best = best_member(rows)
    gained = gain(found, best)
    low, high = gained.ci95
    return (
        f"Fusing at every step, {gained.relative:+.1%} right answers against {best.name}, "
        f"the best member (95% interval {low:+.1%} to {high:+.1%})."
    )


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """All rows as plain values, with what the methods gained over the best member."""
    best = best_member(rows)
    values = []
    for row in rows:
        value = row.as_json()
        if row.kind == "method":
            gained = gain(row, best)
            value["gain_over_best_member"] = {
                "relative": gained.relative,
                "ci95": list(gained.ci95),
            }
        values.append(value)
    return {"best_member": best.name, "rows": values}
