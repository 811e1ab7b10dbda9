"""A job: one request in the engine."""

from collections.abc import Callable, Hashable

from gac_core.decoding.request import Method, Request
from gac_core.decoding.run import Run, Sink
from gac_core.decoding.turn import Turn
from gac_core.engine.tracing import Trace
from gac_core.members.base import Ask, Query, Scored
from gac_core.outputs import Step

OnError = Callable[[BaseException], None]


class Job:
    """A request from its submission to its end: its run, its open ask, the answers so far.

    Args:
        serial: a number that is unique in the engine.
        method: decodes the request.
        work: the request, or the turn of several.
        sink: called with every step, in the engine's thread.
        on_error: called with the error that ended the request, if one did.
        wake: puts the job into the engine's inbox; may be called from any thread.
        trace: its span, if it is traced.

    Attributes:
        serial: a number that is unique in the engine.
        is_over: whether it is finished, failed or cancelled; nothing is delivered then.
        run: the method at work on the request.
        ask: the queries it waits for.
        answers: those answers that have been computed, by member index.
        keys: names of its sequences in the members' caches, by member index.
        trace: its span, if it is traced.

    """

    def __init__(
        self,
        serial: int,
        method: Method,
        work: Request | Turn,
        sink: Sink,
        on_error: OnError,
        wake: "Callable[[Job], None]",
        trace: Trace | None = None,
    ) -> None:
        self.serial = serial
        self.is_over = False
        self.run = Run(method, work, self._deliver)
        self.ask = Ask({})
        self.answers: dict[int, list[Scored]] = {}
        self.keys: dict[int, set[Hashable]] = {}
        self.trace = trace
        self._sink = sink
        self._on_error = on_error
        self._wake = wake

    def _deliver(self, step: Step) -> None:
        if not self.is_over:
            if step.outcome is not None:  # never back to False: another thread may just cancel
                self.is_over = True
            if self.trace is not None:
                self.trace.step(step)
            self._sink(step)

    def cancel(self) -> None:
        """Stop the request; nothing more is computed after the pass under way, nor delivered."""
        if not self.is_over:
            self.is_over = True
            self._wake(self)

    def fail(self, error: BaseException) -> None:
        """Deliver an error instead of further steps."""
        if not self.is_over:
            self.is_over = True
            self.end_trace(error)
            self._on_error(error)

    def end_trace(self, error: BaseException | None = None) -> None:
        """End its span, if it is still open: with an error, or as cancelled."""
        if self.trace is not None:
            self.trace.end(self.run.usage(), error=error)

    def close(self) -> None:
        """Let go of what it holds; nothing is computed for it any more."""
        self.end_trace()
        self.run.close()
        self.ask, self.answers = Ask({}), {}  # its stream may be held for long

    def key(self, query: Query) -> Hashable:
        """The name of the query's sequence in a member's cache."""
        return (self.serial, query.branch)

    def waits_for(self, member: int) -> bool:
        """Whether queries to a member are not answered yet."""
        return member in self.ask.queries and member not in self.answers
