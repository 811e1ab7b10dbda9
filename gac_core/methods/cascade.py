"""Thresholded GaC: fuse only where the primary is unsure (section 3.4 of the paper).

Helpers that were not asked for a while catch up in one pass when they are asked again.
"""

from collections.abc import Generator

from gac_core.gating import is_sure
from gac_core.request import Ask, Logits, Request
from gac_core.steps import Step


def cascade(request: Request) -> Generator[Ask | Step, Logits, None]:
    """Ask the primary; where its top probability is at most the threshold, ask the others too."""
    primary = request.primary
    helpers = [m for m in range(len(request.members)) if m != primary]
    while not request.finished:
        logits = yield request.ask(primary)
        own = {primary: request.to_probs(primary, logits[primary][0][-1])}
        if is_sure(request.legal(own[primary]), request.threshold):
            yield request.emit_alone(own[primary])
            continue
        if helpers:
            logits = yield request.ask(*helpers)
            own.update((m, request.to_probs(m, logits[m][0][-1])) for m in helpers)
        probs = [request.to_union(m, own[m]) for m in range(len(request.members))]
        yield request.emit_fused(request.fuse(probs), probs)
