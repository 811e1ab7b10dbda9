"""Bytes to text pieces: no half characters, and no letter of a stop string.

Both objects take what comes with `push` and give the rest with `flush`. The pieces joined are the
same however the bytes were cut.
"""

import codecs
from collections.abc import Sequence


class TextDecoder:
    """Bytes to text; an unfinished character waits, an impossible one becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, data: bytes) -> str:
        """The characters these bytes complete."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What is left, an unfinished character as U+FFFD."""
        return self._decoder.decode(b"", final=True)


class StopMatcher:
    """Text up to the first stop string.

    The stop string that is complete first wins; of several complete at the same character, the
    longest. Text that could be the beginning of a stop string is held back.

    Attributes:
        matched: the stop string found, or None.

    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stops = tuple(stops)
        self.matched: str | None = None
        self._held = ""

    def push(self, text: str) -> str:
        """The text that is certainly before any stop string."""
        if self.matched is not None:
            return ""
        held = self._held + text
        found = [(at + len(stop), at, stop) for stop in self.stops if (at := held.find(stop)) >= 0]
        if found:
            _, at, self.matched = min(found)
            self._held = ""
            return held[:at]
        keep = max((_overlap(held, stop) for stop in self.stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """What was held back in vain."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of the text that begins the stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
