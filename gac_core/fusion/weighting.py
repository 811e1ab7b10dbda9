"""How much each member counts: fixed, or by how well it predicts the prompt or the text.

A weighting is a class; each request has an object of it. The built-in ones multiply the configured
weights by evidence to the power of `temper`. Add one of your own with `register_weighting`.
"""

from collections.abc import Generator, Sequence
from copy import copy, deepcopy
from typing import ClassVar, Final, Self

import torch

from gac_core.fusion.rules import entropy
from gac_core.members.base import Answers, Ask, Query
from gac_core.tokens.history import common_prefix

_PROMPT_CHUNK: Final = 256  # positions of a prompt; logits of only so many are in memory at a time


class Weighting:
    """Base of all weightings: the configured weights, at every step.

    A subclass overrides what it needs: `start` to ask about the prompts, `positions` and `see` to
    score the members' texts, `weigh` to compute their weights, `copy` if a deep copy of its scores
    costs too much.

    Args:
        weights: as configured, (members,) of sum 1, in float64.
        temper: the exponent of the evidence; 0 leaves the weights as they are.

    Example:
        >>> from gac_core import Ensemble, Weighting, register_weighting
        >>> class Surest(Weighting):
        ...     def weigh(self, members, probs):
        ...         return self.shares(members, probs) * probs.amax(-1)
        >>> register_weighting("surest", Surest)
        >>> chat = [{"role": "user", "content": "What is 77 - 49?"}]
        >>> with Ensemble.pocket(weighting="surest") as ensemble:
        ...     print(ensemble.generate(chat).text)
        77 - 49 = 28

    """

    # Whether `see` has to be given every member's text; True for a subclass that overrides `see`.
    reads_text: ClassVar[bool] = False
    reads_probs: ClassVar[bool] = True  # whether `weigh` looks at the distributions

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "see" in vars(cls) and "reads_text" not in vars(cls):
            cls.reads_text = True

    def __init__(self, weights: torch.Tensor, temper: float) -> None:
        self.weights = weights
        self.temper = temper
        self._shares: dict[object, torch.Tensor] = {}

    def start(
        self,
        prompts: Sequence[Sequence[int]],  # noqa: ARG002  (for subclasses)
    ) -> Generator[Ask, Answers, None]:
        """Begin an answer; ask all that has to be known before its first step.

        Args:
            prompts: each member's prompt ids.

        Yields:
            What is asked, answered as a method's asks are.

        """
        yield from ()

    def positions(self, member: int, ids: Sequence[int]) -> int:  # noqa: ARG002
        """The number of last positions of these ids at which `see` needs logits; 1 or more."""
        return 1

    def see(self, member: int, ids: Sequence[int], logits: torch.Tensor) -> None:
        """Score a member's ids by its logits; called by `Request.read` if `reads_text` is set.

        Args:
            member: its index.
            ids: prompt and answer so far.
            logits: after the last positions, ``positions(member, ids)`` or more, masked,
                (positions, vocab_size).

        """

    def weigh(self, members: Sequence[int], probs: torch.Tensor) -> torch.Tensor:
        """The weights of some members at this step, (members,); scaled to sum 1 afterwards.

        Args:
            members: their indices.
            probs: their distributions over the union or over bytes, (members, size).

        """
        return self.shares(members, probs)

    def shares(self, members: Sequence[int], probs: torch.Tensor) -> torch.Tensor:
        """The configured weights of some members, (members,) of sum 1, in the type of `probs`."""
        key = (tuple(members), probs.dtype, probs.device)
        if key not in self._shares:
            weights = self.weights[list(members)]
            self._shares[key] = (weights / weights.sum()).to(probs)
        return self._shares[key]

    def copy(self) -> Self:
        """A copy with scores of its own, for a fork of the request."""
        return deepcopy(self)


class Fixed(Weighting):
    """The configured weights at every step."""

    reads_probs = False

    def copy(self) -> Self:
        """Itself, since it keeps no scores."""
        return self


class ByEntropy(Weighting):
    """Weights in inverse proportion to the members' entropies at this step."""

    def weigh(self, members: Sequence[int], probs: torch.Tensor) -> torch.Tensor:
        """See `by_entropy`."""
        return by_entropy(self.shares(members, probs), probs, self.temper)

    def copy(self) -> Self:
        """Itself, since it keeps no scores."""
        return self


