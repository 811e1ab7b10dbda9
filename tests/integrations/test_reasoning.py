"""A member that thinks beside one that does not: one thought and one text in every call."""

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, TextBlock, ThinkingBlock

from gac_core import Ensemble
from gac_core.testing import Speaker, thinking_tokenizer, tokenizer_of
from gac_integrations.langchain import ChatGaC, GaCInvalidRequestError
from gac_integrations.llama_index import GaCLLM, GaCRequestError
from tests.integrations.test_langchain_blocks import messages_of

THOUGHT = "I add: 2 + 3.\nIt is 5."
ANSWER = "The answer is 5."
CALL = '<tool_call>{"name": "get_time", "arguments": {"city": "Rome"}}</tool_call>'


def spoken(answer: str, thought: str = THOUGHT) -> str:
    return f"<think>\n{thought}\n</think>\n\n{answer}"


def speakers(*answers: str) -> list[tuple[Speaker, Any]]:
    """One that thinks, and one that would answer at once."""
    silent = spoken("", "").replace("<think>\n\n\n", "<think>\n\n")
    reasoner, plain = thinking_tokenizer("hybrid"), tokenizer_of("sparse")
    said = [spoken(answer) for answer in answers]
    quick = [silent + answer for answer in answers]
    return [
        (Speaker(reasoner, *said, *quick), reasoner),
        (Speaker(plain, *answers, *said), plain),
    ]


@pytest.fixture(scope="module")
def ensemble() -> Iterator[Ensemble]:
    with Ensemble.from_models(speakers(ANSWER)) as made:
        yield made


def get_time(city: str) -> str:
    """Get the time in a city."""
    return f"noon in {city}"


# ------------------------------------------------ LangChain


def assert_is_answer(message: AIMessage, thought: str | None = THOUGHT) -> None:
    assert message.content == ANSWER
    assert message.additional_kwargs.get("reasoning_content") == thought
    kinds = [block["type"] for block in message.content_blocks]
    assert kinds == (["text"] if thought is None else ["reasoning", "text"])
    usage = message.usage_metadata
    assert usage is not None
    details = usage.get("output_token_details", {})
    if thought is None:
        assert not details
    else:
        assert 0 < details["reasoning"] < usage["output_tokens"]


def test_invoke_and_stream(ensemble: Ensemble) -> None:
    llm = ChatGaC(ensemble=ensemble)
    assert_is_answer(llm.invoke("What is 2 + 3?"))
    chunks = list(llm.stream("What is 2 + 3?"))
    thoughts = [chunk.additional_kwargs.get("reasoning_content", "") for chunk in chunks]
    assert len([thought for thought in thoughts if thought]) > 2
    assert not any(
        chunk.content for chunk, thought in zip(chunks, thoughts, strict=True) if thought
    )
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert isinstance(whole, AIMessageChunk)
    assert_is_answer(whole)


async def test_ainvoke_and_astream(ensemble: Ensemble) -> None:
    llm = ChatGaC(ensemble=ensemble)
    assert_is_answer(await llm.ainvoke("What is 2 + 3?"))
    whole: Any = None
    async for chunk in llm.astream("What is 2 + 3?"):
        whole = chunk if whole is None else whole + chunk
    assert_is_answer(whole)


def test_blocks_of_version_1(ensemble: Ensemble) -> None:
    llm = ChatGaC(ensemble=ensemble, output_version="v1")
    content: Any = llm.invoke("What is 2 + 3?").content
    kinds = [(block["type"], block.get("reasoning", block.get("text"))) for block in content]
    assert kinds == [("reasoning", THOUGHT), ("text", ANSWER)]


@pytest.mark.filterwarnings("ignore:.*is in beta")
@pytest.mark.parametrize("version", [None, "v1"])
async def test_every_way_to_ask_gives_one_thought_and_one_text(
    ensemble: Ensemble, version: Any
) -> None:
    llm = ChatGaC(ensemble=ensemble, output_version=version)
    for said in await messages_of(llm, "What is 2 + 3?"):
        thoughts = [b["reasoning"] for b in said.content_blocks if b["type"] == "reasoning"]
        assert (thoughts, said.text) == ([THOUGHT], ANSWER)
        assert said.usage_metadata is not None
        assert said.usage_metadata["output_token_details"]["reasoning"] > 0


def test_one_field_switches_it(ensemble: Ensemble) -> None:
    assert_is_answer(ChatGaC(ensemble=ensemble, reasoning=True).invoke("?"))
    assert_is_answer(ChatGaC(ensemble=ensemble, reasoning=False).invoke("?"), None)
    assert_is_answer(ChatGaC(ensemble=ensemble).bind(reasoning=False).invoke("?"), None)
    short = ChatGaC(ensemble=ensemble, max_thought_tokens=2).invoke("?")
    assert THOUGHT.startswith(short.additional_kwargs["reasoning_content"])


