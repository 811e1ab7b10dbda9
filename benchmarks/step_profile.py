"""Where the time of one step goes: ``python -m benchmarks.step_profile [small large]``.

The parts of a step are wrapped in timers that subtract what is inside of them, so the lines add up
to the whole. The timers themselves cost about a microsecond each.
"""

import argparse
import functools
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.models import SHAPES, random_model, tokenizers_of
from benchmarks.overhead import PLANS
from gac_core import Ensemble
from gac_core.decoding.answer import Answer
from gac_core.decoding.mixing import Mixer
from gac_core.decoding.request import Request
from gac_core.decoding.run import Run
from gac_core.engine.engine import Engine
from gac_core.members.kv_cache import KVCache
from gac_core.members.local import LocalScorer

PARTS: tuple[tuple[str, type[Any], str], ...] = (
    ("KV cache: chunks, masks, positions", KVCache, "forward"),
    ("scorer: buckets, common prefixes", LocalScorer, "score"),
    ("mask and softmax", Mixer, "to_probs"),
    ("into the union", Mixer, "to_union"),
    ("fuse", Mixer, "fuse"),
    ("choose, views, histories", Answer, "emit"),
    ("queries, answers re-encoded", Request, "ask"),
    ("text, stop strings, end", Run, "_complete"),
    ("the method itself", Run, "resume"),
    ("engine: inbox, rounds", Engine, "_handle_inbox"),
)
FORWARD = "forward passes of the members"


class Timers:
    """Seconds per part, without those of the parts inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = [0.0]

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a timer around it."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - began
                self.seconds[name] += took - self._inside.pop()
                self._inside[-1] += took

        return timed


@contextmanager
def timed_parts(
    models: list[Any], parts: Sequence[tuple[str, type[Any], str]] = PARTS
) -> Iterator[Timers]:
    """Timers around every part while the block runs."""
    timers = Timers()
    with ExitStack() as stack:
        for name, owner, method in parts:
            wrapped = timers.around(name, getattr(owner, method))
            stack.enter_context(patch.object(owner, method, wrapped))
        for model in models:
            wrapped = timers.around(FORWARD, model.forward)
            stack.enter_context(patch.object(model, "forward", wrapped))
        yield timers


def main() -> None:
    """Print milliseconds per step and their share, for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", default=list(SHAPES))
    torch.set_num_threads(1)
    for size in parser.parse_args().sizes:
        shape, plan = SHAPES[size], PLANS[size]
        models = [random_model(shape, rows, seed) for seed, rows in enumerate(shape.rows)]
        pairs: list[Any] = list(zip(models, tokenizers_of(shape), strict=True))
        with Ensemble.from_models(pairs) as ensemble:
            first = len(ensemble.generate(plan.text, max_new_tokens=2).steps)
            with timed_parts(models) as timers:
                began = time.perf_counter()
                steps = len(ensemble.generate(plan.text, max_new_tokens=plan.steps).steps)
                whole = time.perf_counter() - began
        assert first == 2
        timers.seconds["waiting, handing over"] = whole - sum(timers.seconds.values())
        print(f"{size}: {1000 * whole / steps:.2f} ms a step")
        for name, seconds in sorted(timers.seconds.items(), key=lambda item: -item[1]):
            print(f"  {name:36} {1000 * seconds / steps:8.3f} ms {seconds / whole:7.2%}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
