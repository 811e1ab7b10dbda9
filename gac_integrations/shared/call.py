"""From the options of a call, as every framework writes them, to a request of gac_core."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from gac_core import ConfigError, SamplingParams
from gac_core.chat.prompt import Prompt
from gac_core.chat.response_format import AnswerForm
from gac_core.chat.tools import is_tool, read_tool, read_tools
from gac_core.grammar.json_schema import strict_schema
from gac_integrations.shared.deadline import Deadline
from gac_integrations.shared.options import CallDefaults, check_options, given, sampling_params

# The options that make an `AnswerForm`.
_FORM: Final = ("tools", "tool_choice", "parallel_tool_calls", "response_format")

ToSchema = Callable[[Any], Mapping[str, Any]]  # a class to its JSON schema


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
        defaults: CallDefaults,
        messages: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
        to_schema: ToSchema,
        *ignored: str,
    ) -> Self:
        """The request of a call.

        Args:
            defaults: the options that hold unless the call gives its own.
            messages: as gac_core takes them.
            options: of the call.
            to_schema: makes a JSON schema of a class.
            ignored: further options that the framework passes, which change nothing.

        Raises:
            ConfigError: an option is unknown or wrong.

        """
        check_options(options, *_FORM, *ignored)
        options = given(options)
        form = answer_form(options, to_schema, parallel=defaults.parallel_tool_calls)
        if (grammar := form.grammar()) is not None:
            options["grammar"] = grammar
        return cls(
            form.messages(messages),
            sampling_params(defaults, options),
            form,
            Deadline(options.get("timeout", defaults.timeout)),
        )


def tool_choice_name(choice: object, names: Sequence[str]) -> str:
    """A `tool_choice` of any of the usual forms as auto, none, required, or a tool's name.

    Raises:
        ConfigError: it is none of them.

    """
    if isinstance(choice, Mapping):
        function = choice.get("function", choice.get("tool", choice))
        named = function.get("name") if isinstance(function, Mapping) else None
        alone = next(iter(choice)) if len(choice) == 1 else None  # as Bedrock writes it
        choice = named or choice.get("type") or alone or choice
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
    """The form of the answer that the options of a call ask for.

    Raises:
        ConfigError: tools or response format have a form that is not known.

    """
    functions = tuple(read_tools(options.get("tools") or ()))
    names = [function["name"] for function in functions]
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

    That of a tool, in the form of any provider, is the schema of its arguments. None if it is no
    mapping.

    Raises:
        ConfigError: it is a tool that can not be called here.

    """
    if not isinstance(wanted, Mapping):
        return None
    if is_tool(wanted):
        tool = read_tool(wanted)
        told = {"title": tool["name"], "description": tool.get("description", "")}
        return {"type": "object", **told, **tool.get("parameters", {})}
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
