"""From the options of a call, as every framework writes them, to a request of gac_core."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from gac_core import ConfigError, GacError, SamplingParams
from gac_core.chat.prompt import Prompt
from gac_core.chat.response_format import AnswerForm
from gac_core.engine.streams import AsyncStream, Stream
from gac_core.grammar.json_schema import strict_schema

if TYPE_CHECKING:
    from gac_integrations.shared.fields import EnsembleFields

SAMPLING: Final = {  # option of the frameworks: of `SamplingParams`
    "max_tokens": "max_new_tokens",
    **{
        name: name
        for name in (
            *("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"),
            *("stop", "logprobs", "top_logprobs"),
        )
    },
}
ALIASES: Final = {"max_new_tokens": "max_new_tokens", "stop_sequences": "stop"}
_STOPS: Final = ("stop", "stop_sequences")
FORM: Final = ("tools", "tool_choice", "parallel_tool_calls", "response_format")

ToSchema = Callable[[Any], Mapping[str, Any]]  # a class to its JSON schema


class DeadlineError(GacError, TimeoutError):
    """The answer was not complete in time."""


class Deadline:
    """So many seconds for an answer, from when it is begun; or as many as it takes."""

    def __init__(self, seconds: float | None) -> None:
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if seconds is not None and not (is_number and seconds > 0):
            raise ConfigError(f"timeout must be seconds, more than 0, not {seconds!r}")
        self._seconds = seconds

    @contextmanager
    def limiting(self, stream: Stream) -> Iterator[None]:
        """Stop the stream when the time is up, also while somebody waits for it.

        Raises:
            DeadlineError: the answer was not complete by then.

        """
        if self._seconds is None:
            yield
            return
        timer = threading.Timer(self._seconds, stream.time_out)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        _check(stream)

    @contextmanager
    def alimiting(self, stream: AsyncStream) -> Iterator[None]:
        """The same for a stream of this event loop."""
        if self._seconds is None:
            yield
            return
        timer = asyncio.get_running_loop().call_later(self._seconds, stream.time_out)
        try:
            yield
        finally:
            timer.cancel()
        _check(stream)


def _check(stream: Stream | AsyncStream) -> None:
    if not stream.is_complete:
        raise DeadlineError("the answer was not complete in time; raise timeout")


@dataclass(frozen=True)
class ChatRequest:
    """One call of a chat model.

    Attributes:
        prompt: messages as gac_core takes them, tools and schema shown; or a text.
        params: how to draw, grammar included.
        form: of the answer.
        deadline: of the whole answer.

    """

    prompt: Prompt
    params: SamplingParams
    form: AnswerForm
    deadline: Deadline

    @classmethod
    def of(
        cls,
        model: "EnsembleFields",
        messages: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
        to_schema: ToSchema,
        *others: str,
    ) -> Self:
        """The request of a call; what a call says beats what the model object says.

        Args:
            model: whose ensemble is asked.
            messages: as gac_core takes them.
            options: of the call.
            to_schema: what makes a JSON schema of a class.
            others: further options that the framework takes.

        Raises:
            ConfigError: an option is unknown or wrong.

        """
        check_options(options, *FORM, *others)
        options = said(options)
        form = answer_form(options, to_schema, parallel=model.parallel_tool_calls)
        changed = dict(options)
        if (grammar := form.grammar()) is not None:
            changed["grammar"] = grammar
        return cls(
            form.messages(messages),
            sampling_params(model, changed),
            form,
            Deadline(options.get("timeout", model.timeout)),
        )


def said(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a call that have a value; frameworks hand on None for what nobody said."""
    return {name: value for name, value in options.items() if value is not None}


def sampling_params(model: "EnsembleFields", changed: Mapping[str, Any]) -> SamplingParams:
    """How an answer is drawn: the model object's fields, and what a call changes.

    The stop strings of the object end free text; of an answer that a grammar ends they are not
    meant. Those of a call that asks for such an answer are an error.

    Raises:
        ConfigError: a value is out of range.

    """
    given = {ours: getattr(model, theirs) for theirs, ours in SAMPLING.items()}
    given.update({ours: changed[name] for name, ours in SAMPLING.items() if name in changed})
    for alias, ours in ALIASES.items():
        if alias in changed:
            given[ours] = changed[alias]
    grammar = given["grammar"] = changed.get("grammar")
    if grammar is not None and not grammar.begins_free and not changed.keys() & set(_STOPS):
        given["stop"] = None
    if not given["logprobs"] and changed.get("top_logprobs") is None:
        given["top_logprobs"] = None  # the object's: how many, if a call asks for any
    return SamplingParams.of({k: v for k, v in given.items() if v is not None})


