"""Tools and calls as text: the one form in which every member reads and writes them.

Chat templates write tools in ways that contradict each other, and members that are to agree on
every token must agree on the form first. So tools are shown as text, which every template
carries, and a call is ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, the form most
open models have been trained on. `call_reader.py` reads calls back.

What is lost: a member whose own template has another form for tools does not see that form.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gac_core.errors import ConfigError, PromptError
from gac_core.grammar.call_tags import CALL_CLOSES, CALL_OPENS

# Under which names the schema of a tool's arguments, a call's arguments, and its id come.
_SCHEMAS: Final = (
    *("parameters", "input_schema", "inputSchema"),
    *("parameters_json_schema", "parametersJsonSchema"),
)
_ARGUMENTS: Final = ("arguments", "args", "input", "parameters")
_IDS: Final = ("call_id", "tool_use_id", "toolUseId", "tool_call_id", "id")
_NO_ARGUMENTS: Final = ("outputSchema", "output_schema", "annotations", "_meta")

_HEADING: Final = "You can use these tools:"
_HOW_TO_CALL: Final = (
    f'To use one, write {CALL_OPENS}{{"name": ..., "arguments": {{...}}}}{CALL_CLOSES}'
)


def tools_text(functions: Sequence[Mapping[str, Any]]) -> str:
    """The tools as the system message shows them: a signature and a description on a line each.

    Args:
        functions: JSON-schema functions: name, description, parameters.

    """
    lines = []
    for function in functions:
        parameters = function.get("parameters") or {}
        defs = {**parameters.get("definitions", {}), **parameters.get("$defs", {})}
        required = parameters.get("required", ())
        arguments = ", ".join(
            f"{name}{'' if name in required else '?'}: {type_text(schema, defs)}"
            for name, schema in parameters.get("properties", {}).items()
        )
        description = " ".join(str(function.get("description") or "").split())
        line = f"{function['name']}({arguments})"
        lines.append(f"{line} - {description}" if description else line)
        for name, schema in parameters.get("properties", {}).items():
            if isinstance(schema, Mapping) and (described := schema.get("description")):
                lines.append(f"  {name}: {' '.join(str(described).split())}")
    return "\n".join([_HEADING, *lines, _HOW_TO_CALL])


def call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as every member writes and reads it."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"{CALL_OPENS}{body}{CALL_CLOSES}"


def type_text(schema: Any, defs: Mapping[str, Any], depth: int = 0) -> str:
    """A JSON schema as the type a programmer would write, such as ``"a" | "b" | integer[]``."""
    if not isinstance(schema, Mapping) or depth > 8:  # a recursive schema ends somewhere
        return "any"
    if reference := schema.get("$ref"):
        return type_text(defs.get(str(reference).rpartition("/")[2]), defs, depth + 1)
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    if "enum" in schema:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            options = [type_text(option, defs, depth + 1) for option in schema[union]]
            return " | ".join(dict.fromkeys(options))
    if len(schema.get("allOf", ())) == 1:
        return type_text(schema["allOf"][0], defs, depth + 1)
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        return " | ".join(str(k) for k in kind)
    if kind == "array":
        item = type_text(schema.get("items", {}), defs, depth + 1)
        return f"({item})[]" if " | " in item else f"{item}[]"
    if kind == "object" and schema.get("properties"):
        required = schema.get("required", ())
        fields = ", ".join(
            f"{name}{'' if name in required else '?'}: {type_text(field, defs, depth + 1)}"
            for name, field in schema["properties"].items()
        )
        return f"{{{fields}}}"
    return str(kind)


def read_calls(calls: object, where: str) -> list[dict[str, Any]]:
    """The calls of an assistant message, each as `read_call` gives it; none for None.

    Raises:
        PromptError: they can not be read.

    """
    if calls is None:
        return []
    if not isinstance(calls, Sequence) or isinstance(calls, (str, bytes)):
        raise PromptError(f"tool_calls of {where} must be a list, not {calls!r}")
    return [read_call(call, f"tool call {n} of {where}") for n, call in enumerate(calls)]


def read_call(call: object, where: str) -> dict[str, Any]:
    """A call in the form of any provider as ``{"id", "function": {"name", "arguments"}}``.

    No arguments may be missing, None, an empty text or null; others are an object or its JSON.

    Raises:
        PromptError: it has no name, or its arguments are no object.

    """
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise PromptError(f'{where} must be {{"function": {{"name", "arguments"}}}}, not {call!r}')
    assert isinstance(call, Mapping)
    arguments = next((function[key] for key in _ARGUMENTS if key in function), None)
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments.strip() or "{}")
        except ValueError as error:
            raise PromptError(f"the arguments of {where} are no JSON: {error}") from error
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise PromptError(f"the arguments of {where} must be an object, not {arguments!r}")
    number = next((call[key] for key in _IDS if call.get(key)), None)
    return {"id": number, "function": {"name": function["name"], "arguments": arguments}}


def text_of_calls(calls: Sequence[Mapping[str, Any]]) -> str:
    """Calls in the form of `read_call` as text."""
    return "\n".join(call_text(**call["function"]) for call in calls)


def read_tools(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """Tools as `read_tool` gives them, but for marks for a cache that stand between them."""
    return [read_tool(tool) for tool in tools if not is_cache_mark(tool)]


def is_cache_mark(tool: object) -> bool:
    """Whether it is no tool, but tells a provider what to keep."""
    return isinstance(tool, Mapping) and tool.keys() == {"cachePoint"}


def is_tool(value: object) -> bool:
    """Whether a mapping describes a tool in a form of some provider, and is no JSON schema."""
    return isinstance(value, Mapping) and bool(value.keys() & {"function", "toolSpec", *_SCHEMAS})


def read_tool(tool: object) -> dict[str, Any]:
    """A tool in the form of any provider as a JSON-schema function: name, description, parameters.

    That is OpenAI's (chat and Responses), Anthropic's, Bedrock's, Gemini's or an MCP server's.
    Members are shown nothing else of it: no title, annotations, examples, or schema of its output.

    Raises:
        ConfigError: it has no name, or is none that can be called here.

    """
    spec = tool.get("function", tool.get("toolSpec", tool)) if isinstance(tool, Mapping) else None
    if not isinstance(spec, Mapping) or not isinstance(tool, Mapping):
        raise ConfigError(f"{tool!r:.80} is no tool; give name, description and parameters")
    schema = next((spec[key] for key in _SCHEMAS if spec.get(key) is not None), None)
    if schema is None and "properties" in spec:  # a schema with a name
        schema = {key: value for key, value in spec.items() if key != "name"}
    kind = tool.get("type")
    is_described = schema is not None and kind in ("custom", "object")
    if kind not in (None, "function") and not is_described:
        raise ConfigError(
            f"{tool!r:.80} is no tool that can be called here: {kind!r} is run by its provider, or "
            "takes free text; give a function with name, description and parameters"
        )
    if not isinstance(spec.get("name"), str):
        raise ConfigError(f"{tool!r:.80} is no tool that can be called here; it has no name")
    if schema is None and (stray := _schema_elsewhere(spec)):
        raise ConfigError(
            f"the tool {spec['name']!r} has a schema in {stray!r}; call it parameters"
        )
    if isinstance(schema, Mapping) and schema.keys() == {"json"}:  # Bedrock's
        schema = schema["json"]
    kept = {"name": spec["name"], "description": spec.get("description"), "parameters": schema}
    return {key: value for key, value in kept.items() if value is not None}


def _schema_elsewhere(spec: Mapping[str, Any]) -> str | None:
    """The key of what looks like the schema of the arguments, under a name that nobody knows."""
    for key, value in spec.items():
        if key not in _NO_ARGUMENTS and isinstance(value, Mapping) and "properties" in value:
            return key
    return None
