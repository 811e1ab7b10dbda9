"""Co-LLM: a learned gate decides when to ask the others (https://arxiv.org/abs/2403.03870).

In the paper the other model decides a deferred token; here all members decide it together, as in a
cascade, so the gate learns at which steps fusing pays.

The gate is a linear head over the primary's last hidden state. It predicts the probability that the
ensemble would write something else than the primary. Its file is in safetensors format, with
`weight` (hidden_size,) and `bias` (1,).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Self

from pydantic import Field, model_validator

from gac_core.errors import LoadError, one_line
from gac_core.method_specs import MethodOptions, MethodSpec, RelativePath

if TYPE_CHECKING:
    import torch

    from gac_core.decoding.request import Decoder, Request
    from gac_core.members.base import Member


class CoLLMOptions(MethodOptions):
    """The gate, and the probability above which it asks the others."""

    gate: Annotated[str | None, RelativePath] = Field(
        None, description="a file that `gac fit-gate` wrote"
    )
    threshold: float = Field(
        0.5, ge=0.0, description="the others are asked where the gate's probability exceeds this"
    )

    @model_validator(mode="after")
    def _has_gate(self) -> Self:
        if self.gate is None:
            raise ValueError("method co_llm needs gate, a file that `gac fit-gate` writes")
        return self


@dataclass(frozen=True)
class GateHead:
    """A gate: P(defer) = sigmoid(weight · hidden + bias).

    Attributes:
        weight: (hidden_size,) in float32.
        bias: (1,).

    """

    weight: "torch.Tensor"
    bias: "torch.Tensor"

    def __call__(self, hidden: "torch.Tensor") -> float:
        """The probability that a step should be deferred to all members.

        Args:
            hidden: the primary's last hidden state, (hidden_size,).

        """
        weight, bias = self.weight.to(hidden.device), self.bias.to(hidden.device)
        return float((hidden.float() @ weight + bias).sigmoid())

    def save(self, path: str | Path) -> None:
        """Write the gate to a safetensors file."""
        from safetensors.torch import save

        tensors = {"weight": self.weight.contiguous(), "bias": self.bias.contiguous()}
        Path(path).write_bytes(save(tensors))

    @classmethod
    def load(cls, path: str | Path, hidden_size: int) -> "GateHead":
        """Read a gate from a file.

        Args:
            path: of the file.
            hidden_size: of the primary's last hidden state.

        Raises:
            LoadError: there is no such file, or it holds no gate for this primary.

        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(str(path))
        except (OSError, SafetensorError) as error:
            raise LoadError(
                f"the gate {path} can not be read ({one_line(error)}); `gac fit-gate` makes one"
            ) from error
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if shapes != {"weight": (hidden_size,), "bias": (1,)}:
            raise LoadError(
                f"the gate {path} holds {shapes}, but this primary needs weight ({hidden_size},) "
                "and bias (1,); fit it again with `gac fit-gate` and the same primary"
            )
        return cls(tensors["weight"].float(), tensors["bias"].float())


def _load_gate(options: CoLLMOptions, primary: "Member") -> GateHead:
    assert options.gate is not None, "the options were checked"
    return GateHead.load(options.gate, primary.scorer.hidden_size)


def co_llm(request: "Request") -> "Decoder":
    """Ask the primary; where the gate's P(defer) exceeds the threshold, ask the others too."""
    primary, others = request.primary, request.others
    gate: GateHead = request.resource
    options: CoLLMOptions = request.options
    while not request.finished:
        looks = yield from request.look(primary, hidden=True)
        hidden = request.hidden
        assert hidden is not None, "the hidden state was asked for"
        if others and gate(hidden) > options.threshold:
            looks |= yield from request.look(*others)
        yield from request.write(looks)


SPEC: Final = MethodSpec(
    "co_llm",
    co_llm,
    summary="a learned gate on the primary's hidden state says where to ask the others; "
    "`gac fit-gate` fits one",
    paper="https://arxiv.org/abs/2403.03870",
    options=CoLLMOptions,
    spaces=("tokens", "scored", "bytes"),
    resource=_load_gate,
)
