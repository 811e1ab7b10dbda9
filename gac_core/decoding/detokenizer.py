"""Bytes to pieces of text: no half character, no letter of a stop string or of the next turn.

All objects take their input in parts with `push` and give the rest with `flush`. The pieces joined
are the same however the input was cut into parts.
"""

import codecs
import re
from collections.abc import Sequence


class TextDecoder:
    """Bytes to text; an unfinished character waits, an impossible one becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, data: bytes) -> str:
        """The characters that are complete with these bytes."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """The rest: an unfinished character as U+FFFD, or nothing."""
        return self._decoder.decode(b"", final=True)


class StopMatcher:
    """Text up to the first stop string.

    The stop string that is complete first wins; of several complete at the same character, the
    longest. Text that could be the beginning of a stop string is held back.

    Args:
        stops: the stop strings.
        until: a text that ends the search: in it and after it no stop string is looked for.

    Attributes:
        stops: the stop strings that are still looked for.
        matched: the stop string that was found, or None.
        held: the text that is held back.

    """

    def __init__(self, stops: Sequence[str] = (), until: str = "") -> None:
        self.stops = tuple(stops)
        self.matched: str | None = None
        self._until = until
        self.held = ""

    def push(self, text: str) -> str:
        """The text that is certainly before any stop string."""
        if self.matched is not None:
            return ""
        held = self.held + text
        at = held.find(self._until) if self._until else -1
        is_over = at >= 0
        free = held[:at] if is_over else held[: len(held) - _overlap(held, self._until)]
        found = [(at + len(stop), at, stop) for stop in self.stops if (at := free.find(stop)) >= 0]
        if found:
            _, at, self.matched = min(found)
            self.held = ""
            return free[:at]
        if is_over:
            self.stops, self._until, self.held = (), "", ""
            return held
        certain = len(free) - max((_overlap(free, stop) for stop in self.stops), default=0)
        self.held = held[certain:]
        return held[:certain]

    def flush(self) -> str:
        """The text that is still held back, up to a stop string that is complete in it."""
        self._until = ""
        text = self.push("")
        rest, self.held = self.held, ""
        return text + rest


class TurnMatcher:
    """Text up to where the next turn of a transcript begins: "Question:" on a line of its own.

    A turn begins with a mark at the beginning of a line; the blanks and line breaks before it are
    no part of the text. Text that could be the beginning of a turn is held back.

    Args:
        marks: with which turns begin; without any, all text passes.

    Attributes:
        found: whether a turn has begun.

    """

    def __init__(self, marks: Sequence[str] = ()) -> None:
        begun = {mark[:n] for mark in marks for n in range(len(mark))}
        self._turn = _after_break(marks, "")
        self._begun = _after_break(sorted(begun, key=len, reverse=True), r"\Z")
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that is certainly before the next turn."""
        if self.found:
            return ""
        held = self._held + text
        turn = self._turn.search(held)
        self.found = turn is not None
        begun = turn or self._begun.search(held)
        certain = len(held) if begun is None else begun.start()
        self._held = "" if self.found else held[certain:]
        return held[:certain]

    def flush(self) -> str:
        """The text that is still held back."""
        rest, self._held = self._held, ""
        return rest


class Trimmer:
    """Text without the blanks at its ends, as long as it `trims`."""

    def __init__(self, *, trims: bool) -> None:
        self._trims = trims
        self._held = ""
        self._has_begun = False

    def push(self, text: str) -> str:
        """The text that is certainly not at an end."""
        if not self._trims:
            return text
        held = self._held + text if self._has_begun else text.lstrip()
        certain = held.rstrip()
        self._has_begun = self._has_begun or bool(certain)
        self._held = held[len(certain) :]
        return certain


def _after_break(words: Sequence[str], end: str) -> re.Pattern[str]:
    """One of some words at the beginning of a line, with the line breaks before it."""
    choices = "|".join(map(re.escape, words)) if words else "(?!)"  # which never matches
    return re.compile(rf"[\r\n]\s*(?:{choices}){end}")


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of the text that begins the stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
