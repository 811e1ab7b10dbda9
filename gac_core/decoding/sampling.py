"""From a distribution to one row: greedy, or drawn with an explicit uniform number.

The uniform number of a step depends on the seed and the step's position alone, and the row is read
off the distribution with it. So batching, caching and drafting change the speed, never the text.
transformers is imported where it is used, since methods' options are read without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from gac_core.sampling_params import SamplingParams

if TYPE_CHECKING:
    from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor


class Sampler:
    """Chooses the rows of one answer: greedy, or with temperature, top-k, top-p (nucleus), min-p.

    Args:
        params: of the request; its seed is set.

    Attributes:
        seed: of the request.
        is_greedy: whether the most probable row is always chosen.

    """

    def __init__(self, params: SamplingParams) -> None:
        assert params.seed is not None
        self.seed = params.seed
        self.is_greedy = params.temperature == 0.0
        self._warpers = make_warpers(params)
        self._penalty = make_penalty(params)

    def penalised(self, logits: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        """Logits with ids already in the text made less likely (https://arxiv.org/abs/1909.05858).

        Args:
            logits: (vocab_size,).
            ids: the member's own ids of prompt and answer so far.

        """
        if self._penalty is None:
            return logits
        seen = torch.tensor([list(ids)], device=logits.device)
        penalised: torch.Tensor = self._penalty(seen, logits[None])[0]
        return penalised

    def choose(self, probs: torch.Tensor, position: int, minus: torch.Tensor | None = None) -> int:
        """The row that is greedy, or drawn for this position.

        Args:
            probs: (size,), need not sum to 1; rows of 0 are never chosen.
            position: of the step.
            minus: draw from the residual of speculative sampling, max(0, `to_draw` - minus), if
                any is left; (size,) in float64 on the CPU.

        """
        if self.is_greedy:
            return choose(probs, self._warpers, None)
        if minus is not None:
            residual = (self.to_draw(probs) - minus).clamp_min(0.0)
            if float(residual.sum()) > 0.0:
                return draw(residual, uniform_at(self.seed, position, 2))
        return choose(probs, self._warpers, uniform_at(self.seed, position))

    def to_draw(self, probs: torch.Tensor) -> torch.Tensor:
        """A distribution after temperature and filters, (size,) of mass 1 in float64 on the CPU."""
        probs = warped(probs, self._warpers)
        return probs / probs.sum()


def uniform_at(seed: int, position: int, stream: int = 0) -> float:
    """The uniform number in [0, 1) of a step: a counter-based generator, so no state is kept.

    Args:
        seed: of the request.
        position: of the step.
        stream: numbers of other streams are independent, for methods that need several at a step.

    """
    counter = position + (stream << 64)
    return float(np.random.Generator(np.random.Philox(key=seed, counter=counter)).random())


def make_warpers(params: SamplingParams) -> LogitsProcessorList:
    """The filters asked for, in the order in which `generate` of transformers applies them."""
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    warpers = LogitsProcessorList()
    if params.temperature not in (0.0, 1.0):
        warpers.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1.0:
        warpers.append(TopPLogitsWarper(params.top_p))
    if params.min_p > 0.0:
        warpers.append(MinPLogitsWarper(params.min_p))
    return warpers


def make_penalty(params: SamplingParams) -> RepetitionPenaltyLogitsProcessor | None:
    """The processor that makes ids in the text less likely; None if there is no penalty."""
    from transformers import RepetitionPenaltyLogitsProcessor

    if params.repetition_penalty == 1.0:
        return None
    return RepetitionPenaltyLogitsProcessor(params.repetition_penalty)


def top_row(probs: torch.Tensor) -> int:
    """The most probable row; the lowest of equal ones.

    Args:
        probs: (size,), all finite.

    """
    if probs.is_cpu:
        return int(probs.numpy().argmax())  # ten times faster than torch's on a CPU
    return int(probs.argmax())


def choose(probs: torch.Tensor, warpers: LogitsProcessorList, uniform: float | None) -> int:
    """The row chosen: the most probable one, or the one on which the uniform number falls.

    Args:
        probs: (size,), need not sum to 1; rows of 0 are never chosen.
        warpers: temperature and filters; not used without a uniform number.
        uniform: in [0, 1), or None for greedy.

    """
    if uniform is None:
        return top_row(probs)
    return draw(warped(probs, warpers), uniform)


def warped(probs: torch.Tensor, warpers: LogitsProcessorList) -> torch.Tensor:
    """The distribution to draw from, of mass 1 if there are warpers; (size,) of float64 on CPU."""
    probs = probs.cpu().to(torch.float64)  # some accelerators have no float64
    if warpers:
        scores = probs.log()
        scores = scores - scores.max()  # so that no temperature can overflow the best one
        probs = warpers(None, scores[None])[0].softmax(-1)  # type: ignore[arg-type]
    return probs


def draw(probs: torch.Tensor, uniform: float) -> int:
    """The row on which a uniform number falls.

    Args:
        probs: (size,), need not sum to 1.
        uniform: in [0, 1).

    """
    cumulated = probs.cumsum(-1)
    row = int(torch.searchsorted(cumulated, cumulated[-1] * uniform, right=True))
    if row >= len(probs) or float(probs[row]) == 0.0:  # the number fell on the last rounding error
        row = int(probs.nonzero()[-1])
    return row
