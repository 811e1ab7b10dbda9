"""What LangChain's own suites are too weak to see."""

import asyncio
import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import pytest
from jsonschema import Draft202012Validator
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ContextOverflowError, ModelNotFoundError, ModelTimeoutError
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
    trim_messages,
)
from langchain_core.output_parsers import PydanticOutputParser
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from pydantic import BaseModel, ValidationError, create_model
from transformers import AutoTokenizer

from gac_core import Ensemble, PromptError
from gac_core.chat.prompt import check_messages
from gac_core.pocket import folder, forms
from gac_integrations.langchain import ChatGaC, GaC, GaCInvalidRequestError, GaCModelError
from gac_integrations.langchain.messages import plain_messages
from gac_integrations.langchain.schemas import json_schema
from gac_integrations.shared import model_cache
from tests.fakes import assert_rests, forwards_of, make
from tests.test_tools import FORMS, SCHEMA

SUM = "What is 17 + 25?"
ANSWER = "17 + 25 = 42"
FACTS = "The code of Mila is 4711.\nMila lives in Rome.\n\nWhat is the code of Mila?"


class Person(BaseModel):
    """A person."""

    name: str
    age: int


class Place(TypedDict):
    """A place."""

    city: str


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return "sunny" if city else ""


def get_time(city: str) -> str:
    """Get the time in a city."""
    return "12:30" if city else ""


@pytest.fixture(scope="module")
def ensemble() -> Iterator[Ensemble]:
    with Ensemble.pocket() as ensemble:
        yield ensemble


@pytest.fixture
def llm(ensemble: Ensemble) -> ChatGaC:
    return ChatGaC(ensemble=ensemble)


def joined(chunks: list[Any]) -> Any:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


# ---------------------------------------------------------------- one text, however it is asked for


@pytest.mark.slow
async def test_every_way_to_ask_gives_one_text(llm: ChatGaC) -> None:
    for question in (SUM, FACTS, "Hello"):
        said = llm.invoke(question)
        assert "".join(str(c.content) for c in llm.stream(question)) == said.content
        assert (await llm.ainvoke(question)).content == said.content
        assert "".join([str(c.content) async for c in llm.astream(question)]) == said.content
        assert [m.content for m in llm.batch([question, SUM])] == [said.content, ANSWER]
        assert [m.content for m in await llm.abatch([SUM, question])] == [ANSWER, said.content]


def test_a_stream_ends_with_one_empty_chunk_that_tells_the_rest(llm: ChatGaC) -> None:
    chunks = list(llm.stream(SUM))
    *before, last = chunks
    assert all(c.content and c.usage_metadata is None for c in before)
    assert (last.content, last.chunk_position) == ("", "last")
    merged = joined(chunks)
    whole = llm.invoke(SUM)
    assert merged.usage_metadata == whole.usage_metadata
    assert merged.response_metadata == whole.response_metadata
    assert asyncio.run(llm.ainvoke(SUM)).response_metadata == whole.response_metadata
    assert whole.response_metadata["model_name"] == "ada+bo+cy"  # of an ensemble handed over


def test_usage_is_what_the_tokenizers_count(llm: ChatGaC, ensemble: Ensemble) -> None:
    messages = [SystemMessage("Be brief."), HumanMessage(SUM)]
    said = llm.invoke(messages)
    prompts = ensemble.prompt_ids(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": SUM}]
    )
    for member, prompt in zip(said.response_metadata["members"], prompts, strict=True):
        tokenizer = AutoTokenizer.from_pretrained(folder(member["name"]))
        assert member["prompt_tokens"] == len(prompt)
        assert member["completion_tokens"] == len(own_tokens(tokenizer, said.content))
    assert said.usage_metadata is not None
    assert said.usage_metadata["input_tokens"] == len(prompts[0])
    assert llm.get_num_tokens_from_messages(messages) == len(prompts[0])
    assert llm.get_num_tokens(SUM) > 0


def own_tokens(tokenizer: Any, text: Any) -> list[int]:
    """The tokens of an answer as it stands behind a prompt (no space is put before it)."""
    behind = tokenizer(f"a\n{text}", add_special_tokens=False)["input_ids"]
    return list(behind[len(tokenizer("a\n", add_special_tokens=False)["input_ids"]) :])


