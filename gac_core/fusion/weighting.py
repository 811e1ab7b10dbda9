"""How much each member counts: fixed, or by what it made of the prompt, the text, the next unit.

Every way multiplies the configured weights by evidence to the power of `temper`.
"""

from collections.abc import Sequence

import torch

from gac_core.fusion.rules import entropy
from gac_core.members.kv_cache import common_prefix


def by_entropy(weights: torch.Tensor, probs: torch.Tensor, temper: float = 1.0) -> torch.Tensor:
    """Weights in inverse proportion to the members' entropies at this step.

    Args:
        weights: (members,).
        probs: (members, rows).
        temper: exponent; 0 leaves the weights as they are.

    """
    return by_evidence(weights, -entropy(probs).log(), temper)


def by_evidence(weights: torch.Tensor, logs: torch.Tensor, temper: float = 1.0) -> torch.Tensor:
    """Weights times evidence, of sum 1.

    With the log-probability of the text so far this is the posterior of a mixture of members; with
    minus the log-perplexity of the prompt it is PackLLM (https://arxiv.org/abs/2404.11531), whose
    temperature is 1 / temper.

    Args:
        weights: (members,).
        logs: the natural logarithm of each member's evidence, (members,).
        temper: exponent of the evidence.

    """
    if not bool(torch.isfinite(logs).any()):  # impossible for every member alike
        return weights
    return (weights.log() + temper * logs.nan_to_num(nan=-torch.inf)).softmax(-1)


class Likelihood:
    """The log-probability one member gives to its ids, while these grow and are rewritten.

    Args:
        ids: the context, one id or more; what follows it is scored.

    """

    def __init__(self, ids: Sequence[int]) -> None:
        self._begin = len(ids)
        self._ids = list(ids)
        self._sums = [0.0]  # of the first ids behind the context
        self._next: torch.Tensor | None = None  # logits after the last id

    @property
    def total(self) -> float:
        """Of all ids seen that stand behind the context."""
        return self._sums[-1]

    def last(self, ids: Sequence[int]) -> int:
        """After how many positions logits are needed to score these ids, and for the next one."""
        return len(ids) - self._start(ids)

    def see(self, ids: Sequence[int], logits: torch.Tensor) -> None:
        """Score these ids.

        Args:
            ids: the context and what follows it.
            logits: after the last positions, ``last(ids)`` or more, masked, (positions, rows).

        """
        kept = common_prefix(self._ids, ids)
        first = len(ids) - len(logits)  # the position the first row stands behind
        del self._sums[kept - self._begin + 1 :]
        for at in range(kept, len(ids)):
            row = logits[at - 1 - first] if at > first else self._next
            assert row is not None
            value = float(row[ids[at]] - row.logsumexp(-1))
            self._sums.append(self._sums[-1] + value)
        self._ids = list(ids)
        self._next = logits[-1]

    def _start(self, ids: Sequence[int]) -> int:
        """The position the first row of logits must stand behind."""
        kept = common_prefix(self._ids, ids)
        known = kept == len(self._ids) < len(ids) and self._next is not None
        return kept if known else kept - 1
