"""`choose`: the labels, options and prompts of a decision, checked, as a request of the engine."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal, Protocol

from pydantic import Field

from gac_core.chat.content import check_text
from gac_core.chat.prompt import Prompt
from gac_core.decoding.choosing import ChoiceStep, Plan, Reading, choose
from gac_core.decoding.request import Method, Request
from gac_core.engine.streams import AsyncStream, Stream, Submit
from gac_core.errors import (
    CannotSpellError,
    ConfigError,
    ContextOverflowError,
    PromptError,
)
from gac_core.members.base import Member
from gac_core.method_specs import Checked
from gac_core.outputs import Choice, Step
from gac_core.runtime import Runtime
from gac_core.sampling_params import SamplingParams

# What stands for a question in contextual calibration, as published.
CONTENT_FREE: Final = ("N/A", "[MASK]", "")

Prior = bool | Prompt | Sequence[Prompt]
Temperature = Annotated[float, Field(gt=0)]


class ChoiceParams(Checked):
    """How labels are scored; `Deciding.choose` describes the fields."""

    length: Literal["sum", "bytes"] = "sum"
    end: bool | None = None
    temperature: Temperature | dict[str, Temperature] = 1.0


class Loads(Protocol):
    """An ensemble that can be loaded."""

    @property
    def runtime(self) -> Runtime:
        """The loaded ensemble."""

    async def aload(self, *, grammars: bool = False) -> None:
        """Load it without blocking the event loop."""


class Deciding:
    """What an ensemble decides: which of several given answers it holds most probable."""

    def choose(
        self: Loads,
        prompt: Prompt,
        labels: Sequence[str],
        *,
        prior: Prior = False,
        length: Literal["sum", "bytes"] = "sum",
        end: bool | None = None,
        temperature: float | Mapping[str, float] = 1.0,
    ) -> Choice:
        """How probable each of some answers is: to each member, and to all of them together.

        Each member scores each label as it would write it after the prompt in its own template,
        and the ensemble's fusion rule and weights pool these distributions over the labels. The
        method plays no part: all members are always asked, for all labels at once. Members that
        think before they answer are asked what they answer without a thought.

        Args:
            prompt: a raw text that a label goes on with (so labels mostly begin with a space), or
                chat messages, whose answer is a label.
            labels: two or more, all different; of one or more characters each.
            prior: what is taken off each member's liking for labels whatever is asked. True puts
                "N/A", "[MASK]" and "" in the place of the last user message, divides by the mean
                probabilities of the labels there and scales them to sum 1 (contextual calibration,
                https://arxiv.org/abs/2102.09690). A prompt of your own that says what kind of
                answer is wanted, but not the question, gives domain conditional PMI
                (https://arxiv.org/abs/2104.08315); of several prompts the mean counts.
            length: "sum" takes a label's log-probability as it is, so that longer labels are
                mostly less probable; "bytes" takes it per byte of the label, times the mean length
                of all labels.
            end: whether a label counts only if the answer ends after it. By default it does where
                one label begins another one ("yes", "yes, but"); elsewhere many models would end
                a bare label with a full stop, and be taken for unsure of it.
            temperature: by which each member's log-probabilities are divided, above 0; or for some
                members, by their names.

        Raises:
            ConfigError: there are fewer than two labels, one is empty, given twice or no text, or
                an option is unknown or out of range.
            PromptError: the prompt is malformed, or a label has a character for which a member has
                no token.
            ContextOverflowError: the prompt and the longest label do not fit a member's context.
            MemberError: a member failed.
            MethodError: fusion rule or weighting gave no distribution.
            EngineClosedError: the ensemble was closed.

        Example:
            >>> from gac_core import Ensemble
            >>> chat = [{"role": "user", "content": "What is 77 - 49?"}]
            >>> with Ensemble.pocket() as ensemble:
            ...     choice = ensemble.choose(chat, ["77 - 49 = 28", "77 - 49 = 38"])
            >>> choice.label, [f"{own.name}: {choice.label_of(own)}" for own in choice.members]
            ('77 - 49 = 28', ['ada: 77 - 49 = 28', 'bo: 77 - 49 = 28', 'cy: 77 - 49 = 38'])

        """
        options = {"length": length, "end": end, "temperature": temperature}
        submit = submission(self.runtime, prompt, labels, prior, options)
        with Stream(submit, owner=self) as stream:
            return choice_of(list(stream))

    async def achoose(
        self: Loads,
        prompt: Prompt,
        labels: Sequence[str],
        *,
        prior: Prior = False,
        **options: Any,
    ) -> Choice:
        """`choose` for asyncio; cancelling the task stops the computing."""
        await self.aload()
        submit = submission(self.runtime, prompt, labels, prior, options)
        async with AsyncStream(submit, owner=self) as stream:
            return choice_of([step async for step in stream])


def submission(
    runtime: Runtime,
    prompt: Prompt,
    labels: Sequence[str],
    prior: Prior = False,
    options: Mapping[str, Any] | None = None,
) -> Submit:
    """The checked decision, ready to be submitted with a sink; `choice_of` reads its steps.

    Args:
        runtime: of the ensemble that decides.
        prompt: see `Deciding.choose`.
        labels: see there.
        prior: see there.
        options: fields of `ChoiceParams`.

    Raises:
        ConfigError: labels or options are wrong.
        PromptError: a prompt is malformed, or a label can not be written.

    """
    params = ChoiceParams.of(dict(options or {}))
    sampling = SamplingParams(max_new_tokens=1, seed=0)

    def make() -> tuple[Method, Request]:
        plan = _plan(runtime, prompt, _checked(labels), prior, params)
        is_chat = plan.readings[0].is_chat
        request = runtime.request_after(plan.readings[0].prompts, sampling, is_chat=is_chat)
        return partial(choose, plan=plan), request

    return runtime.traced(prompt, sampling, make)


def choice_of(steps: Sequence[Step]) -> Choice:
    """What was decided, from the steps of a `submission`."""
    (step,) = steps
    assert isinstance(step, ChoiceStep)
    assert step.outcome is not None, "the last step carries the outcome"
    return Choice(step.labels, step.probs, step.choices, step.outcome.usage)


# ------------------------------------------------ labels and options


def _plan(
    runtime: Runtime, prompt: Prompt, labels: tuple[str, ...], prior: Prior, params: ChoiceParams
) -> Plan:
    has_end = params.end
    if has_end is None:
        has_end = any(a != b and a.startswith(b) for a in labels for b in labels)
    neutral = [] if prior is False else _neutral_prompts(prompt, prior)
    return Plan(
        labels,
        [_reading(runtime, p, labels, has_end=has_end) for p in (prompt, *neutral)],
        has_end,
        _scales(labels, params.length),
        _temperatures(params.temperature, runtime.members),
    )


def _checked(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, (str, bytes)) or not isinstance(labels, Sequence):
        raise ConfigError(f"labels must be a list of texts, not {type(labels).__name__}")
    for index, label in enumerate(labels):
        if not isinstance(label, str):
            raise ConfigError(f"label {index} must be a text, not {type(label).__name__}")
        if not label:
            raise ConfigError(f"label {index} is empty; give it one character or more")
        check_text(label, f"label {index}")
        if label in labels[:index]:
            raise ConfigError(f"the label {label!r} is given twice; leave one out")
    if len(labels) < 2:
        raise ConfigError(f"there must be two labels or more to choose from, not {len(labels)}")
    return tuple(labels)


def _temperatures(given: float | Mapping[str, float], members: Sequence[Member]) -> list[float]:
    names = [member.name for member in members]
    if not isinstance(given, Mapping):
        return [given] * len(names)
    if unknown := sorted(set(given) - set(names)):
        raise ConfigError(f"temperature names {unknown}; the members are {', '.join(names)}")
    return [given.get(name, 1.0) for name in names]


def _scales(labels: Sequence[str], length: str) -> list[float]:
    """By which the log-probability of each label is multiplied."""
    if length == "sum":
        return [1.0] * len(labels)
    sizes = [len(label.encode()) for label in labels]
    return [sum(sizes) / len(sizes) / size for size in sizes]


def _neutral_prompts(prompt: Prompt, prior: Prior) -> list[Prompt]:
    """The prompts after which labels are as probable as they are without the question."""
    if isinstance(prior, str):
        return [prior]
    if prior is True:
        return _without_question(prompt)
    if not isinstance(prior, Sequence) or not prior:
        raise ConfigError(f"prior must be True, False, a prompt or prompts, not {prior!r:.80}")
    if all(isinstance(message, Mapping) for message in prior):
        return [prior]  # type: ignore[list-item]
    return list(prior)  # type: ignore[arg-type]


def _without_question(prompt: Prompt) -> list[Prompt]:
    if isinstance(prompt, str):
        raise ConfigError(
            "a raw text has no question that could be left out; give the text without it as prior"
        )
    asked = [n for n, m in enumerate(prompt) if isinstance(m, Mapping) and m.get("role") == "user"]
    if not asked:
        raise ConfigError("there is no user message to leave out; give a prompt as prior")
    last = asked[-1]
    return [
        [*prompt[:last], {"role": "user", "content": text}, *prompt[last + 1 :]]
        for text in CONTENT_FREE
    ]


# ------------------------------------------------ in each member's ids


def _reading(runtime: Runtime, prompt: Prompt, labels: Sequence[str], *, has_end: bool) -> Reading:
    """A prompt and the labels after it, in each member's ids."""
    prompts, is_chat = runtime.answer_prompts(prompt), not isinstance(prompt, str)
    spelled = [
        [_label_ids(member, label, is_chat=is_chat) for label in labels]
        for member in runtime.members
    ]
    for member, ids, own in zip(runtime.members, prompts, spelled, strict=True):
        limit, longest = member.scorer.context_size, max(map(len, own))
        if limit is not None and len(ids) + longest - (not has_end) > limit:
            raise ContextOverflowError(
                f"the prompt has {len(ids)} tokens for {member.name} and the longest label "
                f"{longest}, but its context holds {limit}; shorten the prompt"
            )
    return Reading(prompts, spelled, is_chat)


def _label_ids(member: Member, label: str, *, is_chat: bool) -> list[int]:
    """The ids with which a member writes a label, after the space that its template may write."""
    space = b" " if is_chat and member.leading_space else b""
    try:
        return member.tokenizer.encode(space + label.encode())
    except CannotSpellError as error:
        raise PromptError(f"the label {label!r} can not be scored: {error}; reword it") from error
