"""How often decisions are right, and how far one may trust what they say of themselves.

``python -m benchmarks.decisions [--json] [--items 300] [-c ensemble.yaml --questions mine.jsonl]``

The same questions with given answers are decided by `Ensemble.choose` (all members together, and
each of them alone) in several ways, and written by the ensemble under `Grammar.choice`, whose
confidence is the probability of the text. Accuracy; the expected calibration error (15 bins of
equal width, by the probability of what was chosen) and the mean surprise at the right answer
(nats), with 95% intervals by bootstrap over the questions.
"""

import argparse
import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.closed_questions import Closed, pocket_questions, read_closed
from gac_core import Ensemble, Grammar

AT_ONCE = 8
BINS = 15
RESAMPLES = 2_000
WAYS: dict[str, dict[str, Any]] = {
    "choose": {},
    "choose, per byte": {"length": "bytes"},
    "choose, with the end": {"end": True},
    "choose, less what is liked unasked": {"prior": True},
}
WRITTEN = "written under Grammar.choice"

Floats = NDArray[np.float64]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Decided:
    """What a system decided, question by question, (questions,) each.

    Attributes:
        right: 1 where the right label was chosen, else 0.
        sureness: the probability of what was chosen.
        surprise: minus the logarithm of the probability of the right label; NaN if not known.

    """

    right: Floats
    sureness: Floats
    surprise: Floats

    @classmethod
    def of(cls, questions: Sequence[Closed], probs: Sequence[Sequence[float]]) -> "Decided":
        """From the probabilities of each question's labels."""
        best = [int(np.argmax(own)) for own in probs]
        places = [q.labels.index(q.right) for q in questions]
        return cls(
            np.array([float(b == p) for b, p in zip(best, places, strict=True)]),
            np.array([own[b] for own, b in zip(probs, best, strict=True)]),
            np.array(
                [-math.log(max(own[p], 1e-300)) for own, p in zip(probs, places, strict=True)]
            ),
        )

    def figures(self) -> dict[str, Any]:
        """Accuracy, calibration error and surprise, each with its interval."""
        rows = np.random.default_rng(0).integers(len(self.right), size=(RESAMPLES, len(self.right)))
        return {
            "accuracy": _estimate(self.right.mean(), self.right[rows].mean(1)),
            "ece": _estimate(
                calibration_error(self.right, self.sureness),
                [calibration_error(self.right[own], self.sureness[own]) for own in rows],
            ),
            "surprise": _estimate(self.surprise.mean(), self.surprise[rows].mean(1)),
        }


def calibration_error(right: Floats, sureness: Floats) -> float:
    """The mean gap between how sure and how often right, over bins of like sureness."""
    bins = np.minimum((sureness * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, right - sureness, BINS)
    return float(np.abs(gaps).sum() / len(right))


def _estimate(value: float, resampled: Any) -> dict[str, Any]:
    if math.isnan(value):
        return {"value": None, "ci95": None}
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {"value": round(float(value), 4), "ci95": [round(float(low), 4), round(float(high), 4)]}


async def all_of(
    questions: Sequence[Closed], ask: Callable[[Closed], Awaitable[Found]]
) -> list[Found]:
    """What is found for each question, some of them at a time."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(question: Closed) -> Found:
        async with places:
            return await ask(question)

    return await asyncio.gather(*map(one, questions))


async def chosen(
    ensemble: Ensemble, questions: Sequence[Closed], options: Mapping[str, Any]
) -> dict[str, Decided]:
    """What all members together chose, and each of them."""
    choices = await all_of(questions, lambda q: ensemble.achoose(q.prompt, q.labels, **options))
    found = {"together": Decided.of(questions, [choice.probs for choice in choices])}
    for n, member in enumerate(ensemble.members):
        probs = [choice.members[n].probs for choice in choices]
        found[member.name] = Decided.of(questions, probs)
    return found


async def written(ensemble: Ensemble, questions: Sequence[Closed]) -> dict[str, Decided]:
    """What the ensemble writes if it may write labels only."""
    outputs = await all_of(
        questions, lambda q: ensemble.agenerate(q.prompt, grammar=Grammar.choice(q.labels))
    )
    right = [float(o.text == q.right) for o, q in zip(outputs, questions, strict=True)]
    logs = [math.fsum(step.logprob for step in output.steps) for output in outputs]
    unknown = np.full(len(questions), math.nan)
    return {"together": Decided(np.array(right), np.exp(logs), unknown)}


def measured(ensemble: Ensemble, sets: Mapping[str, Sequence[Closed]]) -> dict[str, Any]:
    """All figures, by way and system; of all sets together, and the accuracy of each."""
    questions = [question for own in sets.values() for question in own]
    names = np.array([name for name, own in sets.items() for _ in own])
    figures: dict[str, Any] = {"questions": {name: len(own) for name, own in sets.items()}}
    for way in (*WAYS, WRITTEN):
        began = time.perf_counter()
        work = (
            written(ensemble, questions)
            if way == WRITTEN
            else (chosen(ensemble, questions, WAYS[way]))
        )
        found = asyncio.run(work)
        seconds = time.perf_counter() - began
        figures[way] = {
            "seconds_a_question": round(seconds / len(questions), 4),
            "systems": {
                system: decided.figures()
                | {"sets": {s: round(float(decided.right[names == s].mean()), 4) for s in sets}}
                for system, decided in found.items()
            },
        }
    return figures


def show(figures: Mapping[str, Any]) -> None:
    """Print a row for each way and system."""
    sets = list(figures["questions"])
    print("way | system | accuracy | calibration error | surprise |", " | ".join(sets))
    for way in (*WAYS, WRITTEN):
        for system, own in figures[way]["systems"].items():
            cells = [_shown(own[name]) for name in ("accuracy", "ece", "surprise")]
            shares = [f"{own['sets'][name]:.3f}" for name in sets]
            print(way, system, *cells, *shares, sep=" | ")
        print(f"  {figures[way]['seconds_a_question']} seconds a question")


def _shown(estimate: Mapping[str, Any]) -> str:
    if estimate["value"] is None:
        return "-"
    low, high = estimate["ci95"]
    return f"{estimate['value']:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Print what was measured, as JSON or as lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-c", "--config", type=Path, help="YAML file; the pocket ensemble without")
    parser.add_argument("--questions", type=Path, help="JSON lines: question, labels, answer")
    parser.add_argument("--items", type=int, default=300, help="of each pocket task, or of a file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sets = (
        pocket_questions(options.items, options.seed)
        if options.questions is None
        else read_closed(options.questions, options.items)
    )
    made = Ensemble.pocket() if options.config is None else Ensemble.from_config(options.config)
    with made as ensemble:
        figures = measured(ensemble, sets)
    if options.json:
        print(json.dumps(figures, indent=1))
    else:
        show(figures)


if __name__ == "__main__":
    main()
