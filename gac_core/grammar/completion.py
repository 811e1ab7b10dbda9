"""A short way to the end of a language, from anywhere in it.

The search walks over single bytes, on a copy of the engine's state. The first walk takes what
closes whenever it may. Where that way is too long or leads nowhere, further walks look one byte
ahead, prefer bytes behind which something else may come, and turn aside at the branches they
passed. Texts of patterns and formats come from hints, since a walk could lose its way in them. All
walks together have a budget, so that no grammar can stop a program.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from llguidance import LLMatcher

_LONGEST: Final = 20_000  # bytes
_REPEATED: Final = 2_000
_BRANCHES: Final = 32
_BUDGET: Final = 60_000  # states looked at, a few microseconds each
_LAST: Final = 9
_QUOTE: Final = ord('"')


def _rank(byte: int, *, in_text: bool) -> int:
    """How soon a byte is tried: what closes a value, digits, letters, the rest, what opens one."""
    character = chr(byte)
    if byte >= 127 or byte <= 32 or character == "\\":
        return _LAST
    if character in "{[":
        return 8
    if character == '"':
        return 0 if in_text else 3
    if character in "}],":
        return 7 if in_text else "}],".index(character)
    return 4 if character.isdigit() else 5 if character.isalpha() else 6


# Where a "q" may come, so may any text: a bracket closes nothing there.
_RANKS: Final = {
    in_text: tuple(_rank(byte, in_text=in_text) for byte in range(256)) for in_text in (True, False)
}


def short_end(
    matcher: LLMatcher,
    hints: Sequence[bytes] = (),
    fits: Callable[[bytes], bool] = lambda end: False,  # noqa: ARG005
) -> bytes | None:
    """Bytes that complete the language from this state; None if none were found.

    Args:
        matcher: a state of the language over single bytes; it is left as it is.
        hints: byte strings that may be needed in a row, such as the text of a pattern.
        fits: whether an end is short enough; the search for a shorter one stops there.

    """
    budget = _Budget(_BUDGET // 10)
    best = _Walk(matcher, hints, budget, looks_ahead=False).run(_LONGEST)
    if best is not None and fits(best):
        return best
    open_branches = [(b"", matcher)]
    budget = _Budget(_BUDGET)
    for _ in range(_BRANCHES):
        if not open_branches or budget.is_spent:
            break
        written, state = open_branches.pop(0)
        limit = (_LONGEST if best is None else len(best) - 1) - len(written)
        if limit < 0:
            continue
        walk = _Walk(state, hints, budget, looks_ahead=True)
        rest = walk.run(limit)
        open_branches += [(written + aside, branch) for aside, branch in walk.branches]
        if rest is not None:
            best = written + rest
            if fits(best):
                break
    return best


class _Budget:
    """How many states may still be looked at."""

    def __init__(self, states: int) -> None:
        self._left = states

    def spend(self, states: int) -> None:
        """So many more were looked at."""
        self._left -= states

    @property
    def is_spent(self) -> bool:
        """Whether that is enough."""
        return self._left <= 0


class _Walk:
    """One walk to the end, without turning back.

    Attributes:
        branches: what else could have been written, and the state behind it.

    """

    def __init__(
        self, matcher: LLMatcher, hints: Sequence[bytes], budget: _Budget, *, looks_ahead: bool
    ) -> None:
        self._matcher = matcher.deep_copy()
        self._hints = hints
        self._budget = budget
        self._looks_ahead = looks_ahead
        self._written = bytearray()
        self.branches: list[tuple[bytes, LLMatcher]] = []

    def run(self, limit: int) -> bytes | None:
        """Walk on for at most `limit` bytes; what was written, if that is an end."""
        is_stalled = False
        while not self._matcher.is_accepting():
            if len(self._written) >= limit or self._budget.is_spent:
                return None
            if forced := self._matcher.compute_ff_bytes():
                self._consume(forced)
                is_stalled = False
                continue
            before = self._matcher.compute_bitmask()
            if self._written.endswith(b'"') and (hint := self._whole_text(before)):
                self._consume(hint)
                continue
            looks_ahead = self._looks_ahead or is_stalled
            byte = self._best(before, looks_ahead=looks_ahead)
            if byte is None:
                return None
            self._consume(bytes([byte]))
            is_stalled = self._matcher.compute_bitmask() == before
            if is_stalled and looks_ahead:  # no byte changes what may come
                if hint := self._hint(before):
                    self._consume(hint)
                else:
                    self._repeat(byte, before, limit)
        return bytes(self._written)

    def _consume(self, data: bytes) -> None:
        self._matcher.consume_tokens(list(data))
        self._written += data

    def _repeat(self, byte: int, before: bytes, limit: int) -> None:
        """The same byte until something else may come, as in a text of a least length."""
        limit = min(limit, len(self._written) + _REPEATED)
        while len(self._written) < limit and self._matcher.compute_bitmask() == before:
            if self._matcher.is_accepting():
                return
            self._consume(bytes([byte]))

    def _best(self, before: bytes, *, looks_ahead: bool) -> int | None:
        """The byte to write; other kinds of bytes become branches."""
        candidates = _bytes_in(before)
        ranks = _RANKS[ord("q") in candidates]
        self._budget.spend(len(candidates) if looks_ahead else 1)
        candidates.sort(key=lambda byte: (ranks[byte], byte))
        if not candidates or not looks_ahead:
            return candidates[0] if candidates else None
        kinds: dict[bytes, tuple[tuple[bool, bool, bool, int, int], int]] = {}
        for byte in candidates:  # by what may come behind it
            self._matcher.consume_token(byte)
            after = self._matcher.compute_bitmask()
            is_end = self._matcher.is_accepting()
            self._matcher.rollback(1)
            rank = ranks[byte]
            # A bracket that is followed by what may follow it anyway still closes something.
            is_idle = after == before and chr(byte) not in "}]"
            order = (rank == _LAST, not is_end, is_idle, rank, byte)
            if after not in kinds or order < kinds[after][0]:
                kinds[after] = (order, byte)
        ordered = [byte for _, byte in sorted(kinds.values())]
        if self._looks_ahead and len(self.branches) < _BRANCHES:
            for other in ordered[1:4]:
                aside = self._matcher.deep_copy()
                aside.consume_token(other)
                self.branches.append((bytes([*self._written, other]), aside))
        return ordered[0]

    def _whole_text(self, before: bytes) -> bytes | None:
        """The first hint that is all of the text that begins here, if the text may not be empty."""
        if _QUOTE in _bytes_in(before):
            return None
        for hint in self._hints:
            if hint and self._matcher.validate_tokens([*hint, _QUOTE]) == len(hint) + 1:
                return hint
        return None

    def _hint(self, before: bytes) -> bytes | None:
        """The first hint that may come here and changes what may come next."""
        for hint in self._hints:
            probe = self._matcher.deep_copy()
            if not hint or probe.try_consume_tokens(list(hint)) < len(hint):
                continue
            if probe.is_accepting() or probe.compute_bitmask() != before:
                return hint
        return None


def _bytes_in(mask: bytes) -> list[int]:
    """The bytes that may come next."""
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[:256]
    found: list[int] = np.flatnonzero(bits).tolist()
    return found
