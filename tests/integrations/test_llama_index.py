"""What LlamaIndex demands of an LLM, call by call; pipelines are in a file of their own."""

import asyncio
import json
import pickle
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.callbacks import CallbackManager, CBEventType, TokenCountingHandler
from llama_index.core.chat_engine import condense_plus_context, condense_question, context
from llama_index.core.indices.prompt_helper import PromptHelper
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.prompts import PromptTemplate
from llama_index.core.prompts.chat_prompts import (
    CHAT_REFINE_PROMPT,
    CHAT_TEXT_QA_PROMPT,
    CHAT_TREE_SUMMARIZE_PROMPT,
)
from llama_index.core.prompts.default_prompts import DEFAULT_REFINE_PROMPT, DEFAULT_TEXT_QA_PROMPT
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool
from llama_index.core.types import PydanticProgramMode
from llama_index_instrumentation import get_dispatcher
from pydantic import BaseModel, ValidationError
from transformers import AutoTokenizer

from gac_core import AnswerCutError, ConfigError, Ensemble, LoadError
from gac_core.pocket import folder, forms
from gac_integrations.llama_index import GaCContextOverflowError, GaCLLM, GaCRequestError
from gac_integrations.llama_index.messages import plain_messages
from gac_integrations.shared.errors import DeadlineError
from tests.fakes import assert_rests, forwards_of, make, pair
from tests.test_tools import FORMS

SUM = "What is 17 + 25?"
ASKED = [ChatMessage(content=SUM)]
ANSWER = "17 + 25 = 42"
TEXT = "Mila is 42 years old. Mila lives in Rome."


class Details(BaseModel):
    """Details."""

    age: int
    city: str


class Person(BaseModel):
    """A person."""

    name: str
    details: Details


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return "sunny" if city else ""


def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


TOOLS = [FunctionTool.from_defaults(get_weather), FunctionTool.from_defaults(multiply)]


@pytest.fixture(scope="module")
def ensemble() -> Iterator[Ensemble]:
    with Ensemble.pocket() as ensemble:
        yield ensemble


@pytest.fixture
def llm(ensemble: Ensemble) -> GaCLLM:
    return GaCLLM(ensemble=ensemble)


# ---------------------------------------------------------------- one text, however it is asked for


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "seed": 7}], ids=["greedy", "drawn"])
async def test_every_way_to_ask_gives_one_text(llm: GaCLLM, options: dict[str, Any]) -> None:
    said = llm.chat(ASKED, **options).message.content
    assert said
    assert options or said == ANSWER
    assert (await llm.achat(ASKED, **options)).message.content == said
    assert llm.complete(SUM, **options).text == said
    assert (await llm.acomplete(SUM, **options)).text == said
    for streamed in (
        [(r.delta, r.message.content) for r in llm.stream_chat(ASKED, **options)],
        [(r.delta, r.message.content) async for r in await llm.astream_chat(ASKED, **options)],
        [(r.delta, r.text) for r in llm.stream_complete(SUM, **options)],
        [(r.delta, r.text) async for r in await llm.astream_complete(SUM, **options)],
    ):
        assert "".join(delta for delta, _ in streamed) == said
        assert all(  # each has the whole text so far
            text == "".join(delta for delta, _ in streamed[: i + 1])
            for i, (_, text) in enumerate(streamed)
        )


def test_a_raw_response_is_plain_data_with_every_members_view(llm: GaCLLM) -> None:
    said = llm.chat(ASKED)
    json.dumps(said.raw)
    assert "".join(token["token"] for token in said.raw["tokens"]) == ANSWER
    assert [m["name"] for m in said.raw["tokens"][0]["members"]] == ["ada", "bo", "cy"]
    assert said.raw["finish_reason"] == "stop"
    streamed = list(llm.stream_chat(ASKED))
    assert [t for r in streamed for t in r.raw["tokens"]] == said.raw["tokens"]
    assert [i for i, r in enumerate(streamed) if "usage" in r.raw] == [len(streamed) - 1]
    assert streamed[-1].raw["usage"] == said.raw["usage"]


