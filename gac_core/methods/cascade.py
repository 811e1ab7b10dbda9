"""Thresholded GaC: fuse only where the primary is unsure (section 3.4 of the paper).

Helpers that were not asked for a while catch up in one pass when they are asked again.
"""

from typing import TYPE_CHECKING, Final

from pydantic import Field

from gac_core.method_specs import MethodOptions, MethodSpec

if TYPE_CHECKING:
    import torch

    from gac_core.decoding.request import Decoder, Request


class CascadeOptions(MethodOptions):
    """When the primary decides alone."""

    threshold: float = Field(
        0.5, ge=0.0, description="the primary decides alone above this probability"
    )


def is_sure(probs: "torch.Tensor", threshold: float) -> bool:
    """Whether the primary's top probability exceeds the threshold.

    Threshold 0 always trusts the primary, 1 and above never does.

    Args:
        probs: the primary's distribution, (rows,).

    """
    return float(probs.max()) > threshold


def cascade(request: "Request") -> "Decoder":
    """Ask the primary; where its top probability is at most the threshold, ask the others too."""
    primary, helpers = request.primary, request.others
    options: CascadeOptions = request.options
    while not request.finished:
        own = request.read((yield request.ask(primary)))
        if is_sure(request.legal(own[primary]), options.threshold):
            yield request.emit_alone(own[primary])
            continue
        if helpers:
            own |= request.read((yield request.ask(*helpers)))
        yield request.emit_fused(request.fuse(own))


SPEC: Final = MethodSpec(
    "cascade",
    cascade,
    summary="the primary decides alone where its top probability exceeds `threshold`; helpers "
    "catch up in one pass when they are asked",
    paper="https://arxiv.org/abs/2406.12585",
    options=CascadeOptions,
    examples=(
        {"threshold": 0.4, "history": "append"},
        {"threshold": 0.4, "history": "reencode"},
    ),
)
