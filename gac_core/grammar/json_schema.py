"""JSON schemas, rewritten: what the grammar engine reads, and the patterns a schema holds."""

import json
from collections.abc import Mapping
from typing import Any, Final

from gac_core.errors import GrammarError
from gac_core.grammar.formats import FREE_FORMATS, HINTS, pattern_of_format, without_lookahead
from gac_core.grammar.property_names import enforce_names
from gac_core.grammar.regex import engine_regex
from gac_core.grammar.subschemas import copied, subschemas

# One blank, or a new line and its indent: what models write, and no endless blanks.
_BLANKS: Final = {"whitespace_pattern": r"( |\n {0,16})?"}


def parsed_schema(schema: Any) -> Mapping[str, Any]:
    """A schema as a mapping, of which text and `True` are other forms.

    Raises:
        GrammarError: it is no schema.

    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema.removeprefix("\ufeff"))  # the byte order mark of a file
        except ValueError as error:
            raise GrammarError(f"the JSON schema is no JSON: {error}") from error
    if schema is True:
        return {}
    if not isinstance(schema, Mapping):
        raise GrammarError(f"a JSON schema must be a mapping, not {schema!r}")
    return schema


def enforced_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as the engine can enforce it, which does not know all keywords and formats.

    Raises:
        GrammarError: the names of an object's properties can not be enforced.

    """
    enforced: dict[str, Any] = copied(schema)
    for part in subschemas(enforced):
        enforce_names(part, enforced)
        form = part.get("format")
        if isinstance(form, str) and (form in FREE_FORMATS or pattern_of_format(form)):
            del part["format"]
            if pattern := pattern_of_format(form):
                _add_pattern(part, f"^({pattern})$")
        if isinstance(pattern := part.get("pattern"), str):
            part["pattern"] = without_lookahead(pattern)
    return enforced


def _add_pattern(schema: dict[str, Any], pattern: str) -> None:
    if "pattern" not in schema:
        schema["pattern"] = pattern
    else:
        schema["allOf"] = [*schema.get("allOf", ()), {"pattern": pattern}]


def patterns_in(schema: dict[str, Any]) -> list[str]:
    """The regular expressions of all texts and names in a schema, and of formats."""
    found: list[str] = []
    for part in subschemas(schema):
        found += [name for name in part.get("patternProperties") or () if isinstance(name, str)]
        found += [part["pattern"]] if isinstance(part.get("pattern"), str) else []
        found += [HINTS[form]] if (form := part.get("format")) in HINTS else []
    return found


def json_rule(schema: Mapping[str, Any]) -> str:
    """The JSON that fits a schema, as a rule of Lark.

    Args:
        schema: one of `enforced_schema`.

    Raises:
        GrammarError: the schema can not be written as JSON.

    """
    plain = copied(schema)
    for part in subschemas(plain):
        if isinstance(pattern := part.get("pattern"), str):
            part["pattern"] = engine_regex(pattern)
        if isinstance(named := part.get("patternProperties"), dict):
            part["patternProperties"] = {engine_regex(str(name)): p for name, p in named.items()}
    plain["x-guidance"] = {**_BLANKS, **(plain.get("x-guidance") or {})}
    try:
        return f"%json {json.dumps(plain, ensure_ascii=False)}"
    except (TypeError, ValueError, RecursionError) as error:
        raise GrammarError(f"the JSON schema can not be written as JSON: {error}") from error


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

    A pattern names, too: pydantic describes a dict with keys of a pattern by it alone.

    A schema that combines objects (`allOf`, or `properties` beside `anyOf`) is left as it is, since
    what one part names another would forbid.
    """
    strict = copied(schema)
    if any(map(_combines_objects, subschemas(strict))):
        return schema
    for part in subschemas(strict):
        if "properties" in part or "patternProperties" in part:
            part.setdefault("additionalProperties", False)
    return strict


def _combines_objects(schema: dict[str, Any]) -> bool:
    if len(schema.get("allOf") or ()) > 1:
        return True
    beside = {"allOf", "anyOf", "oneOf", "$ref", "if"} & schema.keys()
    return bool(beside) and isinstance(schema.get("properties"), dict)
