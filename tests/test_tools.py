"""How tools are shown to every member."""

import json
from typing import Any

import pytest

from gac_core.tools import call_text, tools_text, type_text


def test_a_tool_is_a_signature_and_a_description() -> None:
    weather = {
        "name": "get_weather",
        "description": "Get the weather\n  in a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["C", "F"], "type": "string"},
            },
            "required": ["city"],
        },
    }
    bare = {"name": "now"}
    assert tools_text([weather, bare]).splitlines() == [
        "You can use these tools:",
        'get_weather(city: string, unit?: "C" | "F") - Get the weather in a city.',
        "now()",
        'To use one, write <tool_call>{"name": ..., "arguments": {...}}</tool_call>',
    ]


def test_a_call_is_json_between_tags_with_its_letters_kept() -> None:
    text = call_text("find", {"wörd": "日本", "n": 2})
    assert text == '<tool_call>{"name": "find", "arguments": {"wörd": "日本", "n": 2}}</tool_call>'
    body = text.removeprefix("<tool_call>").removesuffix("</tool_call>")
    assert json.loads(body)["arguments"] == {"wörd": "日本", "n": 2}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer"}, "integer"),
        ({}, "any"),
        (True, "any"),
        ({"type": ["string", "null"]}, "string | null"),
        ({"const": "a"}, '"a"'),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string | null"),
        ({"type": "array", "items": {"type": "number"}}, "number[]"),
        ({"type": "array", "items": {"enum": [1, 2]}}, "(1 | 2)[]"),
        ({"type": "array"}, "any[]"),
        ({"type": "object"}, "object"),
        (
            {
                "type": "object",
                "properties": {"x": {"type": "integer"}, "y": {"$ref": "#/$defs/P"}},
                "required": ["x"],
            },
            "{x: integer, y?: {street: string}}",
        ),
        ({"allOf": [{"$ref": "#/$defs/P"}]}, "{street: string}"),
        ({"$ref": "#/$defs/Missing"}, "any"),
    ],
)
def test_types(schema: Any, text: str) -> None:
    defs = {
        "P": {
            "type": "object",
            "properties": {"street": {"type": "string"}},
            "required": ["street"],
        }
    }
    assert type_text(schema, defs) == text


def test_a_schema_that_holds_itself_ends_somewhere() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}, "required": []}
    text = type_text({"$ref": "#/$defs/Node"}, {"Node": node})
    assert text.startswith("{next?: {next?: ")
    assert "any" in text
