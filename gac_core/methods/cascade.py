"""Thresholded GaC: fuse only where the primary is unsure (section 3.4 of the paper).

The other members (helpers) are not asked while the primary is sure; when they are asked again, they
catch up in one forward pass.
"""

from typing import TYPE_CHECKING, Final

from pydantic import Field

from gac_core.method_specs import MethodOptions, MethodSpec

if TYPE_CHECKING:
    import torch

    from gac_core.decoding.request import Decoder, Request


class CascadeOptions(MethodOptions):
    """At which steps the primary decides alone."""

    threshold: float = Field(
        0.5, ge=0.0, description="the primary decides alone above this probability"
    )


def is_sure(probs: "torch.Tensor", threshold: float) -> bool:
    """Whether the primary's top probability exceeds the threshold: always at 0, never from 1 on.

    Args:
        probs: the primary's distribution, (size,).
        threshold: a probability.

    """
    return float(probs.max()) > threshold


def cascade(request: "Request") -> "Decoder":
    """Ask the primary; where its top probability is at most the threshold, ask the others too."""
    primary, helpers = request.primary, request.others
    options: CascadeOptions = request.options
    while not request.finished:
        threshold = options.threshold if helpers else None
        looks = yield from request.look(primary, threshold=threshold)
        if helpers and not is_sure(request.legal(looks[primary]), options.threshold):
            looks |= yield from request.look(*helpers)
        yield from request.write(looks)


SPEC: Final = MethodSpec(
    "cascade",
    cascade,
    summary="the primary decides alone where its top probability exceeds `threshold`; helpers "
    "catch up in one pass when they are asked",
    paper="https://arxiv.org/abs/2406.12585",
    options=CascadeOptions,
    spaces=("tokens", "scored", "bytes"),
    decides_by_top=True,
    examples=(
        {"threshold": 0.4, "space": "tokens", "history": "append"},
        {"threshold": 0.4, "space": "tokens", "history": "reencode"},
        {"threshold": 0.4, "space": "scored"},
        {"threshold": 0.4, "space": "bytes"},
    ),
)
