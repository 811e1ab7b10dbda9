"""What an answer must look like: JSON of a schema, a regular expression, choices, tool calls.

A `Grammar` is a language of texts, checked when it is made; `constraint.py` holds answers to it.
The engine is llguidance, and what it can not enforce, it refuses.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any, Final, Literal

from llguidance import LLMatcher, LLTokenizer

from gac_core.errors import GrammarError
from gac_core.grammar.call_tags import CALL_CLOSES, CALL_OPENS
from gac_core.grammar.completion import short_end

Kind = Literal["json_schema", "regex", "choice", "tools"]

# Forced text must not be held to one spelling: members cut it into units each in its own way.
OPTIONS: Final = '%llguidance {"no_forcing": true}\n'
# One blank, or a new line and its indent: what models write, and no endless blanks.
_BLANKS: Final = {"whitespace_pattern": r"( |\n {0,16})?"}


@dataclass(frozen=True)
class Grammar:
    """A language that an answer is held to; make one with a class method.

    Attributes:
        kind: what it was made of.
        lark: the language, as llguidance reads it.
        patterns: regular expressions of texts within it.
        begins_free: whether an answer may be free text, which a stop string may end.

    """

    kind: Kind
    lark: str
    patterns: tuple[str, ...] = ()
    begins_free: bool = False

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str | bool) -> "Grammar":
        """JSON that fits a JSON schema (draft 2020-12); `{}` is any JSON.

        Raises:
            GrammarError: the schema is none, holds what can not be enforced, or nothing fits it.

        """
        grammar = cls(
            "json_schema", f"start: {_json_rule(schema)}\n", tuple(_patterns_in(_parsed(schema)))
        )
        return grammar._checked("the JSON schema")

    @classmethod
    def regex(cls, pattern: str) -> "Grammar":
        r"""Text that a regular expression matches as a whole; `.` is any character but \n.

        Raises:
            GrammarError: it is none, uses look-around or back-references, or nothing fits it.

        """
        if not isinstance(pattern, str):
            raise GrammarError(f"a regular expression must be a string, not {pattern!r}")
        return cls("regex", _regex_lark(pattern), (pattern,))._checked("the regular expression")

    @classmethod
    def choice(cls, choices: Sequence[str]) -> "Grammar":
        """One of these texts.

        Raises:
            GrammarError: there is none, or one is empty or not a string.

        """
        if isinstance(choices, str) or not choices:
            raise GrammarError(f"choices must be a list of one text or more, not {choices!r}")
        if wrong := [c for c in choices if not isinstance(c, str) or not c]:
            raise GrammarError(f"each choice must be a text of one character or more: {wrong[0]!r}")
        options = " | ".join(_literal(c) for c in dict.fromkeys(choices))
        return cls("choice", f"start: {options}\n")._checked("the list of choices")

    @classmethod
    def tools(
        cls,
        functions: Sequence[Mapping[str, Any]],
        *,
        required: bool = False,
        parallel: bool = True,
        otherwise: Mapping[str, Any] | None = None,
    ) -> "Grammar":
        """Calls of tools in the form of `chat.tools`, each with arguments that fit its schema.

        Args:
            functions: JSON-schema functions (name, description, parameters) that may be called.
            required: whether there must be a call, and nothing before it. Without, there may be
                free text, and calls behind it.
            parallel: whether there may be several calls.
            otherwise: a JSON schema of what an answer without a call is, instead of free text.

        Raises:
            GrammarError: there is no function, two have one name, or a schema can not be enforced.

        """
        names = [str(function["name"]) for function in functions]
        if not names:
            raise GrammarError("tools need one function or more")
        if len(set(names)) < len(names):
            raise GrammarError(f"two tools have the same name: {names}")
        is_bare = required or otherwise is not None  # nothing comes before a call
        patterns: list[str] = []
        start = "calls" if required else "calls | TEXT"
        if otherwise is not None and not required:
            _check_schema(otherwise, "the JSON schema")
            patterns += _patterns_in(otherwise)
            start = f"calls | {_json_rule(otherwise)}"
        lines = [
            f"start: {start}",
            f"calls: {'OPENS' if is_bare else 'opens'} one"
            + (" (BREAK OPENS one)*" if parallel else ""),
            f"one: ({' | '.join(f'call{n}' for n in range(len(names)))}) {_literal(CALL_CLOSES)}",
            f"OPENS: {_literal(CALL_OPENS)}",
            f"opens[lazy]: TEXT {_literal(CALL_OPENS)}",
            r"BREAK: /\n?/",
            "TEXT: /(.|\\n)*/",
        ]
        for number, function in enumerate(functions):
            schema = _arguments_schema(function)
            _check_schema(schema, f"the schema of the tool {names[number]!r}")
            patterns += _patterns_in(schema)
            opens = f'{{"name": {json.dumps(names[number], ensure_ascii=False)}, "arguments": '
            lines.append(f'call{number}: {_literal(opens)} {_json_rule(schema)} "}}"')
        made = cls("tools", "\n".join(lines) + "\n", tuple(patterns), begins_free=not is_bare)
        return made._checked("the list of tools")

    @cached_property
    def hints(self) -> tuple[bytes, ...]:
        """Texts of the patterns and formats: what a search for an end may have to write."""
        if self.kind == "regex":
            return ()
        texts = (rest_of_json_text(p, "") for p in dict.fromkeys(self.patterns))
        return tuple(text for text in texts if text)

    def _checked(self, what: str) -> "Grammar":
        matcher = byte_matcher(self.lark)
        if matcher.is_error():
            raise GrammarError(f"{what} can not be enforced: {reason(matcher.get_error())}")
        matcher.compute_bitmask()
        if matcher.is_stopped() and not matcher.is_accepting():
            raise GrammarError(f"no text fits {what}")
        return self


@cache
def byte_tokenizer() -> LLTokenizer:
    """A vocabulary of single bytes, for checks and for the search for an end."""
    return LLTokenizer("byte")


def byte_matcher(lark: str) -> LLMatcher:
    """The language over single bytes."""
    return LLMatcher(byte_tokenizer(), OPTIONS + lark, log_level=0)


# Texts of some formats of JSON schema, in which a search for an end could lose its way.
_DATE: Final = r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
_TIME: Final = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
_FORMATS: Final = {
    "email": r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}",
    "date-time": f"{_DATE}T{_TIME}",
    "date": _DATE,
    "time": _TIME,
    "duration": r"P(\d+D|\d*T\d+[HMS])",
}


def rest_of_json_text(pattern: str, text: str) -> bytes | None:
    """How a text goes on that a pattern matches, as it stands in JSON, best without escapes."""
    prefix = text.encode()
    plain = shortest_match(pattern, prefix, characters=r'[^"\\\x00-\x1f\x7f]')
    rest = shortest_match(pattern, prefix) if plain is None else plain
    if rest is None:
        return None
    return json.dumps(rest.decode(errors="replace"), ensure_ascii=False)[1:-1].encode()


@lru_cache(maxsize=256)
def shortest_match(
    pattern: str, prefix: bytes = b"", limit: int = 4096, characters: str = "."
) -> bytes | None:
    """The rest of the shortest text that the pattern matches and that begins with the prefix.

    Lengths are tried by intersection with "at most n characters", which the engine decides exactly.

    Args:
        pattern: a regular expression.
        prefix: how the text begins.
        limit: characters at most.
        characters: which may be in it, as a regular expression of one.

    """

    def matcher(length: int) -> LLMatcher | None:
        lark = f"start: X\nX: {_slashed(pattern)} & /(?s:{characters}{{0,{length}}})/\n"
        found = byte_matcher(lark)
        if found.is_error() or found.try_consume_tokens(list(prefix)) < len(prefix):
            return None
        found.compute_bitmask()
        return None if found.is_stopped() and not found.is_accepting() else found

    low, high = 0, len(prefix) + 8
    while matcher(high) is None:
        low, high = high + 1, 2 * high
        if high > limit:
            return None
    while low < high:
        middle = (low + high) // 2
        if matcher(middle) is None:
            low = middle + 1
        else:
            high = middle
    found = matcher(high)
    assert found is not None
    return short_end(found)


# ---------------------------------------------------------------- notation


def _literal(text: str) -> str:
    """A text as a literal of the engine's notation, which is that of JSON."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007f")


