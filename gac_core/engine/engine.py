"""The local engine: one thread owns the members and drives all running requests.

Whenever a device is free, it takes all queries that wait for one of its members and answers them
in shared forward passes. A request goes on as soon as its own ask is answered; there is no global
beat.
Where all members share one device the engine's thread computes itself; else each device has a
worker thread, so that they compute at the same time.
"""

import atexit
import itertools
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import torch

from gac_core.decoding.request import Ask, Member, Request
from gac_core.decoding.run import Run, Sink
from gac_core.errors import EngineClosedError
from gac_core.members.local import Query, Scorer
from gac_core.methods import Method
from gac_core.outputs import Step

OnError = Callable[[BaseException], None]


_ENGINES: "weakref.WeakSet[Engine]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """No model may be computing while the interpreter goes away."""
    for engine in list(_ENGINES):
        engine.close()


class Ticket:
    """A submitted request, as its owner holds it."""

    def __init__(self, engine: "Engine", run: Run, on_error: OnError) -> None:
        self._engine = engine
        self._on_error = on_error
        self.run = run
        self.is_over = False  # finished, failed or cancelled

    def cancel(self) -> None:
        """Stop computing for it within one round; nothing more is delivered."""
        if not self.is_over:
            self.is_over = True
            self._engine.notice(self)

    def fail(self, error: BaseException) -> None:
        """Deliver an error instead of further steps."""
        if not self.is_over:
            self.is_over = True
            self._on_error(error)


@dataclass
class _Flight:
    """A running request: its open ask and the answers that have come."""

    serial: int
    ticket: Ticket
    ask: Ask = field(default_factory=lambda: Ask({}))
    answers: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    keys: dict[int, set[Hashable]] = field(default_factory=dict)  # memo rows, by member

    def key(self, query: Query) -> Hashable:
        return (self.serial, query.branch)


@dataclass
class _Batch:
    """Queries of one member that are computed together."""

    member: int
    flights: list[_Flight]
    answers: dict[int, list[torch.Tensor]] = field(default_factory=dict)  # by flight serial
    failures: dict[int, Exception] = field(default_factory=dict)


class Engine:
    """Drives requests over a fixed set of members.

    Args:
        members: in the ensemble's order.
        max_batch: requests that run at the same time; further ones wait.

    """

    def __init__(self, members: Sequence[Member], max_batch: int = 64) -> None:
        self._members = tuple(members)
        self._max_batch = max_batch
        self._workers = _workers(self._members)
        self._inbox: queue.SimpleQueue[Ticket | _Batch | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._serials = itertools.count()
        _ENGINES.add(self)
        # Below: the engine's thread only.
        self._waiting: deque[Ticket] = deque()
        self._flights: dict[Ticket, _Flight] = {}

    # ------------------------------------------------ any thread

    def submit(self, method: Method, request: Request, sink: Sink, on_error: OnError) -> Ticket:
        """Have a request decoded; `sink` and `on_error` are called in the engine's thread.

        Raises:
            EngineClosedError: the engine was closed.

        """
        ticket_of: list[Ticket] = []

        def deliver(step: Step) -> None:
            ticket = ticket_of[0]
            if not ticket.is_over:
                if step.outcome is not None:
                    ticket.is_over = True
                sink(step)

        ticket = Ticket(self, Run(method, request, deliver), on_error)
        ticket_of.append(ticket)
        with self._lock:
            if self._is_closed:
                raise EngineClosedError("the ensemble is closed; load it again")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="gac", daemon=True)
                self._thread.start()
            self._inbox.put(ticket)
        return ticket

    def notice(self, ticket: Ticket) -> None:
        """Wake the engine because a ticket changed."""
        self._inbox.put(ticket)

    def stop(self) -> None:
        """Have the engine stop soon, without waiting; may be called by a finalizer, anywhere."""
        self._is_closed = True
        self._inbox.put(None)

    def close(self) -> None:
        """Stop; requests that are not finished fail with `EngineClosedError`."""
        with self._lock:
            self.stop()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # ------------------------------------------------ the engine's thread

    def _work(self) -> None:
        error: BaseException = EngineClosedError("the ensemble was closed while it answered")
        try:
            while self._take_mail():
                self._admit()
                for worker in self._workers:
                    if not worker.is_busy and (batch := self._next_batch(worker)):
                        worker.start(batch, self._members[batch.member].scorer, self._inbox.put)
        except BaseException as bug:  # nobody may wait for ever because of a bug of ours
            error = bug
            raise
        finally:
            with self._lock:  # whoever is submitting has put its ticket before this
                self._is_closed = True
            for worker in self._workers:
                worker.close()
            tickets = [*self._flights, *self._waiting]
            while not self._inbox.empty():
                mail = self._inbox.get()
                if isinstance(mail, Ticket):
                    tickets.append(mail)
            for ticket in tickets:
                ticket.fail(error)
            self._flights.clear()
            for member in self._members:
                member.scorer.forget()

    def _take_mail(self) -> bool:
        """Handle everything that has come, waiting only if there is nothing to compute."""
        while True:
            idle = not self._has_work()
            try:
                mail = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if mail is None:
                return False
            if isinstance(mail, _Batch):
                self._land(mail)
            elif mail in self._flights:
                self._leave(mail)  # it was cancelled
            elif not mail.is_over:
                self._waiting.append(mail)
            elif mail in self._waiting:
                self._waiting.remove(mail)

    def _has_work(self) -> bool:
        if self._waiting and len(self._flights) < self._max_batch:
            return True
        return any(not w.is_busy and self._asking(w) for w in self._workers)

    def _asking(self, worker: "_Worker") -> list[int]:
        """The worker's members that queries wait for."""
        return [
            m
            for m in worker.members
            if any(m in f.ask.queries and m not in f.answers for f in self._flights.values())
        ]

    def _admit(self) -> None:
        while self._waiting and len(self._flights) < self._max_batch:
            ticket = self._waiting.popleft()
            if not ticket.is_over:
                flight = self._flights[ticket] = _Flight(next(self._serials), ticket)
                self._resume(flight, begin=True)

    def _next_batch(self, worker: "_Worker") -> _Batch | None:
        """All that waits for one of the worker's members; members take turns."""
        asking = self._asking(worker)
        if not asking:
            return None
        member = next((m for m in asking if m > worker.last_served), asking[0])
        worker.last_served = member
        flights = [
            f for f in self._flights.values() if member in f.ask.queries and member not in f.answers
        ]
        for flight in flights:
            keys = {flight.key(query) for query in flight.ask.queries[member]}
            flight.keys.setdefault(member, set()).update(keys)
        return _Batch(member, flights)

    def _land(self, batch: _Batch) -> None:
        """Hand the answers of a batch out; whose ask is complete goes on."""
        for worker in self._workers:
            if batch.member in worker.members:
                worker.is_busy = False
        for flight in batch.flights:
            if flight.ticket not in self._flights:
                continue  # cancelled meanwhile
            if failure := batch.failures.get(flight.serial):
                self._fail(flight.ticket, failure)
                continue
            flight.answers[batch.member] = batch.answers[flight.serial]
            if flight.answers.keys() == flight.ask.queries.keys():
                self._resume(flight)

    def _resume(self, flight: _Flight, *, begin: bool = False) -> None:
        ticket = flight.ticket
        answers, flight.answers, flight.ask = flight.answers, {}, Ask({})
        try:
            ask = ticket.run.resume(None if begin else answers)
        except Exception as error:  # a method's or a sink's error is its owner's, not the engine's
            self._fail(ticket, error)
            return
        if ask is None or ticket.is_over:
            self._leave(ticket)
        else:
            flight.ask = ask

    def _fail(self, ticket: Ticket, error: BaseException) -> None:
        ticket.fail(error)
        self._leave(ticket)

    def _leave(self, ticket: Ticket) -> None:
        """A request is over: its generator and the memory of its rows go."""
        flight = self._flights.pop(ticket)
        ticket.run.close()
        for worker in self._workers:
            for m in flight.keys.keys() & set(worker.members):
                worker.do(partial(self._members[m].scorer.drop, flight.keys[m]))


