"""The schemas within a JSON schema, told from names and from data by the keyword they stand at."""

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

# What stands at a keyword: schemas by names that are free, one schema or a list of them. All else
# is data, such as the values of `enum` and `default`.
_BY_NAME: Final = frozenset(
    "properties patternProperties $defs definitions dependentSchemas dependencies".split()
)
_SCHEMAS: Final = frozenset(
    "additionalProperties unevaluatedProperties propertyNames items additionalItems prefixItems "
    "unevaluatedItems contains allOf anyOf oneOf not if then else contentSchema".split()
)


def copied(value: Any) -> Any:
    """A copy of a schema, of mappings and lists that may be changed."""
    if isinstance(value, Mapping):
        return {name: copied(part) for name, part in value.items()}
    return [copied(part) for part in value] if isinstance(value, list | tuple) else value


def subschemas(root: Any) -> Iterator[dict[str, Any]]:
    """A schema and all schemas in it, each once, the outer before the inner.

    One that was yielded may be changed before the next is asked for.

    Args:
        root: made by `copied`.

    """
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, list):
            waiting += reversed(schema)
        elif isinstance(schema, dict) and id(schema) not in seen:
            seen.add(id(schema))
            yield schema
            waiting += reversed(list(_inner(schema, root)))


def _inner(schema: dict[str, Any], root: Any) -> Iterator[Any]:
    for key, value in schema.items():
        if key in _BY_NAME and isinstance(value, dict):
            yield from value.values()
        elif key in _SCHEMAS:
            yield value
        elif key == "$ref":  # to a place that need not be at a keyword, as in OpenAPI
            yield referred(value, root)


def referred(reference: Any, root: Any) -> Any:
    """What a reference within a schema points to; None if that is nothing, or outside of it."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    place = root
    for step in unquote(reference).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(place, list) and name.isdecimal() and int(name) < len(place):
            place = place[int(name)]
        elif isinstance(place, dict) and name in place:
            place = place[name]
        else:
            return None
    return place
