"""JSON schemas as users and libraries write them: names, formats, decimals, keys from a list."""

import json
import re
import string
from enum import Enum, IntEnum
from fractions import Fraction
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID, uuid1, uuid3, uuid4, uuid5

import pydantic
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field, TypeAdapter, create_model

from gac_core import Ensemble, GrammarError
from gac_core.chat.tools import call_text
from gac_core.grammar.completion import short_text
from gac_core.grammar.formats import without_lookahead
from gac_core.grammar.grammar import Grammar
from gac_core.grammar.json_schema import strict_schema
from gac_core.grammar.matcher import byte_matcher

CHAT = [{"role": "user", "content": "Hello"}]
# Names of properties that are keywords elsewhere.
KEYWORDS = (
    "default enum const examples type format pattern properties patternProperties $defs items "
    "propertyNames allOf anyOf $ref required additionalProperties x-guidance if not"
).split()


def fits(grammar: Grammar, text: str) -> bool:
    matcher = byte_matcher(grammar.lark)
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and bool(matcher.is_accepting())


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def as_tool(schema: dict[str, Any]) -> Grammar:
    return Grammar.tools([{"name": "tool", "parameters": schema}], required=True)


# ---------------------------------------------------------------- names and keywords


@pytest.mark.parametrize("name", KEYWORDS)
def test_names_of_properties_are_names(name: str) -> None:
    text = {"type": "string", "format": "path", "minLength": 1}
    inner = {"type": "object", "properties": {"a": text}, "required": ["a"]}
    schema = {
        "type": "object",
        "properties": {name: inner, "z": {"$ref": f"#/$defs/{name}"}},
        "required": [name, "z"],
        "$defs": {name: text},
    }
    whole, more = {name: {"a": "b"}, "z": "c"}, {name: {"a": "b", "d": "e"}, "z": "c"}
    assert fits(Grammar.json_schema(schema), as_json(whole))
    closed = Grammar.json_schema(strict_schema(schema))
    assert fits(closed, as_json(whole))
    assert not fits(closed, as_json(more))
    assert fits(as_tool(schema), call_text("tool", whole))
    assert not fits(as_tool(schema), call_text("tool", more))


def test_a_property_named_all_of_combines_nothing() -> None:
    named = {"properties": {"allOf": {"type": "string", "minLength": 1}}}
    assert strict_schema(named) == {**named, "additionalProperties": False}


@pytest.mark.parametrize("keyword", ["enum", "examples"])
def test_data_is_no_schema(keyword: str) -> None:
    """What looks like a schema in it stays as it is."""
    value = {"type": "string", "format": "path", "properties": {}, "pattern": "[[]"}
    grammar = Grammar.json_schema(strict_schema({keyword: [value]}))
    assert fits(grammar, as_json(value))
    grammar = Grammar.json_schema({"const": value, "default": value})
    assert fits(grammar, as_json(value))
    assert not fits(grammar, as_json({"type": "string"}))


def test_what_a_reference_points_to_is_a_schema_wherever_it_stands() -> None:
    part = {"type": "object", "properties": {"a": {"type": "string", "format": "path"}}}
    schema = {"components": {"schemas": {"A/b": part}}, "$ref": "#/components/schemas/A~1b"}
    grammar = Grammar.json_schema(strict_schema(schema))
    assert fits(grammar, '{"a": "b"}')
    assert not fits(grammar, '{"b": "b"}')


def test_a_schema_is_left_as_it_was() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "format": "uuid4"}},
        "propertyNames": {"enum": ["a"]},
    }
    before = json.dumps(schema)
    Grammar.json_schema(schema)
    as_tool(schema)
    strict_schema(schema)
    assert json.dumps(schema) == before


# ---------------------------------------------------------------- formats


