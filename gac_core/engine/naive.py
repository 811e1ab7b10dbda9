"""The naive driver: no cache, no batch, no thread. The engine must give the same answers."""

from gac_core.decoding.request import Method, Request
from gac_core.decoding.run import Run
from gac_core.decoding.turn import Turn
from gac_core.outputs import Output, Step


def run_naively(method: Method, work: Request | Turn) -> Output:
    """Decode a request, answering every ask with plain forward passes over whole histories.

    Args:
        method: decodes it.
        work: from `Runtime.request` or `Runtime.turn`.

    """
    steps: list[Step] = []
    run = Run(method, work, steps.append)
    members = run.request.members
    ask = run.resume()
    while ask is not None:
        ask = run.resume(
            {m: members[m].scorer.score(queries) for m, queries in ask.queries.items()}
        )
    return Output.of(steps)