def _slashed(pattern: str) -> str:
    """A regular expression between slashes."""
    escaped = re.sub(r"(\\.)|/", lambda m: m[1] or r"\/", pattern, flags=re.DOTALL)
    return "/" + escaped.replace("\n", r"\n") + "/"


def _regex_lark(pattern: str) -> str:
    return f"start: X\nX: {_slashed(pattern)}\n"


def _parsed(schema: Any) -> Any:
    if not isinstance(schema, str):
        return schema
    try:
        return json.loads(schema)
    except ValueError as error:
        raise GrammarError(f"the JSON schema is no JSON: {error}") from error


def _json_rule(schema: Any) -> str:
    parsed = _parsed(schema)
    if parsed is True:
        parsed = {}
    if not isinstance(parsed, Mapping):
        raise GrammarError(f"a JSON schema must be a mapping, not {parsed!r}")
    guidance = {**_BLANKS, **(parsed.get("x-guidance") or {})}
    try:
        return f"%json {json.dumps({**_without_notes(parsed), 'x-guidance': guidance})}"
    except (TypeError, ValueError) as error:
        raise GrammarError(f"the JSON schema can not be written as JSON: {error}") from error


# Formats that say how to show a text, not how it looks; pydantic writes them.
_NOTES: Final = frozenset(
    "password path file-path directory-path binary base64 base64url json-string color".split()
)


