"""Each request gives one span, a child of the caller's, however it is asked and however it ends."""

import asyncio
import gc
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes

from gac_core import (
    ContextOverflowError,
    EngineClosedError,
    Ensemble,
    MemberError,
    PromptError,
)
from gac_core.chat.messages import Message
from gac_core.engine.stopwatch import Stopwatch
from gac_core.engine.tracing import Trace
from gac_core.members.local import LocalScorer
from tests.fakes import assert_rests, make, model_of
from tests.test_engine import OWN_PLACE
from tests.test_thoughts import thinker

CHAT: list[Message] = [{"role": "user", "content": "Hello"}]
LONG: dict[str, Any] = {"max_new_tokens": 400}
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


def ended(spans: InMemorySpanExporter, count: int = 1) -> list[ReadableSpan]:
    """The spans of requests, once there are so many: what is cancelled ends a little later."""
    deadline = time.monotonic() + 10
    while len(found := of_requests(spans)) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.005)
    assert len(found) == count
    return found


def of_requests(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    return [s for s in spans.get_finished_spans() if "gac.method" in (s.attributes or {})]


def facts(span: ReadableSpan) -> dict[str, Any]:
    """Its attributes, times left out: these differ from run to run."""
    timed = (".seconds", "time_to_first_chunk")
    return {k: v for k, v in (span.attributes or {}).items() if not k.endswith(timed)}


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


# ---------------------------------------------------------------- what a span says


def test_what_the_span_of_an_answer_says(ensemble: Ensemble, spans: InMemorySpanExporter) -> None:
    output = ensemble.generate(
        CHAT, max_new_tokens=7, temperature=0.5, top_k=40, top_p=0.9, stop=["@@"], seed=3
    )
    (span,) = ended(spans)
    assert span.name == "chat byte_level-0+legacy-1"
    assert span.kind is trace.SpanKind.INTERNAL  # the models run in this process
    assert span.status.status_code is trace.StatusCode.UNSET
    assert span.events == ()
    usage = output.usage
    assert facts(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "gac",
        "gen_ai.request.model": "byte_level-0+legacy-1",
        "gen_ai.response.model": "byte_level-0+legacy-1",
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_k": 40,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.seed": 3,
        "gen_ai.request.stop_sequences": ("@@",),
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gac.method": "every_step",
        "gac.space": "scored",
        "gac.steps": 7,
        "gac.fused_share": 1.0,
        "gac.member.byte_level-0.forwards": ensemble.members[0].scorer.stats.forwards,
        "gac.member.byte_level-0.input_tokens": usage.members[0].prompt_tokens,
        "gac.member.byte_level-0.output_tokens": usage.members[0].completion_tokens,
        "gac.member.legacy-1.forwards": ensemble.members[1].scorer.stats.forwards,
        "gac.member.legacy-1.input_tokens": usage.members[1].prompt_tokens,
        "gac.member.legacy-1.output_tokens": usage.members[1].completion_tokens,
    }


def test_a_decision_is_a_request(ensemble: Ensemble, spans: InMemorySpanExporter) -> None:
    choice = ensemble.choose(CHAT, ["yes", "no"])
    (span,) = ended(spans)
    said = facts(span)
    assert span.name == "chat byte_level-0+legacy-1"
    assert said["gen_ai.usage.input_tokens"] == choice.usage.prompt_tokens
    assert said["gen_ai.usage.output_tokens"] == 0
    forwards = [member.scorer.stats.forwards for member in ensemble.members]
    assert [said[f"gac.member.{m.name}.forwards"] for m in ensemble.members] == forwards
    spans.clear()
    with pytest.raises(PromptError):
        ensemble.choose(CHAT, ["yes", "\ud800"])
    (span,) = ended(spans)
    assert span.status.status_code is trace.StatusCode.ERROR


def test_a_text_that_goes_on_and_what_was_not_asked_for(
    ensemble: Ensemble, spans: InMemorySpanExporter
) -> None:
    ensemble.generate("Hello", max_new_tokens=1)
    (span,) = ended(spans)
    assert span.name == "text_completion byte_level-0+legacy-1"
    asked = [key for key in facts(span) if key.startswith("gen_ai.request.")]
    assert sorted(asked) == [
        "gen_ai.request.max_tokens",
        "gen_ai.request.model",
        "gen_ai.request.seed",  # is always decided
    ]


def test_the_names_are_those_of_the_conventions(
    ensemble: Ensemble, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CAPTURE, "true")
    ensemble.generate(CHAT, max_new_tokens=2, temperature=1, top_k=4, top_p=0.9, stop="@", seed=1)
    with pytest.raises(PromptError):
        ensemble.generate("")
    modules = (gen_ai_attributes, error_attributes)
    known = {value for module in modules for name, value in vars(module).items() if name.isupper()}
    names = {key for span in ended(spans, 2) for key in (span.attributes or {})}
    theirs = {name for name in names if not name.startswith("gac.")}
    assert theirs - known == set()
    assert "gen_ai.output.messages" in theirs


def test_the_share_of_fused_tokens(spans: InMemorySpanExporter) -> None:
    with make(["byte_level", "legacy"], method="cascade", threshold=0.07) as ensemble:
        output = ensemble.generate("Hello", max_new_tokens=20)
    (span,) = ended(spans)
    assert facts(span)["gac.method"] == "cascade"
    assert 0 < output.usage.fused_steps < output.usage.steps
    assert facts(span)["gac.fused_share"] == output.usage.fused_steps / output.usage.steps


def test_times_of_one_request_lie_within_its_span(
    ensemble: Ensemble, spans: InMemorySpanExporter
) -> None:
    ensemble.generate("Hello", max_new_tokens=20)
    (span,) = ended(spans)
    attributes: Any = span.attributes
    members = [attributes[f"gac.member.{m.name}.seconds"] for m in ensemble.members]
    assert all(0 < value < seconds(span) for value in members)
    assert sum(members) < seconds(span)
    assert 0 < attributes["gen_ai.response.time_to_first_chunk"] < seconds(span)


@pytest.mark.parametrize("most", [4, 1])
def test_a_shared_forward_is_shared_equally(
    ensemble: Ensemble, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Each call takes a second by the clock of the test, so shares can be counted.

    Where a member can not take so many at once, the call fails and each request is tried alone;
    that took its time, too.
    """
    monkeypatch.setattr(Stopwatch, "seconds", 1.0)
    calls = dict.fromkeys(("byte_level-0", "legacy-1"), 0)
    score = LocalScorer.score

    def counted(self: LocalScorer, queries: Any, keys: Any) -> Any:
        calls[self.name] += 1
        if len(queries) > most:
            raise MemberError("too many")
        return score(self, queries, keys)

    monkeypatch.setattr(LocalScorer, "score", counted)
    ensemble.batch(["Hello"] * 4, max_new_tokens=6)
    found = ended(spans, 4)
    for name, count in calls.items():
        shares: list[Any] = [(s.attributes or {})[f"gac.member.{name}.seconds"] for s in found]
        assert sum(shares) == pytest.approx(count)
        assert max(shares) < count  # nobody had it all
        forwards = [facts(s)[f"gac.member.{name}.forwards"] for s in found]
        assert sum(forwards) > count  # each counts what it took part in


def test_a_gpu_is_asked_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its forward has returned long before; the host's clock would say next to nothing."""
    log: list[Any] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            log.append(stream)

        def synchronize(self) -> None:
            log.append("waited")

        def elapsed_time(self, other: "Event") -> float:
            assert log[-1] == "waited"
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    watch = Stopwatch(torch.device("cuda:1"))
    watch.stop()
    assert log == ["stream of cuda:1"] * 2
    assert watch.seconds == 0.25


def test_no_text_is_shown_unless_asked_for(
    ensemble: Ensemble, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = "gen_ai.input.messages", "gen_ai.output.messages"
    output = ensemble.generate(CHAT, max_new_tokens=3)
    monkeypatch.setenv(CAPTURE, "no_content")
    ensemble.generate(CHAT, max_new_tokens=3)
    for span in ended(spans, 2):
        assert not set(shown) & facts(span).keys()
    monkeypatch.setenv(CAPTURE, "SPAN_ONLY")
    ensemble.generate(CHAT, max_new_tokens=3)
    asked, answered = (json.loads(facts(ended(spans, 3)[2])[name]) for name in shown)
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": "Hello"}]}]
    assert answered == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": output.text}],
            "finish_reason": "length",
        }
    ]


def test_a_thought_is_counted_and_shown_as_one(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CAPTURE, "true")
    with Ensemble.from_models([thinker("hybrid")]) as ensemble:
        output = ensemble.generate(CHAT, max_new_tokens=120)
        shown = {"role": "assistant", "content": output.text, "reasoning_content": output.thought}
        ensemble.generate([*CHAT, shown, *CHAT], max_new_tokens=1)
    first, second = ended(spans, 2)
    assert output.usage.thought_tokens > 0
    assert facts(first)["gen_ai.usage.reasoning.output_tokens"] == output.usage.thought_tokens
    parts = [
        {"type": "reasoning", "content": output.thought},
        {"type": "text", "content": output.text},
    ]
    (answered,) = json.loads(facts(first)["gen_ai.output.messages"])
    asked = json.loads(facts(second)["gen_ai.input.messages"])[1]
    assert answered["parts"] == asked["parts"] == parts


# ---------------------------------------------------------------- however it is asked


async def asks(ensemble: Ensemble, way: str) -> int:
    """Ask in one of the ways; how many requests that were."""
    few: dict[str, Any] = {"max_new_tokens": 4}
    match way:
        case "generate":
            ensemble.generate("Hello", **few)
        case "stream":
            list(ensemble.stream("Hello", **few))
        case "batch":
            ensemble.batch(["Hello", "The", "a b"], **few)
            return 3
        case "agenerate":
            await ensemble.agenerate("Hello", **few)
        case "astream":
            assert len([step async for step in ensemble.astream("Hello", **few)]) == 4
        case "abatch":
            await ensemble.abatch(["Hello", "The", "a b"], **few)
            return 3
        case "thread":
            await asyncio.to_thread(ensemble.generate, "Hello", **few)
    return 1


@pytest.mark.parametrize(
    "way", ["generate", "stream", "batch", "agenerate", "astream", "abatch", "thread"]
)
async def test_every_way_to_ask_gives_a_child_of_the_callers_span(
    ensemble: Ensemble, spans: InMemorySpanExporter, way: str
) -> None:
    with trace.get_tracer("test").start_as_current_span("caller") as caller:
        count = await asks(ensemble, way)
    found = ended(spans, count)
    assert len({span.context.span_id for span in found if span.context}) == count
    for span in found:
        assert span.parent == caller.get_span_context()
        assert span.context is not None
        assert span.context.trace_id == caller.get_span_context().trace_id
        assert facts(span)["gac.steps"] == 4


async def test_requests_that_share_forwards_have_parents_of_their_own(
    ensemble: Ensemble, spans: InMemorySpanExporter
) -> None:
    async def ask(number: int) -> tuple[int, int]:
        with trace.get_tracer("test").start_as_current_span(f"caller {number}") as caller:
            await ensemble.agenerate("Hello", max_new_tokens=3 + number)
        return caller.get_span_context().span_id, 3 + number

    asked = await asyncio.gather(*(ask(number) for number in range(5)))
    found = {(s.parent.span_id, facts(s)["gac.steps"]) for s in ended(spans, 5) if s.parent}
    assert found == set(asked)


def test_a_span_without_a_parent_is_a_root(ensemble: Ensemble, spans: InMemorySpanExporter) -> None:
    ensemble.generate("Hello", max_new_tokens=1)
    (span,) = ended(spans)
    assert span.parent is None


def test_places_of_their_own(spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a GPU per member: times come from several threads."""
    monkeypatch.setattr(LocalScorer, "place", OWN_PLACE, raising=False)
    with make(["byte_level", "legacy"]) as ensemble:
        ensemble.batch(["Hello"] * 3, max_new_tokens=5)
        for span in ended(spans, 3):
            assert 1 <= facts(span)["gac.member.legacy-1.forwards"] <= 5
            assert (span.attributes or {})["gac.member.legacy-1.seconds"] > 0  # type: ignore[operator]


# ---------------------------------------------------------------- however it ends


@pytest.mark.parametrize("way", ["close", "del", "with", "never read", "time out"])
def test_a_stream_that_is_left_ends_its_span(
    ensemble: Ensemble, spans: InMemorySpanExporter, way: str
) -> None:
    stream = ensemble.stream("Hello", **LONG)
    if way != "never read":
        next(stream)
    match way:
        case "close":
            stream.close()
        case "with":
            with stream:
                next(stream)
        case "time out":
            stream.time_out()
    del stream
    gc.collect()
    (span,) = ended(spans)
    assert facts(span)["gen_ai.response.finish_reasons"] == ("cancelled",)
    assert span.status.status_code is trace.StatusCode.UNSET
    assert facts(span)["gac.steps"] < 400
    assert_rests(ensemble)


async def test_a_cancelled_task_ends_its_span(
    ensemble: Ensemble, spans: InMemorySpanExporter
) -> None:
    task = asyncio.create_task(ensemble.agenerate("Hello", **LONG))
    while not ensemble.members[0].scorer.stats.forwards:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (span,) = await asyncio.to_thread(ended, spans)
    assert facts(span)["gen_ai.response.finish_reasons"] == ("cancelled",)
    assert facts(span)["gen_ai.usage.input_tokens"] == len(ensemble.prompt_ids("Hello")[0])


def test_a_request_that_is_cancelled_while_it_waits_ends_its_span(
    spans: InMemorySpanExporter,
) -> None:
    with make(["byte_level"], max_batch=1) as ensemble:
        first = ensemble.stream("Hello", **LONG)
        next(first)
        second = ensemble.stream("The", **LONG)
        second.close()
        (span,) = ended(spans)
        assert facts(span)["gen_ai.response.finish_reasons"] == ("cancelled",)
        assert facts(span)["gen_ai.usage.output_tokens"] == 0
        assert "gac.fused_share" not in facts(span)
        first.close()
        ended(spans, 2)


def test_closing_the_ensemble_ends_all_spans(spans: InMemorySpanExporter) -> None:
    ensemble = make(["byte_level"], max_batch=1)
    running, _waiting = (ensemble.stream("Hello", **LONG) for _ in range(2))
    next(running)
    ensemble.close()
    for span in ended(spans, 2):
        assert facts(span)["error.type"] == "gac_core.errors.EngineClosedError"
    with pytest.raises(EngineClosedError):
        list(running)


def test_a_stream_that_is_left_while_the_engine_stops_ends_its_span(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine hears of its own end first, and of the stream's never."""
    ensemble = make(["byte_level"])
    model = model_of(ensemble.members[0])
    forward, is_computing, may_go_on = model.forward, threading.Event(), threading.Event()

    def held_up(*args: Any, **kwargs: Any) -> Any:
        is_computing.set()
        assert may_go_on.wait(10)
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", held_up)
    stream = ensemble.stream("Hello", **LONG)
    assert is_computing.wait(10)
    ensemble.runtime.engine.stop()
    stream.close()
    may_go_on.set()
    ensemble.close()
    (span,) = ended(spans)
    assert facts(span)["gen_ai.response.finish_reasons"] == ("cancelled",)


def test_a_failed_forward_is_on_its_span(
    ensemble: Ensemble, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    stream = ensemble.stream("Hello", **LONG)
    next(stream)
    monkeypatch.setattr(model_of(ensemble.members[1]), "forward", crash)
    with pytest.raises(MemberError):
        list(stream)
    (span,) = ended(spans)
    assert span.status.status_code is trace.StatusCode.ERROR
    assert "CUDA out of memory" in (span.status.description or "")
    assert facts(span)["error.type"] == "gac_core.errors.MemberError"
    assert "gen_ai.response.finish_reasons" not in facts(span)
    assert facts(span)["gac.steps"] >= 1  # what was computed before
    (event,) = span.events
    assert event.name == "exception"
    assert (event.attributes or {})["exception.type"] == "gac_core.errors.MemberError"
    assert "OutOfMemoryError" in str((event.attributes or {})["exception.stacktrace"])


def test_a_refused_request_has_a_span(ensemble: Ensemble, spans: InMemorySpanExporter) -> None:
    with pytest.raises(ContextOverflowError):
        ensemble.generate("x" * 10_000)
    (span,) = ended(spans)
    assert facts(span)["error.type"] == "gac_core.errors.ContextOverflowError"
    assert "its context holds 512" in (span.status.description or "")
    assert "gen_ai.usage.input_tokens" not in facts(span)


def test_a_malformed_prompt_is_not_quoted(
    ensemble: Ensemble, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong: Any = ["my secret"]
    with pytest.raises(PromptError, match="my secret"):
        ensemble.generate(wrong)
    (span,) = ended(spans)
    assert facts(span)["error.type"] == "gac_core.errors.PromptError"
    assert "my secret" not in span.to_json()
    monkeypatch.setenv(CAPTURE, "true")
    with pytest.raises(PromptError):
        ensemble.generate(wrong)
    assert "my secret" in ended(spans, 2)[1].to_json()


def test_an_engine_that_died_is_on_the_span(
    ensemble: Ensemble, spans: InMemorySpanExporter
) -> None:
    ensemble.runtime.engine.close()
    with pytest.raises(EngineClosedError):
        ensemble.generate("Hello")
    (span,) = ended(spans)
    assert facts(span)["error.type"] == "gac_core.errors.EngineClosedError"


def test_a_step_is_not_delivered_before_its_span_has_ended(
    ensemble: Ensemble, spans: InMemorySpanExporter
) -> None:
    """So whoever has the answer can flush the provider."""
    for count in range(1, 20):
        ensemble.generate("Hello", max_new_tokens=1)
        assert len(of_requests(spans)) == count


# ---------------------------------------------------------------- who wants no traces


@pytest.mark.parametrize("broken", ["on_start", "on_end"])
def test_a_broken_processor_breaks_no_request(
    ensemble: Ensemble,
    spans: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    def crash(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no room")

    processor: Any = SpanProcessor()
    monkeypatch.setattr(processor, broken, crash)
    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(processor)
    assert ensemble.generate("Hello", max_new_tokens=2).usage.steps == 2
    assert "could not be traced" in caplog.text


def begun(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The traces that are begun from now on."""
    made: list[Any] = []
    init = Trace.__init__

    def noted(self: Trace, *args: Any) -> None:
        made.append(self)
        init(self, *args)

    monkeypatch.setattr(Trace, "__init__", noted)
    return made


def test_nothing_is_traced_without_a_provider(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    made = begun(monkeypatch)
    assert ensemble.generate("Hello", max_new_tokens=2).usage.steps == 2
    assert made == []


def test_nothing_is_traced_that_no_sampler_wants(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    made = begun(monkeypatch)
    assert ensemble.generate("Hello", max_new_tokens=2).usage.steps == 2
    assert made == []


def test_requests_that_are_not_traced_are_not_timed(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(Stopwatch, "__init__", never)
    assert ensemble.generate("Hello", max_new_tokens=2).usage.steps == 2


def test_traced_or_not_the_answer_is_the_same(
    ensemble: Ensemble, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = ensemble.generate("Hello", max_new_tokens=20, temperature=1.0, seed=5)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    assert ensemble.generate("Hello", max_new_tokens=20, temperature=1.0, seed=5) == traced
    ended(spans, 1)


@pytest.mark.slow
@pytest.mark.parametrize("blocked", [True, False])
def test_opentelemetry_is_neither_needed_nor_imported(blocked: bool) -> None:
    code = (
        "import sys\n"
        f"if {blocked}: sys.modules['opentelemetry'] = None\n"
        "from gac_core.testing.models import make_ensemble\n"
        "with make_ensemble(['byte_level', 'legacy']) as ensemble:\n"
        "    assert ensemble.generate('Hello', max_new_tokens=2).usage.steps == 2\n"
        "    assert len(list(ensemble.stream('Hello', max_new_tokens=2))) == 2\n"
        "loaded = [name for name in sys.modules if name.startswith('opentelemetry.')]\n"
        "assert loaded == [], loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