@pytest.mark.slow
def test_logprobs(llm: GaCLLM) -> None:
    assert llm.chat(ASKED).logprobs is None
    said = llm.chat(ASKED, logprobs=True, top_logprobs=3)
    assert said.logprobs is not None
    assert "".join(token[0].token for token in said.logprobs) == ANSWER  # greedy: the best
    assert {len(token) for token in said.logprobs} == {3}
    streamed = list(llm.stream_complete(SUM, logprobs=True, top_logprobs=3))
    assert [t for r in streamed for t in r.logprobs or ()] == said.logprobs
    drawn = llm.complete("Hello", logprobs=True, top_logprobs=1, temperature=50.0, seed=3)
    assert drawn.logprobs is not None
    chosen = [token["bytes"] for token in drawn.raw["tokens"]]
    assert [token[-1].bytes for token in drawn.logprobs] == chosen


# ---------------------------------------------------------------- counting


class Events(BaseEventHandler):
    seen: Counter[str]

    @classmethod
    def class_name(cls) -> str:
        return "Events"

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.seen[event.class_name()] += 1


@pytest.mark.slow
async def test_events_are_counted_exactly(llm: GaCLLM) -> None:
    heard = Events(seen=Counter())
    dispatcher = get_dispatcher()
    dispatcher.add_event_handler(heard)
    counter = TokenCountingHandler(tokenizer=llm.token_ids)
    llm.callback_manager = CallbackManager([counter])
    try:
        pieces = len(list(llm.stream_chat(ASKED)))
        assert heard.seen == {
            "LLMChatStartEvent": 1,
            "LLMChatInProgressEvent": pieces,
            "LLMChatEndEvent": 1,
        }
        heard.seen.clear()
        assert len([r async for r in await llm.astream_complete(SUM)]) == pieces
        assert heard.seen == {
            "LLMCompletionStartEvent": 1,
            "LLMCompletionInProgressEvent": pieces,
            "LLMCompletionEndEvent": 1,
        }
        heard.seen.clear()
        llm.chat(ASKED)
        await llm.achat(ASKED)
        llm.complete(SUM)
        await llm.acomplete(SUM)
        list(llm.stream_complete(SUM))
        _ = [r async for r in await llm.astream_chat(ASKED)]
        starts = [n for name, n in heard.seen.items() if "Start" in name]
        ends = [n for name, n in heard.seen.items() if "End" in name]
        assert starts == ends == [3, 3]
    finally:
        dispatcher.event_handlers.remove(heard)
    usage = llm.chat(ASKED).raw["usage"]
    events = counter.llm_token_counts
    assert len(events) == 9
    assert {e.prompt_token_count for e in events} == {usage["prompt_tokens"]}
    assert {e.completion_token_count for e in events} == {usage["completion_tokens"]}


def test_usage_is_what_the_tokenizers_count(llm: GaCLLM, ensemble: Ensemble) -> None:
    said = llm.chat([ChatMessage(role="system", content="Be brief."), *ASKED])
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": SUM}]
    prompts = ensemble.prompt_ids(plain)
    for member, prompt in zip(said.raw["members"], prompts, strict=True):
        tokenizer = AutoTokenizer.from_pretrained(folder(member["name"]))
        behind = tokenizer(f"a\n{ANSWER}", add_special_tokens=False)["input_ids"]
        before = tokenizer("a\n", add_special_tokens=False)["input_ids"]
        assert member["prompt_tokens"] == len(prompt)
        assert member["completion_tokens"] == len(behind) - len(before)
    assert said.raw["usage"]["prompt_tokens"] == len(prompts[0])


def test_prompts_are_sized_by_the_smallest_member(llm: GaCLLM, ensemble: Ensemble) -> None:
    room = llm.metadata.context_window
    assert 2304 - 40 < room < 2304  # the templates take the rest
    assert GaCLLM().metadata.context_window == room
    assert GaCLLM(max_tokens=30).metadata.num_output == 30
    assert GaCLLM(context_window=500).metadata.context_window == 500
    assert GaCLLM(context_window=99_999).metadata.context_window == room
    assert GaCLLM(context_window=100).metadata.num_output == 99
    with make(["chatml", "byte_level"]) as tiny:
        assert 400 < GaCLLM(ensemble=tiny).metadata.context_window < 512
    tokenizers = [member.tokenizer for member in ensemble.members]
    assert len(llm.token_ids(SUM)) == max(len(s.encode_prompt(SUM)) for s in tokenizers)


# ---------------------------------------------------------------- the engine behind it


