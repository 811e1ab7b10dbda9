"""From LangChain's messages and options to a request of gac_core."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, convert_to_openai_messages
from langchain_core.utils.function_calling import convert_to_json_schema

from gac_core import SamplingParams
from gac_core.answer_form import AnswerForm
from gac_core.grammar import closed_schema
from gac_integrations.langchain.errors import GaCInvalidRequestError, GaCTimeoutError

if TYPE_CHECKING:
    from gac_integrations.langchain.chat_model import ChatGaC
    from gac_integrations.langchain.fields import EnsembleFields

SAMPLING: Final = {  # option of LangChain: of `SamplingParams`
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
COMMON: Final = ("timeout", "stream", "ls_structured_output_format")
_FORM: Final = ("tools", "tool_choice", "parallel_tool_calls", "response_format")
_SHOWN_PARTS: Final = ("text", "tool_use")


@dataclass(frozen=True)
class ChatRequest:
    """One call of the chat model.

    Attributes:
        messages: as gac_core takes them, tools and schema shown.
        params: how to draw, grammar included.
        form: of the answer.
        deadline: of the whole answer.

    """

    messages: list[Mapping[str, Any]]
    params: SamplingParams
    form: AnswerForm
    deadline: "Deadline"

    @classmethod
    def of(
        cls,
        model: "ChatGaC",
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        options: Mapping[str, Any],
    ) -> Self:
        """The request of a call; what a call says beats what the model object says.

        Raises:
            ConfigError: an option is unknown or wrong.
            GaCInvalidRequestError: tools or response format have a form that is not known.

        """
        check_options(options, *_FORM)
        form = answer_form(options, parallel=model.parallel_tool_calls)
        changed = dict(options)
        if stop is not None:
            changed["stop"] = stop
        if (grammar := form.grammar()) is not None:
            changed["grammar"] = grammar
        return cls(
            form.messages(plain_messages(messages)),
            sampling_params(model, changed),
            form,
            Deadline(options.get("timeout", model.timeout)),
        )


class Deadline:
    """When an answer has to be complete: so many seconds from now, or never."""

    def __init__(self, seconds: float | None) -> None:
        self._at = None if seconds is None else time.monotonic() + seconds

    def check(self) -> None:
        """Give up if it has passed.

        Raises:
            GaCTimeoutError: it has.

        """
        if self._at is not None and time.monotonic() > self._at:
            raise GaCTimeoutError("the answer was not complete in time; raise timeout")


def sampling_params(model: "EnsembleFields", changed: Mapping[str, Any]) -> SamplingParams:
    """How an answer is drawn: the model object's fields, and what a call changes.

    Raises:
        ConfigError: a value is out of range.

    """
    given = {ours: getattr(model, theirs) for theirs, ours in SAMPLING.items()}
    given.update({ours: changed[name] for name, ours in SAMPLING.items() if name in changed})
    for alias, ours in ALIASES.items():
        if alias in changed:
            given[ours] = changed[alias]
    given["grammar"] = changed.get("grammar")
    if not given["logprobs"]:
        given["top_logprobs"] = None
    return SamplingParams.of({k: v for k, v in given.items() if v is not None})


def check_options(options: Mapping[str, Any], *others: str) -> None:
    """Refuse what a call does not take.

    Raises:
        GaCInvalidRequestError: an option is unknown.

    """
    known = (*SAMPLING, *ALIASES, *COMMON, *others)
    if unknown := sorted(set(options) - set(known)):
        raise GaCInvalidRequestError(
            f"unknown options {unknown}; a call takes {', '.join(sorted(known))}"
        )


def plain_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """LangChain's messages as dicts of role, content and tool calls.

    The name of a person is written before what they say. Reasoning in the history is left out, as
    chat templates do.
    """
    plain = []
    for message in messages:
        said = _as_dict(message)
        name = said.pop("name", None) if said["role"] != "tool" else None
        if name and isinstance(message, HumanMessage):
            content = said["content"]
            parts = [content] if isinstance(content, str) else content
            said["content"] = [f"{name}: ", *parts]
        plain.append(said)
    return plain


def _as_dict(message: BaseMessage) -> dict[str, Any]:
    if isinstance(message, AIMessage) and isinstance(message.content, list):
        shown = [p for p in message.content if isinstance(p, str) or p.get("type") in _SHOWN_PARTS]
        message = message.model_copy(update={"content": shown})
    said = convert_to_openai_messages(message)
    assert isinstance(said, dict)
    return said


def tool_choice_name(choice: object, names: Sequence[str]) -> str:
    """A `tool_choice` of any of the usual forms as auto, none, required, or a tool's name.

    Raises:
        GaCInvalidRequestError: it is none of them.

    """
    if isinstance(choice, Mapping):
        choice = choice.get("function", choice).get("name")
    if choice in (None, False, "auto"):
        return "auto"
    if choice in (True, "any", "required"):
        return "required"
    if choice == "none" or choice in names:
        return str(choice)
    raise GaCInvalidRequestError(
        f"tool_choice {choice!r} is none of auto, any, required, none and the tools {list(names)}"
    )


def answer_form(options: Mapping[str, Any], *, parallel: bool) -> AnswerForm:
    """What the options of a call ask of the answer's form.

    Raises:
        GaCInvalidRequestError: tools or response format have a form that is not known.

    """
    tools = options.get("tools") or ()
    functions = tuple(tool.get("function", tool) for tool in tools)
    names = [str(function.get("name")) for function in functions]
    schema, is_shown = response_schema(options.get("response_format"))
    return AnswerForm(
        functions,
        tool_choice_name(options.get("tool_choice"), names) if functions else "auto",
        parallel=options.get("parallel_tool_calls", parallel) is not False,
        schema=schema,
        shows_schema=is_shown,
    )


def response_schema(wanted: Any) -> tuple[Mapping[str, Any] | None, bool]:
    """The JSON schema of a `response_format`, and whether the members are to be shown it.

    Args:
        wanted: a class, a JSON schema, a tool, or a dict as OpenAI's API has it. An object has no
            properties but those a schema names.

    Raises:
        GaCInvalidRequestError: it is none of them.

    """
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if wanted is None or kind == "text":
        return None, False
    if kind == "json_object":
        described = wanted.get("schema")
        return ({"type": "object"} if described is None else closed_schema(described)), False
    if kind == "json_schema":
        described = wanted.get("json_schema", wanted)
        schema = described.get("schema") if isinstance(described, Mapping) else None
        if not isinstance(schema, Mapping):
            raise GaCInvalidRequestError("response_format json_schema has no schema")
        return closed_schema(schema), True
    if isinstance(wanted, Mapping) and not {"title", "name", "function"} & wanted.keys():
        return closed_schema(wanted), True
    try:
        return closed_schema(convert_to_json_schema(wanted)), True
    except (TypeError, ValueError) as error:
        raise GaCInvalidRequestError(f"{wanted!r:.80} is no schema: {error}") from error
