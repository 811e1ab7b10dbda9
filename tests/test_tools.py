"""How tools are shown to every member."""

import json
from typing import Any

import pytest

from gac_core import ConfigError, PromptError
from gac_core.chat.prompt import check_messages, render_prompt
from gac_core.chat.response_format import AnswerForm
from gac_core.chat.tools import call_text, read_tool, read_tools, tools_text, type_text
from gac_core.grammar.matcher import byte_matcher
from tests.fakes import tokenizer_of


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


NOW: dict[str, Any] = {"name": "now"}


ASKED = {"role": "user", "content": "What time is it?"}


def test_tools_and_schema_go_into_the_system_message() -> None:
    shown = tools_text([NOW])
    form = AnswerForm((NOW,))
    assert form.messages([ASKED]) == [{"role": "system", "content": shown}, ASKED]
    parts = [{"type": "text", "text": "Be kind."}]
    for said in ("Be kind.", parts):
        first, _ = check_messages(form.messages([{"role": "system", "content": said}, ASKED]))
        assert first["content"] == f"Be kind.\n\n{shown}"
    schema = {"type": "object", "properties": {}}
    both = AnswerForm((NOW,), schema=schema).messages([ASKED])[0]["content"]
    assert both == f"{shown}\n\nAnswer with JSON that fits this schema:\n{json.dumps(schema)}"
    as_developer = AnswerForm((NOW,)).messages([{"role": "developer", "content": "Be kind."}])
    assert [m["content"] for m in check_messages(as_developer)] == [f"Be kind.\n\n{shown}"]
    called = AnswerForm((NOW,), "required", schema=schema).messages([ASKED])
    assert called[0]["content"] == shown
    assert AnswerForm((NOW,), choice="none").messages([ASKED]) == [ASKED]
    assert AnswerForm().messages([ASKED]) == [ASKED]


def test_a_schema_is_shown_with_its_letters_kept() -> None:
    schema = {"properties": {"город": {"enum": ["北京", "Zürich"]}}, "description": "Straße"}
    (shown, _) = AnswerForm(schema=schema).messages([ASKED])
    for word in ("город", "北京", "Zürich", "Straße"):
        assert word in shown["content"]


@pytest.mark.parametrize(
    ("form", "text", "fits"),
    [
        (AnswerForm((NOW,)), "Hello", True),
        (AnswerForm((NOW,), "required"), "Hello", False),
        (AnswerForm((NOW,), "required"), "<tool_call>", True),
        (AnswerForm((NOW, {"name": "go"}), "go"), '<tool_call>{"name": "go"', True),
        (AnswerForm((NOW, {"name": "go"}), "go"), '<tool_call>{"name": "now"', False),
        (AnswerForm(schema={"type": "integer"}), "12", True),
        (AnswerForm(schema={"type": "integer"}), "a", False),
        (AnswerForm((NOW,), schema={"type": "integer"}), "12", True),
        (AnswerForm((NOW,), schema={"type": "integer"}), "<tool_call>", True),
        (AnswerForm((NOW,), schema={"type": "integer"}), "Hello", False),
    ],
)
def test_a_form_is_a_grammar(form: AnswerForm, text: str, fits: bool) -> None:
    grammar = form.grammar()
    assert grammar is not None
    matcher = byte_matcher(grammar.lark)
    assert (matcher.try_consume_tokens(list(text.encode())) == len(text)) == fits


def test_a_form_that_asks_for_what_is_not_there_is_refused() -> None:
    assert AnswerForm().grammar() is AnswerForm((NOW,), "none").grammar() is None
    with pytest.raises(ConfigError, match="none of auto, none, required"):
        AnswerForm((NOW,), "go")
    with pytest.raises(ConfigError, match="needs tools"):
        AnswerForm((), "required")


CALLED: list[dict[str, Any]] = [
    {"role": "user", "content": "What is 2 + 3?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}},
            {"function": {"name": "now", "arguments": {}}},
        ],
    },
    {"role": "tool", "tool_call_id": "1", "name": "add", "content": "5"},
    {"role": "tool", "content": "noon"},
]


