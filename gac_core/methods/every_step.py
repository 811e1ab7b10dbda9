"""GaC: fuse at every step (https://arxiv.org/abs/2406.12585, section 3)."""

from typing import TYPE_CHECKING, Final

from gac_core.method_specs import MethodSpec

if TYPE_CHECKING:
    from gac_core.decoding.request import Decoder, Request


def every_step(request: "Request") -> "Decoder":
    """Ask all members, fuse, emit; until the answer ends."""
    while not request.finished:
        answers = yield request.ask()
        yield request.emit_fused(request.fuse(request.read(answers)))


SPEC: Final = MethodSpec(
    "every_step",
    every_step,
    summary="all members decide every unit",
    paper="https://arxiv.org/abs/2406.12585",
    examples=({"history": "append"}, {"history": "reencode"}),
)
