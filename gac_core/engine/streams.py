"""Streams of steps, for threads and for asyncio.

A stream that is closed, left or garbage-collected cancels its request. Streams are classes and not
generators: the request is submitted at once, so an error is raised by the call that made it, and
the request stops even if the stream is never iterated.
"""

import asyncio
import queue
from collections.abc import Callable
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from gac_core.decoding.run import Sink
from gac_core.engine.job import Job, OnError
from gac_core.engine.process import OneProcess
from gac_core.outputs import Step

Submit = Callable[[Sink, OnError], Job]


class _Closed:
    """Put into the inbox of a stream to end it."""


Item = Step | BaseException | _Closed
_CLOSED: Final = _Closed()
_End = TypeVar("_End", bound=BaseException)


class _Inbox(Generic[_End]):
    """The part of a stream that both kinds share: reading what the engine posts, and ending.

    Attributes:
        is_complete: whether the last step was read.

    """

    _exhausted: type[_End]  # the exception that ends an iteration
    _job: Job | None = None

    def __init__(self, submit: Submit, post: Callable[[Item], None], owner: object) -> None:
        self._process = OneProcess()
        self._process.check()
        self._post = post
        self._owner = owner  # kept alive for as long as there are steps to come
        self._is_over = False
        self.is_complete = False
        self._job = submit(post, post)

    def _read(self, item: Item) -> Step:
        """The item, if it is a step; else raise the error, or the exception that ends iteration."""
        if isinstance(item, Step) and item.outcome is None:
            return item
        self._end()
        if isinstance(item, _Closed):
            raise self._exhausted
        if isinstance(item, BaseException):
            raise item
        self.is_complete = True
        return item

    def _end(self) -> None:
        self._is_over = True
        self._owner = None
        self._post(_CLOSED)  # for other threads or tasks that wait for a step

    def time_out(self) -> None:
        """Stop the request; steps made so far can still be read."""
        if self._job is not None:
            self._job.cancel()
        self._post(_CLOSED)

    def close(self) -> None:
        """Stop the request; steps that have not been read are lost."""
        if self._job is not None:
            self._job.cancel()
        self._end()

    def __del__(self) -> None:
        if self._job is not None:
            self._job.cancel()


class Stream(_Inbox[StopIteration]):
    """An iterator over the steps of one answer, the last of which carries the outcome.

    Use it as a context manager, or call `close` from any thread, to stop early; dropping the last
    reference to it does so as well. It keeps its ensemble alive.
    """

    _exhausted = StopIteration

    def __init__(self, submit: Submit, owner: object = None) -> None:
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        super().__init__(submit, self._items.put, owner)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Step:
        self._process.check()
        return self._read(_CLOSED if self._is_over else self._items.get())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncStream(_Inbox[StopAsyncIteration]):
    """`Stream` for asyncio.

    A task that is cancelled while it waits for a step (by `asyncio.wait_for`) loses none and may go
    on reading later; dropping the stream stops the request.
    """

    _exhausted = StopAsyncIteration

    def __init__(self, submit: Submit, owner: object = None) -> None:
        self._items: asyncio.Queue[Item] = asyncio.Queue()
        post = _poster(asyncio.get_running_loop(), self._items)
        super().__init__(submit, post, owner)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Step:
        self._process.check()
        return self._read(_CLOSED if self._is_over else await self._items.get())

    async def aclose(self) -> None:
        """`close`, for `contextlib.aclosing`."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Completion:
    """A request that is waited for as a whole: its caller is woken only at the end."""

    def __init__(self, submit: Submit) -> None:
        self._steps: list[Step] = []
        self._end: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._job = submit(self._take, self._end.put)

    def _take(self, step: Step) -> None:
        self._steps.append(step)
        if step.outcome is not None:
            self._end.put(None)

    def steps(self) -> list[Step]:
        """Wait for the end of the answer; all its steps, or the error that ended it is raised."""
        error = self._end.get()
        if error is not None:
            raise error
        return self._steps

    def close(self) -> None:
        """Stop the request, if it is still running."""
        self._job.cancel()


def _poster(loop: asyncio.AbstractEventLoop, items: asyncio.Queue[Item]) -> Callable[[Item], None]:
    """A function that posts from any thread, without a reference to the stream."""

    def post(item: Item) -> None:
        try:
            loop.call_soon_threadsafe(items.put_nowait, item)
        except RuntimeError:  # the loop is closed, so no task waits
            return

    return post