@pytest.mark.parametrize("value", ["low", "on", 1, {"effort": "low"}])
def test_other_values_of_it_are_refused_in_a_call(ensemble: Ensemble, value: Any) -> None:
    with pytest.raises(GaCInvalidRequestError, match="reasoning must be True, False or None"):
        ChatGaC(ensemble=ensemble).invoke("?", reasoning=value)
    with pytest.raises(GaCRequestError, match="reasoning must be True, False or None"):
        GaCLLM(ensemble=ensemble).chat([ChatMessage(content="?")], reasoning=value)


def test_the_profile_says_who_can_think(ensemble: Ensemble) -> None:
    assert (ChatGaC(ensemble=ensemble).profile or {})["reasoning_output"] is True
    with Ensemble.from_models(speakers(ANSWER)[1:]) as silent:
        assert (ChatGaC(ensemble=silent).profile or {})["reasoning_output"] is False


def test_logprobs_are_those_of_the_answer(ensemble: Ensemble) -> None:
    message = ChatGaC(ensemble=ensemble, logprobs=True).invoke("?")
    tokens = message.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == ANSWER


def test_a_thought_before_a_call_goes_back_into_the_template() -> None:
    members = speakers(CALL, ANSWER)
    with Ensemble.from_models(members) as ensemble:
        llm = ChatGaC(ensemble=ensemble).bind_tools([get_time])
        asked = HumanMessage("What time is it in Rome?")
        called = llm.invoke([asked])
        assert called.tool_calls[0]["args"] == {"city": "Rome"}
        assert called.additional_kwargs["reasoning_content"] == THOUGHT
        result = ToolMessage("noon", tool_call_id=called.tool_calls[0]["id"] or "")
        members[0][0].read.clear()
        llm.invoke([asked, called, result])
    assert f"<think>\n{THOUGHT}\n</think>\n\n<tool_call>" in members[0][0].read[0]


# ------------------------------------------------ LlamaIndex


def assert_is_response(response: ChatResponse, thought: str | None = THOUGHT) -> None:
    blocks = response.message.blocks
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    thoughts = [block.content for block in blocks if isinstance(block, ThinkingBlock)]
    assert texts == [ANSWER]
    assert thoughts == ([] if thought is None else [thought])
    assert response.message.content == ANSWER


def test_chat_and_stream_chat(ensemble: Ensemble) -> None:
    llm = GaCLLM(ensemble=ensemble)
    asked = [ChatMessage(content="What is 2 + 3?")]
    assert_is_response(llm.chat(asked))
    responses = list(llm.stream_chat(asked))
    assert_is_response(responses[-1])
    deltas = [response.additional_kwargs.get("thinking_delta", "") for response in responses]
    assert "".join(deltas) == THOUGHT
    assert "".join(response.delta or "" for response in responses) == ANSWER
    [block] = [b for b in responses[-1].message.blocks if isinstance(b, ThinkingBlock)]
    assert block.num_tokens
    assert_is_response(GaCLLM(ensemble=ensemble, reasoning=False).chat(asked), None)


async def test_achat_and_astream_chat(ensemble: Ensemble) -> None:
    llm = GaCLLM(ensemble=ensemble)
    asked = [ChatMessage(content="What is 2 + 3?")]
    assert_is_response(await llm.achat(asked))
    responses = [response async for response in await llm.astream_chat(asked)]
    assert_is_response(responses[-1])


def test_completions_have_no_thoughts(ensemble: Ensemble) -> None:
    llm = GaCLLM(ensemble=ensemble)
    assert llm.complete("What is 2 + 3?").text == ANSWER
    assert "".join(piece.delta or "" for piece in llm.stream_complete("?")) == ANSWER


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_an_agent_streams_thoughts() -> None:
    members = speakers(CALL, ANSWER)
    # After a result there is an answer to give, and no call.
    with Ensemble.from_models(members) as ensemble:
        llm = GaCLLM(ensemble=ensemble, max_tokens=200)
        agent = FunctionAgent(tools=[get_time], llm=llm, streaming=True)
        handler = agent.run("What time is it in Rome?", max_iterations=2)
        thought = ""
        async for event in handler.stream_events():
            if isinstance(event, AgentStream):
                thought += event.thinking_delta or ""
                if event.tool_calls:
                    break
        await handler.cancel_run()
    assert thought == THOUGHT