def test_stop_ends_the_answer_and_a_call_beats_the_constructor(ensemble: Ensemble) -> None:
    llm = ChatGaC(ensemble=ensemble, stop=["42"])
    assert llm.invoke(SUM).content == "17 + 25 = "
    assert llm.invoke(SUM, stop=["+ 25"]).content == "17 "
    assert "".join(str(c.content) for c in llm.stream(SUM, stop=["5 ="])) == "17 + 2"
    assert llm.invoke(SUM, stop=[]).content == ANSWER


def test_call_options_beat_the_constructor_and_unknown_ones_are_errors(llm: ChatGaC) -> None:
    said = llm.invoke(SUM, max_tokens=3)
    assert said.response_metadata["finish_reason"] == "length"
    drawn = {llm.invoke("Hello", temperature=5.0, seed=s, max_tokens=8).content for s in range(5)}
    assert len(drawn) > 1
    with pytest.raises(GaCInvalidRequestError, match="unknown options \\['temprature'\\]"):
        llm.invoke(SUM, temprature=1)
    with pytest.raises(ValidationError, match="modell"):
        ChatGaC(modell="pocket")
    with pytest.raises(ValidationError, match="neither pocket nor a YAML file"):
        ChatGaC(model_name="org/model")
    with pytest.raises(ValidationError, match="temperature"):
        ChatGaC(temperature=-1)


def test_logprobs_with_every_members_view(llm: ChatGaC) -> None:
    said = llm.invoke(SUM, logprobs=True, top_logprobs=3)
    content = said.response_metadata["logprobs"]["content"]
    assert "".join(t["token"] for t in content) == said.content
    assert all(len(t["top_logprobs"]) <= 3 for t in content)
    assert [m["name"] for m in content[0]["members"]] == ["ada", "bo", "cy"]
    chunks = list(llm.stream(SUM, logprobs=True, top_logprobs=3))
    merged = joined(chunks)
    assert merged.response_metadata["logprobs"]["content"] == content
    json.dumps(said.response_metadata)


