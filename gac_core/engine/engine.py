"""The engine: one thread drives all running requests, with continuous batching.

As soon as a place (a device) is free, it takes all queries that wait for one of its members and
answers them in shared forward passes. A request goes on as soon as its own ask is answered, and
others may join or leave between any two passes. If all members are in one place, the engine's
thread computes itself; else each place has a worker thread, so that they compute at the same time.
"""

import atexit
import itertools
import queue
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from functools import partial

from gac_core.decoding.request import Method, Request
from gac_core.decoding.run import Sink
from gac_core.decoding.turn import Turn
from gac_core.engine.job import Job, OnError
from gac_core.engine.process import OneProcess
from gac_core.engine.tracing import Trace
from gac_core.engine.workers import Batch, Worker, drop, workers_of
from gac_core.errors import EngineClosedError
from gac_core.members.base import Ask, Member

_ENGINES: "weakref.WeakSet[Engine]" = weakref.WeakSet()  # all that may still be computing


@atexit.register
def _close_all() -> None:
    """Close all engines: no model may be computing while the interpreter shuts down."""
    for engine in list(_ENGINES):
        engine.close()


class Engine:
    """Drives requests over a fixed set of members.

    Args:
        members: in the ensemble's order.
        max_batch: requests that run at the same time; further ones wait.

    """

    def __init__(self, members: Sequence[Member], max_batch: int = 64) -> None:
        self._members = tuple(members)
        self._max_batch = max_batch
        self._workers = workers_of(self._members)
        self._inbox: queue.SimpleQueue[Job | Batch | None] = queue.SimpleQueue()
        self._process = OneProcess()
        self._process.check()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._serials = itertools.count()
        _ENGINES.add(self)
        # Below: used by the engine's thread only.
        self._waiting: deque[Job] = deque()
        self._running: dict[int, Job] = {}  # by serial number

    # ------------------------------------------------ any thread

    def submit(
        self,
        method: Method,
        work: Request | Turn,
        sink: Sink,
        on_error: OnError,
        trace: Trace | None = None,
    ) -> Job:
        """Have a request decoded.

        Args:
            method: decodes it.
            work: the request, or the turn of several.
            sink: called with every step, in the engine's thread.
            on_error: called with the error that ended the request, if one did; in that thread, too.
            trace: its span, if it is traced; that thread ends it.

        Returns:
            The job, with which the request can be cancelled.

        Raises:
            EngineClosedError: the engine was closed.
            ForkedError: it was made in another process.

        """
        self._process.check()
        job = Job(next(self._serials), method, work, sink, on_error, self._inbox.put, trace)
        with self._lock:
            if self._is_closed:
                raise EngineClosedError("the ensemble is closed; load it again")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="gac", daemon=True)
                self._thread.start()
            self._inbox.put(job)
        return job

    def stop(self) -> None:
        """Have the engine stop soon, without waiting; finalizers may call it in any thread."""
        self._is_closed = True
        if not self._process.is_elsewhere:
            self._inbox.put(None)

    def close(self) -> None:
        """Stop; requests that are not finished fail with `EngineClosedError`."""
        if self._process.is_elsewhere:  # there is no thread to stop, and the lock may be held
            return
        with self._lock:
            self.stop()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # ------------------------------------------------ the engine's thread

    def _work(self) -> None:
        error: BaseException = EngineClosedError("the ensemble was closed while it answered")
        try:
            while self._handle_inbox():
                self._admit()
                for worker in self._workers:
                    if not worker.is_busy and (batch := self._next_batch(worker)):
                        worker.start(batch, self._members[batch.member].scorer, self._inbox.put)
        except BaseException as bug:  # callers must not wait for ever because of a bug in here
            error = bug
            raise
        finally:
            # Taking the lock waits for any submit in progress, so its job is in the inbox then.
            with self._lock:
                self._is_closed = True
            for worker in self._workers:
                worker.close()
            jobs = [*self._running.values(), *self._waiting]
            while not self._inbox.empty():
                item = self._inbox.get()
                if isinstance(item, Job):
                    jobs.append(item)
            for job in jobs:
                job.fail(error)
                job.end_trace()  # if it had been cancelled
            self._running.clear()
            for member in self._members:
                drop(member.scorer)

    def _handle_inbox(self) -> bool:
        """Handle all items of the inbox, waiting for one only if there is nothing to compute.

        Returns:
            Whether to go on; False after `stop`.

        """
        while True:
            idle = not self._has_work()
            try:
                item = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if item is None:
                return False
            if isinstance(item, Batch):
                self._complete(item)
            elif item.serial in self._running:
                self._finish(item)  # it was cancelled
            elif not item.is_over:
                self._waiting.append(item)
            else:  # it was cancelled before it began
                if item in self._waiting:
                    self._waiting.remove(item)
                item.close()

    def _has_work(self) -> bool:
        if self._waiting and len(self._running) < self._max_batch:
            return True
        return any(not w.is_busy and self._asked_members(w) for w in self._workers)

    def _asked_members(self, worker: Worker) -> list[int]:
        """The worker's members for which queries wait."""
        jobs = self._running.values()
        return [m for m in worker.members if any(job.waits_for(m) for job in jobs)]

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_batch:
            job = self._waiting.popleft()
            if not job.is_over:
                self._running[job.serial] = job
                self._resume(job, begin=True)

    def _next_batch(self, worker: Worker) -> Batch | None:
        """All jobs that wait for one of the worker's members; its members take turns."""
        asked = self._asked_members(worker)
        if not asked:
            return None
        member = next((m for m in asked if m > worker.last_served), asked[0])
        worker.last_served = member
        jobs = [job for job in self._running.values() if job.waits_for(member)]
        for job in jobs:
            keys = {job.key(query) for query in job.ask.queries[member]}
            job.keys.setdefault(member, set()).update(keys)
        return Batch(member, jobs)

    def _complete(self, batch: Batch) -> None:
        """Give the answers of a batch to its jobs; a job whose ask is complete goes on."""
        for worker in self._workers:
            if batch.member in worker.members:
                worker.is_busy = False
        batch.share_times()
        for job in batch.jobs:
            if job.serial not in self._running:
                continue  # cancelled meanwhile
            if failure := batch.failures.get(job.serial):
                self._fail(job, failure)
                continue
            job.answers[batch.member] = batch.answers[job.serial]
            if job.answers.keys() == job.ask.queries.keys():
                self._resume(job)

    def _resume(self, job: Job, *, begin: bool = False) -> None:
        answers, job.answers, job.ask = job.answers, {}, Ask({})
        try:
            ask = job.run.resume(None if begin else answers)
        except Exception as error:  # an error in a method or a sink fails that request only
            self._fail(job, error)
            return
        if ask is None or job.is_over:
            self._finish(job)
        else:
            job.ask = ask

    def _fail(self, job: Job, error: BaseException) -> None:
        job.fail(error)
        self._finish(job)

    def _finish(self, job: Job) -> None:
        """End a request: close its generator and free its sequences in the members' caches."""
        del self._running[job.serial]
        job.close()
        for worker in self._workers:
            for m in job.keys.keys() & set(worker.members):
                worker.do(partial(drop, self._members[m].scorer, job.keys[m]))