async def test_pieces_arrive_as_they_are_made_and_the_loop_goes_on(
    llm: GaCLLM, ensemble: Ensemble
) -> None:
    endless = {"temperature": 50.0, "seed": 1, "max_tokens": 60}
    await llm.achat(ASKED)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticking = asyncio.create_task(tick())
    stream = await llm.astream_chat(ASKED, **endless)
    arrivals = [(forwards_of(ensemble), ticks) async for _ in stream]
    ticking.cancel()
    assert len(arrivals) > 10
    # Not all at the end: more passes were made while pieces arrived, and others ran in between.
    assert all(len(set(counts)) > len(arrivals) / 10 for counts in zip(*arrivals, strict=True))


async def test_chats_at_the_same_time_share_forwards(llm: GaCLLM, ensemble: Ensemble) -> None:
    await llm.achat(ASKED)
    before = forwards_of(ensemble)
    alone = await llm.achat([ChatMessage(content="What is 11 + 25?")])
    one = forwards_of(ensemble) - before
    others = [[ChatMessage(content=f"What is {n} + 25?")] for n in range(12, 22)]
    before = forwards_of(ensemble)
    together = await asyncio.gather(*(llm.achat(messages) for messages in others))
    ten = forwards_of(ensemble) - before
    assert [r.message.content for r in (alone, *together)] == [
        f"{n} + 25 = {n + 25}" for n in range(11, 22)
    ]
    assert ten < 5 * one


@pytest.mark.slow
async def test_leaving_and_cancelling_stop_the_computing(llm: GaCLLM, ensemble: Ensemble) -> None:
    endless: dict[str, Any] = {"temperature": 50.0, "seed": 1, "max_tokens": 2000}
    stream = llm.stream_chat(ASKED, **endless)
    next(stream)
    stream.close()
    await asyncio.to_thread(assert_rests, ensemble)
    for _ in llm.stream_complete(SUM, **endless):
        break
    await asyncio.to_thread(assert_rests, ensemble)
    async for _ in await llm.astream_chat(ASKED, **endless):
        break
    await asyncio.to_thread(assert_rests, ensemble)
    task = asyncio.create_task(llm.achat(ASKED, **endless))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(assert_rests, ensemble)


async def test_errors_reach_the_consumer(llm: GaCLLM, tmp_path: Path) -> None:
    long = [ChatMessage(content="word " * 3000)]
    with pytest.raises(GaCContextOverflowError, match="shorten the prompt"):
        llm.chat(long)
    with pytest.raises(GaCContextOverflowError):
        list(llm.stream_chat(long))
    with pytest.raises(GaCContextOverflowError):
        await llm.achat(long)
    with pytest.raises(GaCContextOverflowError):
        _ = [r async for r in await llm.astream_chat(long)]
    with pytest.raises(GaCRequestError, match="read text only"):
        llm.chat([ChatMessage(blocks=[ImageBlock(image=b"x", image_mimetype="image/png")])])
    with pytest.raises(DeadlineError, match="raise timeout"):
        llm.chat(ASKED, temperature=50.0, seed=1, max_tokens=2000, timeout=0.05)
    path = tmp_path / "missing.yaml"
    path.write_text(f"members: [{tmp_path}/a, {tmp_path}/b]")
    with pytest.raises(LoadError):
        GaCLLM(model=str(path)).complete("Hello")


# ---------------------------------------------------------------- options


@pytest.mark.slow
def test_a_call_beats_the_object_and_a_typo_is_an_error(ensemble: Ensemble) -> None:
    llm = GaCLLM(ensemble=ensemble, stop=["42"], max_tokens=50)
    assert llm.complete(SUM).text == "17 + 25 = "
    assert llm.complete(SUM, stop=["+ 25"]).text == "17 "
    assert llm.complete(SUM, stop=[]).text == ANSWER
    assert llm.complete(SUM, max_tokens=2).raw["finish_reason"] == "length"
    # The object's stop strings are not meant for JSON, which ends by itself.
    Details.model_validate_json(str(llm.chat(ASKED, response_format=Details).message.content))
    with pytest.raises(GaCRequestError, match="drop one"):
        llm.chat(ASKED, response_format=Details, stop=["4"])
    talked = llm.chat_with_tools(TOOLS, "What is the weather in Rome?")
    assert llm.get_tool_calls_from_response(talked)
    for call in (llm.complete, llm.stream_complete):
        with pytest.raises(GaCRequestError, match=r"unknown options \['temprature'\]"):
            call(SUM, temprature=1)
    with pytest.raises(GaCRequestError, match="unknown options"):
        llm.chat(ASKED, n=2)
    with pytest.raises(ValidationError, match="modell"):
        GaCLLM(modell="pocket")
    with pytest.raises(ValidationError, match="modell"):
        GaCLLM.from_dict({**GaCLLM().to_dict(), "modell": 1})
    with pytest.raises(ValidationError, match="query_wrapper_prompt is for texts"):
        GaCLLM(query_wrapper_prompt=PromptTemplate("{query_str}"))
    with pytest.raises(ValidationError, match="neither pocket nor a YAML file"):
        GaCLLM(model="org/model")