class Tokens(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.seen.append(token)


async def test_callbacks_hear_every_token_once(llm: ChatGaC) -> None:
    for ask in (llm.invoke, lambda q, config: list(llm.stream(q, config))):
        heard = Tokens()
        ask(SUM, config={"callbacks": [heard]})
        assert "".join(heard.seen) == ANSWER
    heard = Tokens()
    await llm.ainvoke(SUM, config={"callbacks": [heard]})
    assert "".join(heard.seen) == ANSWER


# ---------------------------------------------------------------- the engine behind it


@pytest.mark.slow
async def test_fifty_calls_share_forwards(llm: ChatGaC, ensemble: Ensemble) -> None:
    before = forwards_of(ensemble)
    said = await asyncio.gather(*(llm.ainvoke(f"What is {n} + 25?") for n in range(10, 60)))
    forwards = forwards_of(ensemble) - before
    steps = sum(m.response_metadata["steps"] for m in said)
    assert forwards < steps * len(ensemble.members) / 8


async def test_cancelling_and_leaving_stop_the_computing(llm: ChatGaC, ensemble: Ensemble) -> None:
    endless = llm.bind(temperature=50.0, seed=1, max_tokens=2000)
    task = asyncio.create_task(endless.ainvoke("Hello"))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(assert_rests, ensemble)
    stream = endless.stream("Hello")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    await asyncio.to_thread(assert_rests, ensemble)


def test_time_is_up(llm: ChatGaC) -> None:
    endless = llm.bind(temperature=50.0, seed=1, max_tokens=2000, timeout=0.05)
    with pytest.raises(ModelTimeoutError, match="raise timeout"):
        endless.invoke("Hello")
    with pytest.raises(ModelTimeoutError):
        asyncio.run(endless.ainvoke("Hello"))


def test_the_cache_tells_two_configurations_apart(tmp_path: Path) -> None:
    first = Ensemble.pocket(lazy=True).config
    other = first.model_copy(update={"method": "cascade"})
    paths = []
    for index, config in enumerate((first, other)):
        path = tmp_path / f"{index}.yaml"
        path.write_text(config.to_yaml())
        paths.append(str(path))
    cache = InMemoryCache()
    a, b, again = (ChatGaC(model_name=p, cache=cache) for p in (*paths, paths[0]))
    fused = [m.invoke(SUM).response_metadata["fused_steps"] for m in (a, b, again)]
    assert fused[0] == fused[2] > fused[1]
    assert a._get_llm_string() == again._get_llm_string() != b._get_llm_string()
    assert a._get_llm_string() != a.model_copy(update={"seed": 1})._get_llm_string()


def test_models_are_loaded_once_however_often_the_object_is_built() -> None:
    llm = ChatGaC()
    assert llm.invoke(SUM).content == ANSWER
    parts = llm._ensemble.runtime
    for twin in (
        ChatGaC(temperature=0.5),
        pickle.loads(pickle.dumps(llm)),
        llm.model_copy(),
        copy.deepcopy(llm),
        llm.configurable_fields(temperature=ConfigurableField(id="t"))
        .with_config(configurable={"t": 0.0})
        ._prepare()[0],  # type: ignore[attr-defined]
    ):
        assert twin._ensemble.runtime is parts
    with pytest.raises(GaCInvalidRequestError, match="can not be pickled"):
        pickle.dumps(ChatGaC(ensemble=llm._ensemble))
    assert model_cache.shared_ensemble(llm._config) is llm._ensemble


def test_errors_are_those_the_middleware_knows(llm: ChatGaC, tmp_path: Path) -> None:
    with pytest.raises(ContextOverflowError, match="shorten the prompt"):
        llm.invoke("word " * 3000)
    with pytest.raises(GaCInvalidRequestError, match="text only"):
        llm.invoke([HumanMessage([{"type": "image_url", "image_url": {"url": "data:x"}}])])
    path = tmp_path / "missing.yaml"
    path.write_text(f"members: [{tmp_path}/a, {tmp_path}/b]")
    with pytest.raises(ModelNotFoundError):
        ChatGaC(model_name=str(path)).invoke("Hello")


# ---------------------------------------------------------------- tools


@pytest.mark.slow
def test_a_tool_is_called_and_its_result_told(llm: ChatGaC) -> None:
    bound = llm.bind_tools([get_weather, get_time])
    question = HumanMessage("What is the weather in Rome?")
    called = bound.invoke([question])
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Rome"})
    assert called.response_metadata["finish_reason"] == "tool_calls"
    result = ToolMessage("sunny", tool_call_id=call["id"])
    told = bound.invoke([question, called, result])
    assert told.content == "The weather in Rome is sunny."
    assert told.tool_calls == []


def test_arguments_stream_as_they_are_written(llm: ChatGaC) -> None:
    bound = llm.bind_tools([get_weather])
    chunks = list(bound.stream("What is the weather in Rome?"))
    parts = [part for chunk in chunks for part in chunk.tool_call_chunks]  # type: ignore[attr-defined]
    assert [part["name"] for part in parts if part["name"]] == ["get_weather"]
    assert len(parts) > 3
    assert "".join(part["args"] for part in parts) == '{"city": "Rome"}'
    (call,) = joined(chunks).tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Rome"})


@pytest.mark.slow
def test_the_choice_of_tools_is_kept(llm: ChatGaC) -> None:
    for choice in ("any", "required", True):
        assert llm.bind_tools([get_weather], tool_choice=choice).invoke("Hello").tool_calls
    named = llm.bind_tools([get_weather, get_time], tool_choice="get_time")
    assert named.invoke("What is the weather in Rome?").tool_calls[0]["name"] == "get_time"
    by_dict = {"type": "function", "function": {"name": "get_time"}}
    assert llm.bind_tools([get_weather, get_time], tool_choice=by_dict).invoke("x").tool_calls
    none = llm.bind_tools([get_weather], tool_choice="none")
    assert none.invoke("What is the weather in Rome?").tool_calls == []
    one = llm.bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False)
    assert len(one.invoke("What is the weather in Rome?").tool_calls) == 1
    with pytest.raises(GaCInvalidRequestError, match="none of auto, any"):
        llm.bind_tools([get_weather], tool_choice="get_wether")


def test_calls_stream(llm: ChatGaC) -> None:
    chunks = list(llm.bind_tools([get_weather]).stream("What is the weather in Rome?"))
    assert all("<" not in str(chunk.content) for chunk in chunks)
    merged = joined(chunks)
    assert merged.tool_calls[0]["args"] == {"city": "Rome"}


# ---------------------------------------------------------------- structure


