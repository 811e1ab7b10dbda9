"""One span of OpenTelemetry for each request, where the program has set a tracer provider.

A span begins as the request is made, in the caller's thread, so its parent is the span that is
current there. It ends in the engine's thread, once nothing is computed for the request any more:
a stream may be dropped by the garbage collector, which must not wait for a processor's locks.
Without OpenTelemetry, a provider, or a sampler that wants the request there is no `Trace`.

The attributes are those of the semantic conventions for generative AI, and our own; docs/tracing.md
lists them.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from gac_core.chat.prompt import Prompt, check_messages
from gac_core.engine.stopwatch import Stopwatch
from gac_core.errors import ContextOverflowError, PromptError
from gac_core.outputs import Step, Usage
from gac_core.sampling_params import SamplingParams

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_log = logging.getLogger(__name__)

# Fields of SamplingParams by their attributes.
_SAMPLING: Final = {
    "gen_ai.request.max_tokens": "max_new_tokens",
    "gen_ai.request.temperature": "temperature",
    "gen_ai.request.top_k": "top_k",
    "gen_ai.request.top_p": "top_p",
    "gen_ai.request.seed": "seed",
    "gen_ai.request.stop_sequences": "stop",
}
_CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_SHOWING: Final = ("true", "span_only", "span_and_event")


class Tracing:
    """Begins the spans of one ensemble's requests.

    Args:
        model: what the ensemble is called.
        method: how it decides.
        space: in which its members meet.

    """

    def __init__(self, model: str, method: str, space: str) -> None:
        self._model = model
        self._attributes = {
            "gen_ai.provider.name": "gac",
            "gen_ai.request.model": model,
            "gen_ai.response.model": model,
            "gac.method": method,
            "gac.space": space,
        }
        self._tracer: tuple[object, Tracer] | None = None  # with the provider that made it

    def begin(self, prompt: Prompt, sampling: SamplingParams) -> "Trace | None":
        """The trace of a request that is about to be made; None if nobody wants it.

        Args:
            prompt: of the request; it may turn out to be malformed.
            sampling: how it is to be drawn; its seed is set.

        """
        if "opentelemetry.trace" not in sys.modules:  # so no provider was set
            return None
        with _harmless():
            operation = "text_completion" if isinstance(prompt, str) else "chat"
            attributes: dict[str, Any] = {
                "gen_ai.operation.name": operation,
                **self._attributes,
                **_sampling_attributes(sampling),
            }
            name = f"{operation} {self._model}"
            span = self._current_tracer().start_span(name, attributes=attributes)
            if span.is_recording():
                return Trace(span, prompt)
        return None

    def _current_tracer(self) -> "Tracer":
        """The tracer, made once: each making changes the process's warning filters."""
        from opentelemetry import trace

        provider = trace.get_tracer_provider()
        if self._tracer is None or self._tracer[0] is not provider:
            self._tracer = provider, provider.get_tracer("gac_core")
        return self._tracer[1]


