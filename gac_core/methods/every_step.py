"""GaC: fuse at every step (https://arxiv.org/abs/2406.12585, section 3)."""

from collections.abc import Generator

from gac_core.request import Ask, Logits, Request
from gac_core.steps import Step


def every_step(request: Request) -> Generator[Ask | Step, Logits, None]:
    """Ask all members, fuse, emit; over and over."""
    members = range(len(request.members))
    while not request.finished:
        logits = yield request.ask()
        own = [request.to_probs(m, logits[m][0][-1]) for m in members]
        probs = [request.to_union(m, p) for m, p in zip(members, own, strict=True)]
        yield request.emit_fused(request.fuse(probs), probs)
