"""A time limit for an answer."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gac_core import AsyncStream, ConfigError, Stream
from gac_integrations.shared.errors import DeadlineError


class Deadline:
    """A time limit for an answer, counted from its beginning.

    Args:
        seconds: more than 0; None for no limit.

    Raises:
        ConfigError: `seconds` is anything else.

    """

    def __init__(self, seconds: float | None) -> None:
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if seconds is not None and not (is_number and seconds > 0):
            raise ConfigError(f"timeout must be seconds, more than 0, not {seconds!r}")
        self._seconds = seconds

    @contextmanager
    def limiting(self, stream: Stream | AsyncStream) -> Iterator[None]:
        """Stop the stream when the time is up, even while nothing is read from it.

        The steps that were made in time can still be read. (`asyncio.timeout` is not the same: it
        cancels the task that entered it, wherever that is when the time is up, which may be in
        the code that consumes a generator; and it leaves the request running while nothing reads.)

        Raises:
            DeadlineError: the answer was not complete by then.

        """
        if self._seconds is None:
            yield
            return
        timer = _start(self._seconds, stream)
        try:
            yield
        finally:
            timer.cancel()
        if not stream.is_complete:
            raise DeadlineError("the answer was not complete in time; raise timeout")


def _start(seconds: float, stream: Stream | AsyncStream) -> threading.Timer | asyncio.TimerHandle:
    if isinstance(stream, AsyncStream):
        return asyncio.get_running_loop().call_later(seconds, stream.time_out)
    timer = threading.Timer(seconds, stream.time_out)
    timer.daemon = True
    timer.start()
    return timer
