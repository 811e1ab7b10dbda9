"""Thresholded GaC: fuse only where the primary is unsure (section 3.4 of the paper).

Helpers that were not asked for a while catch up in one pass when they are asked again.
"""

from collections.abc import Generator

from gac_core.decoding.request import Ask, Logits, Request
from gac_core.methods.gating import DEFAULT_THRESHOLD, is_sure
from gac_core.outputs import Step


def cascade(request: Request) -> Generator[Ask | Step, Logits, None]:
    """Ask the primary; where its top probability is at most the threshold, ask the others too."""
    primary, helpers = request.primary, request.others
    threshold = request.config.threshold
    threshold = DEFAULT_THRESHOLD if threshold is None else threshold
    while not request.finished:
        own = request.read((yield request.ask(primary)))
        if is_sure(request.legal(own[primary]), threshold):
            yield request.emit_alone(own[primary])
            continue
        if helpers:
            own |= request.read((yield request.ask(*helpers)))
        yield request.emit_fused(request.fuse(own))
