"""Workers: one for each place (device) where members compute."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from gac_core.engine.job import Job
from gac_core.members.base import Member, Scored, Scorer


@dataclass
class Batch:
    """Queries of one member that are computed together.

    Attributes:
        member: the member's index.
        jobs: the jobs that wait for it.
        answers: the answers to each job's queries, by its serial number.
        failures: errors of single jobs, by serial number.

    """

    member: int
    jobs: list[Job]
    answers: dict[int, list[Scored]] = field(default_factory=dict)
    failures: dict[int, Exception] = field(default_factory=dict)


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


def _compute(batch: Batch, scorer: Scorer) -> None:
    """Answer all queries in shared passes; if that fails, job by job, so that only some fail."""
    try:
        _score(batch, batch.jobs, scorer)
    except Exception as error:
        if len(batch.jobs) == 1:
            batch.failures[batch.jobs[0].serial] = error
            return
        for job in batch.jobs:
            try:
                _score(batch, [job], scorer)
            except Exception as own:
                batch.failures[job.serial] = own


def _score(batch: Batch, jobs: Sequence[Job], scorer: Scorer) -> None:
    asked = [(job, query) for job in jobs for query in job.ask.queries[batch.member]]
    scored = scorer.score([q for _, q in asked], [job.key(q) for job, q in asked])
    for job in jobs:
        batch.answers[job.serial] = [
            answer for (owner, _), answer in zip(asked, scored, strict=True) if owner is job
        ]