def test_the_history_of_tools_is_text_for_every_template() -> None:
    said = check_messages(CALLED)
    first, second = call_text("add", {"a": 2}), call_text("now", {})
    assert said[1]["content"] == f"{first}\n{second}"
    for family in ("chatml", "legacy", "tiktoken", "byte_level"):
        tokenizer = tokenizer_of(family)
        text = str(tokenizer.decode(render_prompt(tokenizer, CALLED)))
        for part in ("2 + 3", first, second, "5", "noon"):
            assert part in text
    legacy = tokenizer_of("legacy")  # whose template knows no results
    assert "<tool_response>\n5\n</tool_response>" in legacy.decode(render_prompt(legacy, CALLED))


def test_results_are_shown_in_the_order_of_their_calls() -> None:
    calls: list[dict[str, Any]] = [{"id": c, "function": {"name": "now"}} for c in "abc"]
    results = [{"role": "tool", "tool_call_id": c, "content": c} for c in "cab"]
    called = {"role": "assistant", "content": "", "tool_calls": calls}
    again = {**called, "tool_calls": [{**call, "id": call["id"] * 2} for call in calls]}
    later = [{"role": "tool", "tool_call_id": c, "content": c} for c in ("bb", "aa")]
    said = check_messages([ASKED, called, *results, again, *later, {"role": "tool", "content": ""}])
    assert [m["content"] for m in said if m["role"] == "tool"] == ["a", "b", "c", "aa", "bb", ""]
    alone = check_messages([{"role": "tool", "content": "x"}, {"role": "tool", "content": "y"}])
    assert [m["content"] for m in alone] == ["x", "y"]


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ("x", "must be a list"),
        ([1], "must be"),
        ([{"function": {"name": "f", "arguments": "{"}}], "no JSON"),
        ([{"function": {"name": "f", "arguments": "[]"}}], "must be an object"),
    ],
)
def test_calls_of_another_form_are_refused(calls: Any, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        check_messages([{"role": "assistant", "content": "", "tool_calls": calls}])


def test_a_field_of_another_role_is_refused() -> None:
    with pytest.raises(PromptError, match="as user it takes role, content"):
        check_messages([{"role": "user", "content": "", "tool_calls": []}])


@pytest.mark.parametrize("arguments", [None, "", " ", "null", {}, "{}"])
def test_no_arguments_come_in_many_forms(arguments: Any) -> None:
    calls = [{"function": {"name": "ping", "arguments": arguments}}, {"name": "ping"}]
    (said,) = check_messages([{"role": "assistant", "content": None, "tool_calls": calls}])
    assert said["content"] == "\n".join([call_text("ping", {})] * 2)


@pytest.mark.parametrize("key", ["arguments", "args", "input", "parameters"])
def test_arguments_have_other_names(key: str) -> None:
    calls = [{"name": "f", key: {"a": 1}}]
    (said,) = check_messages([{"role": "assistant", "content": None, "tool_calls": calls}])
    assert said["content"] == call_text("f", {"a": 1})


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ABOUT = {"name": "get_weather", "description": "Get the weather."}
FORMS: dict[str, dict[str, Any]] = {
    "openai": {"type": "function", "function": {**ABOUT, "parameters": SCHEMA, "strict": True}},
    "responses": {"type": "function", **ABOUT, "parameters": SCHEMA, "strict": True},
    "anthropic": {**ABOUT, "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}},
    "anthropic custom": {"type": "custom", **ABOUT, "input_schema": SCHEMA},
    "bedrock": {"toolSpec": {**ABOUT, "inputSchema": {"json": SCHEMA}}},
    "mcp": {**ABOUT, "title": "Weather", "inputSchema": SCHEMA, "outputSchema": {"properties": {}}},
    "gemini": {**ABOUT, "parametersJsonSchema": SCHEMA},
    "named schema": {**ABOUT, **SCHEMA},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_tool_is_read_in_the_form_of_every_provider(form: str) -> None:
    read = read_tool(FORMS[form])
    assert tools_text([read]) == tools_text([{**ABOUT, "parameters": SCHEMA}])
    mark = {"cachePoint": {"type": "default"}}
    assert read_tools([mark, FORMS[form], mark]) == [read]


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ({"type": "web_search_preview"}, "'web_search_preview' is run by its provider"),
        ({"type": "web_search_20250305", "name": "web_search"}, "is run by its provider"),
        ({"type": "custom", "name": "f", "format": {}}, "or takes free text"),
        ({"description": "x"}, "it has no name"),
        ({"name": "f", "args_schema": {"properties": {}}}, "schema in 'args_schema'; call it"),
        (7, "7 is no tool; give name"),
    ],
)
def test_what_can_not_be_called_here_is_refused_with_the_reason(tool: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_tool(tool)