UUIDS = [UUID(int=0), uuid1(), uuid3(UUID(int=1), "a"), uuid4(), uuid5(UUID(int=1), "a")]
V4 = ["0.0.0.0", "10.0.0.0/8", "192.168.1.255/32", "256.1.1.1", "1.2.3", "1.2.3.4/33", "01.2.3.4"]
V6 = ["::", "::1", "1::", "fe80::1/64", "1:2:3:4:5:6:7:8/128", "1:2:3:4:5:6:7::", "1::/129"]
V6 += ["1:2:3:4:5:6:7", "::2:3:4:5:6:7:8", "1:2::5:6:7:8", "1::2::3", "12345::", "g::", ":1", "1:"]
EMAILS = ["a.b+c@example.com", "Ada Lovelace <ada@example.com>", "a@b", "Ada <a@>", "@x.com", "é"]


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        *((getattr(pydantic, f"UUID{v}"), [*map(str, UUIDS), "no"]) for v in (1, 3, 4, 5)),
        (IPv4Address, V4),
        (IPv4Interface, V4),
        (IPv6Address, V6),
        (IPv6Interface, V6),
        (pydantic.IPvAnyAddress, V4 + V6),
        (pydantic.IPvAnyInterface, V4 + V6),
        (Fraction, ["1/2", "-3", "0/7", "1/0", "a", "1/2/3", ""]),
        (pydantic.PostgresDsn, ["postgres://u:p@a:5432,b:5433/db", "postgres//a", "", "a b"]),
    ],
)
def test_formats_are_read_as_pydantic_reads_them(kind: Any, texts: list[str]) -> None:
    adapter = TypeAdapter(kind)
    grammar = Grammar.json_schema(adapter.json_schema())
    for text in texts:
        try:
            adapter.validate_python(text)
        except ValueError:
            assert not fits(grammar, as_json(text)), text
        else:
            assert fits(grammar, as_json(text)), text


@pytest.mark.parametrize("kind", [IPv4Network, IPv6Network, pydantic.IPvAnyNetwork])
def test_networks(kind: Any) -> None:
    """With bits of hosts, too, which pydantic refuses and the schema does not."""
    grammar = Grammar.json_schema(TypeAdapter(kind).json_schema())
    for text, fit in (
        ("10.0.0.0/8", kind is not IPv6Network),
        ("2001:db8::/32", kind is not IPv4Network),
    ):
        assert fits(grammar, as_json(text)) == fit


@pytest.mark.parametrize(
    ("form", "fitting", "other"),
    [
        ("name-email", ["a.b+c@example.com", "Ada Lovelace <ada@example.com>"], ["Ada", "A <a@>"]),
        (
            "uuid7",
            ["01890a5d-ac96-774b-bcce-b302099a8057"],
            ["01890a5d-ac96-474b-bcce-b302099a8057"],
        ),
        ("cidrv4", ["10.0.0.0/8"], ["10.0.0.0"]),
        ("cidrv6", ["fe80::/10"], ["fe80::"]),
        ("idn-email", ["jörg@müller.de"], ["jörg", "a b@c.de"]),
        ("json-pointer", ["", "/a/~0b/c~1d"], ["a", "/~2"]),
        ("relative-json-pointer", ["0#", "2/a"], ["/a", "01"]),
        ("uri-reference", ["../a?b=c#d", "https://a.b/c"], ["a b", "a#b#c"]),
        ("regex", ["a+", "("], []),
        ("zoneinfo", ["Europe/Rome"], []),
        ("byte", ["aGk="], []),
        ("multi-host-uri", ["mongodb://a:1,b:2/c"], ["mongodb:a"]),
    ],
)
def test_formats_the_engine_does_not_know(form: str, fitting: list[str], other: list[str]) -> None:
    grammar = Grammar.json_schema({"type": "string", "format": form})
    for text in fitting + other:
        assert fits(grammar, as_json(text)) == (text in fitting), text
    end = short_text(grammar)
    assert end is not None
    assert fits(grammar, end.decode())


def test_a_format_beside_a_pattern() -> None:
    grammar = Grammar.json_schema({"type": "string", "format": "ipv4network", "pattern": "^10\\."})
    assert fits(grammar, '"10.0.0.0/8"')
    assert not fits(grammar, '"11.0.0.0/8"')
    assert not fits(grammar, '"10."')


# ---------------------------------------------------------------- decimals


def decimal_pattern(digits: int | None, places: int | None) -> str:
    """As pydantic 2.12 and 2.13 write it."""
    begins = r"^(?!^[-+.]*$)[+-]?0*"
    if digits is None:
        return begins + (r"\d*\.?\d*$" if places is None else rf"\d*\.?\d{{0,{places}}}0*$")
    all_digits = rf"(?=[\d.]{{1,{digits + 1}}}0*$)"
    if places is None:
        return begins + rf"(?:\d{{0,{digits}}}|{all_digits}\d*\.\d*0*$)"
    whole = max(0, digits - places)
    return begins + rf"(?:\d{{0,{whole}}}|{all_digits}\d{{0,{whole}}}\.\d{{0,{places}}}0*$)"


