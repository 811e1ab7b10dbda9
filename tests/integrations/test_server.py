"""The server, asked in process; `test_server_clients.py` asks a real one."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gac_core import Ensemble, EnsembleConfig, MemberError, UnreachableError
from gac_core.testing import Speaker, thinking_tokenizer
from gac_integrations.server import ServerOptions, create_app
from gac_integrations.server.errors import ApiError
from gac_integrations.server.limits import Turns
from gac_integrations.server.schemas import HARMLESS
from tests.fakes import assert_rests, forwards_of
from tests.test_tracing import ended

CHAT = "/v1/chat/completions"
SUM = [{"role": "user", "content": "What is 77 - 49?"}]
ANSWER = "77 - 49 = 28"
FACTS = [{"role": "user", "content": "Mila is 42 years old.\n\nHow old is Mila?"}]
WEATHER = [{"role": "user", "content": "What is the weather in Rome?"}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
FREE = {"temperature": 6.0, "max_tokens": 12}
LONG = {"messages": SUM, "max_tokens": 450, "temperature": 9.0, "seed": 7}  # as long as it may be


@pytest.fixture(scope="module")
def ensemble() -> Iterator[Ensemble]:
    with Ensemble.pocket() as ensemble:
        yield ensemble


@asynccontextmanager
async def client_of(ensemble: Ensemble, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(ensemble, ServerOptions(**options))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        client.app = app  # type: ignore[attr-defined]
        yield client


@pytest.fixture
async def client(ensemble: Ensemble) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(ensemble) as client:
        yield client


async def ask(client: httpx.AsyncClient, path: str = CHAT, /, **body: Any) -> dict[str, Any]:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def refused(client: httpx.AsyncClient, status: int, path: str = CHAT, /, **body: Any) -> Any:
    """The error of a request that is refused."""
    response = await client.post(path, json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def chunks_of(
    client: httpx.AsyncClient, path: str = CHAT, /, **body: Any
) -> list[dict[str, Any]]:
    """The objects of a stream, whose form is checked."""
    response = await client.post(path, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, last, rest = response.text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    assert all(event.startswith("data: ") for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]


def deltas_of(chunks: list[dict[str, Any]], index: int = 0) -> list[dict[str, Any]]:
    """The deltas of one answer; its finish reason, and the other fields, are checked."""
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
    assert own[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [c["finish_reason"] for c in own[:-1]] == [None] * (len(own) - 1)
    assert own[-1]["finish_reason"]
    assert own[-1]["delta"] == {}
    return [c["delta"] for c in own[1:-1]]


# ---------------------------------------------------------------- chats


async def test_a_whole_answer(client: httpx.AsyncClient) -> None:
    answer = await ask(client, model="pocket", messages=SUM)
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "pocket"
    assert answer["usage"] == {
        "prompt_tokens": 18,
        "completion_tokens": 10,
        "total_tokens": 28,
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": ANSWER, "refusal": None}
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "stop")
    assert choice["gac"]["steps"] == choice["gac"]["fused_steps"] == 11
    assert [member["name"] for member in choice["gac"]["members"]] == ["ada", "bo", "cy"]


async def test_a_stream_is_the_answer_in_pieces(client: httpx.AsyncClient) -> None:
    chunks = await chunks_of(client, messages=SUM)
    deltas = deltas_of(chunks)
    assert len(deltas) == 10
    assert "".join(delta["content"] for delta in deltas) == ANSWER
    assert all("usage" not in chunk for chunk in chunks)


async def test_a_stream_ends_with_the_usage_only_if_it_was_asked_for(
    client: httpx.AsyncClient,
) -> None:
    whole = await ask(client, messages=SUM)
    options = {"include_usage": True, "include_obfuscation": False}
    *others, last = await chunks_of(client, messages=SUM, stream_options=options)
    assert [chunk["usage"] for chunk in others] == [None] * len(others)
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]


async def test_nulls_and_harmless_options_are_as_if_left_out(client: httpx.AsyncClient) -> None:
    nulls = (
        *("model", "n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed"),
        *("stop", "stream_options", "tools", "tool_choice", "parallel_tool_calls"),
        *("response_format", "logprobs", "top_logprobs", "reasoning_effort", "logit_bias"),
        *("frequency_penalty", "presence_penalty", "functions", "some_option_of_next_year"),
    )
    harmless = dict.fromkeys(HARMLESS, "x")
    neutral = {"stream": False, "frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}}
    answer = await ask(
        client, messages=SUM, **{**dict.fromkeys(nulls), **harmless, **neutral, "top_k": -1}
    )
    assert answer["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("logit_bias", {"50": 10}),
        ("functions", [{"name": "f"}]),
        ("tempurature", 1),
        ("verbosity", "low"),
    ],
)
async def test_options_that_would_be_ignored_are_refused_by_name(
    client: httpx.AsyncClient, option: str, value: Any
) -> None:
    error = await refused(client, 400, messages=SUM, **{option: value})
    assert f"{option!r}" in error["message"]
    assert (error["param"], error["code"]) == (option, "unsupported_parameter")


async def test_sampling_options_reach_the_ensemble(
    client: httpx.AsyncClient, ensemble: Ensemble
) -> None:
    drawn: dict[str, Any] = {
        "temperature": 9.0,
        "top_p": 0.9,
        "top_k": 20,
        "min_p": 1e-6,
        "seed": 3,
    }
    expected = ensemble.generate(SUM, max_new_tokens=9, **drawn, stop=["="])
    for most in ("max_tokens", "max_completion_tokens"):
        answer = await ask(client, messages=SUM, **drawn, **{most: 9, "stop": "="})
        assert answer["choices"][0]["message"]["content"] == expected.text
        assert answer["choices"][0]["gac"]["seed"] == 3
    assert expected.text != ensemble.generate(SUM, max_new_tokens=9, stop=["="]).text


async def test_stop_and_length(client: httpx.AsyncClient) -> None:
    (stopped,) = (await ask(client, messages=SUM, stop=[" ="]))["choices"]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("77 - 49", "stop")
    (cut,) = (await ask(client, messages=SUM, max_tokens=2))["choices"]
    assert (cut["message"]["content"], cut["finish_reason"]) == ("77", "length")


async def test_what_a_request_leaves_open_the_ensemble_decides() -> None:
    """`sampling: model` is for requests that do not say how to draw."""
    with Ensemble.from_config(Ensemble.pocket(lazy=True).config) as ensemble:
        ensemble.runtime.sampling = {"temperature": 6.0}
        async with client_of(ensemble) as client:
            asked = {"messages": SUM, "seed": 1, "max_tokens": 12}
            drawn = ensemble.generate(SUM, seed=1, max_new_tokens=12).text
            assert drawn != ANSWER
            assert (await ask(client, **asked))["choices"][0]["message"]["content"] == drawn
            greedy = await ask(client, **asked, temperature=0)
            assert greedy["choices"][0]["message"]["content"] == ANSWER


async def test_several_answers_differ_in_their_seeds_and_share_the_prompt(
    client: httpx.AsyncClient, ensemble: Ensemble
) -> None:
    alone = [
        ensemble.generate(SUM, seed=7 + i, temperature=6.0, max_new_tokens=12) for i in range(3)
    ]
    before = [member.scorer.stats.positions for member in ensemble.members]
    ensemble.generate(SUM, seed=7, temperature=6.0, max_new_tokens=1)
    prompts = [m.scorer.stats.positions - b for m, b in zip(ensemble.members, before, strict=True)]
    before = [member.scorer.stats.positions for member in ensemble.members]
    answer = await ask(client, messages=SUM, n=3, seed=7, **FREE)
    read = [m.scorer.stats.positions - b for m, b in zip(ensemble.members, before, strict=True)]
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert texts == [output.text for output in alone]
    assert len(set(texts)) > 1
    assert [choice["gac"]["seed"] for choice in answer["choices"]] == [7, 8, 9]
    assert answer["usage"]["prompt_tokens"] == alone[0].usage.prompt_tokens
    written = sum(output.usage.completion_tokens for output in alone)
    assert answer["usage"]["completion_tokens"] == written
    for prompt, positions, member in zip(prompts, read, ensemble.members, strict=True):
        steps = sum(len(output.steps) for output in alone)
        assert positions < 2 * prompt + 4 * steps, member.name  # three passes would be more
    assert_rests(ensemble)


async def test_several_answers_in_a_stream(client: httpx.AsyncClient) -> None:
    whole = await ask(client, messages=SUM, n=2, seed=-5, **FREE)
    chunks = await chunks_of(client, messages=SUM, n=2, seed=-5, **FREE)
    for choice in whole["choices"]:
        text = "".join(d["content"] for d in deltas_of(chunks, choice["index"]))
        assert text == choice["message"]["content"]


@pytest.mark.slow
async def test_a_seed_draws_the_same_and_none_draws_freely(client: httpx.AsyncClient) -> None:
    async def texts(**options: Any) -> list[str]:
        answer = await ask(client, messages=SUM, n=4, **FREE, **options)
        return [choice["message"]["content"] for choice in answer["choices"]]

    assert await texts(seed=1) == await texts(seed=1)
    assert len({*(await texts()), *(await texts())}) > 2


async def test_messages_as_clients_write_them(client: httpx.AsyncClient) -> None:
    function = {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    call = {"id": "c1", "type": "function", "function": function}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is the weather in Rome?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    answer = await ask(client, messages=messages, tools=[TOOL])
    assert answer["choices"][0]["message"]["content"] == "The weather in Rome is sunny."


# ---------------------------------------------------------------- tools and forms


async def test_tools_are_called(client: httpx.AsyncClient) -> None:
    (choice,) = (await ask(client, messages=WEATHER, tools=[TOOL]))["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"
    assert call["type"] == "function"
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Rome"}


async def test_calls_are_streamed_in_fragments(client: httpx.AsyncClient) -> None:
    chunks = await chunks_of(client, messages=WEATHER, tools=[TOOL], tool_choice="required")
    calls = [delta["tool_calls"][0] for delta in deltas_of(chunks)]
    first, *others = calls
    assert first["id"].startswith("call_")
    assert (first["type"], first["function"]["name"]) == ("function", "get_weather")
    assert len(others) > 1
    assert all(set(c) == {"index", "function"} for c in others)
    assert all(set(c["function"]) == {"arguments"} for c in others)
    written = "".join(call["function"]["arguments"] for call in calls)
    assert json.loads(written) == {"city": "Rome"}


@pytest.mark.parametrize(
    ("choice", "calls"),
    [
        ("none", False),
        ("required", True),
        ({"type": "function", "function": {"name": "get_weather"}}, True),
    ],
)
async def test_tool_choice(client: httpx.AsyncClient, choice: Any, calls: bool) -> None:
    asked = {"tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": False}
    (answer,) = (await ask(client, messages=SUM, **asked))["choices"]
    assert ("tool_calls" in answer["message"]) is calls


async def test_a_tool_that_is_not_there_is_refused(client: httpx.AsyncClient) -> None:
    error = await refused(client, 400, messages=SUM, tools=[TOOL], tool_choice="magic")
    assert "get_weather" in error["message"]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_call_that_is_cut_is_an_error(
    client: httpx.AsyncClient, is_stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "gac.server")
    asked = {"messages": WEATHER, "tools": [TOOL], "max_tokens": 26}
    if is_stream:
        *_, last = await chunks_of(client, **asked)
        error = last["error"]
    else:
        error = await refused(client, 400, **asked)
    assert error["code"] == "answer_cut"
    assert "raise max_tokens" in error["message"]
    (record,) = (r for r in caplog.records if r.message == "request")
    assert record.fields["error"] == "answer_cut"  # type: ignore[attr-defined]


@pytest.mark.slow
async def test_json_of_a_schema(client: httpx.AsyncClient) -> None:
    described = {"name": "person", "schema": PERSON, "strict": True}
    for form in (
        {"type": "json_schema", "json_schema": described},
        {"type": "json_object"},
        {"type": "text"},
    ):
        answer = await ask(client, messages=FACTS, response_format=form)
        content = answer["choices"][0]["message"]["content"]
        if form["type"] == "json_schema":
            Draft202012Validator(PERSON).validate(json.loads(content))
        elif form["type"] == "json_object":
            assert isinstance(json.loads(content), dict)
        else:
            assert content == "Mila is 42 years old."


async def test_several_answers_in_a_form(client: httpx.AsyncClient) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    answer = await ask(client, messages=FACTS, response_format=form, n=2, temperature=3.0, seed=1)
    for choice in answer["choices"]:
        Draft202012Validator(PERSON).validate(json.loads(choice["message"]["content"]))


@pytest.mark.parametrize(
    "form", [{"type": "grammar"}, {"type": "json_schema"}, {"type": "json_schema", "schema": 3}]
)
async def test_forms_that_are_none(client: httpx.AsyncClient, form: Any) -> None:
    error = await refused(client, 400, messages=SUM, response_format=form)
    assert "response_format" in error["message"]


# ---------------------------------------------------------------- tokens and members


async def test_logprobs_have_every_members_view(
    client: httpx.AsyncClient, ensemble: Ensemble
) -> None:
    answer = await ask(client, messages=SUM, logprobs=True, top_logprobs=2)
    tokens = answer["choices"][0]["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == ANSWER
    steps = ensemble.generate(SUM, logprobs=True, top_logprobs=2).steps[:-1]
    assert [t["logprob"] for t in tokens] == pytest.approx([s.logprob for s in steps], abs=1e-4)
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)
    disagreed = [t for t in tokens if len({m["top"] for m in t["members"]}) > 1]
    assert [t["token"] for t in disagreed] == ["2"]
    assert {m["name"]: m["top"] for m in disagreed[0]["members"]} == {
        "ada": "2",
        "bo": "2",
        "cy": "3",
    }


async def test_logprobs_without_a_number_are_those_of_the_chosen_tokens(
    client: httpx.AsyncClient,
) -> None:
    answer = await ask(client, messages=SUM, logprobs=True)
    tokens = answer["choices"][0]["logprobs"]["content"]
    assert [token["top_logprobs"] for token in tokens] == [[]] * len(tokens)
    error = await refused(client, 400, messages=SUM, top_logprobs=2)
    assert "top_logprobs needs logprobs" in error["message"]


@pytest.mark.parametrize("stop", [None, " = 2"])
async def test_a_stream_loses_no_token(client: httpx.AsyncClient, stop: str | None) -> None:
    asked = {"messages": SUM, "logprobs": True, "stop": stop}
    whole = await ask(client, **asked)
    chunks = await chunks_of(client, **asked)
    pieces = [c["logprobs"] for chunk in chunks for c in chunk["choices"] if c["logprobs"]]
    tokens = [token["token"] for piece in pieces for token in piece["content"]]
    assert tokens == [t["token"] for t in whole["choices"][0]["logprobs"]["content"]]


# ---------------------------------------------------------------- thoughts


@pytest.fixture
def thinking() -> Iterator[Ensemble]:
    reasoner = thinking_tokenizer("hybrid")
    said = "<think>\n2 + 3 is 5.\n</think>\n\nIt is 5."
    speaker = Speaker(reasoner, said, "<think>\n\n</think>\n\nIt is 5.")
    with Ensemble.from_models([(speaker, reasoner)]) as ensemble:
        yield ensemble


async def test_thoughts_are_beside_the_answer(thinking: Ensemble) -> None:
    async with client_of(thinking) as client:
        answer = await ask(client, messages=SUM)
        message = answer["choices"][0]["message"]
        assert message["content"] == "It is 5."
        assert message["reasoning_content"] == message["reasoning"] == "2 + 3 is 5."
        details = answer["usage"]["completion_tokens_details"]
        assert 0 < details["reasoning_tokens"] < answer["usage"]["completion_tokens"]
        deltas = deltas_of(await chunks_of(client, messages=SUM))
    thought = [d["reasoning_content"] for d in deltas if "reasoning_content" in d]
    assert thought == [d["reasoning"] for d in deltas if "reasoning" in d]
    assert "".join(thought).strip() == "2 + 3 is 5."
    assert "".join(d.get("content", "") for d in deltas) == "It is 5."


@pytest.mark.parametrize(
    ("options", "thinks"),
    [
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "low"}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": True}}, True),
    ],
)
async def test_thinking_is_switched_as_clients_do(
    thinking: Ensemble, options: dict[str, Any], thinks: bool
) -> None:
    async with client_of(thinking) as client:
        answer = await ask(client, messages=SUM, **options)
    assert ("reasoning_content" in answer["choices"][0]["message"]) is thinks


async def test_a_thought_can_be_limited(thinking: Ensemble) -> None:
    async with client_of(thinking) as client:
        full = await ask(client, messages=SUM)
        cut = await ask(client, messages=SUM, max_thought_tokens=2)
    spent = [a["usage"]["completion_tokens_details"]["reasoning_tokens"] for a in (full, cut)]
    assert spent[1] <= 2 < spent[0]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"reasoning_effort": "high"}, "no member of this ensemble has think tags"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"tools": 1}}, "chat_template_kwargs takes enable_thinking"),
        (
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            "contradict",
        ),
    ],
)
async def test_thinking_that_is_not_possible(
    client: httpx.AsyncClient, options: dict[str, Any], complaint: str
) -> None:
    assert complaint in (await refused(client, 400, messages=SUM, **options))["message"]


# ---------------------------------------------------------------- completions


async def test_completions_go_on_with_texts(client: httpx.AsyncClient, ensemble: Ensemble) -> None:
    texts = ["Mila lives in", "The code of Tom is"]
    answer = await ask(client, "/v1/completions", prompt=texts, n=2, max_tokens=8)
    assert answer["object"] == "text_completion"
    expected = [ensemble.generate(text, max_new_tokens=8) for text in texts]
    assert [(c["index"], c["text"]) for c in answer["choices"]] == [
        (i, expected[i // 2].text) for i in range(4)
    ]
    usage = answer["usage"]
    assert usage["prompt_tokens"] == sum(e.usage.prompt_tokens for e in expected)
    assert usage["completion_tokens"] == 2 * sum(e.usage.completion_tokens for e in expected)
    chunks = await chunks_of(client, "/v1/completions", prompt=texts[0], max_tokens=8)
    assert "".join(c["choices"][0]["text"] for c in chunks) == expected[0].text
    assert chunks[-1]["choices"][0]["finish_reason"] == expected[0].finish_reason


@pytest.mark.parametrize("is_stream", [False, True])
async def test_logprobs_of_completions(client: httpx.AsyncClient, is_stream: bool) -> None:
    asked = {"prompt": "Mila lives in", "max_tokens": 6, "logprobs": 2}
    if is_stream:
        chunks = await chunks_of(client, "/v1/completions", **asked)
        pieces = [c["choices"][0]["logprobs"] for c in chunks]
        text = "".join(c["choices"][0]["text"] for c in chunks)
        logprobs = {name: [v for p in pieces for v in p[name]] for name in pieces[0]}
    else:
        (choice,) = (await ask(client, "/v1/completions", **asked))["choices"]
        text, logprobs = choice["text"], choice["logprobs"]
    assert "".join(logprobs["tokens"]) == text
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert text[offset : offset + len(token)] == token
    assert [len(top) for top in logprobs["top_logprobs"]] == [2] * len(logprobs["tokens"])
    assert all(logprob <= 0 for logprob in logprobs["token_logprobs"])


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2]], [], "\ud800", "Who? " * 1000])
async def test_prompts_that_can_not_be_read(client: httpx.AsyncClient, prompt: Any) -> None:
    headers = {"Content-Type": "application/json"}
    content = json.dumps({"prompt": prompt})
    response = await client.post("/v1/completions", content=content, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
        ({"messages": SUM, "temperature": -1}, "temperature"),
        ({"messages": SUM, "temperature": float("nan")}, "temperature"),
        ({"messages": SUM, "top_p": 2}, "top_p"),
        ({"messages": SUM, "n": 0}, "n"),
        ({"messages": SUM, "n": 10**9}, "n"),
        ({"messages": SUM, "max_tokens": 0}, "max_tokens"),
        ({"messages": SUM, "stop": [""]}, "stop"),
        ({"messages": SUM, "stream": "perhaps"}, "stream"),
    ],
)
async def test_wrong_values_are_named(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    content = json.dumps(body)
    headers = {"Content-Type": "application/json"}
    response = await client.post(CHAT, content=content, headers=headers)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].split(".")[0] == param


@pytest.mark.parametrize(
    "garbage",
    [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"messages": ' + b"[" * 100_000, b"9" * 10_000],
)
async def test_garbage_is_refused(client: httpx.AsyncClient, garbage: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.post(CHAT, content=garbage, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_a_page_elsewhere_can_not_post_a_form(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, content=json.dumps({"messages": SUM}).encode())
    assert response.status_code == 415
    assert "application/json" in response.json()["error"]["message"]


async def test_a_prompt_that_is_too_long(client: httpx.AsyncClient, ensemble: Ensemble) -> None:
    long = [{"role": "user", "content": "Who? " * (ensemble.context_size or 0)}]
    for asked in ({"messages": long}, {"messages": SUM, "max_tokens": 10**6}):
        error = await refused(client, 400, **asked)
        assert error["code"] == "context_length_exceeded"
        assert "max_new_tokens" not in error["message"]


async def test_another_model_is_not_found(client: httpx.AsyncClient) -> None:
    error = await refused(client, 404, model="gpt-9", messages=SUM)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "'pocket'" in error["message"]
    assert (await client.get("/v1/models/gpt-9")).status_code == 404


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/nothing"), ("GET", CHAT)])
async def test_paths_and_methods_that_are_not_there(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    response = await client.request(method, path)
    assert response.status_code in (404, 405)
    assert response.json()["error"]["message"]


async def test_models(client: httpx.AsyncClient, ensemble: Ensemble) -> None:
    listed = (await client.get("/v1/models")).json()
    (model,) = listed["data"]
    assert listed["object"] == "list"
    assert (model["id"], model["object"], model["owned_by"]) == ("pocket", "model", "gac")
    assert model["members"] == ["ada", "bo", "cy"]
    assert model["max_model_len"] == ensemble.context_size
    assert (await client.get("/v1/models/pocket")).json() == model


async def test_limits_of_the_server(ensemble: Ensemble) -> None:
    async with client_of(ensemble, max_answers=2, max_tokens=5, max_body=2000) as client:
        assert (await refused(client, 400, messages=SUM, n=3))["param"] == "n"
        many = {"prompt": ["a", "b", "c"]}
        assert (await refused(client, 400, "/v1/completions", **many))["param"] == "n"
        error = await refused(client, 400, messages=SUM, max_completion_tokens=6)
        assert error["param"] == "max_tokens"
        (choice,) = (await ask(client, messages=SUM))["choices"]
        assert choice["finish_reason"] == "length"
        large = [{"role": "user", "content": "x" * 3000}]
        assert (await refused(client, 413, messages=large))["code"] == "request_too_large"


async def test_a_limit_above_the_context_asks_for_nothing(ensemble: Ensemble) -> None:
    async with client_of(ensemble, max_tokens=10**6) as client:
        (choice,) = (await ask(client, messages=SUM))["choices"]
        assert choice["message"]["content"] == ANSWER


# ---------------------------------------------------------------- keys


async def test_keys(ensemble: Ensemble) -> None:
    async with client_of(ensemble, api_keys=("one", "zwei-ü")) as client:
        for key, status in {"one": 200, "zwei-ü": 200, "on": 401, "": 401, "one1": 401}.items():
            headers = [(b"Authorization", f"Bearer {key}".encode())]
            response = await client.get("/v1/models", headers=headers)
            assert response.status_code == status, key
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
            response = await client.get(path)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
        assert (await refused(client, 401, messages=SUM))["code"] == "invalid_api_key"
        for path in ("/health", "/"):
            assert (await client.get(path)).status_code == 200


# ---------------------------------------------------------------- many at once


@pytest.mark.slow
async def test_a_full_queue_refuses(ensemble: Ensemble) -> None:
    async with client_of(ensemble, max_running=1, max_waiting=1) as client:
        asked = {**LONG, "max_tokens": 50}
        responses = await asyncio.gather(*(client.post(CHAT, json=asked) for _ in range(5)))
        statuses = sorted(response.status_code for response in responses)
        assert statuses == [200, 200, 429, 429, 429]
        refusal = next(r for r in responses if r.status_code == 429)
        assert int(refusal.headers["Retry-After"]) >= 1
        assert refusal.json()["error"]["code"] == "rate_limit_exceeded"
        await ask(client, messages=SUM)


async def test_turns_are_taken_in_order_and_given_back() -> None:
    turns = Turns(places=2, max_waiting=3)
    order: list[str] = []
    release = asyncio.Event()

    async def work(name: str, answers: int) -> None:
        async with turns.take(answers):
            order.append(name)
            await release.wait()

    first = asyncio.create_task(work("first", 1))
    await asyncio.sleep(0)
    large = asyncio.create_task(work("large", 5))  # takes all places, and so waits
    small = asyncio.create_task(work("small", 1))  # does not overtake it
    late = asyncio.create_task(work("late", 1))
    await asyncio.sleep(0)
    assert (turns.running, turns.waiting, order) == (1, 3, ["first"])
    with pytest.raises(ApiError) as refusal:
        async with turns.take(1):
            pass
    assert refusal.value.status == 429
    late.cancel()
    large.cancel()
    await asyncio.sleep(0.01)
    assert order == ["first", "small"]
    assert (turns.running, turns.waiting) == (2, 0)
    release.set()
    await asyncio.gather(first, small)
    assert turns.running == 0


async def test_a_turn_that_comes_as_its_client_leaves_is_given_back() -> None:
    turns = Turns(places=1, max_waiting=2)
    holding = turns.take(1)
    await holding.__aenter__()

    async def work() -> None:
        async with turns.take(1):
            await asyncio.sleep(10)

    waiting = asyncio.create_task(work())
    await asyncio.sleep(0)
    await holding.__aexit__(None, None, None)  # the turn is given ...
    waiting.cancel()  # ... to one that has not woken yet
    await asyncio.gather(waiting, return_exceptions=True)
    assert turns.running == 0
    async with turns.take(1):
        pass


@pytest.mark.slow
async def test_a_request_that_takes_too_long(ensemble: Ensemble) -> None:
    async with client_of(ensemble, timeout=0.05) as client:
        response = await client.post(CHAT, json=LONG)
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "timeout"
        assert response.headers["x-should-retry"] == "false"
    async with client_of(ensemble, timeout=1.5) as client:  # after the first step
        *_, last = await chunks_of(client, **LONG)
        assert last["error"]["code"] == "timeout"
    assert_rests(ensemble)


async def test_a_body_that_does_not_come(ensemble: Ensemble) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"messages"'
        await asyncio.sleep(10)

    async with client_of(ensemble, body_timeout=0.05) as client:
        headers = {"Content-Type": "application/json"}
        response = await client.post(CHAT, content=slowly(), headers=headers)
        assert response.status_code == 408
        await ask(client, messages=SUM)


# ---------------------------------------------------------------- the state of the server


async def test_while_it_loads_and_after_it_is_closed() -> None:
    ensemble = Ensemble.pocket(lazy=True)
    async with client_of(ensemble) as client:
        for state in ("loading", "ok", "stopping"):
            if state == "ok":
                await ensemble.aload()
            elif state == "stopping":
                ensemble.close()
            health = await client.get("/health")
            assert health.json() == {"status": state}
            assert health.status_code == (200 if state == "ok" else 503)
            response = await client.post(CHAT, json={"messages": SUM})
            assert response.status_code == health.status_code
            if state != "ok":
                assert response.json()["error"]["code"] == state
                assert "Retry-After" in response.headers


async def test_the_app_loads_in_the_background() -> None:
    app = create_app(ensemble := Ensemble.pocket(lazy=True))
    async with app.router.lifespan_context(app):
        assert not ensemble.is_loaded
        while not ensemble.is_loaded:
            await asyncio.sleep(0.01)
    ensemble.close()


async def test_a_model_that_can_not_be_loaded(caplog: pytest.LogCaptureFixture) -> None:
    config = EnsembleConfig.of({"members": [{"model": "./nowhere"}]})
    app = create_app(Ensemble.from_config(config, lazy=True))
    async with app.router.lifespan_context(app):
        while app.state.service.failure is None:
            await asyncio.sleep(0.01)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            assert (await client.get("/health")).json() == {"status": "failed"}
    assert "there is no folder ./nowhere" in caplog.text


async def test_a_member_that_fails(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemberError("the device is on fire")

    async with client_of(ensemble) as client:
        with monkeypatch.context() as patched:
            patched.setattr(ensemble.members[1].scorer, "score", fail)
            error = await refused(client, 500, messages=SUM)
            assert (error["type"], error["message"]) == ("server_error", "the device is on fire")
        await ask(client, messages=SUM)
    assert "answer failed" in caplog.text


async def test_a_member_that_can_not_be_reached(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise UnreachableError("http://inside:1 did not answer")

    async with client_of(ensemble) as client:
        with monkeypatch.context() as patched:
            patched.setattr(ensemble.members[1].scorer, "score", fail)
            error = await refused(client, 503, messages=SUM)
        assert error["code"] == "member_unreachable"
        assert "inside" not in error["message"]
        assert "http://inside:1 did not answer" in caplog.text


async def test_what_nobody_foresaw_is_not_shown(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("a secret")

    async with client_of(ensemble) as client:
        with monkeypatch.context() as patched:
            patched.setattr("gac_integrations.server.requests._repeated", fail)
            error = await refused(client, 500, messages=SUM)
        assert "secret" not in error["message"]
        assert "a secret" in caplog.text
        await ask(client, messages=SUM)


# ---------------------------------------------------------------- what is told of it


async def test_metrics(ensemble: Ensemble) -> None:
    async with client_of(ensemble) as client, client_of(ensemble) as other:
        await ask(client, messages=SUM, n=2)
        await refused(client, 404, model="gpt-9", messages=SUM)
        await client.get("/v1/nothing/1")
        lines = (await client.get("/metrics")).text.splitlines()
        figures = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        expected = {
            f'gac_requests_total{{endpoint="{CHAT}",status="200"}}': 1,
            f'gac_requests_total{{endpoint="{CHAT}",status="404"}}': 1,
            'gac_requests_total{endpoint="other",status="404"}': 1,
            "gac_answers_running": 0,
            "gac_requests_waiting": 0,
            f'gac_time_to_first_token_seconds_count{{endpoint="{CHAT}"}}': 1,
            f'gac_request_seconds_count{{endpoint="{CHAT}"}}': 2,
            'gac_tokens_total{kind="prompt"}': 18,
            'gac_tokens_total{kind="completion"}': 20,
            'gac_tokens_total{kind="reasoning"}': 0,
            'gac_steps_total{by="ensemble"}': 22,
            'gac_steps_total{by="primary"}': 0,
        }
        assert {name: float(figures[name]) for name in expected} == expected
        assert CHAT not in (await other.get("/metrics")).text


async def test_the_log_has_no_text_unless_it_is_asked_for(
    ensemble: Ensemble, caplog: pytest.LogCaptureFixture
) -> None:
    for log_text in (False, True):
        caplog.clear()
        caplog.set_level("INFO", "gac.server")
        async with client_of(ensemble, log_text=log_text) as client:
            headers = {"X-Request-Id": "mine-1"}
            response = await client.post(CHAT, json={"messages": SUM}, headers=headers)
            assert response.headers["x-request-id"] == "mine-1"
        (record,) = (r for r in caplog.records if r.message == "request")
        fields = record.fields  # type: ignore[attr-defined]
        assert fields["request_id"] == "mine-1"
        assert (fields["status"], fields["path"]) == (200, CHAT)
        assert (fields["prompt_tokens"], fields["completion_tokens"]) == (18, 10)
        assert fields["finish_reasons"] == ["stop"]
        assert ("77" in json.dumps(fields)) is log_text


async def test_request_ids_that_could_forge_a_log_line_are_replaced(
    client: httpx.AsyncClient,
) -> None:
    response = await client.get("/health", headers={"X-Request-Id": 'a" b'})
    assert re.fullmatch(r"req_[0-9a-f]{32}", response.headers["x-request-id"])


async def test_the_page_needs_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", response.text) == []


class ByHand:
    """A request that is asked by hand, since httpx can neither hang up nor read slowly."""

    def __init__(self, app: Any, **body: Any) -> None:
        self.sent: list[Any] = []
        self.hang_up = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self._bodies = [{"type": "http.request", "body": json.dumps(body).encode()}]
        scope = {
            "type": "http",
            "method": "POST",
            "path": CHAT,
            "raw_path": CHAT.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        if self._bodies:
            return self._bodies.pop()
        await self.hang_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.reads.wait()
        self.sent.append(message)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_client_that_leaves_stops_the_computing(
    ensemble: Ensemble, is_stream: bool
) -> None:
    app = create_app(ensemble)
    before = forwards_of(ensemble)
    asked = ByHand(app, **LONG, stream=is_stream)
    while forwards_of(ensemble) < before + 9:
        await asyncio.sleep(0.001)
    asked.hang_up.set()
    await asked.task
    assert_rests(ensemble)
    assert bool(asked.sent) is is_stream
    assert app.state.service.turns.running == app.state.service.requests == 0
    text = app.state.service.metrics.text().decode()
    assert f'gac_requests_total{{endpoint="{CHAT}",status="499"}} 1.0' in text


@pytest.mark.slow
async def test_a_client_that_reads_nothing_keeps_no_turn(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gac_integrations.server.answering._SECONDS_TO_HEAR", 0.1)
    app = create_app(ensemble, ServerOptions(timeout=3, max_running=1))
    asked = ByHand(app, messages=SUM, stream=True)
    asked.reads.clear()
    turns = app.state.service.turns
    while not turns.running:
        await asyncio.sleep(0.001)
    while turns.running:
        await asyncio.sleep(0.001)
    assert not asked.task.done()  # it still has all to say
    await asyncio.wait_for(asked.task, 10)  # and is given up in the end
    assert_rests(ensemble)


# ---------------------------------------------------------------- decisions

RIGHT, WRONG = "77 - 49 = 28", "77 - 49 = 38"
WHICH = {
    "type": "choice",
    "name": "difference",
    "instructions": "What is 77 - 49?",
    "choices": [{"value": RIGHT}, {"value": WRONG, "description": "one ten more"}],
}


async def test_decisions(client: httpx.AsyncClient, ensemble: Ensemble) -> None:
    is_true = {"type": "predicate", "instructions": "Does Mila live in Rome?"}
    levels = [{"label": "low"}, {"label": "high"}, {"label": "very high"}]
    how = {"type": "score", "name": "age", "instructions": "How old is she?", "levels": levels}
    state = "Mila lives in Rome."
    found = await ask(client, "/v1/decisions", input=state, questions=[WHICH, is_true, how])
    choice, predicate, score = found["answers"]
    form = f"Answer with one of these: {RIGHT}, {WRONG}\n{WRONG}: one ten more"
    asked = [
        {"role": "system", "content": form},
        {"role": "user", "content": f"{state}\n\nWhat is 77 - 49?"},
    ]
    expected = ensemble.choose(asked, [RIGHT, WRONG])
    assert (choice["type"], choice["name"], choice["choice"]) == (
        "choice",
        "difference",
        expected.label,
    )
    assert choice["confidence"] == pytest.approx(expected.prob, abs=1e-4)
    assert [p["value"] for p in choice["probabilities"]] == [RIGHT, WRONG]
    probs = [p["probability"] for p in choice["probabilities"]]
    assert probs == pytest.approx(expected.probs, abs=1e-4)
    for own, member in zip(choice["gac"]["members"], expected.members, strict=True):
        assert own["name"] == member.name
        assert own["probabilities"] == pytest.approx(member.probs, abs=1e-4)
    assert (predicate["name"], 0 < predicate["probability"] < 1) == (None, True)
    assert [p["value"] for p in score["probabilities"]] == [0, 1, 2]
    spread = [p["probability"] for p in score["probabilities"]]
    assert sum(spread) == pytest.approx(1)
    assert score["score"] == pytest.approx(spread[1] + 2 * spread[2])
    usage = found["usage"]
    assert usage["input_tokens"] == usage["total_tokens"] > expected.usage.prompt_tokens


async def test_decisions_follow_their_options(client: httpx.AsyncClient) -> None:
    messages = [{"type": "message", "role": "user", "content": "Mila lives in Rome."}]
    sure, unsure, prior = [
        (await ask(client, "/v1/decisions", input=messages, questions=[WHICH], **options))[
            "answers"
        ][0]["confidence"]
        for options in ({}, {"temperature": 50}, {"prior": True})
    ]
    assert 0.5 <= unsure < sure
    assert prior != sure


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"questions": []}, "questions"),
        ({"questions": [{**WHICH, "type": "box"}]}, "questions"),
        ({"questions": [{**WHICH, "choices": [{"value": "a"}]}]}, "questions"),
        ({"questions": [WHICH] * 17}, "questions"),
        ({"input": [{"role": "assistant", "content": "x"}]}, "input"),
        ({"input": "Who? " * 1000}, "input"),
        ({"stream": True}, "stream"),
    ],
)
async def test_decisions_that_can_not_be_made(
    client: httpx.AsyncClient, changes: dict[str, Any], param: str
) -> None:
    error = await refused(
        client, 400, "/v1/decisions", **{"input": "x", "questions": [WHICH], **changes}
    )
    assert error["param"].split(".")[0] == param


# ---------------------------------------------------------------- traces


async def test_spans_belong_to_the_clients_trace(
    client: httpx.AsyncClient, spans: InMemorySpanExporter
) -> None:
    trace_id, parent_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace_id}-{parent_id}-01"}
    response = await client.post(CHAT, json={"messages": SUM, "n": 2}, headers=headers)
    assert response.status_code == 200
    finished = ended(spans, 2)
    assert [span.name for span in finished] == ["chat ada+bo+cy"] * 2
    for span in finished:
        assert span.parent is not None
        assert f"{span.parent.trace_id:032x}" == trace_id
        assert f"{span.parent.span_id:016x}" == parent_id


@pytest.mark.slow
async def test_a_client_that_leaves_while_its_prompt_is_encoded(
    ensemble: Ensemble, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, may_go_on = ensemble.runtime.submission, threading.Event()

    def slowly(*arguments: Any) -> Any:
        submit = plain(*arguments)
        may_go_on.wait(10)
        return submit

    with monkeypatch.context() as patched:
        patched.setattr(ensemble.runtime, "submission", slowly)
        async with client_of(ensemble, timeout=1.0) as client:
            response = await client.post(CHAT, json={"messages": SUM})
            assert response.status_code == 504
        may_go_on.set()
        await asyncio.sleep(0.1)
    (span,) = ended(spans, 1)
    assert span.attributes is not None
    assert span.attributes["gen_ai.response.finish_reasons"] == ("cancelled",)
    assert_rests(ensemble)
