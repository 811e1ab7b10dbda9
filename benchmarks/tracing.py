"""What a span for each request costs: ``python -m benchmarks.tracing [--json] [--turns 15]``.

A step's cost is some microseconds, which no timing of whole answers could tell from noise. So what
tracing adds to a request, to a step and to a forward is timed by itself, in a loop; and as a check
answers of the embedded ensemble are timed by turns, traced and not.
"""

import argparse
import json
import statistics
import sys
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from gac_core import Ensemble
from gac_core.engine.workers import Batch, timed
from gac_core.runtime import sampling_of

QUESTION = [{"role": "user", "content": "What is 77 - 49?"}]
OPTIONS: dict[str, Any] = {"temperature": 0.7, "max_new_tokens": 64, "seed": 1}
WAYS = ("not imported", "no provider", "traced")


class Nowhere(SpanExporter):
    """Takes spans and drops them."""

    def export(self, _spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Nothing is done with them."""
        return SpanExportResult.SUCCESS


@cache
def provider() -> TracerProvider:
    """One that does what programs do, but for the sending."""
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(Nowhere()))
    return made


@contextmanager
def way_of(way: str) -> Iterator[None]:
    """The program as it is in one of the ways."""
    is_set = provider() if way == "traced" else None
    with patch.object(trace, "_TRACER_PROVIDER", is_set), patch.dict(sys.modules):
        if way == "not imported":
            del sys.modules["opentelemetry.trace"]
        yield


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--turns", type=int, default=15, help="of whole answers")
    parser.add_argument("--loops", type=int, default=2000, help="of each part")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with Ensemble.pocket() as ensemble:
        figures: dict[str, Any] = {way: parts(ensemble, way, options.loops) for way in WAYS}
        figures["traced over not"] = ratio(ensemble, options.turns)
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    print(f"{'microseconds':14} {'a request':>10} {'a step':>10} {'a forward':>10}")
    for way in WAYS:
        print(f"{way:14} " + " ".join(f"{value:10.2f}" for value in figures[way].values()))
    print(f"answers, traced over not: {figures['traced over not']:.3f}")


def parts(ensemble: Ensemble, way: str, loops: int) -> dict[str, float]:
    """Microseconds that tracing adds to a request, a step, and a forward for one request."""
    runtime, sampling = ensemble.runtime, sampling_of(None, OPTIONS)
    output = ensemble.generate(QUESTION, **OPTIONS)
    step, usage, scorer = output.steps[0], output.usage, ensemble.members[0].scorer

    def request() -> None:
        if (begun := runtime.tracing.begin(QUESTION, sampling)) is not None:
            begun.end(usage, "stop")

    with way_of(way):
        job: Any = SimpleNamespace(trace=runtime.tracing.begin(QUESTION, sampling))

        def one_step() -> None:
            if job.trace is not None:
                job.trace.step(step)

        def forward() -> None:
            batch = Batch(0, [job])
            with timed(batch, batch.jobs, scorer):
                pass
            batch.share_times()
            one_step()  # which reads the times

        bare = microseconds(lambda: Batch(0, [job]), loops)
        a_step = microseconds(one_step, loops)
        a_forward = microseconds(forward, loops) - a_step - bare
        return {
            "request": microseconds(request, loops),
            "step": a_step,
            "forward": a_forward,
        }


def microseconds(function: Callable[[], object], loops: int) -> float:
    """Of one call; the best of five, since other programs can only add to it."""
    return min(timeit.repeat(function, number=loops, repeat=5)) / loops * 1e6


def ratio(ensemble: Ensemble, turns: int) -> float:
    """Processor seconds of traced answers over those of others; the median over the turns."""

    def seconds(way: str) -> float:
        with way_of(way):
            began = time.process_time()
            ensemble.generate(QUESTION, **OPTIONS)
            return time.process_time() - began

    seconds("traced")  # the first is slower
    found = []
    for turn in range(turns):
        ways = ("traced", "not imported") if turn % 2 else ("not imported", "traced")
        took = {way: seconds(way) for way in ways}
        found.append(took["traced"] / took["not imported"])
    return statistics.median(found)


if __name__ == "__main__":
    main()