def _without_notes(schema: Any) -> Any:
    """The schema without formats that mean nothing for the text."""
    if isinstance(schema, list):
        return [_without_notes(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: value if key in _LITERAL else _without_notes(value)
        for key, value in schema.items()
        if not (key == "format" and isinstance(value, str) and value in _NOTES)
    }


_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions")
_LITERAL: Final = ("enum", "const", "default", "examples")


def strict_schema(schema: Any) -> Any:
    """The schema, but an object has only the properties it names, where it names some.

    A schema that puts objects together (`allOf`, or `properties` beside `anyOf`) is left as it is,
    since what one part names another would forbid.
    """
    return schema if _puts_together(schema) else _closed(schema)


def _puts_together(schema: Any) -> bool:
    if isinstance(schema, list):
        return any(map(_puts_together, schema))
    if not isinstance(schema, Mapping):
        return False
    if len(schema.get("allOf") or ()) > 1:
        return True
    beside = {"allOf", "anyOf", "oneOf", "$ref", "if"} & schema.keys()
    if beside and "properties" in schema and isinstance(schema.get("properties"), Mapping):
        return True
    return any(_puts_together(v) for key, v in schema.items() if key not in _LITERAL)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    closed: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            closed[key] = {name: _closed(part) for name, part in value.items()}
        else:
            closed[key] = value if key in _LITERAL else _closed(value)
    if "properties" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


def _arguments_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    parameters = function.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise GrammarError(f"the parameters of {function['name']!r} are no JSON schema")
    if parameters.get("type", "object") != "object":
        raise GrammarError(
            f"the parameters of {function['name']!r} must be an object, not {parameters['type']!r}"
        )
    closed: dict[str, Any] = strict_schema({"type": "object", "properties": {}, **parameters})
    return closed


def _check_schema(schema: Any, what: str) -> None:
    Grammar("json_schema", f"start: {_json_rule(schema)}\n")._checked(what)


def _patterns_in(schema: Any) -> list[str]:
    """The regular expressions of all string patterns in a schema, and of formats."""
    if isinstance(schema, Mapping):
        found = [p for v in schema.values() for p in _patterns_in(v)]
        pattern, form = schema.get("pattern"), schema.get("format")
        if isinstance(pattern, str):
            found.append(pattern)
        if isinstance(form, str) and form in _FORMATS:
            found.append(_FORMATS[form])
        return found
    if isinstance(schema, list):
        return [p for v in schema for p in _patterns_in(v)]
    return []


def reason(error: str) -> str:
    """The engine's message without the listing of the grammar."""
    lines = [line for line in error.splitlines() if not re.match(r"\s*\d+ \||\s*\^+\s*$", line)]
    text = " ".join(" ".join(lines).split())
    return re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", text)
