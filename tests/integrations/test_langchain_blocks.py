"""Content in blocks (`output_version="v1"`), typed events, and what metadata and profile say."""

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage

from gac_core import Ensemble
from gac_core.chat.tools import call_text
from gac_integrations.langchain import ChatGaC
from tests.fakes import by_heart, make, recite
from tests.integrations.test_langchain import ANSWER, SUM, get_weather, joined

# Events of version 3 are in beta.
pytestmark = pytest.mark.filterwarnings("ignore:.*is in beta")

WEATHER = "What is the weather in Rome?"
ROME = {"type": "tool_call", "name": "get_weather", "args": {"city": "Rome"}}


def now() -> str:
    """The time."""
    return "noon"


@pytest.fixture(scope="module")
def ensemble() -> Iterator[Ensemble]:
    with Ensemble.pocket() as ensemble:
        yield ensemble


@pytest.fixture(params=[None, "v1"])
def llm(ensemble: Ensemble, request: pytest.FixtureRequest) -> ChatGaC:
    return ChatGaC(ensemble=ensemble, output_version=request.param)


class ByHeart(ChatGaC):
    """Writes one reply, whatever it is asked."""

    reply: str

    def _request(self, *args: Any) -> Any:
        request = super()._request(*args)
        recite(self._ensemble, request.prompt, self.reply)
        return request


def without(blocks: Any, *keys: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in block.items() if k not in keys} for block in blocks]


async def messages_of(model: Any, asked: Any) -> list[AIMessage]:
    """The answer in every way to ask for it."""
    typed = model.stream_events(asked, version="v3")
    events = [event async for event in await model.astream_events(asked, version="v3")]
    assert [event["event"] for event in events][-1] == "message-finish"
    return [
        model.invoke(asked),
        await model.ainvoke(asked),
        joined(list(model.stream(asked))),
        joined([chunk async for chunk in model.astream(asked)]),
        *model.batch([asked]),
        typed.output,
    ]


async def test_metadata_tells_the_end_in_every_way_to_ask(llm: ChatGaC) -> None:
    for asked, options, ends in (
        (SUM, {}, ("stop", "stop")),
        (SUM, {"max_tokens": 3}, ("length", "length")),
        (WEATHER, {"tools": [get_weather]}, ("tool_calls", "tool_call")),
    ):
        for said in await messages_of(llm.bind(**options), asked):
            told = said.response_metadata
            assert (told["finish_reason"], told["normalized_finish_reason"]) == ends
            assert told["model_provider"] == "gac"
            assert said.usage_metadata is not None
            assert said.usage_metadata["output_tokens"] > 0


async def test_an_answer_is_blocks_where_these_are_wanted(ensemble: Ensemble) -> None:
    llm = ChatGaC(ensemble=ensemble, output_version="v1")
    for said in await messages_of(llm, SUM):
        assert without(said.content, "index") == [{"type": "text", "text": ANSWER}]
        assert said.text == ANSWER
    for said in await messages_of(llm.bind_tools([get_weather]), WEATHER):
        assert without(said.content, "id") == [ROME]
        (call,) = said.tool_calls
        assert call["id"] == said.content[0]["id"]  # type: ignore[index]


async def test_text_before_calls_keeps_apart_from_them() -> None:
    """LangChain joins chunks of blocks that have one number."""
    reply = f"Let me look.\n{call_text('get_weather', {'city': 'Rome'})}\n{call_text('now', {})}"
    called = [ROME, {"type": "tool_call", "name": "now", "args": {}}]
    for version in (None, "v1"):
        with by_heart() as ensemble:
            llm = ByHeart(ensemble=ensemble, reply=reply, output_version=version, max_tokens=300)
            bound = llm.bind_tools([get_weather, now])
            chunks: list[Any] = list(bound.stream(WEATHER))
            parts = [part for chunk in chunks for part in chunk.tool_call_chunks]
            numbers = [part["index"] for part in parts]
            assert all(isinstance(number, int) for number in numbers)
            assert numbers == sorted(numbers)
            assert len(set(numbers)) == 2  # one for all the chunks of a call
            for said in await messages_of(bound, WEATHER):
                text, *calls = without(said.content_blocks, "id", "index", "extras")
                assert text == {"type": "text", "text": "Let me look.\n"}
                assert calls == called
                assert without(said.tool_calls, "id") == called
                assert len({call["id"] for call in said.tool_calls}) == 2


def test_events_are_typed(llm: ChatGaC) -> None:
    text = llm.stream_events(SUM, version="v3")
    assert "".join(text.text) == ANSWER
    call = llm.bind_tools([get_weather]).stream_events(WEATHER, version="v3")
    events: list[Any] = list(call)
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["message-start", "content-block-start"]
    assert kinds[-2:] == ["content-block-finish", "message-finish"]
    arguments = [event["delta"]["args"] for event in events if "delta" in event]
    assert len(arguments) > 3
    assert "".join(arguments) == '{"city": "Rome"}'
    assert without([events[-2]["content"]], "id") == [ROME]


def test_blocks_in_the_history_are_read(llm: ChatGaC) -> None:
    bound = llm.bind_tools([get_weather])
    called: Any = joined(list(bound.stream(WEATHER)))
    assert isinstance(called, AIMessageChunk)
    (call,) = called.tool_calls
    text: Any = [{"type": "text", "text": WEATHER}]
    result: Any = [{"type": "text", "text": "sunny"}]
    told = [
        HumanMessage(content_blocks=text),
        called,
        ToolMessage(content_blocks=result, tool_call_id=call["id"]),
    ]
    assert bound.invoke(told).text == "The weather in Rome is sunny."
    only_blocks: Any = [{**ROME, "id": call["id"]}]
    told[1] = AIMessage(content_blocks=only_blocks)
    assert bound.invoke(told).text == "The weather in Rome is sunny."


@pytest.mark.parametrize("version", [None, "v1"])
async def test_random_members_keep_the_form(version: str | None) -> None:
    with make(["chatml", "byte_level"]) as tiny:
        llm = ChatGaC(ensemble=tiny, output_version=version, max_tokens=60, temperature=1.0, seed=1)
        for said in await messages_of(llm.bind_tools([now], tool_choice="any"), "Hi"):
            assert {call["name"] for call in said.tool_calls} == {"now"}
            assert not said.invalid_tool_calls
        texts = {said.text for said in await messages_of(llm, "Hi")}
        assert len(texts) == 1


def test_a_profile_says_what_there_is(ensemble: Ensemble) -> None:
    profile = ChatGaC(ensemble=ensemble).profile
    assert profile is not None
    assert set(profile) <= set(ModelProfile.__annotations__)
    assert profile["name"] == "ada+bo+cy"
    assert profile["max_input_tokens"] == profile["max_output_tokens"] == ensemble.context_size
    yes = {
        *("open_weights", "text_inputs", "text_outputs", "tool_calling", "tool_choice"),
        *("tool_call_streaming", "structured_output", "temperature"),
    }
    assert {key for key, value in profile.items() if value is True} == yes
    assert profile["image_inputs"] is profile["attachment"] is False
