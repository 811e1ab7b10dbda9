"""CharED: fuse what members say of the next byte (https://arxiv.org/abs/2407.11009).

Members meet in what all text is made of, so no tokenizer is favoured and nothing need be mapped.
The paper fuses characters; bytes are the same without half ones, which some tokens are.
"""

from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from gac_core.method_specs import MethodOptions, MethodSpec

if TYPE_CHECKING:
    from gac_core.decoding.request import Decoder, Request


class CharEDOptions(MethodOptions):
    """How exact the bytes' probabilities are."""

    paths: Annotated[int, Field(ge=1, le=64)] | Literal["top"] = Field(
        "top", description="tokenisations of the text kept per member; top is 1"
    )


def chared(request: "Request") -> "Decoder":
    """Ask where a token came to its end, fuse the next byte, emit it."""
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