@pytest.mark.parametrize("digits", [None, 0, 1, 3])
@pytest.mark.parametrize("places", [None, 0, 1, 2, 4])
def test_the_decimal_of_pydantic_says_the_same_without_lookahead(
    digits: int | None, places: int | None
) -> None:
    pattern = decimal_pattern(digits, places)
    known = without_lookahead(pattern)
    assert "(?" not in known
    whole = re.compile(pattern.replace("}|(", "}$|("))  # whose first half has no end of its own
    for length in range(7):
        for letters in product("0+.7", repeat=length):
            text = "".join(letters)
            assert bool(re.search(known, text)) == bool(whole.search(text)), (pattern, text)
    amount = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": pattern}]}
    grammar = Grammar.json_schema(
        {"type": "object", "properties": {"amount": amount}, "required": ["amount"]}
    )
    assert fits(grammar, '{"amount": "0."}')
    assert not fits(grammar, '{"amount": "."}')


def test_other_lookahead_is_refused_with_the_cure() -> None:
    for pattern in ("^(?=.*a).*$", r"^(?!^[-+.]*$)[+-]?0*x$"):
        with pytest.raises(GrammarError, match="without look-around"):
            Grammar.json_schema({"type": "string", "pattern": pattern})


# ---------------------------------------------------------------- keys from a list


class Fruit(Enum):
    APPLE = "apple"
    PEAR = "pear"


class Size(IntEnum):
    SMALL = 1
    LARGE = 2


class Only(Enum):
    APPLE = "apple"


@pytest.mark.parametrize(
    ("kind", "fitting", "other"),
    [
        (
            dict[Literal["apple", "pear"], int],
            [{}, {"pear": 1}, {"apple": 1, "pear": 2}],
            [{"a": 1}],
        ),
        (dict[Fruit, int], [{"apple": 1}, {}], [{"fig": 1}, {"apple": "1"}]),
        (dict[Only, int], [{"apple": 1}], [{"pear": 1}]),
        (dict[Size, int], [{"1": 1, "2": 2}], [{"SMALL": 1}]),
        (dict[Fruit, dict[Fruit, int]], [{"apple": {"pear": 1}}], [{"apple": {"fig": 1}}]),
        (Annotated[dict[Fruit, int], Field(min_length=1)], [{"apple": 1}], [{}]),
        (dict[UUID, int], [{str(UUIDS[3]): 1}], [{"a": 1}]),
        (dict[pydantic.UUID4, int], [{str(UUIDS[3]): 1}], [{str(UUIDS[1]): 1}]),
        (dict[Annotated[str, Field(min_length=2)], int], [{"ab": 1}], [{"a": 1}]),
        (
            dict[Annotated[str, Field(pattern="^[a-c]{2}$")], int],
            [{"ab": 1}, {}],
            [{"ab": "y"}, {"x": 1}],
        ),
    ],
)
def test_keys_from_a_list(kind: Any, fitting: list[Any], other: list[Any]) -> None:
    model = create_model("Basket", counts=(kind, ...))
    schema = model.model_json_schema()
    for value in fitting + other:
        whole = {"counts": value}
        is_fitting = value in fitting
        if is_fitting:
            model.model_validate_json(as_json(whole))
        assert fits(Grammar.json_schema(strict_schema(schema)), as_json(whole)) == is_fitting
        assert fits(as_tool(schema), call_text("tool", whole)) == is_fitting


@pytest.mark.parametrize(
    ("schema", "fitting", "other"),
    [
        ({"propertyNames": {"const": "a"}}, [{}, {"a": [1]}], [{"b": 1}]),
        (
            {"propertyNames": {"anyOf": [{"const": "a"}, {"enum": ["b", "c"]}]}},
            [{"a": 1, "c": 2}],
            [{"d": 1}],
        ),
        (
            {
                "properties": {"a": {"type": "integer"}, "b": {}},
                "propertyNames": {"enum": ["a", "c"]},
            },
            [{"a": 1}, {"c": "x"}],
            [{"a": "x"}, {"b": 1}],
        ),
        (
            {
                "properties": {"a": {"type": "integer"}, "b": {}},
                "propertyNames": {"enum": ["a", "c"]},
                "additionalProperties": False,
            },
            [{"a": 1}, {}],
            [{"c": 1}, {"b": 1}],
        ),
        ({"propertyNames": {"pattern": "^[ab]+$"}}, [{"aab": None}], [{"c": 1}]),
        ({"propertyNames": {"type": "string", "title": "Name"}}, [{"x": None}], []),
        ({"propertyNames": {"minLength": 1, "maxLength": 2}}, [{"x": 1, "xé": 2}], [{"abc": 1}]),
        ({"propertyNames": {"format": "date"}}, [{"2026-01-31": 1}], [{"today": 1}]),
        ({"propertyNames": {"format": "path"}}, [{"a/b": 1}], []),
        ({"propertyNames": {"enum": ["a"]}, "required": ["a"]}, [{"a": 1}], [{}]),
    ],
)
def test_names_of_properties(schema: dict[str, Any], fitting: list[Any], other: list[Any]) -> None:
    whole = {"type": "object", **schema}
    grammar = Grammar.json_schema(whole)
    check = Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for value in fitting + other:
        assert check.is_valid(value) == fits(grammar, as_json(value)) == (value in fitting)
    end = short_text(grammar)
    assert end is not None
    check.validate(json.loads(end))


