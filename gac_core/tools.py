"""The one form in which every member is shown the tools and writes its calls.

Chat templates write tools in ways that contradict each other, and members that are to agree on
every token must agree on the form first. So tools are shown as text, which every template
carries, and a call is ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, the form most
open models have been trained on.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

CALL_OPENS: Final = "<tool_call>"
CALL_CLOSES: Final = "</tool_call>"

_HEADING: Final = "You can use these tools:"
_HOW_TO_CALL: Final = (
    f'To use one, write {CALL_OPENS}{{"name": ..., "arguments": {{...}}}}{CALL_CLOSES}'
)


def tools_text(functions: Sequence[Mapping[str, Any]]) -> str:
    """What the system message says of the tools: a signature and a description on a line each.

    `functions` are JSON-schema functions: name, description, parameters.
    """
    lines = []
    for function in functions:
        parameters = function.get("parameters") or {}
        defs = parameters.get("$defs", {})
        required = parameters.get("required", ())
        arguments = ", ".join(
            f"{name}{'' if name in required else '?'}: {type_text(schema, defs)}"
            for name, schema in parameters.get("properties", {}).items()
        )
        description = " ".join(str(function.get("description") or "").split())
        line = f"{function['name']}({arguments})"
        lines.append(f"{line} - {description}" if description else line)
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
