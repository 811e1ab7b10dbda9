"""GaC: fuse at every step (https://arxiv.org/abs/2406.12585, section 3)."""

from typing import TYPE_CHECKING, Final

from gac_core.method_specs import MethodSpec

if TYPE_CHECKING:
    from gac_core.decoding.request import Decoder, Request


def every_step(request: "Request") -> "Decoder":
    """Look at all members, let them write a step together; until the answer ends."""
    while not request.finished:
        yield from request.write((yield from request.look()))


SPEC: Final = MethodSpec(
    "every_step",
    every_step,
    summary="all members decide every unit",
    paper="https://arxiv.org/abs/2406.12585",
    spaces=("tokens", "scored", "bytes"),
    decides_by_top=True,
    examples=(
        {"space": "tokens", "history": "append"},
        {"space": "tokens", "history": "reencode"},
        {"space": "scored"},
        {"space": "bytes"},
        {"space": "bytes", "paths": 4},
    ),
)
