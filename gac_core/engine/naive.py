"""The naive driver: no cache, no batch, no thread. The oracle that the engine must equal."""

from gac_core.decoding.request import Method, Request
from gac_core.decoding.run import Run
from gac_core.outputs import Output, Step


def run_naively(method: Method, request: Request) -> Output:
    """Answer every ask with plain forward passes over whole histories."""
    steps: list[Step] = []
    run = Run(method, request, steps.append)
    ask = run.resume()
    while ask is not None:
        ask = run.resume(
            {m: request.members[m].scorer.score(queries) for m, queries in ask.queries.items()}
        )
    return Output.of(steps)
