"""Steps as they come, for threads and for asyncio.

A stream that is closed, left or forgotten cancels its request. Classes, not generators: they are
submitted at once, so mistakes show where they are made, and they stop even if never iterated.
"""

import asyncio
import queue
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from gac_core.decoding.run import Sink
from gac_core.engine.engine import OnError, Ticket
from gac_core.outputs import Step

Submit = Callable[[Sink, OnError], Ticket]


class _Closed:
    """Mail that says the stream was closed."""


Mail = Step | BaseException | _Closed


class Stream:
    """An iterator over steps, the last of which carries the outcome.

    Use it as a context manager, or call `close` from any thread, to stop early; dropping it does so
    as well. It keeps its ensemble alive.

    Attributes:
        is_complete: whether the last step was read.

    """

    def __init__(self, submit: Submit, owner: object = None) -> None:
        self._mail: queue.SimpleQueue[Mail] = queue.SimpleQueue()
        self._ticket: Ticket | None = None
        self._owner = owner
        self._is_over = False
        self.is_complete = False
        self._ticket = submit(self._mail.put, self._mail.put)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Step:
        mail = _CLOSED if self._is_over else self._mail.get()
        if isinstance(mail, Step) and mail.outcome is None:
            return mail
        self._end()
        if isinstance(mail, _Closed):
            raise StopIteration
        if isinstance(mail, BaseException):
            raise mail
        self.is_complete = True
        return mail

    def _end(self) -> None:
        self._is_over = True
        self._owner = None
        self._mail.put(_CLOSED)  # for whoever else waits

    def expire(self) -> None:
        """Stop the request; what was made so far can still be read."""
        if self._ticket is not None:
            self._ticket.cancel()
        self._mail.put(_CLOSED)

    def close(self) -> None:
        """Stop the request; what has not been read is lost."""
        if self._ticket is not None:
            self._ticket.cancel()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._ticket is not None:
            self._ticket.cancel()


class Completion:
    """A request whose steps are wanted all at once: its owner is woken only at the end."""

    def __init__(self, submit: Submit) -> None:
        self._steps: list[Step] = []
        self._end: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._ticket = submit(self._take, self._end.put)

    def _take(self, step: Step) -> None:
        self._steps.append(step)
        if step.outcome is not None:
            self._end.put(None)

    def steps(self) -> list[Step]:
        """Wait for the last step; the error, if there was one."""
        error = self._end.get()
        if error is not None:
            raise error
        return self._steps

    def close(self) -> None:
        """Stop the request, if it is still running."""
        self._ticket.cancel()


class AsyncStream:
    """`Stream` for asyncio.

    A task that is cancelled while it waits for a step loses nothing and may go on later
    (`asyncio.wait_for`); one that leaves the stream behind stops the request.
    """

    def __init__(self, submit: Submit, owner: object = None) -> None:
        self._mail: asyncio.Queue[Mail] = asyncio.Queue()
        self._ticket: Ticket | None = None
        self._owner = owner
        self._is_over = False
        self.is_complete = False
        self._loop = asyncio.get_running_loop()
        self._post = _poster(self._loop, self._mail)
        self._ticket = submit(self._post, self._post)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Step:
        mail = _CLOSED if self._is_over else await self._mail.get()
        if isinstance(mail, Step) and mail.outcome is None:
            return mail
        self._end()
        if isinstance(mail, _Closed):
            raise StopAsyncIteration
        if isinstance(mail, BaseException):
            raise mail
        self.is_complete = True
        return mail

    def _end(self) -> None:
        self._is_over = True
        self._owner = None
        self._post(_CLOSED)  # for whoever else waits

    def expire(self) -> None:
        """Stop the request; what was made so far can still be read."""
        if self._ticket is not None:
            self._ticket.cancel()
        self._post(_CLOSED)

    def close(self) -> None:
        """Stop the request; what has not been read is lost."""
        if self._ticket is not None:
            self._ticket.cancel()
        self._end()

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

    def __del__(self) -> None:
        if self._ticket is not None:
            self._ticket.cancel()


_CLOSED: Final = _Closed()


def _poster(loop: asyncio.AbstractEventLoop, mail: asyncio.Queue[Mail]) -> Callable[[Mail], None]:
    """A function that puts mail from any thread, without holding on to the stream."""

    def post(item: Mail) -> None:
        try:
            loop.call_soon_threadsafe(mail.put_nowait, item)
        except RuntimeError:  # the loop is closed, so nobody waits
            return

    return post
