"""Random JSON schemas, for tests and benchmarks of grammars."""

import random
from typing import Any

from gac_core import Grammar

NAMES = ("name", "age", "größe", "x y", "id", "tags", 'a"q', "city")
PATTERNS = (r"^[A-Z]{2}-\d{3}$", r"^(foo|ba[rz])+$", r"ab+c", r"^\d{4}-\d{2}$", r"^[a-zé]{1,5}$")
# A walk to the end could go round in these: another letter may come for ever.
LOOPING_PATTERNS = (r"^[a-z0-9]+([-+.'][a-z0-9]+)*@[a-z]+\.[a-z]+$", r"^[^@]+@[^@]+\.[^@]+$")
VALUES = ("red", "é", 'a"b', "\\", 1, 2.5, None, True, "blue")


def pattern_grammar(pattern: str, *, is_json: bool) -> Grammar:
    """Texts of a pattern, alone or as the property "s" of an object."""
    if not is_json:
        return Grammar.regex(pattern)
    text = {"type": "string", "pattern": pattern}
    return Grammar.json_schema({"type": "object", "properties": {"s": text}, "required": ["s"]})


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """Nested objects and arrays, enums, bounds, patterns, optional fields, unions."""
    simple = (_text, _pattern, _enum, _number, _number, _plain)
    nested = (_object, _array, _union)
    if depth == 0:
        return _object(rng, depth)
    return rng.choice(simple if depth > 2 else (*simple, *nested, *nested))(rng, depth)


def _text(rng: random.Random, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if rng.random() < 0.4:
        schema["minLength"] = rng.randint(0, 4)
    if rng.random() < 0.4:
        schema["maxLength"] = schema.get("minLength", 0) + rng.randint(0, 8)
    return schema


def _pattern(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"type": "string", "pattern": rng.choice(PATTERNS)}


def _enum(rng: random.Random, depth: int) -> dict[str, Any]:
    if rng.random() < 0.3:
        return {"const": rng.choice(VALUES)}
    return {"enum": rng.sample(VALUES, rng.randint(1, 4))}


def _number(rng: random.Random, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": rng.choice(("integer", "number"))}
    low = rng.randint(-50, 50)
    if rng.random() < 0.5:
        schema["minimum"] = low
    elif rng.random() < 0.5:
        schema["exclusiveMinimum"] = low
    if rng.random() < 0.5:
        schema["maximum"] = low + rng.randint(2, 200)
    return schema


def _plain(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"type": rng.choice(("boolean", "null"))}


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array", "items": random_schema(rng, depth + 1)}
    if rng.random() < 0.5:
        schema["minItems"] = rng.randint(0, 2)
    if rng.random() < 0.5:
        schema["maxItems"] = schema.get("minItems", 0) + rng.randint(0, 3)
    return schema


def _union(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [random_schema(rng, depth + 1) for _ in range(rng.randint(2, 3))]}


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(NAMES, rng.randint(1, 4))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: random_schema(rng, depth + 1) for name in names},
        "required": [name for name in names if rng.random() < 0.6],
    }
    if rng.random() < 0.6:
        schema["additionalProperties"] = False
    return schema