@pytest.mark.slow
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output(llm: ChatGaC, method: Any) -> None:
    text = "Mila is 42 years old."
    assert llm.with_structured_output(Person, method=method).invoke(text) == Person(
        name="Mila", age=42
    )
    raw = llm.with_structured_output(Person, method=method, include_raw=True).invoke(text)
    assert isinstance(raw, dict)
    assert isinstance(raw["raw"], AIMessage)
    assert (raw["parsed"], raw["parsing_error"]) == (Person(name="Mila", age=42), None)
    place = llm.with_structured_output(Place, method=method).invoke("Mila lives in Rome.")
    assert isinstance(place, dict)
    assert set(place) == {"city"}
    as_schema = llm.with_structured_output(Person.model_json_schema(), method=method)
    assert as_schema.invoke(text) == {"name": "Mila", "age": 42}


@pytest.mark.slow
def test_structure_holds_whatever_the_members_want(llm: ChatGaC) -> None:
    class Team(BaseModel):
        leader: Person
        members: list[Person]
        motto: str | None = None

    wild = llm.bind(temperature=3.0, seed=1, max_tokens=300)
    team = ChatGaC(ensemble=llm.ensemble, temperature=2.0, seed=3, max_tokens=200)
    for method in ("json_schema", "function_calling"):
        found = team.with_structured_output(Team, method=method).invoke("Hello")
        assert isinstance(found, Team)
    said = wild.invoke("Hello", response_format={"type": "json_object"})
    assert isinstance(json.loads(str(said.content)), dict)
    strict = {"name": "P", "schema": Person.model_json_schema(), "strict": True}
    said = wild.invoke("x", response_format={"type": "json_schema", "json_schema": strict})
    Person.model_validate_json(str(said.content))
    with pytest.raises(GaCInvalidRequestError, match="has no schema"):
        llm.invoke("x", response_format={"type": "json_schema", "json_schema": {}})
    with pytest.raises(GaCInvalidRequestError, match=r"takes \d+ steps"):
        llm.bind(max_tokens=3).invoke("x", response_format=Person)


@pytest.mark.slow
@pytest.mark.parametrize(
    "schema",
    [
        {"title": "Mood", "type": "string", "enum": ["happy", "sad"]},
        {"title": "Ages", "type": "object", "additionalProperties": {"type": "integer"}},
        {"title": "Either", "anyOf": [{"type": "integer"}, {"type": "null"}]},
        {"name": "n", "schema": {"type": "array", "items": {"type": "boolean"}}},
        {
            "title": "Both",
            "allOf": [
                {"type": "object", "properties": {k: {"type": "integer"}}, "required": [k]}
                for k in "ab"
            ],
        },
        {"type": "object", "properties": {"at": {"type": "string", "format": "path"}}},
    ],
)
def test_any_json_schema_is_kept(llm: ChatGaC, schema: dict[str, Any]) -> None:
    wild = ChatGaC(ensemble=llm.ensemble, temperature=3.0, max_tokens=120)
    for seed in range(3):
        found = wild.bind(seed=seed).invoke("Hello", response_format=schema)
        Draft202012Validator(schema.get("schema", schema)).validate(json.loads(str(found.content)))
    if schema.get("type") == "string":
        with pytest.raises(GaCInvalidRequestError, match="needs an object"):
            llm.with_structured_output(schema, method="function_calling")


class Node(BaseModel):
    """A node."""

    value: int
    children: list["Node"] = []


@pytest.mark.slow
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_a_model_that_holds_itself_is_kept(llm: ChatGaC, method: Any) -> None:
    for seed in range(3):
        wild = ChatGaC(ensemble=llm.ensemble, temperature=3.0, seed=seed, max_tokens=150)
        assert isinstance(wild.with_structured_output(Node, method=method).invoke("x"), Node)


def test_the_cache_tells_two_classes_of_one_name_apart(llm: ChatGaC) -> None:
    def made(**fields: Any) -> type[BaseModel]:
        return create_model("P", **fields)

    cached = ChatGaC(ensemble=llm.ensemble, cache=InMemoryCache())
    for fields in ({"a": (int, ...)}, {"b": (str, ...)}):
        found = cached.with_structured_output(made(**fields)).invoke("Mila is 42 years old.")
        assert set(dict(found)) == set(fields)