@pytest.mark.slow
def test_an_object_survives_serialisation(tmp_path: Path) -> None:
    path = tmp_path / "ensemble.yaml"
    path.write_text(Ensemble.pocket(lazy=True).config.to_yaml())
    counter = TokenCountingHandler(tokenizer=str.split)
    llm = GaCLLM(
        model=str(path),
        max_tokens=20,
        system_prompt="Be brief.",
        callback_manager=CallbackManager([counter]),
    )
    said = llm.complete(SUM).text
    for twin in (
        GaCLLM.from_dict(llm.to_dict()),
        GaCLLM.from_json(json.dumps(llm.to_dict())),
        pickle.loads(pickle.dumps(llm)),
    ):
        assert twin.to_dict() == llm.to_dict()
        assert twin.complete(SUM).text == said
        assert twin._ensemble is llm._ensemble  # loaded once
    assert llm.callback_manager.handlers == [counter]
    with_config = GaCLLM(config=Ensemble.pocket(lazy=True).config)
    assert GaCLLM.from_dict(with_config.to_dict())._config == with_config._config
    handed_over = GaCLLM(ensemble=llm._ensemble)
    with pytest.raises(ConfigError, match="can not be pickled"):
        pickle.dumps(handed_over)
    with pytest.raises(ConfigError, match="completion_to_prompt can not be pickled"):
        pickle.dumps(GaCLLM(completion_to_prompt=lambda prompt: prompt))
    with pytest.raises(ConfigError, match="is in no dict"):
        GaCLLM.from_dict(handed_over.to_dict())
    assert GaCLLM.model_validate(llm.model_dump()).to_dict() == llm.to_dict()
    assert "temperature" in GaCLLM.model_json_schema()["properties"]
    with make(["chatml"]) as tiny:
        others = (GaCLLM(), with_config, handed_over, GaCLLM(ensemble=tiny))
        assert GaCLLM(ensemble=tiny).metadata.model_name == "chatml-0"
        assert with_config.metadata.model_name == "ada+bo+cy"
        identities = [other.to_dict()["identity"] for other in others]
    assert identities[0] == identities[1]
    assert len(set(identities)) == 3
    path.write_text(Ensemble.pocket(lazy=True, primary=1).config.to_yaml())
    assert GaCLLM(model=str(path)).to_dict() != llm.to_dict()
    assert llm.to_payload()["class_name"] == "GaCLLM"


# ---------------------------------------------------------------- prompts


def rendered(llm: GaCLLM, messages: list[ChatMessage], **options: Any) -> str:
    """What the second member reads, whose template has no system role."""
    ids = llm._ensemble.prompt_ids(llm._chat_request(messages, options).prompt)[1]
    return str(AutoTokenizer.from_pretrained(folder("bo")).decode(ids))