@pytest.mark.parametrize(
    "schema",
    [
        {"propertyNames": {"pattern": "^a", "minLength": 2}},
        {"propertyNames": {"minLength": 2}, "patternProperties": {"^a": {"type": "integer"}}},
        {"propertyNames": {"enum": ["a"]}, "patternProperties": {"^a": {"type": "integer"}}},
        {"propertyNames": {"minLength": 2}, "properties": {"ab": {"type": "integer"}}},
        {"propertyNames": {"not": {"const": "a"}}},
        {"propertyNames": {"format": "nonsense"}},
        {"propertyNames": False},
        {"propertyNames": {"$ref": "#/nowhere"}},
    ],
)
def test_names_that_can_not_be_enforced_are_refused_with_the_cure(schema: dict[str, Any]) -> None:
    with pytest.raises(GrammarError, match="list the names as enum"):
        Grammar.json_schema({"type": "object", **schema})


@pytest.mark.slow
def test_answers_and_calls_with_keys_from_a_list() -> None:
    class Basket(BaseModel):
        counts: dict[Fruit, int]
        folder: Path
        owner: Annotated[
            dict[Annotated[str, Field(pattern="^[A-Z]{3}-[0-9]{4}$")], int], Field(min_length=1)
        ]

    schema = Basket.model_json_schema()
    schema = strict_schema(schema)
    with Ensemble.pocket() as ensemble:
        for seed in range(2):
            options: dict[str, Any] = {"max_new_tokens": 80, "temperature": 2.0, "seed": seed}
            answer = ensemble.generate(CHAT, grammar=Grammar.json_schema(schema), **options).text
            Basket.model_validate_json(answer)
            called = ensemble.generate(CHAT, grammar=as_tool(schema), **options).text
            body = re.search(r"<tool_call>(.*?)</tool_call>", called, re.DOTALL)
            assert body is not None
            Basket.model_validate(json.loads(body[1])["arguments"])


# ---------------------------------------------------------------- what can not be written


@pytest.mark.parametrize(
    "make",
    [
        lambda half: Grammar.choice(["yes", f"Z{half}rich"]),
        lambda half: Grammar.regex(f"a{half}"),
        lambda half: Grammar.regex(f"a\\{half}[{half}]"),
        lambda half: Grammar.json_schema({"enum": [half]}),
        lambda half: Grammar.json_schema(json.dumps({"enum": [half]})),
        lambda half: Grammar.json_schema({"properties": {half: {}}}),
        lambda half: Grammar.json_schema({"pattern": half}),
        lambda half: Grammar.tools([{"name": half}]),
        lambda half: as_tool({"properties": {"a": {"const": half}}}),
    ],
)
def test_half_a_character_is_refused_by_its_name(make: Any) -> None:
    for half in ("\ud83d", "\udcc3"):
        with pytest.raises(GrammarError, match=re.escape(f"lone surrogate {half!r}")):
            make(half)


# ---------------------------------------------------------------- long lists


@pytest.mark.parametrize("count", [1000, 4000, 20_000])
def test_a_list_of_choices_may_be_long(count: int) -> None:
    codes = [f"{letter}{n:04d}" for letter in string.ascii_uppercase for n in range(1000)][:count]
    grammar = Grammar.choice([*codes, codes[0] + "!"])
    assert fits(grammar, codes[-1])
    assert fits(grammar, codes[0] + "!")
    assert not fits(grammar, codes[-1] + "!")
    with Ensemble.pocket() as ensemble:
        assert ensemble.generate(CHAT, grammar=grammar).text in codes