class ByPrompt(Weighting):
    """Weights by how well members predict the prompt (https://arxiv.org/abs/2404.11531).

    The logits of a prompt are asked for in chunks, since all of them would be large.
    """

    reads_probs = False

    def start(self, prompts: Sequence[Sequence[int]]) -> Generator[Ask, Answers, None]:
        """Score each member's prompt after its first id."""
        scores = [Likelihood(ids[:1]) for ids in prompts]
        longest = max(map(len, prompts))
        for end in range(_PROMPT_CHUNK, longest + _PROMPT_CHUNK, _PROMPT_CHUNK):
            parts = {
                m: part
                for m, ids in enumerate(prompts)
                if len(part := ids[:end]) > max(1, end - _PROMPT_CHUNK)
            }
            answers = yield Ask(
                {m: (Query(part, scores[m].last(part)),) for m, part in parts.items()}
            )
            for m, part in parts.items():
                scores[m].see(part, answers[m][0].logits)
        logs = [s.total / max(1, len(ids) - 1) for s, ids in zip(scores, prompts, strict=True)]
        evidence = torch.tensor(logs, dtype=torch.float64)
        self.weights = by_evidence(self.weights, evidence, self.temper)
        self._shares.clear()

    def copy(self) -> Self:
        """Itself, since its scores are complete before the first step."""
        return self


class Posterior(Weighting):
    """Weights by the probability of the text so far: a mixture of whole texts, not of steps."""

    reads_text = True
    reads_probs = False

    def start(self, prompts: Sequence[Sequence[int]]) -> Generator[Ask, Answers, None]:
        """Ask nothing; only the text after the prompts is scored."""
        self._texts = tuple(Likelihood(ids) for ids in prompts)
        yield from ()

    def positions(self, member: int, ids: Sequence[int]) -> int:
        """The positions that are not scored yet, and the one before the next id."""
        return self._texts[member].last(ids)

    def see(self, member: int, ids: Sequence[int], logits: torch.Tensor) -> None:
        """Score the ids that are new."""
        self._texts[member].see(ids, logits)

    def weigh(self, members: Sequence[int], probs: torch.Tensor) -> torch.Tensor:
        """See `by_evidence`."""
        totals = [self._texts[m].total for m in members]
        logs = torch.tensor(totals, dtype=torch.float64).to(probs)
        return by_evidence(self.shares(members, probs), logs, self.temper)

    def copy(self) -> Self:
        """A copy with scores of its own."""
        other = copy(self)
        other._texts = tuple(text.copy() for text in self._texts)
        return other


def by_entropy(weights: torch.Tensor, probs: torch.Tensor, temper: float = 1.0) -> torch.Tensor:
    """Weights in inverse proportion to the members' entropies at this step, (members,) of sum 1.

    Args:
        weights: (members,).
        probs: (members, size).
        temper: exponent; 0 leaves the weights as they are.

    """
    return by_evidence(weights, -entropy(probs).log(), temper)


def by_evidence(weights: torch.Tensor, logs: torch.Tensor, temper: float = 1.0) -> torch.Tensor:
    """Weights times evidence to the power of `temper`, (members,) of sum 1.

    With the log-probability of the text so far this is the posterior of a mixture of members; with
    minus the log-perplexity of the prompt it is PackLLM (https://arxiv.org/abs/2404.11531), whose
    temperature is 1 / temper.

    Args:
        weights: (members,).
        logs: the natural logarithm of each member's evidence, (members,).
        temper: exponent of the evidence.

    """
    if not bool(torch.isfinite(logs).any()):  # the text is impossible for every member
        return weights
    return (weights.log() + temper * logs.nan_to_num(nan=-torch.inf)).softmax(-1)


class Likelihood:
    """The log-probability in nats that a member gives to its ids, while these grow or change.

    Args:
        ids: the context, one id or more; the ids after it are scored.

    """

    def __init__(self, ids: Sequence[int]) -> None:
        self._begin = len(ids)
        self._ids = list(ids)
        self._sums = [0.0]  # of the first n ids after the context, by n
        self._next: torch.Tensor | None = None  # logits after the last id

    def copy(self) -> Self:
        """A copy that can score other ids."""
        other = copy(self)
        other._sums = list(self._sums)
        return other

    @property
    def total(self) -> float:
        """The log-probability of all ids after the context."""
        return self._sums[-1]

    def last(self, ids: Sequence[int]) -> int:
        """The number of last positions whose logits score these ids, and the id after them."""
        return len(ids) - self._start(ids)

    def see(self, ids: Sequence[int], logits: torch.Tensor) -> None:
        """Score these ids.

        Args:
            ids: the context and the ids after it.
            logits: after the last positions, ``last(ids)`` or more, masked,
                (positions, vocab_size).

        """
        kept = common_prefix(self._ids, ids)
        first = len(ids) - len(logits)  # the position after which the first of the logits come
        del self._sums[kept - self._begin + 1 :]
        for at in range(kept, len(ids)):
            before = logits[at - 1 - first] if at > first else self._next
            assert before is not None
            value = float(before[ids[at]] - before.logsumexp(-1))
            self._sums.append(self._sums[-1] + value)
        self._ids = list(ids)
        self._next = logits[-1]

    def _start(self, ids: Sequence[int]) -> int:
        """The position after which the first of the logits must come."""
        kept = common_prefix(self._ids, ids)
        known = kept == len(self._ids) < len(ids) and self._next is not None
        return kept if known else kept - 1
