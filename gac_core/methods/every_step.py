"""GaC: fuse at every step (https://arxiv.org/abs/2406.12585, section 3)."""

from collections.abc import Generator

from gac_core.decoding.request import Ask, Logits, Request
from gac_core.outputs import Step


def every_step(request: Request) -> Generator[Ask | Step, Logits, None]:
    """Ask all members, fuse, emit; over and over."""
    while not request.finished:
        logits = yield request.ask()
        yield request.emit_fused(request.fuse(request.read(logits)))
