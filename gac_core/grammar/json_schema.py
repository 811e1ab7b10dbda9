"""JSON schemas, rewritten: what the grammar engine reads, and the patterns a schema holds."""

import json
from collections.abc import Mapping
from typing import Any, Final

from gac_core.errors import GrammarError

# Keys whose value is a mapping from names to schemas, and keys whose value is data, no schema.
_BY_NAME: Final = ("properties", "patternProperties", "$defs", "definitions")
_DATA: Final = ("enum", "const", "default", "examples")

# One blank, or a new line and its indent: what models write, and no endless blanks.
_BLANKS: Final = {"whitespace_pattern": r"( |\n {0,16})?"}

# Formats that tell an interface how to show a text and do not restrict it; pydantic writes them.
_DISPLAY_FORMATS: Final = frozenset(
    "password path file-path directory-path binary base64 base64url json-string color".split()
)

# Patterns of formats whose texts the search for an end might not find by itself.
_DATE: Final = r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
_TIME: Final = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
_FORMATS: Final = {
    "email": r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}",
    "date-time": f"{_DATE}T{_TIME}",
    "date": _DATE,
    "time": _TIME,
    "duration": r"P(\d+D|\d*T\d+[HMS])",
}


def parsed_schema(schema: Any) -> Mapping[str, Any]:
    """A schema as a mapping, of which text and `True` are other forms.

    Raises:
        GrammarError: it is no schema.

    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise GrammarError(f"the JSON schema is no JSON: {error}") from error
    if schema is True:
        return {}
    if not isinstance(schema, Mapping):
        raise GrammarError(f"a JSON schema must be a mapping, not {schema!r}")
    return schema


def json_rule(schema: Mapping[str, Any]) -> str:
    """The JSON that fits a schema, as a rule of Lark.

    Raises:
        GrammarError: the schema can not be written as JSON.

    """
    guidance = {**_BLANKS, **(schema.get("x-guidance") or {})}
    try:
        return f"%json {json.dumps({**_without_display_formats(schema), 'x-guidance': guidance})}"
    except (TypeError, ValueError) as error:
        raise GrammarError(f"the JSON schema can not be written as JSON: {error}") from error


def _without_display_formats(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_display_formats(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: value if key in _DATA else _without_display_formats(value)
        for key, value in schema.items()
        if not (key == "format" and isinstance(value, str) and value in _DISPLAY_FORMATS)
    }


def patterns_in(schema: Any) -> list[str]:
    """The regular expressions of all string patterns in a schema, and of formats."""
    if isinstance(schema, Mapping):
        found = [p for v in schema.values() for p in patterns_in(v)]
        pattern, form = schema.get("pattern"), schema.get("format")
        if isinstance(pattern, str):
            found.append(pattern)
        if isinstance(form, str) and form in _FORMATS:
            found.append(_FORMATS[form])
        return found
    if isinstance(schema, list):
        return [p for v in schema for p in patterns_in(v)]
    return []


def arguments_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """The strict schema of what a JSON-schema function is called with.

    Raises:
        GrammarError: the function's parameters are no object.

    """
    parameters = function.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise GrammarError(f"the parameters of {function['name']!r} are no JSON schema")
    if parameters.get("type", "object") != "object":
        raise GrammarError(
            f"the parameters of {function['name']!r} must be an object, not {parameters['type']!r}"
        )
    schema: dict[str, Any] = strict_schema({"type": "object", "properties": {}, **parameters})
    return schema


def strict_schema(schema: Any) -> Any:
    """The schema, but an object has only the properties it names, where it names some.

    A schema that combines objects (`allOf`, or `properties` beside `anyOf`) is left as it is, since
    what one part names another would forbid.
    """
    return schema if _combines_objects(schema) else _strict(schema)


def _combines_objects(schema: Any) -> bool:
    if isinstance(schema, list):
        return any(map(_combines_objects, schema))
    if not isinstance(schema, Mapping):
        return False
    if len(schema.get("allOf") or ()) > 1:
        return True
    beside = {"allOf", "anyOf", "oneOf", "$ref", "if"} & schema.keys()
    if beside and isinstance(schema.get("properties"), Mapping):
        return True
    return any(_combines_objects(v) for key, v in schema.items() if key not in _DATA)


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    strict: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _BY_NAME and isinstance(value, Mapping):
            strict[key] = {name: _strict(part) for name, part in value.items()}
        else:
            strict[key] = value if key in _DATA else _strict(value)
    if "properties" in schema:
        strict.setdefault("additionalProperties", False)
    return strict
