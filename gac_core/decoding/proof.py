"""Whether the likeliest tokens of each member decide a greedy choice, whatever the others' are.

A server may give the likeliest tokens only. What is not known of a distribution is bounded: a token
that was not given has no more than the least one that was, and no more than all that is left. The
choice is proven if the best unit beats, at the least that all members can give it, every other one
at the most that they can. Otherwise the member is asked again for all of its tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from gac_core.config import EnsembleConfig
from gac_core.errors import ConfigError
from gac_core.members.base import Member
from gac_core.method_specs import MethodSpec, SpaceName
from gac_core.sampling_params import SamplingParams

# More than what rounding can do to probabilities in float32, or to the mass of logprobs that were
# rounded to it.
_ROUNDING: Final = 1e-5


@dataclass(frozen=True)
class Bounds:
    """A distribution of which not everything is known.

    Attributes:
        low: the least that each row can have, (size,) in float64.
        high: the most that each row can have, (size,) in float64.

    """

    low: torch.Tensor
    high: torch.Tensor

    @classmethod
    def known(cls, probs: torch.Tensor) -> "Bounds":
        """Of a distribution that is known, (size,)."""
        probs = probs.double()
        return cls(probs, probs)

    @classmethod
    def of(cls, low: torch.Tensor, high: torch.Tensor, rest: float) -> "Bounds":
        """From probabilities of which some are masked, so that the others are to be scaled.

        Args:
            low: the least that each row can have, 0 where it is masked, (size,).
            high: the most, likewise.
            rest: the mass that is not known; any part of it may be masked.

        """
        kept = low.sum()
        return cls(low / (kept + rest), (high / kept).nan_to_num(1.0, posinf=1.0).clamp_max(1.0))

    def proves(self, row: int) -> bool:
        """Whether the row has the most, whatever is not known."""
        others = self.high.clone()
        others[row] = 0.0
        return float(self.low[row]) > float(others.max()) + _ROUNDING

    def refutes(self, row: int) -> bool:
        """Whether another row has more, whatever is not known."""
        others = self.low.clone()
        others[row] = 0.0
        return float(others.max()) > float(self.high[row]) + _ROUNDING

    def tells(self, threshold: float) -> bool:
        """Whether it is known on which side of a threshold the largest probability is."""
        return (
            float(self.low.max()) > threshold + _ROUNDING
            or float(self.high.max()) < threshold - _ROUNDING
        )


def unknown(logprobs: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, float]:
    """What is not known of a distribution.

    Args:
        logprobs: (vocab_size,).
        known: which of them are, (vocab_size,) of bool.

    Returns:
        The logprobs with the most that each one can be where it is not known, in float64; and the
        mass of all that are not.

    """
    given = logprobs.double()
    rest = max(1.0 - float(given[known].exp().sum()), 0.0) + _ROUNDING
    most = min(float(given[known].min().exp()), rest)
    return given.masked_fill(~known, torch.tensor(most, dtype=torch.float64).log().item()), rest


def limited(members: Sequence[Member]) -> Member | None:
    """The first member of which only the likeliest tokens are known; or None."""
    return next((m for m in members if getattr(m.scorer, "top_k_logprobs", None) is not None), None)


def check_setup(
    config: EnsembleConfig, spec: MethodSpec, space: SpaceName, members: Sequence[Member]
) -> None:
    """Refuse an ensemble whose choices can not be proven by the likeliest tokens of a member.

    Args:
        config: the active options.
        spec: of the method.
        space: in which the members meet.
        members: of the ensemble.

    Raises:
        ConfigError: some member gives the likeliest tokens only, and the options need all.

    """
    for wrong, what in (
        (not spec.decides_by_top, f"method {config.method}"),
        (space != "tokens", f"space {space}"),
        (config.fusion not in ("auto", "mean"), f"fusion {config.fusion}"),
        (config.weighting != "fixed", f"weighting {config.weighting}"),
        (config.draft is not None, "draft"),
    ):
        if wrong:
            _refuse(members, what, "methods every_step and cascade in space tokens, fusion mean")


def check_sampling(sampling: SamplingParams, members: Sequence[Member]) -> None:
    """Refuse sampling that some member's server can not follow.

    Args:
        sampling: of a request.
        members: of the ensemble.

    Raises:
        ConfigError: it needs whole distributions, or logits.

    """
    for wrong, what in (
        (sampling.temperature > 0.0, "temperature above 0"),
        (sampling.grammar is not None, "a grammar"),
        (sampling.logprobs, "logprobs=True"),
    ):
        if wrong:
            _refuse(members, what, "greedy answers without a grammar")
    for member in members:
        if sampling.repetition_penalty != 1.0 and hasattr(member.scorer, "top_k_logprobs"):
            raise ConfigError(
                f"repetition_penalty is defined on logits, and {member.name} is a server, which "
                "gives probabilities; leave it out"
            )


def _refuse(members: Sequence[Member], what: str, possible: str) -> None:
    member = limited(members)
    if member is not None:
        raise ConfigError(
            f"{what} needs all probabilities of {member.name}, whose top_k_logprobs are too few "
            f"(they do for {possible}); set top_k_logprobs: all"
        )
