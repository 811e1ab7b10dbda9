"""Query engines, chat engines and agents on the pocket ensemble, with no network."""

import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.llms import ChatMessage
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.tools import FunctionTool, QueryEngineTool

from gac_core import Ensemble
from gac_integrations.llama_index import GaCLLM
from tests.fakes import by_heart, recite

# LlamaIndex's agents use what its own workflows, and pydantic, call deprecated.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("own_loop"),
]

NOTES = [
    "Mila works as a baker. Mila lives in Rome.",
    "The pet of Mila is a turtle. The car of Mila is green.",
    "Tom works as a pilot. Tom lives in Oslo.",
    "The pet of Tom is a parrot. The code of Tom is 4711.",
]
QUESTION, FACT = "What is the code of Tom?", "The code of Tom is 4711."


class Words(BaseEmbedding):
    """Texts are near each other if they share words."""

    def _vector(self, text: str) -> list[float]:
        vector = [0.001] * 64
        for word in re.findall(r"\w+", text.lower()):
            vector[sum(map(ord, word)) % 64] += 1.0
        return vector

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._vector(text)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._vector(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._vector(query)


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return {"Rome": "sunny"}.get(city, "unknown")


def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(f"a test reached for the network: {args[1:]}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def llm() -> Iterator[GaCLLM]:
    with Ensemble.pocket() as ensemble:
        llm = GaCLLM(ensemble=ensemble)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Settings, "_llm", llm)  # some modes ask for it though they are given one
            yield llm


@pytest.fixture(scope="module")
def index() -> VectorStoreIndex:
    return VectorStoreIndex.from_documents(
        [Document(text=note) for note in NOTES],
        embed_model=Words(),
        transformations=[SentenceSplitter()],
    )


# ---------------------------------------------------------------- query engines


@pytest.mark.parametrize("mode", list(ResponseMode), ids=lambda mode: mode.value)
def test_query_engines_in_every_response_mode(
    llm: GaCLLM, index: VectorStoreIndex, mode: ResponseMode
) -> None:
    engine = index.as_query_engine(llm=llm, response_mode=mode)
    answer = str(engine.query(QUESTION))
    if mode is ResponseMode.NO_TEXT:
        assert answer in ("", "None")
    elif mode is not ResponseMode.GENERATION:  # which shows no context
        assert FACT in answer


@pytest.mark.parametrize("mode", ["compact", "refine", "simple_summarize", "tree_summarize"])
async def test_streaming_and_async_query_engines(
    llm: GaCLLM, index: VectorStoreIndex, mode: str
) -> None:
    whole = str(index.as_query_engine(llm=llm, response_mode=ResponseMode(mode)).query(QUESTION))
    streaming = index.as_query_engine(llm=llm, response_mode=ResponseMode(mode), streaming=True)
    answered: Any = streaming.query(QUESTION)
    pieces = list(answered.response_gen)
    assert "".join(pieces) == whole
    assert len(pieces) > 5
    arrived: Any = await streaming.aquery(QUESTION)
    assert "".join([p async for p in arrived.async_response_gen()]) == whole
    plain = index.as_query_engine(llm=llm, response_mode=ResponseMode(mode))
    assert str(await plain.aquery(QUESTION)) == whole


# ---------------------------------------------------------------- chat engines


@pytest.mark.parametrize(
    "mode",
    [ChatMode.CONDENSE_QUESTION, ChatMode.CONTEXT, ChatMode.CONDENSE_PLUS_CONTEXT, ChatMode.BEST],
    ids=lambda mode: mode.value,
)
async def test_chat_engines(llm: GaCLLM, index: VectorStoreIndex, mode: ChatMode) -> None:
    def engine() -> Any:
        return index.as_chat_engine(chat_mode=mode, llm=llm, similarity_top_k=2)

    asked = engine()
    assert str(asked.chat("Where does Mila live?")) == "Mila lives in Rome."
    assert str(asked.chat(QUESTION)) == FACT
    assert len(asked.chat_history) == 4
    asked.reset()
    assert asked.chat_history == []
    streamed = engine().stream_chat(QUESTION)
    assert "".join(streamed.response_gen) == FACT
    assert str(await engine().achat(QUESTION)) == FACT
    astreamed = await engine().astream_chat(QUESTION)
    assert "".join([piece async for piece in astreamed.async_response_gen()]) == FACT


def test_the_simple_chat_engine_remembers(llm: GaCLLM, index: VectorStoreIndex) -> None:
    engine = index.as_chat_engine(chat_mode=ChatMode.SIMPLE, llm=llm)
    assert str(engine.chat("Hello")) == "Hello! How can I help you?"
    assert str(engine.chat("What is 17 + 25?")) == "17 + 25 = 42"
    assert len(engine.chat_history) == 4


# ---------------------------------------------------------------- agents


@pytest.mark.parametrize("streaming", [True, False])
async def test_function_agent(llm: GaCLLM, streaming: bool) -> None:
    agent = FunctionAgent(tools=[get_weather, multiply], llm=llm, streaming=streaming)
    assert str(await agent.run("What is the weather in Rome?")) == "The weather in Rome is sunny."
    assert str(await agent.run("What is 12 times 7?")) == "12 times 7 is 84."
    assert str(await agent.run("Hello")) == "Hello! How can I help you?"


async def test_agent_workflow_streams(llm: GaCLLM) -> None:
    workflow = AgentWorkflow.from_tools_or_functions([get_weather, multiply], llm=llm)
    handler = workflow.run(user_msg="What is the weather in Rome?")
    said = ""
    async for event in handler.stream_events():
        if isinstance(event, AgentStream):
            said += event.delta
    answer: Any = await handler
    assert said == str(answer) == "The weather in Rome is sunny."
    assert [call.tool_name for call in answer.tool_calls] == ["get_weather"]


async def test_an_agent_searches_an_index(llm: GaCLLM, index: VectorStoreIndex) -> None:
    search = QueryEngineTool.from_defaults(
        index.as_query_engine(llm=llm),
        name="query_engine_tool",
        description="Search the documents.",
    )
    agent = FunctionAgent(tools=[search], llm=llm)
    assert str(await agent.run(QUESTION)) == FACT


# ---------------------------------------------------------------- ReAct, on a scripted member

FIRST = (
    "Thought: I need a tool.\nAction: multiply\nAction Input: {'a': 3, 'b': 4}\n"
    "Observation: 99\nThought: invented\nAnswer: 99"
)
SECOND = "Thought: I can answer without using any more tools.\nAnswer: It is 12."


class Scripted(GaCLLM):
    """Writes replies by heart, one a call, whatever the prompt."""

    replies: list[str]

    def _chat_request(self, messages: Any, options: Any) -> Any:
        request = super()._chat_request(messages, options)
        recite(self._ensemble, request.prompt, self.replies.pop(0))
        return request


async def test_react_agent_honours_stop() -> None:
    with by_heart() as ensemble:
        llm = Scripted(
            ensemble=ensemble, stop=["Observation:"], max_tokens=300, replies=[FIRST, SECOND]
        )
        multiplied = []

        def multiply(a: int, b: int) -> int:
            """Multiply two numbers."""
            multiplied.append((a, b))
            return a * b

        agent = ReActAgent(tools=[FunctionTool.from_defaults(multiply)], llm=llm)
        handler = agent.run("What is 3 times 4?")
        said = ""
        async for event in handler.stream_events():
            if isinstance(event, AgentStream):
                said += event.delta
        assert str(await handler) == "It is 12."
        assert multiplied == [(3, 4)]
        assert "Observation" not in said
        assert "99" not in said


def test_a_question_in_the_history_of_another_llm(llm: GaCLLM) -> None:
    history = [
        ChatMessage(role="user", content="Hello"),
        ChatMessage(role="assistant", content="Hello! How can I help you?"),
        ChatMessage(role="user", content="What is 2 + 3?"),
    ]
    assert llm.chat(history).message.content == "2 + 3 = 5"
