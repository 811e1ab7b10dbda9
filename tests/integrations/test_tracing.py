"""Frameworks give the spans that the core gives: one for each answer, below the caller's."""

import asyncio
from collections.abc import Iterator

import pytest
from llama_index.core.llms import ChatMessage
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gac_core import Ensemble, MemberError
from gac_integrations.langchain import ChatGaC, GaC
from gac_integrations.llama_index import GaCLLM
from tests.test_tracing import ended, facts

SUM = "What is 1 + 2?"
CHAT = [ChatMessage(content=SUM)]


@pytest.fixture(scope="module")
def pocket() -> Iterator[Ensemble]:
    with Ensemble.pocket() as ensemble:
        yield ensemble


async def asks(ensemble: Ensemble, way: str) -> None:
    """Ask in one of the ways of the frameworks."""
    chat, text = ChatGaC(ensemble=ensemble), GaC(ensemble=ensemble, max_tokens=3)
    llm = GaCLLM(ensemble=ensemble)
    match way:
        case "langchain invoke":
            chat.invoke(SUM)
        case "langchain invoke in time":
            chat.invoke(SUM, timeout=60)
        case "langchain stream":
            assert len(list(chat.stream(SUM))) > 3
        case "langchain ainvoke":
            await chat.ainvoke(SUM)
        case "langchain astream":
            assert [chunk async for chunk in chat.astream(SUM)]
        case "langchain text":
            text.invoke(SUM)
        case "llama_index chat":
            llm.chat(CHAT)
        case "llama_index stream_chat":
            assert list(llm.stream_chat(CHAT))
        case "llama_index achat":
            await llm.achat(CHAT)
        case "llama_index astream_chat":
            assert [piece async for piece in await llm.astream_chat(CHAT)]
        case "llama_index complete":
            llm.complete(SUM)
        case _:
            raise AssertionError(way)


@pytest.mark.parametrize(
    "way",
    [
        "langchain invoke",
        "langchain invoke in time",
        "langchain stream",
        "langchain ainvoke",
        "langchain astream",
        "langchain text",
        "llama_index chat",
        "llama_index stream_chat",
        "llama_index achat",
        "llama_index astream_chat",
        "llama_index complete",
    ],
)
async def test_an_answer_is_one_span_below_the_callers(
    pocket: Ensemble, spans: InMemorySpanExporter, way: str
) -> None:
    with trace.get_tracer("test").start_as_current_span("caller") as caller:
        await asks(pocket, way)
    (span,) = ended(spans)
    assert span.parent == caller.get_span_context()
    operation = "text_completion" if way == "langchain text" else "chat"
    assert span.name == f"{operation} ada+bo+cy"
    assert facts(span)["gac.space"] == "scored"
    assert facts(span)["gen_ai.usage.output_tokens"] > 0


def test_a_batch_of_langchain_has_the_callers_span_as_parent(
    pocket: Ensemble, spans: InMemorySpanExporter
) -> None:
    """It asks in threads, to which it hands the context."""
    with trace.get_tracer("test").start_as_current_span("caller") as caller:
        ChatGaC(ensemble=pocket).batch([SUM] * 3)
    assert [span.parent for span in ended(spans, 3)] == [caller.get_span_context()] * 3


def test_a_stream_that_is_left_is_cancelled(pocket: Ensemble, spans: InMemorySpanExporter) -> None:
    stream = ChatGaC(ensemble=pocket).stream(SUM)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    (span,) = ended(spans)
    assert facts(span)["gen_ai.response.finish_reasons"] == ("cancelled",)


def test_an_error_is_on_the_span(
    pocket: Ensemble, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*args: object) -> None:
        raise MemberError("out of order")

    scorer = pocket.members[1].scorer
    monkeypatch.setattr(scorer, "score", crash)
    with pytest.raises(MemberError):
        asyncio.run(GaCLLM(ensemble=pocket).achat(CHAT))
    (span,) = ended(spans)
    assert facts(span)["error.type"] == "gac_core.errors.MemberError"
