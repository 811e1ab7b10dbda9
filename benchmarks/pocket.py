"""Accuracy of the pocket members, their ensemble and their cascade on held-out items.

``python -m benchmarks.pocket [--items 300]``
"""

import argparse
import time
from typing import Any

import torch
from tqdm import tqdm

from gac_core import Ensemble
from gac_core.ensemble import POCKET_MEMBERS
from gac_core.pocket import tasks


def main() -> None:
    """Print one row per system: right answers per task, their mean, fused steps, steps/s."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=300, help="held-out items per task")
    count = parser.parse_args().items
    torch.set_num_threads(1)  # more threads only wait for one another on models this small
    items = {task: list(tasks.heldout(task, count)) for task in tasks.JUDGED}
    systems: dict[str, dict[str, Any]] = {
        name: {"weights": [float(other == name) for other in POCKET_MEMBERS], "primary": index}
        for index, name in enumerate(POCKET_MEMBERS)
    }
    systems["every_step append"] = {"history": "append"}
    systems["every_step"] = {}
    for threshold in (0.5, 0.9):
        systems[f"cascade {threshold}"] = {"method": "cascade", "threshold": threshold}
    print(f"{'':18}" + "".join(f"{task:>16}" for task in items) + "    mean   fused  steps/s")
    for name, options in systems.items():
        right, fused, steps = [], 0, 0
        began = time.perf_counter()
        with Ensemble.pocket(**options) as ensemble:
            for own in tqdm(items.values(), desc=name, leave=False):
                outputs = ensemble.batch([i.messages for i in own], max_new_tokens=96)
                pairs = zip(own, outputs, strict=True)
                right.append(sum(item.is_correct(output.text) for item, output in pairs))
                fused += sum(output.usage.fused_steps for output in outputs)
                steps += sum(output.usage.steps for output in outputs)
        seconds = time.perf_counter() - began
        cells = "".join(f"{r:>11} / {count}" for r in right)
        mean = sum(right) / (count * len(right))
        print(f"{name:18}{cells}  {mean:6.1%}  {fused / steps:6.1%}  {steps / seconds:7.0f}")


if __name__ == "__main__":
    main()
