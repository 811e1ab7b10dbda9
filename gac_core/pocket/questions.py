"""The pocket tasks as an evaluation asks them, and as prompts that a gate is fitted on."""

import random
from functools import partial
from typing import Final

from gac_core.chat.prompt import Prompt
from gac_core.evaluation.questions import TaskSet
from gac_core.pocket import tasks

HELDOUT: Final = TaskSet(
    {name: partial(tasks.heldout, name) for name in tasks.JUDGED},
    by_name_only={name: partial(tasks.heldout, name) for name in tasks.LONG},
)


def training_prompts(count: int, seed: int) -> list[Prompt]:
    """Questions like those the pocket members were trained on, of all judged tasks in turn."""
    rng = random.Random(f"gate {seed}")
    names = list(tasks.JUDGED)
    return [tasks.draw(names[n % len(names)], rng, "train").messages for n in range(count)]