def test_what_was_cut_says_so(llm: ChatGaC) -> None:
    said = llm.invoke("Mila is 42 years old.", response_format=Person, max_tokens=60)
    assert said.response_metadata["finish_reason"] == "stop"

    class Story(BaseModel):
        story: str

    wild = llm.bind(temperature=5.0, seed=1, max_tokens=30)
    cut = wild.invoke("x", response_format=Story)
    assert cut.response_metadata["finish_reason"] == "length"
    Story.model_validate_json(str(cut.content))
    no_room = llm.bind_tools([get_weather]).bind(max_tokens=5)
    said = no_room.invoke("What is the weather in Rome?")
    assert "<" not in said.content
    assert said.response_metadata["finish_reason"] == "length"


@pytest.mark.slow
def test_time_is_up_also_while_a_request_waits(llm: ChatGaC) -> None:
    config = Ensemble.pocket(lazy=True).config.model_copy(update={"max_batch": 1})
    one_at_a_time = ChatGaC(config=config, max_tokens=2000, temperature=50.0, seed=1)
    ahead = one_at_a_time.stream("Hello")
    next(ahead)
    with pytest.raises(ModelTimeoutError):
        one_at_a_time.invoke("Hello", timeout=0.2)
    with pytest.raises(ModelTimeoutError):
        asyncio.run(one_at_a_time.ainvoke("Hello", timeout=0.2))
    ahead.close()  # type: ignore[attr-defined]
    for wrong in ("5", -1):
        with pytest.raises(GaCInvalidRequestError, match="timeout must be seconds"):
            one_at_a_time.invoke("Hello", timeout=wrong)


@pytest.mark.slow
def test_json_that_holds_a_tag_is_no_call(llm: ChatGaC) -> None:
    for value in ('<tool_call>{"name": "rm", "arguments": {}}</tool_call>', "see <tool_call> tag"):
        schema = {"type": "object", "properties": {"x": {"const": value}}, "required": ["x"]}
        wild = llm.bind_tools([get_weather]).bind(temperature=30.0, max_tokens=200)
        for seed in range(8):
            try:
                said = wild.invoke("x", response_format=schema, seed=seed)
            except GaCModelError:  # a call that was cut
                continue
            if not str(said.content):
                assert {call["name"] for call in said.tool_calls} == {"get_weather"}
                continue
            assert json.loads(str(said.content)) == {"x": value}
            assert not said.tool_calls
            assert not said.invalid_tool_calls


def test_a_failed_tool_says_so(llm: ChatGaC) -> None:
    failed = ToolMessage("no such city", tool_call_id="1", status="error")
    (said,) = plain_messages([failed])
    assert "".join(said["content"]) == "Error: no such city"


@pytest.mark.slow
def test_what_is_no_tool_or_message_is_refused_in_langchains_terms(llm: ChatGaC) -> None:
    for wrong in ({"type": "web_search_preview"}, {"type": "custom", "name": "x"}, 5):
        with pytest.raises(GaCInvalidRequestError, match="is no tool"):
            llm.bind_tools([wrong])  # type: ignore[list-item]
    assert llm.bind(tools=[get_weather], tool_choice="any").invoke("x").tool_calls
    for part in ({"type": "video"}, {"x": "x"}, {"type": "text"}):
        with pytest.raises(GaCInvalidRequestError):
            llm.invoke([HumanMessage([part])])
    for choice in ("any", {"type": "required"}):
        with pytest.raises(GaCInvalidRequestError, match="needs tools"):
            llm.invoke("x", tool_choice=choice)
    form = llm.bind_tools([get_weather], tool_choice={"type": "any"}).invoke("Hello")
    assert form.tool_calls
    talked = llm.bind_tools([get_weather], tool_choice={"type": "none"}).invoke("Hello")
    assert not talked.tool_calls
    with pytest.raises(GaCInvalidRequestError, match="allowed_tools"):
        llm.bind_tools([get_weather], tool_choice={"type": "allowed_tools"})
    array = {"name": "f", "parameters": {"type": "array"}}
    with pytest.raises(GaCInvalidRequestError, match="must be an object"):
        llm.bind_tools([array]).invoke("x")


def test_descriptions_of_parameters_are_shown(llm: ChatGaC) -> None:
    @tool(parse_docstring=True)
    def book(date: str) -> str:
        """Book a table.

        Args:
            date: As year-month-day.

        """
        return date

    request = llm._request([HumanMessage("x")], None, {"tools": [book]})
    assert not isinstance(request.prompt, str)
    assert "  date: As year-month-day." in str(request.prompt[0]["content"])