class Trace:
    """The open span of one request. After the request is made, it is the engine's thread's.

    Args:
        span: the span.
        prompt: of the request.

    """

    def __init__(self, span: "Span", prompt: Prompt) -> None:
        self._span = span
        self._began = perf_counter()
        self._first: float | None = None  # seconds until the first step
        self._seconds: dict[int, float] = {}  # by member index
        self._forwards: dict[int, int] = {}
        self._running: list[tuple[int, Stopwatch, int]] = []  # whose time was not read yet
        self._is_over = False
        self._shows_text = os.environ.get(_CAPTURE, "").lower() in _SHOWING
        self._thought: list[str] = []
        self._text: list[str] = []
        if self._shows_text:
            with suppress(PromptError):
                span.set_attribute("gen_ai.input.messages", _prompt_json(prompt))

    def add_forward(self, member: int, watch: Stopwatch, requests: int) -> None:
        """Note that a member has computed for this request.

        Args:
            member: its index.
            watch: that took the time.
            requests: how many shared it.

        """
        self._running.append((member, watch, requests))

    def step(self, step: Step) -> None:
        """Note a step before it is delivered; the last one ends the span."""
        if self._first is None:
            self._first = perf_counter() - self._began
        if self._shows_text:
            self._thought.append(step.thought or "")
            self._text.append(step.text)
        if step.outcome is not None:
            self.end(step.outcome.usage, step.outcome.finish_reason)
        else:
            self._read_times()

    def end(
        self,
        usage: Usage | None = None,
        reason: str = "cancelled",
        error: BaseException | None = None,
    ) -> None:
        """End the span; nothing happens if it has ended.

        Args:
            usage: the tokens and steps so far; None if the request was not made.
            reason: why the answer ended, if there is no error.
            error: that ended the request, or refused it.

        """
        if self._is_over:
            return
        self._is_over = True
        with _harmless():
            if error is None:
                self._span.set_attribute("gen_ai.response.finish_reasons", [reason])
            else:
                self._fail(error)
            if usage is not None:
                self._span.set_attributes(self._usage_attributes(usage))
            if self._first is not None:
                self._span.set_attribute("gen_ai.response.time_to_first_chunk", self._first)
            if self._shows_text and self._text:
                answer = _message("assistant", "".join(self._text), "".join(self._thought))
                answer["finish_reason"] = reason
                self._span.set_attribute("gen_ai.output.messages", json.dumps([answer]))
        with _harmless():
            self._span.end()

    def _read_times(self) -> None:
        """Read the times of what was computed; the last step needed all of it, so it is done."""
        for member, watch, requests in self._running:
            share = watch.seconds / requests
            self._seconds[member] = self._seconds.get(member, 0.0) + share
            self._forwards[member] = self._forwards.get(member, 0) + 1
        self._running.clear()

    def _usage_attributes(self, usage: Usage) -> dict[str, Any]:
        self._read_times()
        attributes: dict[str, Any] = {
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gac.steps": usage.steps,
        }
        if usage.thought_tokens:
            attributes["gen_ai.usage.reasoning.output_tokens"] = usage.thought_tokens
        if usage.steps:
            attributes["gac.fused_share"] = usage.fused_steps / usage.steps
        for index, member in enumerate(usage.members):
            attributes |= {
                f"gac.member.{member.name}.{name}": value
                for name, value in (
                    ("seconds", self._seconds.get(index, 0.0)),
                    ("forwards", self._forwards.get(index, 0)),
                    ("input_tokens", member.prompt_tokens),
                    ("output_tokens", member.completion_tokens),
                )
            }
        return attributes

    def _fail(self, error: BaseException) -> None:
        from opentelemetry.trace import StatusCode

        message, hidden = str(error), {}
        may_quote = isinstance(error, PromptError) and not isinstance(error, ContextOverflowError)
        if may_quote and not self._shows_text:
            message = "not shown, since it may quote the prompt"
            hidden = {"exception.message": message, "exception.stacktrace": message}
        self._span.record_exception(error, hidden)
        self._span.set_status(StatusCode.ERROR, message)
        self._span.set_attribute("error.type", f"{type(error).__module__}.{type(error).__name__}")


@contextmanager
def _harmless() -> Iterator[None]:
    """What fails in here (a sampler, a processor) must not fail the request."""
    try:
        yield
    except Exception:
        _log.exception("a request could not be traced")


def _sampling_attributes(sampling: SamplingParams) -> dict[str, Any]:
    """What was asked for, and the seed."""
    asked = {
        key: getattr(sampling, name)
        for key, name in _SAMPLING.items()
        if name in sampling.model_fields_set
    }
    return {key: value for key, value in asked.items() if value != ()}


def _prompt_json(prompt: Prompt) -> str:
    """The prompt as the conventions write it."""
    if isinstance(prompt, str):
        return json.dumps([_message("user", prompt)])
    messages = [
        _message(m["role"], m["content"], m.get("reasoning_content", ""))
        for m in check_messages(prompt)
    ]
    return json.dumps(messages)


def _message(role: str, text: str, thought: str = "") -> dict[str, Any]:
    parts = [{"type": "reasoning", "content": thought}] if thought else []
    return {"role": role, "parts": [*parts, {"type": "text", "content": text}]}
