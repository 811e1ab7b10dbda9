"""`propertyNames` of a JSON schema, which the engine does not know, as keywords that it knows."""

import json
from typing import Any, Final

from gac_core.errors import GrammarError
from gac_core.grammar.formats import FREE_FORMATS, pattern_of_names
from gac_core.grammar.subschemas import referred

_SAYS_NOTHING: Final = frozenset("title description default examples deprecated $comment".split())


def enforce_names(schema: dict[str, Any], root: Any) -> None:
    """Say what `propertyNames` of a schema says as properties that may be left out, or a pattern.

    Args:
        schema: to be changed.
        root: the schema in which it stands.

    Raises:
        GrammarError: it can not be said so.

    """
    if "propertyNames" not in schema:
        return
    wanted = schema.pop("propertyNames")
    says = _resolved(wanted, root)
    if says is True or says in ({}, {"type": "string"}):
        return
    properties = schema.get("properties") or {}
    others = schema.pop("additionalProperties", True)
    schema["additionalProperties"] = False
    names = _enumerated(says, root)
    if names is not None and "patternProperties" not in schema:
        allowed = {name: properties.get(name, others) for name in names}
        schema["properties"] = {n: part for n, part in allowed.items() if part is not False}
        return
    pattern = _pattern(says)
    if pattern is None or properties or "patternProperties" in schema:
        raise GrammarError(
            f"the JSON schema has propertyNames {json.dumps(wanted, default=repr)}, which can not "
            "be enforced here; list the names as enum, or give a pattern for them alone, without "
            "properties and patternProperties beside it"
        )
    schema["patternProperties"] = {pattern: others}


def _resolved(schema: Any, root: Any) -> Any:
    """A schema without references and without what only describes."""
    seen: list[str] = []
    while isinstance(schema, dict):
        schema = {key: value for key, value in schema.items() if key not in _SAYS_NOTHING}
        if list(schema) != ["$ref"] or schema["$ref"] in seen:
            return schema
        seen.append(schema["$ref"])
        schema = referred(schema["$ref"], root)
    return schema


def _enumerated(schema: Any, root: Any) -> list[str] | None:
    """The names that a schema lists; None if it lists none.

    Numbers, as of an enumeration of numbers, are names as JSON writes them.
    """
    schema = _resolved(schema, root)
    if not isinstance(schema, dict):
        return None
    keys = schema.keys() - {"type"}
    if keys == {"const"}:
        return [_name(schema["const"])]
    if keys == {"enum"} and isinstance(schema["enum"], list):
        return [_name(value) for value in schema["enum"]]
    if keys in ({"anyOf"}, {"oneOf"}, {"allOf"}):
        (parts,) = (schema[key] for key in keys)
        if "allOf" in keys and len(parts) != 1:
            return None
        listed = [_enumerated(part, root) for part in parts]
        known = [names for names in listed if names is not None]
        return [n for names in known for n in names] if len(known) == len(listed) else None
    return None


def _name(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=repr)


def _pattern(schema: Any) -> str | None:
    """The pattern of the names that a schema describes; None if there is no single one."""
    if not isinstance(schema, dict) or schema.get("type", "string") != "string":
        return None
    keys = schema.keys() - {"type"}
    if keys == {"pattern"} and isinstance(schema["pattern"], str):
        return schema["pattern"]
    if keys == {"format"} and isinstance(schema["format"], str):
        if schema["format"] in FREE_FORMATS:
            return "^(?s:.*)$"
        pattern = pattern_of_names(schema["format"])
        return f"^({pattern})$" if pattern else None
    if keys <= {"minLength", "maxLength"}:
        return f"^(?s:.{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}})$"
    return None
