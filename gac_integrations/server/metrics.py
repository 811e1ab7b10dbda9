"""What Prometheus reads; the log has the same per request."""

from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gac_core import Usage
from gac_integrations.server.limits import Turns

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CLIENT_GONE: Final = 499  # as nginx calls it


@dataclass
class Record:
    """What is known of a request.

    Attributes:
        endpoint: its path if it is one of ours, else "other".
        status: of the response; `CLIENT_GONE` if the client left before it was complete, and as
            long as there is no response.
        seconds: from its arrival to its end.
        first_seconds: from its arrival to the first step of an answer; None if there was none.
        prompt_tokens: the primary's, of its prompts.
        usages: of its answers that were completed.
        about: what else the log shows.

    """

    endpoint: str
    status: int = CLIENT_GONE
    seconds: float = 0.0
    first_seconds: float | None = None
    prompt_tokens: int = 0
    usages: list[Usage] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def add(self, usage: Usage, *, has_prompt: bool) -> None:
        """Add an answer, and its prompt, if no other answer had it."""
        self.usages.append(usage)
        if has_prompt:
            self.prompt_tokens += usage.prompt_tokens


class Metrics:
    """The figures of one app, in a registry of their own.

    Args:
        turns: of the app.

    """

    def __init__(self, turns: Turns) -> None:
        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self._registry}
        running = Gauge("gac_answers_running", "Answers that are being written", **own)
        running.set_function(lambda: turns.running)
        waiting = Gauge("gac_requests_waiting", "Requests that wait for their turn", **own)
        waiting.set_function(lambda: turns.waiting)
        self._requests = Counter(
            "gac_requests", "Requests that have ended", ("endpoint", "status"), **own
        )
        self._seconds = Histogram(
            "gac_request_seconds",
            "From the arrival of a request to its end",
            ("endpoint",),
            buckets=_SECONDS,
            **own,
        )
        self._first_seconds = Histogram(
            "gac_time_to_first_token_seconds",
            "From the arrival of a request to the first step of its answer",
            ("endpoint",),
            buckets=_SECONDS,
            **own,
        )
        self._tokens = Counter("gac_tokens", "Tokens of the primary", ("kind",), **own)
        self._steps = Counter(
            "gac_steps", "Steps by who decided them: all members, or the primary", ("by",), **own
        )

    def count(self, record: Record) -> None:
        """Add a request that has ended."""
        self._requests.labels(record.endpoint, str(record.status)).inc()
        self._seconds.labels(record.endpoint).observe(record.seconds)
        if record.first_seconds is not None:
            self._first_seconds.labels(record.endpoint).observe(record.first_seconds)
        self._tokens.labels("prompt").inc(record.prompt_tokens)
        for usage in record.usages:
            written = usage.completion_tokens - usage.thought_tokens
            self._tokens.labels("completion").inc(written)
            self._tokens.labels("reasoning").inc(usage.thought_tokens)
            self._steps.labels("ensemble").inc(usage.fused_steps)
            self._steps.labels("primary").inc(usage.steps - usage.fused_steps)

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)