@pytest.mark.slow
def test_a_batch_is_as_wide_as_the_engine(llm: ChatGaC, ensemble: Ensemble) -> None:
    before = forwards_of(ensemble)
    said = llm.batch([f"What is {n} + 25?" for n in range(10, 40)])
    forwards = forwards_of(ensemble) - before
    steps = sum(m.response_metadata["steps"] for m in said)
    assert forwards < steps * len(ensemble.members) / 5
    assert len(llm.batch([SUM] * 3, {"max_concurrency": 1})) == 3


def test_a_context_too_full_for_json_is_an_overflow(llm: ChatGaC, ensemble: Ensemble) -> None:
    prompts = ensemble.prompt_ids([{"role": "user", "content": "1"}])
    long = "1" * (2304 - max(map(len, prompts)) - 60)
    with pytest.raises(ContextOverflowError):
        llm.invoke(long, response_format=Person)


def test_the_members_were_trained_on_the_instructions_of_this_langchain() -> None:
    told = PydanticOutputParser(pydantic_object=Person).get_format_instructions()
    schema = told.split("```")[1].strip()
    learned = [form[-1][1].format(text="Text.", schema=schema) for form in forms.SCHEMA]
    assert f"Text.\n\n{told}" in learned


# ---------------------------------------------------------------- what others hand over


@pytest.mark.parametrize("form", FORMS)
def test_tools_of_every_provider_are_called_with_their_arguments(llm: ChatGaC, form: str) -> None:
    mark = {"cachePoint": {"type": "default"}}
    bound = llm.bind_tools([FORMS[form], mark], tool_choice="any")
    (call,) = bound.invoke("What is the weather in Rome?").tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Rome"})
    assert json_schema(FORMS[form])["properties"] == SCHEMA["properties"]


def test_the_choice_of_a_tool_has_many_forms(llm: ChatGaC) -> None:
    anthropic, bedrock = {"type": "tool", "name": "get_time"}, {"tool": {"name": "get_time"}}
    for wanted, named in (
        (anthropic, "get_time"),
        (bedrock, "get_time"),
        ({"any": {}}, "required"),
    ):
        bound: Any = llm.bind_tools([get_weather, get_time], tool_choice=wanted)
        assert bound.kwargs["tool_choice"] == named


def test_a_history_of_any_model_reaches_the_members() -> None:
    call = {"name": "now", "args": {}, "id": "1"}
    block = {"type": "tool_use", "id": "1", "name": "now", "input": {}}
    results = [{"type": "tool_result", "tool_use_id": "1", "content": "NOON"}]
    wrong = {"name": "now", "args": "{", "id": "2", "error": None, "type": "invalid_tool_call"}
    written = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    history = [
        *convert_to_messages([{"role": "developer", "content": "Be brief."}]),
        HumanMessage([{"text": "One."}, {"cachePoint": {}}, {"type": "text", "text": "Two."}]),
        AIMessage(
            [{"type": "thinking", "thinking": "hm"}, "Let me ", "look.", block], tool_calls=[call]
        ),
        HumanMessage([*results, {"type": "text", "text": "Be QUICK."}]),
        AIMessage("", additional_kwargs={"refusal": "I can not."}),
        AIMessage("", additional_kwargs={"audio": {"id": "a", "transcript": "Hello."}}),
        AIMessage("", additional_kwargs={"function_call": {"name": "now", "arguments": "null"}}),
        FunctionMessage(content="noon", name="now"),
        AIMessage("", invalid_tool_calls=[wrong]),
        ChatMessage(content="x", role="model"),
        ToolMessage([{"type": "json", "json": "ä"}, "b"], tool_call_id="1", status="error"),
        HumanMessage([{"type": "text-plain", "text": "T", "mime_type": "text/plain"}], name="Mila"),
    ]
    assert [(m["role"], m["content"]) for m in plain_messages(history)] == [
        ("system", "Be brief."),
        ("user", "One.\nTwo."),
        ("assistant", "Let me look."),
        ("tool", "NOON"),
        ("user", "Be QUICK."),
        ("assistant", "I can not."),
        ("assistant", "Hello."),
        ("assistant", ""),
        ("tool", "noon"),
        ("assistant", '<tool_call>{"name": "now", "arguments": {}</tool_call>'),
        ("assistant", "x"),
        ("tool", 'Error: "ä"\nb'),
        ("user", "Mila: T"),
    ]
    shown = [m["content"] for m in check_messages(plain_messages(history))]
    assert (shown[2], shown[7]) == (f"Let me look.\n{written}", written)
    with pytest.raises(PromptError, match="RemoveMessage is no message"):
        plain_messages([RemoveMessage(id="1")])


