"""Gates: is the primary sure enough to decide this step alone? Pure predicates."""

from typing import Final

import torch

DEFAULT_THRESHOLD: Final = 0.5


def is_sure(probs: torch.Tensor, threshold: float) -> bool:
    """Whether the primary's top probability exceeds the threshold (GaC, section 3.4).

    Threshold 0 always trusts the primary, 1 and above never does.

    Args:
        probs: the primary's distribution, (rows,).

    """
    return float(probs.max()) > threshold
