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

from gac_core.errors import PromptError
from gac_core.grammar.call_tags import CALL_CLOSES, CALL_OPENS

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


def text_of_calls(calls: object, where: str) -> str:
    """The calls of an assistant message, as OpenAI's API and transformers write them, as text.

    Raises:
        PromptError: they are not in that form.

    """
    if not isinstance(calls, Sequence) or isinstance(calls, (str, bytes)):
        raise PromptError(f"tool_calls of {where} must be a list, not {calls!r}")
    return "\n".join(_call_of(call, f"tool call {n} of {where}") for n, call in enumerate(calls))


def _call_of(call: object, where: str) -> str:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise PromptError(f'{where} must be {{"function": {{"name", "arguments"}}}}, not {call!r}')
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise PromptError(f"the arguments of {where} are no JSON: {error}") from error
    if not isinstance(arguments, Mapping):
        raise PromptError(f"the arguments of {where} must be an object, not {arguments!r}")
    return call_text(function["name"], arguments)
