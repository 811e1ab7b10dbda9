"""The naive driver: no cache, no batch, no thread. The engine must give the same answers."""

from gac_core.decoding.request import Method, Request
from gac_core.decoding.run import Run
from gac_core.outputs import Output, Step


def run_naively(method: Method, request: Request) -> Output:
    """Decode a request, answering every ask with plain forward passes over whole histories.

    Args:
        method: decodes it.
        request: from `Runtime.request`.

    """
    steps: list[Step] = []
    run = Run(method, request, steps.append)
    ask = run.resume()
    while ask is not None:
        ask = run.resume(
            {m: request.members[m].scorer.score(queries) for m, queries in ask.queries.items()}
        )
    return Output.of(steps)