class Spy:
    """Remembers what the ensemble is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts: list[Any] = []
        stream = Ensemble.stream

        def spying(ensemble: Ensemble, prompt: Any, *args: Any, **options: Any) -> Any:
            self.prompts.append(prompt)
            return stream(ensemble, prompt, *args, **options)

        monkeypatch.setattr(Ensemble, "stream", spying)


@pytest.mark.slow
def test_the_system_prompt_comes_first_and_once(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = GaCLLM(ensemble=ensemble, system_prompt="Be brief.")
    spy = Spy(monkeypatch)
    llm.chat(ASKED)
    llm.complete(SUM)
    llm.predict(PromptTemplate("{q}"), q=SUM)
    "".join(llm.stream(PromptTemplate("{q}"), q=SUM))
    list(llm.stream_chat(ASKED))
    first = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": SUM}]
    assert spy.prompts == [first] * 5
    spy.prompts.clear()
    llm.structured_predict(Person, PromptTemplate("{q}"), q=TEXT)
    assert str(spy.prompts[0]).count("Be brief.") == 1
    plain = GaCLLM(ensemble=ensemble, system_prompt="Be brief.", is_chat_model=False)
    spy.prompts.clear()
    plain.complete("The code of", max_tokens=3)
    plain.predict(PromptTemplate("The code of"))
    assert spy.prompts == ["Be brief.\n\nThe code of"] * 2


def test_who_formats_prompts_alone_is_heard(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    GaCLLM(ensemble=ensemble).complete("As it is", formatted=True, max_tokens=3)
    own = GaCLLM(
        ensemble=ensemble,
        completion_to_prompt=lambda prompt: f"<<{prompt}>>",
        messages_to_prompt=lambda messages: "|".join(
            f"{m.role.value}={m.content}" for m in messages
        ),
        max_tokens=3,
    )
    own.complete("x")
    own.chat([ChatMessage(role="system", content="s"), ChatMessage(content="u")])
    assert spy.prompts == ["As it is", "<<x>>", "system=s|user=u"]
    own.chat_with_tools(TOOLS, "x", max_tokens=50)
    assert "get_weather(city: string)" in spy.prompts[-1]


def test_the_history_of_an_agent_is_read(llm: GaCLLM) -> None:
    call = ToolCallBlock(tool_call_id="1", tool_name="multiply", tool_kwargs={"a": 3, "b": 4})
    result = ChatMessage(role="tool", content="12", additional_kwargs={"tool_call_id": "1"})
    by_block = ChatMessage(role="assistant", blocks=[ThinkingBlock(content="hm"), call])
    function = {"name": "multiply", "arguments": '{"a": 3, "b": 4}'}
    by_kwargs = ChatMessage(
        role=MessageRole.ASSISTANT,
        content=None,
        additional_kwargs={"tool_calls": [{"id": "1", "function": function}], "session_id": "s"},
    )
    texts = [
        rendered(llm, [ChatMessage(content="Multiply."), called, result])
        for called in (by_block, by_kwargs)
    ]
    assert texts[0] == texts[1]
    assert '<tool_call>{"name": "multiply", "arguments": {"a": 3, "b": 4}}</tool_call>' in texts[0]
    assert "hm" not in texts[0]
    assert texts[0].count("12") == 1
    developer = [ChatMessage(role="developer", content="Be kind."), *ASKED]
    assert "Be kind." in rendered(llm, developer)


def test_blocks_of_any_llm_are_read(llm: GaCLLM) -> None:
    cited = {"source": "s", "title": "T"}
    asked = ChatMessage(
        role="user",
        blocks=[
            TextBlock(text="One."),
            CachePoint(cache_control=CacheControl(type="ephemeral")),
            CitableBlock(content="Two.", **cited),
            DocumentBlock(data="Zwölf.".encode(), document_mimetype="text/plain", title="D"),
        ],
    )
    answered = ChatMessage(
        role="model",
        blocks=[
            ThinkingBlock(content="hm"),
            TextBlock(text="Three."),
            CitationBlock(cited_content="Two.", additional_location_info={}, **cited),
            AudioBlock(audio=b"x", format="wav"),
        ],
    )
    refused = ChatMessage(role="assistant", additional_kwargs={"refusal": "I can not."})
    call = {"id": "1", "function": {"name": "ping", "arguments": None}}
    called = ChatMessage(role="assistant", additional_kwargs={"tool_calls": [call]})
    by_block = ChatMessage(
        role="assistant", blocks=[ToolCallBlock(tool_name="ping", tool_kwargs="null")]
    )
    told = ChatMessage(role="function", content="pong", additional_kwargs={"name": "ping"})
    named = ChatMessage(content="Four.", additional_kwargs={"name": "Mila"})
    history = [asked, answered, refused, called, by_block, told, named]
    assert [(m["role"], m["content"]) for m in plain_messages(history)] == [
        ("user", "One.\nT\ns\nTwo.\nD\nZwölf."),
        ("assistant", "Three."),
        ("assistant", "I can not."),
        ("assistant", ""),
        ("assistant", ""),
        ("tool", "pong"),
        ("user", "Mila: Four."),
    ]
    text = rendered(llm, history)
    assert text.count('<tool_call>{"name": "ping", "arguments": {}}</tool_call>') == 2
    for wrong in (
        DocumentBlock(data=b"%PDF-1.4", document_mimetype="application/pdf"),
        DocumentBlock(url="https://example.org/a.txt", document_mimetype="text/plain"),
        AudioBlock(audio=b"x", format="wav"),
    ):
        with pytest.raises(GaCRequestError, match="read text only: say what it holds"):
            llm.chat([ChatMessage(blocks=[wrong])])


@pytest.mark.parametrize("form", FORMS)
def test_tools_of_every_provider_are_called_with_their_arguments(llm: GaCLLM, form: str) -> None:
    question = [ChatMessage(content="What is the weather in Rome?")]
    said = llm.chat(question, tools=[FORMS[form]], tool_choice="required")
    (call,) = llm.get_tool_calls_from_response(said)
    assert (call.tool_name, call.tool_kwargs) == ("get_weather", {"city": "Rome"})


@pytest.mark.parametrize(
    "roles",
    ["user user", "system user assistant", "assistant user", "user system user", "user assistant"],
)
def test_roles_may_come_in_any_order(ensemble: Ensemble, roles: str) -> None:
    llm = GaCLLM(ensemble=ensemble, max_tokens=3)
    messages = [
        ChatMessage(role=role, content=f"{role} {i}") for i, role in enumerate(roles.split())
    ]
    text = rendered(llm, messages)
    assert all(str(message.content) in text for message in messages)
    assert llm.chat(messages).raw["usage"]["completion_tokens"] > 0


@pytest.mark.slow
@pytest.mark.real_tokenizers
@pytest.mark.parametrize("name", ["llama3", "qwen2_5", "phi3", "deepseek_v3"])
def test_bos_is_never_doubled(name: str) -> None:
    model, tokenizer = pair(name, 0, context=4096)
    plain = [{"role": "user", "content": SUM}]
    with Ensemble.from_models([(model, tokenizer)]) as one:
        llm = GaCLLM(ensemble=one)
        (ids,) = one.prompt_ids(llm._chat_request(ASKED, {}).prompt)
        expected = tokenizer.apply_chat_template(plain, add_generation_prompt=True)["input_ids"]
        assert ids == list(expected)
        assert ids.count(tokenizer.bos_token_id) <= 1
        (raw,) = one.prompt_ids(llm._completion_request("Hello", True, {}).prompt)
        assert raw.count(tokenizer.bos_token_id) <= 1


# ---------------------------------------------------------------- tools and structure


@pytest.mark.slow
async def test_tools_are_called_in_every_way(llm: GaCLLM) -> None:
    question = "What is the weather in Rome?"
    responses = [
        llm.chat_with_tools(TOOLS, question),
        await llm.achat_with_tools(TOOLS, ChatMessage(content=question)),
        list(llm.stream_chat_with_tools(TOOLS, question))[-1],
        [r async for r in await llm.astream_chat_with_tools(TOOLS, question)][-1],
        llm.chat_with_tools(TOOLS, chat_history=[ChatMessage(content=question)]),
    ]
    for response in responses:
        (call,) = llm.get_tool_calls_from_response(response)
        assert (call.tool_name, call.tool_kwargs) == ("get_weather", {"city": "Rome"})
        assert response.message.content is None
        assert response.raw is not None
        assert response.raw["finish_reason"] == "tool_calls"
    required = llm.chat_with_tools(TOOLS, "Hello", tool_required=True)
    assert llm.get_tool_calls_from_response(required)
    named = llm.chat_with_tools(TOOLS, question, tool_choice="multiply")
    assert llm.get_tool_calls_from_response(named)[0].tool_name == "multiply"
    talked = llm.chat_with_tools(TOOLS, question, tool_choice="none")
    assert llm.get_tool_calls_from_response(talked, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="calls no tool"):
        llm.get_tool_calls_from_response(talked)
    assert str(llm.predict_and_call(TOOLS, "What is 12 times 7?")) == "84"


def test_a_call_can_be_read_while_it_is_written(llm: GaCLLM) -> None:
    seen = [
        llm.get_tool_calls_from_response(part, error_on_no_tool_call=False)
        for part in llm.stream_chat_with_tools(TOOLS, "What is 12 times 7?")
    ]
    growing = [calls[0].tool_kwargs for calls in seen if calls]
    assert growing[0] == {}
    assert {"a": 12} in growing
    assert growing[-1] == {"a": 12, "b": 7}
    assert len({calls[0].tool_id for calls in seen if calls}) == 1


@pytest.mark.slow
def test_parallel_calls(llm: GaCLLM) -> None:
    now = [FunctionTool.from_defaults(lambda: "12:30", name="now", description="The time.")]
    wild: dict[str, Any] = {"temperature": 30.0, "tool_required": True, "max_tokens": 150}
    counts = set()
    for seed in range(4):
        said = llm.chat_with_tools(now, "x", allow_parallel_tool_calls=True, seed=seed, **wild)
        calls = llm.get_tool_calls_from_response(said)
        counts.add(len(calls))
        assert len({call.tool_id for call in calls}) == len(calls)
        one = llm.chat_with_tools(now, "x", allow_parallel_tool_calls=False, seed=seed, **wild)
        assert len(llm.get_tool_calls_from_response(one)) == 1
    assert max(counts) > 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", [PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION])
async def test_structured_prediction(ensemble: Ensemble, mode: PydanticProgramMode) -> None:
    llm = GaCLLM(ensemble=ensemble, pydantic_program_mode=mode)
    prompt = PromptTemplate("{text}")
    expected = Person(name="Mila", details=Details(age=42, city="Rome"))
    assert llm.structured_predict(Person, prompt, text=TEXT) == expected
    assert await llm.astructured_predict(Person, prompt, text=TEXT) == expected
    unprepared: list[Any] = list(llm.stream_structured_predict(Person, prompt, text="Hello"))
    assert isinstance(unprepared[-1], Person)
    partly: list[Any] = list(llm.stream_structured_predict(Person, prompt, text=TEXT))
    assert partly[-1] == expected
    assert any(part.name == "Mila" and part != expected for part in partly)
    stream = await llm.astream_structured_predict(Person, prompt, text=TEXT)
    assert [part async for part in stream][-1] == expected
    assert llm.as_structured_llm(Person).chat([ChatMessage(content=TEXT)]).raw == expected


@pytest.mark.slow
def test_structure_holds_whatever_the_members_want(ensemble: Ensemble) -> None:
    prompt = PromptTemplate("{text}")
    for seed in range(5):
        wild = GaCLLM(ensemble=ensemble, temperature=3.0, seed=seed, max_tokens=100)
        assert isinstance(wild.structured_predict(Person, prompt, text="Hello"), Person)
    said = wild.complete("Hello", response_format={"type": "json_object"})
    assert isinstance(json.loads(said.text), dict)


def test_a_mistake_is_no_empty_answer(llm: GaCLLM) -> None:
    """Response synthesizers swallow a ValueError and go on without a part of the context."""
    nodes = [NodeWithScore(node=TextNode(text="word " * 3000))]
    for mode in (ResponseMode.COMPACT, ResponseMode.REFINE, ResponseMode.SIMPLE_SUMMARIZE):
        synthesizer = get_response_synthesizer(
            llm=llm, response_mode=mode, prompt_helper=PromptHelper(10**6, 10)
        )
        with pytest.raises(GaCContextOverflowError):
            synthesizer.synthesize("What?", nodes)
    broken = GaCLLM(ensemble=llm.ensemble)
    broken.temperature = -1.0
    wrong = get_response_synthesizer(llm=broken)
    with pytest.raises(GaCRequestError, match="temperature"):
        wrong.synthesize("What?", [NodeWithScore(node=TextNode(text=TEXT))])
    assert not issubclass(GaCRequestError, (ValueError, TypeError))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "simple_summarize"])
def test_long_documents_are_cut_to_fit(llm: GaCLLM, mode: str) -> None:
    text = " ".join(f"The code of Item{i} is {i}." for i in range(500))
    helper = PromptHelper.from_llm_metadata(llm.metadata, tokenizer=llm.token_ids)
    synthesizer = get_response_synthesizer(
        llm=llm, response_mode=ResponseMode(mode), prompt_helper=helper
    )
    assert str(synthesizer.synthesize("What?", [NodeWithScore(node=TextNode(text=text))]))


@pytest.mark.slow
async def test_an_agent_does_not_act_on_a_call_that_was_cut(ensemble: Ensemble) -> None:
    short = GaCLLM(ensemble=ensemble, max_tokens=30)
    question = "What is 37 times 12?"
    with pytest.raises(AnswerCutError, match="raise max_tokens"):
        short.chat_with_tools(TOOLS, question)
    with pytest.raises(AnswerCutError):
        _ = [r async for r in await short.astream_chat_with_tools(TOOLS, question)]
    forced = short.chat_with_tools(TOOLS, question, tool_required=True)
    assert forced.raw is not None
    assert forced.raw["finish_reason"] == "length"


@pytest.mark.slow
def test_completions_call_no_tools_and_show_their_schema(
    llm: GaCLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GaCRequestError, match="calls no tools"):
        llm.complete("x", tools=TOOLS)
    spy = Spy(monkeypatch)
    said = llm.complete("Mila.", formatted=True, response_format=Details).text
    Details.model_validate_json(said)
    assert "fits this schema" in spy.prompts[-1]
    assert llm.chat(ASKED, tools=TOOLS, tool_choice="none").message.content == ANSWER


def test_none_in_a_call_is_not_said(ensemble: Ensemble) -> None:
    llm = GaCLLM(ensemble=ensemble, max_tokens=3, stop="7", parallel_tool_calls=False)
    said = llm.complete(SUM, max_tokens=None, stop=None, timeout=None, extra_headers={"a": "b"})
    assert said.text == "1"
    prepared = llm._prepare_chat_with_tools(TOOLS, "x", allow_parallel_tool_calls=True)
    assert prepared["parallel_tool_calls"] is False


def test_a_slow_reader_gets_an_answer_that_was_made_in_time(
    llm: GaCLLM, ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[threading.Timer] = []

    def timer(seconds: float, stream: Any) -> threading.Timer:
        timers.append(threading.Timer(seconds, stream.time_out))
        return timers[-1]  # the time is up when the test says so

    monkeypatch.setattr("gac_integrations.shared.deadline._start", timer)
    stream = llm.stream_chat(ASKED, timeout=2.0)
    pieces = [next(stream)]
    assert_rests(ensemble)
    timers[0].function()
    pieces += stream
    assert pieces[-1].message.content == ANSWER


def test_the_members_were_trained_on_the_prompts_of_this_llama_index() -> None:
    places = {"context_str": "{context}", "query_str": "{question}"}

    def form(prompt: Any, **more: str) -> forms.Form:
        messages = prompt.format_messages(**places, **more)
        return tuple((m.role.value, m.content) for m in messages)

    learned = forms.LLAMA_INDEX
    assert form(CHAT_TEXT_QA_PROMPT) in learned
    assert form(DEFAULT_TEXT_QA_PROMPT) in learned
    assert form(CHAT_TREE_SUMMARIZE_PROMPT) in learned
    refine = form(CHAT_REFINE_PROMPT, context_msg="{context}", existing_answer="{given}")
    assert refine == forms.REFINE
    assert DEFAULT_REFINE_PROMPT is not None
    with_context = context.DEFAULT_CONTEXT_TEMPLATE.format(context_str="{context}")
    assert (("system", with_context), ("user", "{question}")) in learned
    plus = condense_plus_context.DEFAULT_CONTEXT_PROMPT_TEMPLATE.format(context_str="{context}")
    assert (("system", plus), ("user", "{question}")) in learned
    condensed = (
        condense_plus_context.DEFAULT_CONDENSE_PROMPT_TEMPLATE,
        condense_question.DEFAULT_TEMPLATE,
    )
    assert {c.format(chat_history="{history}", question="{question}") for c in condensed} == set(
        forms.CONDENSE
    )


def test_events_of_the_old_callbacks(ensemble: Ensemble) -> None:
    class Starts(TokenCountingHandler):
        events: Counter[CBEventType]

        def on_event_start(self, event_type: CBEventType, *args: Any, **kwargs: Any) -> str:
            self.events[event_type] += 1
            return super().on_event_start(event_type, *args, **kwargs)

    handler = Starts(tokenizer=str.split)
    handler.events = Counter()
    llm = GaCLLM(ensemble=ensemble, callback_manager=CallbackManager([handler]))
    llm.chat(ASKED)
    list(llm.stream_complete(SUM))
    assert handler.events[CBEventType.LLM] == 2
