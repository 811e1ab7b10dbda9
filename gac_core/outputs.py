"""What comes out of a decoder: steps, and the outcome the last one carries."""

from dataclasses import dataclass
from typing import Literal

DecidedBy = Literal["primary", "ensemble"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class MemberView:
    """What one member thought at a step.

    Attributes:
        name: which member.
        top: the bytes of its most probable unit; empty for the end.
        top_prob: the probability it gave that unit.
        prob: the probability it gave the unit that was chosen.

    """

    name: str
    top: bytes
    top_prob: float
    prob: float


@dataclass(frozen=True)
class MemberUsage:
    """Tokens of one member.

    Attributes:
        name: which member.
        prompt_tokens: of its prompt, as its chat template renders it.
        completion_tokens: of the answer, as this member has it; the end is no token.

    """

    name: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Usage:
    """Tokens of a request: the primary's count, and each member's own.

    Attributes:
        fused_steps: steps all members decided together.
        steps: all steps.

    """

    prompt_tokens: int
    completion_tokens: int
    members: tuple[MemberUsage, ...]
    fused_steps: int
    steps: int

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Outcome:
    """How an answer ended.

    Attributes:
        finish_reason: "stop" for an end unit or a stop string, "length" for `max_new_tokens` or a
            full context.
        stop: the stop string that ended it, if one did.
        seed: what would draw the same text again.

    """

    finish_reason: FinishReason
    stop: str | None
    usage: Usage
    seed: int


@dataclass(frozen=True)
class Step:
    """One emitted unit.

    Attributes:
        unit: its bytes; empty for the end, and for a space that only opens an answer.
        is_end: whether it is the end.
        text: the characters that became certain with it, perhaps none (half a character waits for
            its rest, text that may begin a stop string for what follows).
        logprob: natural logarithm of the probability that who decided gave the unit, before
            temperature and filters.
        decided_by: the primary alone, or the ensemble.
        members: the view of each member that was asked.
        top: with `logprobs`, the most probable units and their logprobs, best first.
        outcome: with the last step only.

    """

    unit: bytes
    is_end: bool
    text: str
    logprob: float
    decided_by: DecidedBy
    members: tuple[MemberView, ...]
    top: tuple[tuple[bytes, float], ...] = ()
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Output:
    """A whole answer.

    Attributes:
        text: the answer.
        steps: how it came about.

    """

    text: str
    finish_reason: FinishReason
    stop: str | None
    usage: Usage
    seed: int
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, steps: "tuple[Step, ...] | list[Step]") -> "Output":
        """The steps of one request put together."""
        outcome = steps[-1].outcome
        assert outcome is not None, "the last step carries the outcome"
        return cls(
            "".join(step.text for step in steps),
            outcome.finish_reason,
            outcome.stop,
            outcome.usage,
            outcome.seed,
            tuple(steps),
        )
