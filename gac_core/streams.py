"""Steps as they come, for threads and for asyncio.

A stream that is closed, left or forgotten cancels its request. Classes, not generators: they are
submitted at once, so mistakes show where they are made, and they stop even if never iterated.
"""

import asyncio
import queue
from collections.abc import Callable
from types import TracebackType
from typing import Self

from gac_core.engine import OnError, Ticket
from gac_core.run import Sink
from gac_core.steps import Step

Submit = Callable[[Sink, OnError], Ticket]


class Stream:
    """An iterator over steps, the last of which carries the outcome.

    Use it as a context manager, or call `close`, to stop early; dropping it does so as well.
    """

    def __init__(self, submit: Submit) -> None:
        self._mail: queue.SimpleQueue[Step | BaseException] = queue.SimpleQueue()
        self._is_over = False
        self._ticket: Ticket | None = None
        self._ticket = submit(self._mail.put, self._mail.put)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Step:
        if self._is_over:
            raise StopIteration
        mail = self._mail.get()
        if isinstance(mail, BaseException):
            self._is_over = True
            raise mail
        self._is_over = mail.outcome is not None
        return mail

    def close(self) -> None:
        """Stop the request; what has not been read is lost."""
        self._is_over = True
        if self._ticket is not None:
            self._ticket.cancel()

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
        self.close()


class AsyncStream:
    """`Stream` for asyncio; cancelling the task that reads it cancels the request."""

    def __init__(self, submit: Submit) -> None:
        self._mail: asyncio.Queue[Step | BaseException] = asyncio.Queue()
        self._is_over = False
        self._ticket: Ticket | None = None
        loop = asyncio.get_running_loop()
        put = self._mail.put_nowait

        def post(mail: Step | BaseException) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(put, mail)

        self._ticket = submit(post, post)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Step:
        if self._is_over:
            raise StopAsyncIteration
        try:
            mail = await self._mail.get()
        except asyncio.CancelledError:
            self.close()
            raise
        if isinstance(mail, BaseException):
            self._is_over = True
            raise mail
        self._is_over = mail.outcome is not None
        return mail

    def close(self) -> None:
        """Stop the request; what has not been read is lost."""
        self._is_over = True
        if self._ticket is not None:
            self._ticket.cancel()

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
        self.close()
