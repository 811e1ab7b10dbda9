"""Fusion rules: the members' distributions become one. Pure functions.

Every rule takes ``probs`` (members, rows) over the union, each row of mass 1, and ``weights``
(members,) of sum 1, and returns (rows,) of mass 1.
"""

from collections.abc import Callable
from typing import Final

import torch

Rule = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def mean(probs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted arithmetic mean (GaC, https://arxiv.org/abs/2406.12585, eq. 4)."""
    return weights @ probs


def geometric(probs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted geometric mean, normalised: a product of experts.

    A unit that a member lacks counts there as its least probable one; a unit that no member of
    positive weight has stays at 0.
    """
    taking_part = probs[weights > 0]
    none = taking_part <= 0
    least = taking_part.masked_fill(none, torch.inf).amin(-1, keepdim=True)  # (members, 1)
    logs = torch.where(none, least, taking_part).log()
    fused = (weights[weights > 0] @ logs).masked_fill(none.all(0), -torch.inf)
    return fused.softmax(-1)


RULES: Final[dict[str, Rule]] = {"mean": mean, "geometric": geometric}
