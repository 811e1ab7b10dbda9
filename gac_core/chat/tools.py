"""The one form in which every member is shown the tools and writes its calls.

Chat templates write tools in ways that contradict each other, and members that are to agree on
every token must agree on the form first. So tools are shown as text, which every template
carries, and a call is ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, the form most
open models have been trained on.

What is lost: a member whose own template has another form for tools does not see that form.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gac_core.errors import PromptError
from gac_core.grammar.call_tags import CALL_CLOSES, CALL_OPENS

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
            if isinstance(schema, Mapping) and (told := schema.get("description")):
                lines.append(f"  {name}: {' '.join(str(told).split())}")
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

_CALL_BEGINS: Final = re.compile(r'\s*\{"name": ("(?:[^"\\]|\\.)*"), "arguments": ')
_LAST_BRACKET: Final = re.compile(r"\}\s*$")
_MAY_BE_LAST: Final = re.compile(  # ... and a tag that begins behind it
    r"\}\s*(" + "|".join(CALL_CLOSES[:n] for n in range(len(CALL_CLOSES))) + ")$"
)
_QUOTE: Final = re.compile(r'\\.|(")', re.DOTALL)  # not escaped


@dataclass(frozen=True)
class Call:
    """What stands between the tags of a call.

    Attributes:
        body: the text between them.
        name: of the tool; None if the body is no call.
        arguments: of the tool, likewise.
        error: what is wrong with the body, or None.
        was_told: whether it was told in parts before.

    """

    body: str
    name: str | None = None
    arguments: Mapping[str, Any] | None = None
    error: str | None = None
    was_told: bool = field(default=False, compare=False)

    @property
    def text(self) -> str:
        """What was written, tags included."""
        return f"{CALL_OPENS}{self.body}{CALL_CLOSES}"

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


@dataclass(frozen=True)
class CallPart:
    """A piece of a call that is still being written.

    Attributes:
        name: of the tool, in the first piece of a call.
        arguments: the next characters of the JSON of its arguments.

    """

    name: str | None
    arguments: str


class CallReader:
    """Tells text and calls apart as they stream in; no piece of a tag leaks into the text.

    A call in the form of `call_text` is told in parts as it is written, and as a whole behind them.
    Blanks between two calls are no text.

    Args:
        comes_first: whether there are calls only in an answer that begins with one.

    """

    def __init__(self, *, comes_first: bool = False) -> None:
        self._held = ""
        self._is_call = False
        self._is_behind_call = False
        self._may_call = True
        self._comes_first = comes_first
        self._told: int | None = None  # characters of this call's body that were told in parts

    def push(self, text: str) -> list[str | CallPart | Call]:
        """The pieces of text and of calls that are certain now."""
        self._held += text
        found: list[str | CallPart | Call] = []
        while True:
            if self._is_call:
                found += self._parts()
                at = _end_of_call(self._held)
                if at < 0:
                    return found
                found.append(self._whole(self._held[:at].strip()))
                self._held = self._held[at + len(CALL_CLOSES) :]
                continue
            before, is_open, behind = self._held.partition(CALL_OPENS)
            if not is_open:
                kept = max(n for n in range(len(CALL_OPENS)) if before.endswith(CALL_OPENS[:n]))
                before, behind = before[: len(before) - kept], before[len(before) - kept :]
            if self._is_behind_call and not before.strip():
                if not is_open:
                    return found
                before = ""
            if before and self._comes_first and not self._is_behind_call:
                self._may_call = False
            if not self._may_call:
                before, is_open, behind = self._held, "", ""
            if before:
                found.append(before)
                self._is_behind_call = False
            self._held = behind
            if not is_open:
                return found
            self._is_call = True

    def end(self, *, is_cut: bool = False) -> list[str | CallPart | Call]:
        """What is left: text, or a call that was not closed.

        Args:
            is_cut: whether the answer had to end here, so that the beginning of a tag is no text.

        """
        held, self._held = self._held, ""
        if not self._is_call:
            is_tag = is_cut and len(held) > 1 and CALL_OPENS.startswith(held)
            is_blank = self._is_behind_call and not held.strip()
            return [held] if held and not is_tag and not is_blank else []
        call = self._whole(held.strip())
        return [call if call.name else replace(call, body=held, error="it was not closed")]

    def _whole(self, body: str) -> Call:
        call = replace(Call.of(body), was_told=self._told is not None)
        self._is_call, self._told, self._is_behind_call = False, None, True
        return call

    def _parts(self) -> list[CallPart]:
        """The name once it is there, then the arguments, but for what may belong to the end."""
        opening = _CALL_BEGINS.match(self._held)
        if opening is None:
            return []
        name = json.loads(opening[1]) if self._told is None else None
        begin = opening.end() if self._told is None else self._told
        tag = _end_of_call(self._held)
        if tag < 0:
            arguments = _MAY_BE_LAST.sub("", self._held[begin:])
        else:
            arguments = _LAST_BRACKET.sub("", self._held[begin:tag])
        self._told = begin + len(arguments)
        return [CallPart(name, arguments)] if name is not None or arguments else []


def _end_of_call(body: str) -> int:
    """Where the closing tag begins, strings apart, which may hold one; -1 if it is not there."""
    at = body.find(CALL_CLOSES)
    while at >= 0 and sum(map(bool, _QUOTE.findall(body, 0, at))) % 2:
        at = body.find(CALL_CLOSES, at + 1)
    return at


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
