"""Long answers: fusing everywhere against SAFE, histories re-encoded against appended.

``python -m benchmarks.long [--json] [--items 100] [--seed 0]``

The embedded ensemble, whose tokenizers differ, is asked for reports: all that a text says of
somebody, in many sentences. An answer is scored by its sentences: those that are right and stated,
out of those that are right or stated (the Jaccard index), so that what is missing, wrong or
repeated in other words counts. Intervals are bootstrapped over the questions, gains in pairs.
"""

import argparse
import json
import re
from typing import Any

import numpy as np
import torch

from gac_core import Ensemble
from gac_core.pocket import tasks

SYSTEMS: dict[str, dict[str, Any]] = {
    "every_step": {},
    "ada": {"weights": [1, 0, 0]},
    "bo": {"weights": [0, 1, 0], "primary": 1},
    "cy": {"weights": [0, 0, 1], "primary": 2},
    "gac": {"space": "tokens"},
    "mod": {"space": "tokens", "history": "append"},
    "safe": {"method": "safe"},
    "safe_tokens": {"method": "safe", "space": "tokens"},
    "safe_append": {"method": "safe", "space": "tokens", "history": "append"},
    "safe_primary_bo": {"method": "safe", "primary": 1},
}
SENTENCE = re.compile(r"(?<=[.!?])\s+")
RESAMPLES = 10_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--items", type=int, default=100, help="questions")
    parser.add_argument("--seed", type=int, default=0, help="of the questions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    items = list(tasks.heldout("report", options.items, options.seed))
    scores: dict[str, np.ndarray[Any, Any]] = {}
    figures: dict[str, dict[str, Any]] = {}
    for name, config in SYSTEMS.items():
        with Ensemble.pocket(**config) as ensemble:
            outputs = ensemble.batch([item.messages for item in items], max_new_tokens=320)
        scores[name] = np.array(
            [jaccard(item.answer, o.text) for item, o in zip(items, outputs, strict=True)]
        )
        steps = sum(o.usage.steps for o in outputs)
        fused = sum(o.usage.fused_steps for o in outputs)
        figures[name] = {
            "sentences": float(scores[name].mean()),
            "exact": sum(i.is_correct(o.text) for i, o in zip(items, outputs, strict=True)),
            "over_every_step": paired(scores[name], scores["every_step"]),
            "steps_per_answer": steps / len(items),
            "fused_share": fused / steps if "weights" not in config else 0.0,
        }
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    for name, values in figures.items():
        low, high = values["over_every_step"]
        print(
            f"{name:18} sentences {values['sentences']:.1%}  exact {values['exact']}/{len(items)}  "
            f"over every_step [{low:+.1%}, {high:+.1%}]  fused {values['fused_share']:.1%}  "
            f"steps {values['steps_per_answer']:.0f}"
        )


def jaccard(right: str, given: str) -> float:
    """Sentences of both, by sentences of either."""
    a, b = (set(SENTENCE.split(text.strip())) for text in (right, given))
    return len(a & b) / len(a | b)


def paired(scores: np.ndarray[Any, Any], others: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The 95% interval of the mean difference."""
    rng = np.random.default_rng(0)
    differences = scores - others
    picks = rng.integers(0, len(differences), (RESAMPLES, len(differences)))
    low, high = np.quantile(differences[picks].mean(1), (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    main()
