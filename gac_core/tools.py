"""The one form in which every member is shown the tools and writes its calls.

Chat templates write tools in ways that contradict each other, and members that are to agree on
every token must agree on the form first. So tools are shown as text, which every template
carries, and a call is ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, the form most
open models have been trained on.

What is lost: a member whose own template has another form for tools does not see that form.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gac_core.errors import PromptError

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


# ---------------------------------------------------------------- reading calls


@dataclass(frozen=True)
class Call:
    """What stands between the tags of a call.

    Attributes:
        body: the text between them.
        name: of the tool; None if the body is no call.
        arguments: of the tool, likewise.
        error: what is wrong with the body, or None.

    """

    body: str
    name: str | None = None
    arguments: Mapping[str, Any] | None = None
    error: str | None = None

    @classmethod
    def of(cls, body: str) -> "Call":
        """Read a body."""
        try:
            value = json.loads(body)
        except ValueError as error:
            return cls(body, error=f"it is no JSON: {error}")
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return cls(body, error="it has no name")
        arguments = value.get("arguments", {})
        if not isinstance(arguments, dict):
            return cls(body, error="its arguments are no object")
        return cls(body, value["name"], arguments)


class CallReader:
    """Tells text and calls apart as they stream in; no piece of a tag leaks into the text."""

    def __init__(self) -> None:
        self._held = ""
        self._is_call = False

    def push(self, text: str) -> list[str | Call]:
        """The pieces of text and the calls that are certain now."""
        self._held += text
        found: list[str | Call] = []
        while True:
            tag = CALL_CLOSES if self._is_call else CALL_OPENS
            before, at, behind = self._held.partition(tag)
            if not at:
                break
            if self._is_call:
                found.append(Call.of(before.strip()))
            elif before:
                found.append(before)
            self._is_call = not self._is_call
            self._held = behind
        if not self._is_call:
            kept = max(n for n in range(len(CALL_OPENS)) if self._held.endswith(CALL_OPENS[:n]))
            certain = self._held[: len(self._held) - kept]
            self._held = self._held[len(certain) :]
            if certain:
                found.append(certain)
        return found

    def end(self) -> list[str | Call]:
        """What is left: text, or a call that was not closed."""
        held, self._held = self._held, ""
        if self._is_call:
            self._is_call = False
            call = Call.of(held.strip())
            return [call if call.name else Call(held, error="it was not closed")]
        return [held] if held else []


def read_calls(text: str) -> tuple[str, list[Call]]:
    """A whole answer as its text, outer blanks apart, and its calls."""
    reader = CallReader()
    pieces = [*reader.push(text), *reader.end()]
    said = "".join(piece for piece in pieces if isinstance(piece, str))
    return said.strip(), [piece for piece in pieces if isinstance(piece, Call)]


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
