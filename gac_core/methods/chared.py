"""CharED: fuse the members' next-byte distributions (https://arxiv.org/abs/2407.11009).

All text is made of bytes, so no tokenizer is favoured and no vocabularies need be mapped. The paper
fuses characters; over bytes, tokens that end within a character need no rule of their own.
"""

from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from gac_core.method_specs import MethodOptions, MethodSpec

if TYPE_CHECKING:
    from gac_core.decoding.request import Decoder, Request


class CharEDOptions(MethodOptions):
    """How exactly the probabilities of bytes are computed."""

    paths: Annotated[int, Field(ge=1, le=64)] | Literal["top"] = Field(
        "top", description="tokenisations of the text kept per member; top is 1"
    )


def chared(request: "Request") -> "Decoder":
    """Ask the members that are at the end of a token, fuse the next byte, emit it."""
    from gac_core.decoding.byte_paths import NextBytes

    options: CharEDOptions = request.options
    next_bytes = NextBytes(request, 1 if options.paths == "top" else options.paths)
    while not request.finished:
        step = request.emit_bytes((yield from next_bytes.read()))
        yield step
        next_bytes.advance(step.unit)


SPEC: Final = MethodSpec(
    "chared",
    chared,
    summary="the members' next *bytes* are averaged; `paths` tokenisations of the text are kept "
    "per member, and with enough of them it is the exact byte-level marginal",
    paper="https://arxiv.org/abs/2407.11009",
    options=CharEDOptions,
    ignores=("fusion", "history", "draft"),
    scores_text=False,
    space="bytes",
    examples=({}, {"paths": 4}),
)
