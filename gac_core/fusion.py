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


RULES: Final[dict[str, Rule]] = {"mean": mean}