def check_options(options: Mapping[str, Any], *others: str) -> None:
    """Refuse what a call does not take.

    Raises:
        ConfigError: an option is unknown.

    """
    known = (*SAMPLING, *ALIASES, "timeout", *others)
    if unknown := sorted(set(options) - set(known)):
        raise ConfigError(f"unknown options {unknown}; a call takes {', '.join(sorted(known))}")


def tool_choice_name(choice: object, names: Sequence[str]) -> str:
    """A `tool_choice` of any of the usual forms as auto, none, required, or a tool's name.

    Raises:
        ConfigError: it is none of them.

    """
    if isinstance(choice, Mapping):
        function = choice.get("function", choice)
        named = function.get("name") if isinstance(function, Mapping) else None
        choice = named or choice.get("type") or choice
    if not names and choice not in (None, False, "auto", "none"):
        raise ConfigError(f"tool_choice {choice!r} needs tools")
    if isinstance(choice, Mapping):
        choice = str(choice)
    if choice in (None, False, "auto"):
        return "auto"
    if choice in (True, "any", "required"):
        return "required"
    if choice == "none" or choice in names:
        return str(choice)
    raise ConfigError(
        f"tool_choice {choice!r} is none of auto, any, required, none and the tools {list(names)}"
    )


def answer_form(options: Mapping[str, Any], to_schema: ToSchema, *, parallel: bool) -> AnswerForm:
    """What the options of a call ask of the answer's form.

    Raises:
        ConfigError: tools or response format have a form that is not known.

    """
    tools = options.get("tools") or ()
    if wrong := [t for t in tools if not isinstance(t.get("function", t).get("name"), str)]:
        raise ConfigError(f"{wrong[0]!r:.80} is no tool that can be called here; it has no name")
    functions = tuple(tool.get("function", tool) for tool in tools)
    names = [str(function.get("name")) for function in functions]
    schema, is_shown = response_schema(options.get("response_format"), to_schema)
    return AnswerForm(
        functions,
        tool_choice_name(options.get("tool_choice"), names),
        parallel=bool(options.get("parallel_tool_calls", parallel)),
        schema=schema,
        shows_schema=is_shown,
    )


def schema_in(wanted: Any) -> Mapping[str, Any] | None:
    """The JSON schema that a mapping is, or has under a name as OpenAI's API writes it.

    None if it is a function or a tool, or no mapping.
    """
    if not isinstance(wanted, Mapping) or {"parameters", "function"} & wanted.keys():
        return None
    schema = wanted.get("schema")
    return schema if isinstance(schema, Mapping) else wanted


def response_schema(wanted: Any, to_schema: ToSchema) -> tuple[Mapping[str, Any] | None, bool]:
    """The JSON schema of a `response_format`, and whether the members are to be shown it.

    Args:
        wanted: a class, a JSON schema, a tool, or a dict as OpenAI's API has it. An object has no
            properties but those a schema names.
        to_schema: what makes a JSON schema of a class.

    Raises:
        ConfigError: it is none of them.

    """
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if wanted is None or kind == "text":
        return None, False
    if kind == "json_object":
        described = wanted.get("schema")
        return ({"type": "object"} if described is None else strict_schema(described)), False
    if kind == "json_schema":
        described = wanted.get("json_schema", wanted)
        schema = described.get("schema") if isinstance(described, Mapping) else None
        if not isinstance(schema, Mapping):
            raise ConfigError("response_format json_schema has no schema")
        return strict_schema(schema), True
    if (schema := schema_in(wanted)) is not None:
        return strict_schema(schema), True
    try:
        return strict_schema(to_schema(wanted)), True
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{wanted!r:.80} is no schema: {error}") from error