class _Worker:
    """Who computes for the members of one device: the engine's own thread, or one of its own."""

    def __init__(self, members: Sequence[int], *, own_thread: bool) -> None:
        self.members = tuple(members)
        self.is_busy = False
        self.last_served = -1
        self._executor = ThreadPoolExecutor(1, "gac-device") if own_thread else None

    def do(self, task: Callable[[], None]) -> None:
        """Run something that touches the members' memory, in order with the batches."""
        if self._executor is None:
            task()
        else:
            with suppress(RuntimeError):  # the interpreter is shutting down
                self._executor.submit(task)

    def start(self, batch: _Batch, scorer: Scorer, post: Callable[[_Batch], None]) -> None:
        """Compute a batch and post it back."""
        self.is_busy = True

        def work() -> None:
            _compute(batch, scorer)
            post(batch)

        self.do(work)

    def close(self) -> None:
        """Wait for what is under way."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)


def _workers(members: Sequence[Member]) -> list[_Worker]:
    by_device: dict[str, list[int]] = {}
    for index, member in enumerate(members):
        by_device.setdefault(_device_of(member), []).append(index)
    return [_Worker(group, own_thread=len(by_device) > 1) for group in by_device.values()]


def _device_of(member: Member) -> str:
    return str(member.scorer.device)


def _compute(batch: _Batch, scorer: Scorer) -> None:
    """Answer all queries in shared passes; if that fails, one by one to find the guilty."""
    try:
        _score(batch, batch.flights, scorer)
    except Exception as error:
        if len(batch.flights) == 1:
            batch.failures[batch.flights[0].serial] = error
            return
        for flight in batch.flights:
            try:
                _score(batch, [flight], scorer)
            except Exception as own:
                batch.failures[flight.serial] = own


def _score(batch: _Batch, flights: Sequence[_Flight], scorer: Scorer) -> None:
    asked = [(f, query) for f in flights for query in f.ask.queries[batch.member]]
    logits = scorer.score([q for _, q in asked], [f.key(q) for f, q in asked])
    for flight in flights:
        batch.answers[flight.serial] = [
            result for (f, _), result in zip(asked, logits, strict=True) if f is flight
        ]
