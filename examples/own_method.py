"""A decoding method and a fusion rule of your own: they stream, batch, draft and obey grammars.

The method asks one member after another, the heaviest first, and fuses those it has asked, until
the sum is sure. The rule keeps, for every unit, the highest probability that any member gives it.
"""

from collections.abc import Generator
from typing import Any

import torch
from pydantic import Field

from gac_core import (
    Ask,
    Ensemble,
    MethodOptions,
    Request,
    Step,
    Views,
    register_fusion,
    register_method,
)


class UntilSureOptions(MethodOptions):
    """When enough members were asked."""

    sure: float = Field(0.999, ge=0.0, description="no more are asked above this probability")


def until_sure(request: Request) -> Generator[Ask | Step, Any, None]:
    """Ask the primary, then one more member at a time until the fused distribution is sure."""
    options: UntilSureOptions = request.options
    others = sorted(request.others, key=lambda m: -request.members[m].weight)
    while not request.finished:
        own: dict[int, torch.Tensor] = {}
        for member in (request.primary, *others):
            own |= request.read((yield request.ask(member)))
            fused = request.fuse(own)
            if float(request.legal(fused.probs, request.union).max()) > options.sure:
                break
        yield request.emit_fused(fused)


def boldest(views: Views) -> torch.Tensor:
    """Every unit counts as much as the member thinks that believes in it most."""
    best = views.probs.amax(0)
    return best / best.sum()


register_method("until_sure", until_sure, options=UntilSureOptions)
register_fusion("boldest", boldest)

if __name__ == "__main__":
    with Ensemble.pocket(method="until_sure", sure=0.9999, fusion="boldest") as ensemble:
        output = ensemble.generate([{"role": "user", "content": "What is 384 + 979?"}])
        asked = sum(len(step.members) for step in output.steps)
        print(output.text)
        print(f"{asked} views for {output.usage.steps} steps of {len(ensemble.members)} members")
