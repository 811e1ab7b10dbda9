"""The learned gate of method co_llm: a linear head over the primary's last hidden state.

It says how likely the others would write something else (Co-LLM, https://arxiv.org/abs/2403.03870).
A gate is a safetensors file with `weight` (width,) and `bias` (1,).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from gac_core.errors import LoadError


@dataclass(frozen=True)
class GateHead:
    """P(defer) = sigmoid(weight · hidden + bias).

    Attributes:
        weight: (width,) in float32.
        bias: (1,).

    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, hidden: torch.Tensor) -> float:
        """The probability that a step is worth asking the others.

        Args:
            hidden: the primary's last hidden state, (width,).

        """
        weight, bias = self.weight.to(hidden.device), self.bias.to(hidden.device)
        return float(torch.sigmoid(hidden.float() @ weight + bias))

    def save(self, path: str | Path) -> None:
        """Write it as a safetensors file."""
        tensors = {"weight": self.weight.contiguous(), "bias": self.bias.contiguous()}
        Path(path).write_bytes(save(tensors))

    @classmethod
    def load(cls, path: str | Path, width: int) -> "GateHead":
        """Read it from a file.

        Args:
            path: of the file.
            width: of the primary's hidden state.

        Raises:
            LoadError: there is no such file, or it holds no gate for this primary.

        """
        try:
            tensors = load_file(str(path))
        except (OSError, SafetensorError) as error:
            problem = " ".join(str(error).split())
            raise LoadError(
                f"the gate {path} can not be read ({problem}); `gac fit-gate` makes one"
            ) from error
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if shapes != {"weight": (width,), "bias": (1,)}:
            raise LoadError(
                f"the gate {path} holds {shapes}, but this primary needs weight ({width},) and "
                "bias (1,); fit it again with `gac fit-gate` and the same primary"
            )
        return cls(tensors["weight"].float(), tensors["bias"].float())