def test_messages_are_trimmed_by_what_the_model_counts(llm: ChatGaC) -> None:
    assert llm.get_num_tokens_from_messages([]) == 0
    lines = "\n".join(f"Line {n} of a long text." for n in range(20))
    for long in (HumanMessage(lines), HumanMessage([*lines.splitlines()])):
        (trimmed,) = trim_messages(
            [long],
            max_tokens=60,
            strategy="last",
            allow_partial=True,
            token_counter=llm,
        )
        assert "Line 19" in str(trimmed.content)
        assert "Line 0 " not in str(trimmed.content)
        assert 40 < llm.get_num_tokens_from_messages([trimmed]) <= 60


def test_a_part_of_a_chat_is_counted_where_a_template_wants_the_user_first() -> None:
    chat = [SystemMessage("Be brief."), HumanMessage("Hi"), AIMessage("Hello."), HumanMessage("a")]
    with make(["legacy"]) as strict:
        llm = ChatGaC(ensemble=strict)
        answered = [HumanMessage(""), AIMessage("Hello.")]
        expected = llm.get_num_tokens_from_messages(answered)
        assert llm.get_num_tokens_from_messages(answered[1:]) == expected
        room = llm.get_num_tokens_from_messages([*chat[2:]])
        trimmed = trim_messages(chat, max_tokens=room, strategy="last", token_counter=llm)
        assert [m.content for m in trimmed] == ["Hello.", "a"]
        with pytest.raises(GaCInvalidRequestError, match="roles must alternate"):
            llm.invoke(answered[1:])


def test_own_ids_of_tokens_are_counted(ensemble: Ensemble) -> None:
    for kind in (ChatGaC, GaC):
        model = kind(ensemble=ensemble, custom_get_token_ids=lambda _: [0] * 7)
        assert model.get_num_tokens("one two three") == 7
        assert model.get_num_tokens_from_messages([HumanMessage("a"), HumanMessage("b")]) == 14


# ---------------------------------------------------------------- agents


def test_an_agent_asks_calls_reads_and_answers(llm: ChatGaC) -> None:
    agent = create_agent(llm, [get_weather, get_time])
    done = agent.invoke({"messages": [HumanMessage("What is the weather in Rome?")]})
    kinds = [message.type for message in done["messages"]]
    assert kinds == ["human", "ai", "tool", "ai"]
    assert done["messages"][-1].content == "The weather in Rome is sunny."


@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])
def test_an_agent_answers_in_a_structure(llm: ChatGaC, strategy: Any) -> None:
    agent = create_agent(llm, [], response_format=strategy(Person))
    done = agent.invoke({"messages": [HumanMessage("Mila is 42 years old.")]})
    assert done["structured_response"] == Person(name="Mila", age=42)


# ---------------------------------------------------------------- plain text


@pytest.mark.slow
async def test_the_plain_model_goes_on_with_a_text(ensemble: Ensemble) -> None:
    llm = GaC(ensemble=ensemble, max_tokens=12)
    text = llm.invoke("The code of")
    assert text == ensemble.generate("The code of", max_new_tokens=12).text
    assert "".join(llm.stream("The code of")) == text
    heard = Tokens()
    llm.invoke("The code of", config={"callbacks": [heard]})
    assert "".join(heard.seen) == text
    assert await llm.ainvoke("The code of") == text
    assert "".join([piece async for piece in llm.astream("The code of")]) == text
    assert llm.batch(["The code of"] * 3) == [text] * 3
    result = llm.generate(["The code of"])
    assert result.llm_output is not None
    assert result.llm_output["token_usage"]["completion_tokens"] > 0
    (generation,) = llm.generate(["The code of"], logprobs=True).generations[0]
    assert generation.generation_info is not None
    tokens = generation.generation_info["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == text
    with pytest.raises(GaCInvalidRequestError, match="unknown options"):
        llm.invoke("x", tools=[])
