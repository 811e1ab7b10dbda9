"""What decoding gives: steps, the outcome that the last one carries, answers, and choices."""

from dataclasses import dataclass
from typing import Literal

DecidedBy = Literal["primary", "ensemble"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class MemberView:
    """One member's view of a step.

    Attributes:
        name: of the member.
        top: the bytes of its most probable unit; empty for the end.
        top_prob: the probability that it gave that unit.
        prob: the probability that it gave the unit that was chosen.

    """

    name: str
    top: bytes
    top_prob: float
    prob: float


@dataclass(frozen=True)
class MemberUsage:
    """The number of tokens of one member.

    Attributes:
        name: of the member.
        prompt_tokens: its tokens of the prompt, as its chat template renders it.
        completion_tokens: its tokens of thought and answer, without tags and end.

    """

    name: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Usage:
    """The number of tokens of a request, by the primary's tokens and by each member's own.

    Attributes:
        prompt_tokens: the primary's tokens of the prompt.
        completion_tokens: the primary's tokens of thought and answer, without tags and end.
        members: the same for each member.
        fused_steps: the number of steps that all members decided together.
        steps: the number of all steps.
        thought_tokens: of the completion tokens, those of the thought.

    """

    prompt_tokens: int
    completion_tokens: int
    members: tuple[MemberUsage, ...]
    fused_steps: int
    steps: int
    thought_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Outcome:
    """How an answer ended.

    Attributes:
        finish_reason: "stop" for an end unit, a stop string or the next turn of a transcript,
            "length" for `max_new_tokens` or a full context.
        stop: the stop string that ended it, if one did.
        usage: its numbers of tokens and steps.
        seed: the seed with which the same text is drawn again.

    """

    finish_reason: FinishReason
    stop: str | None
    usage: Usage
    seed: int


@dataclass(frozen=True)
class Step:
    """One emitted unit.

    Attributes:
        unit: its bytes; empty for the end, and for a leading space that is only a spelling.
        is_end: whether it is the end, of the answer or of the thought before it.
        text: the characters of the answer that are certain with it, perhaps none (half a character
            is held back, and so is text that may begin a stop string).
        logprob: the natural logarithm of the unit's probability in the distribution that decided
            (the primary's or the fused one), before temperature and filters.
        decided_by: "primary" if it decided alone, else "ensemble".
        members: the view of each member that was asked.
        top: with `logprobs`, the most probable units and their logprobs, best first.
        outcome: how the answer ended; None before the last step.
        thought: the characters of a thought that are certain with it; None in the answer.

    """

    unit: bytes
    is_end: bool
    text: str
    logprob: float
    decided_by: DecidedBy
    members: tuple[MemberView, ...]
    top: tuple[tuple[bytes, float], ...] = ()
    outcome: Outcome | None = None
    thought: str | None = None

    @property
    def is_thought(self) -> bool:
        """Whether it is part of a thought."""
        return self.thought is not None


@dataclass(frozen=True)
class Output:
    """A whole answer.

    Attributes:
        text: the answer.
        finish_reason: see `Outcome`.
        stop: the stop string that ended it, if one did.
        usage: its numbers of tokens and steps.
        seed: the seed with which the same text is drawn again.
        steps: its units, one by one, those of the thought first.
        thought: what was thought before the answer; None if nothing was.

    """

    text: str
    finish_reason: FinishReason
    stop: str | None
    usage: Usage
    seed: int
    steps: tuple[Step, ...]
    thought: str | None = None

    @classmethod
    def of(cls, steps: "tuple[Step, ...] | list[Step]") -> "Output":
        """The answer that all steps of a request make."""
        outcome = steps[-1].outcome
        assert outcome is not None, "the last step carries the outcome"
        thoughts = [step.thought for step in steps if step.thought is not None]
        return cls(
            "".join(step.text for step in steps),
            outcome.finish_reason,
            outcome.stop,
            outcome.usage,
            outcome.seed,
            tuple(steps),
            "".join(thoughts).strip() if thoughts else None,
        )


@dataclass(frozen=True)
class MemberChoice:
    """How probable one member holds each label.

    Attributes:
        name: of the member.
        weight: with which it was pooled; those of all members sum to 1.
        probs: of each label, of sum 1: with the length, prior and temperature that were asked for.
        logprobs: the natural logarithm of the probability with which it would write each label
            (and then end, where that counts), as it is.

    """

    name: str
    weight: float
    probs: tuple[float, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Choice:
    """How probable each label is: to the ensemble, and to each member.

    Attributes:
        labels: as they were given.
        probs: the ensemble's probability of each, of sum 1.
        members: the same of each member.
        usage: its tokens of the prompt; none are written.

    """

    labels: tuple[str, ...]
    probs: tuple[float, ...]
    members: tuple[MemberChoice, ...]
    usage: Usage

    @property
    def label(self) -> str:
        """The most probable label; the first of several."""
        return self.labels[self.probs.index(self.prob)]

    @property
    def prob(self) -> float:
        """The probability of the most probable label."""
        return max(self.probs)

    @property
    def by_label(self) -> dict[str, float]:
        """The probability of each label."""
        return dict(zip(self.labels, self.probs, strict=True))

    def label_of(self, member: MemberChoice) -> str:
        """The label that a member holds most probable; the first of several."""
        return self.labels[member.probs.index(max(member.probs))]
