"""Workers: one for each place (device) where members compute."""

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import torch

from gac_core.engine.job import Job
from gac_core.engine.stopwatch import Stopwatch
from gac_core.errors import (
    GacError,
    MemberError,
    ModelChangedError,
    UnreachableError,
    one_line,
)
from gac_core.members.base import Member, Query, Scored, Scorer

_log = logging.getLogger(__name__)


@dataclass
class Batch:
    """Queries of one member that are computed together.

    Attributes:
        member: the member's index.
        jobs: the jobs that wait for it.
        answers: the answers to each job's queries, by its serial number.
        failures: errors of single jobs, by serial number.
        times: of the calls that were timed, each with the jobs it was for.

    """

    member: int
    jobs: list[Job]
    answers: dict[int, list[Scored]] = field(default_factory=dict)
    failures: dict[int, Exception] = field(default_factory=dict)
    times: list[tuple[Stopwatch, Sequence[Job]]] = field(default_factory=list)

    def share_times(self) -> None:
        """Give each job that is traced its part of the times; in the engine's thread."""
        for watch, jobs in self.times:
            for job in jobs:
                if job.trace is not None:
                    job.trace.add_forward(self.member, watch, len(jobs))


class Worker:
    """Computes for the members of one place, in the engine's thread or in a thread of its own.

    Args:
        members: their indices.
        own_thread: whether it has a thread, so that several places compute at the same time.

    Attributes:
        members: their indices.
        is_busy: whether a batch is being computed.
        last_served: the member of the last batch; members of one place take turns.

    """

    def __init__(self, members: Sequence[int], *, own_thread: bool) -> None:
        self.members = tuple(members)
        self.is_busy = False
        self.last_served = -1
        self._executor = ThreadPoolExecutor(1, "gac-worker") if own_thread else None

    def do(self, task: Callable[[], None]) -> None:
        """Run a task that uses the members' caches, in order with the batches."""
        if self._executor is None:
            task()
        else:
            with suppress(RuntimeError):  # the interpreter is shutting down
                self._executor.submit(task)

    def start(self, batch: Batch, scorer: Scorer, post: Callable[[Batch], None]) -> None:
        """Compute a batch, then call `post` with it."""
        self.is_busy = True

        def work() -> None:
            _compute(batch, scorer)
            post(batch)

        self.do(work)

    def close(self) -> None:
        """Wait for the batch that is being computed."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)


def workers_of(members: Sequence[Member]) -> list[Worker]:
    """A worker for each place; a single one computes in the engine's thread."""
    by_place: dict[object, list[int]] = {}
    for index, member in enumerate(members):
        by_place.setdefault(member.scorer.place, []).append(index)
    return [Worker(group, own_thread=len(by_place) > 1) for group in by_place.values()]


def drop(scorer: Scorer, keys: Iterable[Hashable] | None = None) -> None:
    """Free sequences of a scorer, or all; an error there must not end other requests."""
    try:
        if keys is None:
            scorer.clear()
        else:
            scorer.drop(keys)
    except Exception:
        _log.exception("%s could not free its sequences", scorer.name)


def _compute(batch: Batch, scorer: Scorer) -> None:
    """Answer all queries in shared passes; if that fails, job by job, so that only some fail."""
    try:
        _score(batch, batch.jobs, scorer)
    except BaseException as error:  # callers must not wait for ever, whatever it is
        # A server that is away or another one fails all alike, and each try may take a minute.
        if len(batch.jobs) == 1 or isinstance(error, (UnreachableError, ModelChangedError)):
            failure = _typed(error, scorer)
            batch.failures.update((job.serial, failure) for job in batch.jobs)
            return
        for job in batch.jobs:
            try:
                _score(batch, [job], scorer)
            except BaseException as own:
                batch.failures[job.serial] = _typed(own, scorer)


def _typed(error: BaseException, scorer: Scorer) -> GacError:
    """The error of a scorer as one of ours."""
    if isinstance(error, GacError):
        return error
    failure = MemberError(f"the forward pass of {scorer.name} failed: {one_line(error, 300)}")
    failure.__cause__ = error
    return failure


def _score(batch: Batch, jobs: Sequence[Job], scorer: Scorer) -> None:
    asked = [(job, query) for job in jobs for query in job.ask.queries[batch.member]]
    with timed(batch, jobs, scorer):
        scored = scorer.score([q for _, q in asked], [job.key(q) for job, q in asked])
    if len(scored) != len(asked):
        raise MemberError(f"{scorer.name} gave {len(scored)} answers to {len(asked)} queries")
    for job in jobs:
        batch.answers[job.serial] = [
            _checked(answer, query, scorer)
            for (owner, query), answer in zip(asked, scored, strict=True)
            if owner is job
        ]


@contextmanager
def timed(batch: Batch, jobs: Sequence[Job], scorer: Scorer) -> Iterator[None]:
    """Take the time of the block, if one of the jobs is traced."""
    if not any(job.trace for job in jobs):
        yield
        return
    watch = Stopwatch(scorer.device)
    try:
        yield
    finally:
        watch.stop()
        batch.times.append((watch, jobs))


def _checked(scored: Scored, query: Query, scorer: Scorer) -> Scored:
    """The answer, if it is one to this query; its logits in float32 at least."""
    logits, shape = scored.logits, (query.last, scorer.vocab_size)
    if logits.shape != shape:
        raise MemberError(f"{scorer.name} gave logits of shape {tuple(logits.shape)}, not {shape}")
    if query.hidden and scored.hidden is None:
        raise MemberError(f"{scorer.name} gave no hidden state, which this method needs")
    if logits.dtype in (torch.float32, torch.float64):
        return scored
    return replace(scored, logits=logits.float())
