"""How much is done at the same time: a bounded queue in which requests wait for their turn."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gac_integrations.server.errors import ApiError


class Turns:
    """Places for answers; who finds none free waits, first come, first served.

    Args:
        places: answers that are written at the same time.
        max_waiting: requests that wait at most.

    Attributes:
        running: answers that are being written.

    """

    def __init__(self, places: int, max_waiting: int) -> None:
        self.running = 0
        self._places = places
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._seconds = 1.0  # that a request holds its places, on a moving average

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return sum(not turn.cancelled() for _, turn in self._waiting)

    @asynccontextmanager
    async def take(self, answers: int) -> AsyncIterator[None]:
        """Hold places for the answers of a request; more answers than places take all of these.

        Raises:
            ApiError: too many wait already.

        """
        answers = min(answers, self._places)
        await self._enter(answers)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            yield
        finally:
            self._seconds += 0.1 * (loop.time() - began - self._seconds)
            self._leave(answers)

    async def _enter(self, answers: int) -> None:
        if not self.waiting and self.running + answers <= self._places:
            self.running += answers
            return
        if self.waiting >= self._max_waiting:
            raise self._full()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((answers, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._leave(answers)  # its turn came as it left
            else:
                self._admit()  # it may have kept smaller ones waiting
            raise

    def _leave(self, answers: int) -> None:
        self.running -= answers
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            answers, turn = self._waiting[0]
            if not turn.cancelled():
                if self.running + answers > self._places:
                    return
                self.running += answers
                turn.set_result(None)
            self._waiting.popleft()

    def _full(self) -> ApiError:
        seconds = self._seconds * (1 + self.waiting / self._places)
        return ApiError(
            429,
            f"{self.running} answers are being written and {self.waiting} requests wait; try "
            "again soon",
            kind="rate_limit_error",
            code="rate_limit_exceeded",
            headers={"Retry-After": str(min(60, math.ceil(seconds)))},
        )
