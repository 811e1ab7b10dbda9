"""The search for a short completion of a text: the bytes with which it ends in its language.

For a regular expression alone, and for the text of a pattern within JSON, the shortest match is
found exactly. Elsewhere the search walks over single bytes, on a copy of the engine's state. The
first walk takes what closes a value whenever it may. Where that way is too long or leads nowhere,
further walks look one byte ahead, prefer bytes after which something else may come, and try the
branches that earlier walks passed. Texts of patterns and formats come from hints, since a walk
could lose its way in them. The number of states looked at is limited, so that no grammar can stop a
program.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Final

from llguidance import LLMatcher

from gac_core.grammar.call_tags import CALL_OPENS
from gac_core.grammar.grammar import Grammar
from gac_core.grammar.matcher import byte_matcher, bytes_in, is_dead, regex_literal

WithinBudget = Callable[[bytes], bool]  # whether an end is short enough

_MAX_BYTES: Final = 20_000  # of a completion
_MAX_REPEATS: Final = 2_000
_MAX_BRANCHES: Final = 32
_MAX_STATES: Final = 60_000  # a few microseconds each
_QUOTE: Final = ord('"')
_LAST_RANK: Final = 9


# ---------------------------------------------------------------- the completion of a text


@lru_cache(maxsize=256)
def short_text(grammar: Grammar) -> bytes | None:
    """A short text of a grammar; None if none was found."""
    return search_end(grammar, byte_matcher(grammar.lark), b"", lambda _: True)


def search_end(
    grammar: Grammar,
    matcher: LLMatcher,
    written: bytes,
    within_budget: WithinBudget,
    *,
    characters: str = ".",
) -> bytes | None:
    """How a text could end that is written so far; None if no end was found.

    Args:
        grammar: of the text.
        matcher: its state over single bytes after what is written.
        written: so far.
        within_budget: whether an end is short enough; the search for a shorter one stops there.
        characters: which may be in it, as a regular expression of one.

    """
    if grammar.kind == "regex":
        return shortest_match(grammar.patterns[0], written, characters=characters)
    text = _open_json_text(written) if grammar.patterns else None
    end = None if text is None else _end_by_pattern(grammar, matcher, text, within_budget)
    return short_end(matcher, hints(grammar), within_budget) if end is None else end


def _end_by_pattern(
    grammar: Grammar, matcher: LLMatcher, text: str, within_budget: WithinBudget
) -> bytes | None:
    """An end that begins with the rest of an open JSON string which a pattern matches."""
    for pattern in grammar.patterns:
        rest = rest_of_json_text(pattern, text)
        if rest is None or matcher.validate_tokens([*rest, _QUOTE]) <= len(rest):
            continue
        closed = rest + b'"'
        after = matcher.deep_copy()
        after.consume_tokens(list(closed))
        end = short_end(after, hints(grammar), partial(_within_after, within_budget, closed))
        if end is not None:
            return closed + end
    return None


def _within_after(within_budget: WithinBudget, begun: bytes, rest: bytes) -> bool:
    return within_budget(begun + rest)


@lru_cache(maxsize=256)
def hints(grammar: Grammar) -> tuple[bytes, ...]:
    """Texts of a grammar's patterns and formats, which a walk to its end may have to write."""
    if grammar.kind == "regex":
        return ()
    texts = (rest_of_json_text(pattern, "") for pattern in dict.fromkeys(grammar.patterns))
    return tuple(text for text in texts if text)


# ---------------------------------------------------------------- the text of a pattern


def _open_json_text(written: bytes) -> str | None:
    """The JSON string within which what is written ends, if there is one."""
    body = written[written.rfind(CALL_OPENS.encode()) + 1 :]
    quotes = [m.start() for m in re.finditer(rb'\\.|(")', body, re.DOTALL) if m[1]]
    if len(quotes) % 2 == 0:
        return None
    try:
        return str(json.loads(body[quotes[-1] :] + b'"', strict=False))
    except ValueError:  # half an escape, or half a character
        return None


def rest_of_json_text(pattern: str, text: str) -> bytes | None:
    """How a text goes on that a pattern matches, as it stands in JSON, best without escapes."""
    prefix = text.encode()
    plain = shortest_match(pattern, prefix, characters=r'[^"\\\x00-\x1f\x7f]')
    rest = shortest_match(pattern, prefix) if plain is None else plain
    if rest is None:
        return None
    return json.dumps(rest.decode(errors="replace"), ensure_ascii=False)[1:-1].encode()


@lru_cache(maxsize=256)
def shortest_match(
    pattern: str, prefix: bytes = b"", limit: int = 4096, characters: str = "."
) -> bytes | None:
    """The rest of the shortest text that the pattern matches and that begins with the prefix.

    Lengths are tried by intersection with "at most n characters", which the engine decides exactly.

    Args:
        pattern: a regular expression.
        prefix: how the text begins.
        limit: characters at most.
        characters: which may be in it, as a regular expression of one.

    """

    def matcher(length: int) -> LLMatcher | None:
        at_most = f"/(?s:{characters}{{0,{length}}})/"
        found = byte_matcher(f"start: X\nX: {regex_literal(pattern)} & {at_most}\n")
        if found.is_error() or found.try_consume_tokens(list(prefix)) < len(prefix):
            return None
        return None if is_dead(found) else found

    low, high = 0, len(prefix) + 8
    while matcher(high) is None:
        low, high = high + 1, 2 * high
        if high > limit:
            return None
    while low < high:
        middle = (low + high) // 2
        if matcher(middle) is None:
            low = middle + 1
        else:
            high = middle
    found = matcher(high)
    assert found is not None
    return short_end(found)


# ---------------------------------------------------------------- walks over bytes


def short_end(
    matcher: LLMatcher, hints: Sequence[bytes] = (), within_budget: WithinBudget | None = None
) -> bytes | None:
    """Bytes that complete the language from this state; None if none were found.

    Args:
        matcher: a state of the language over single bytes; it is left as it is.
        hints: byte strings that may be needed in a row, such as the text of a pattern.
        within_budget: whether an end is short enough; the search for a shorter one stops there.
            Without, the shortest end that the walks find is taken.

    """
    is_enough = within_budget or (lambda _: False)
    limit = _StateLimit(_MAX_STATES // 10)
    best = _Walk(matcher, hints, limit, looks_ahead=False).run(_MAX_BYTES)
    if best is not None and is_enough(best):
        return best
    open_branches = [(b"", matcher)]
    limit = _StateLimit(_MAX_STATES)
    for _ in range(_MAX_BRANCHES):
        if not open_branches or limit.is_reached:
            break
        written, state = open_branches.pop(0)
        max_bytes = (_MAX_BYTES if best is None else len(best) - 1) - len(written)
        if max_bytes < 0:
            continue
        walk = _Walk(state, hints, limit, looks_ahead=True)
        rest = walk.run(max_bytes)
        open_branches += [(written + aside, branch) for aside, branch in walk.branches]
        if rest is not None:
            best = written + rest
            if is_enough(best):
                break
    return best


def _rank(byte: int, *, in_text: bool) -> int:
    """How soon a byte is tried: what closes a value, digits, letters, the rest, what opens one."""
    character = chr(byte)
    if byte >= 127 or byte <= 32 or character == "\\":
        return _LAST_RANK
    if character in "{[":
        return 8
    if character == '"':
        return 0 if in_text else 3
    if character in "}],":
        return 7 if in_text else "}],".index(character)
    return 4 if character.isdigit() else 5 if character.isalpha() else 6


_RANKS: Final = {
    in_text: tuple(_rank(byte, in_text=in_text) for byte in range(256)) for in_text in (True, False)
}


class _StateLimit:
    """How many states the walks may still look at."""

    def __init__(self, states: int) -> None:
        self._left = states

    def count(self, states: int) -> None:
        """Count states that were looked at."""
        self._left -= states

    @property
    def is_reached(self) -> bool:
        """Whether the walks have to stop."""
        return self._left <= 0


class _Walk:
    """One walk to the end, without turning back.

    Attributes:
        branches: what else could have been written, and the state after it.

    """

    def __init__(
        self, matcher: LLMatcher, hints: Sequence[bytes], limit: _StateLimit, *, looks_ahead: bool
    ) -> None:
        self._matcher = matcher.deep_copy()
        self._hints = hints
        self._limit = limit
        self._looks_ahead = looks_ahead
        self._written = bytearray()
        self.branches: list[tuple[bytes, LLMatcher]] = []

    def run(self, max_bytes: int) -> bytes | None:
        """Walk on for at most so many bytes; what was written, if that is an end."""
        is_stalled = False
        while not self._matcher.is_accepting():
            if len(self._written) >= max_bytes or self._limit.is_reached:
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
                    self._repeat(byte, before, max_bytes)
        return bytes(self._written)

    def _consume(self, data: bytes) -> None:
        self._matcher.consume_tokens(list(data))
        self._written += data

    def _repeat(self, byte: int, before: bytes, max_bytes: int) -> None:
        """The same byte until something else may come, as in a text of a least length."""
        max_bytes = min(max_bytes, len(self._written) + _MAX_REPEATS)
        while len(self._written) < max_bytes and self._matcher.compute_bitmask() == before:
            if self._matcher.is_accepting():
                return
            self._consume(bytes([byte]))

    def _best(self, before: bytes, *, looks_ahead: bool) -> int | None:
        """The byte to write; other kinds of bytes become branches."""
        candidates = bytes_in(before)
        # If "q" is allowed, this is inside a JSON string; brackets are plain characters there.
        ranks = _RANKS[ord("q") in candidates]
        self._limit.count(len(candidates) if looks_ahead else 1)
        candidates.sort(key=lambda byte: (ranks[byte], byte))
        if not candidates or not looks_ahead:
            return candidates[0] if candidates else None
        kinds: dict[bytes, tuple[tuple[bool, bool, bool, int, int], int]] = {}
        for byte in candidates:  # one for each mask of what may come after it
            self._matcher.consume_token(byte)
            after = self._matcher.compute_bitmask()
            is_end = self._matcher.is_accepting()
            self._matcher.rollback(1)
            rank = ranks[byte]
            # A bracket that is followed by what may follow it anyway still closes something.
            is_idle = after == before and chr(byte) not in "}]"
            order = (rank == _LAST_RANK, not is_end, is_idle, rank, byte)
            if after not in kinds or order < kinds[after][0]:
                kinds[after] = (order, byte)
        ordered = [byte for _, byte in sorted(kinds.values())]
        if self._looks_ahead and len(self.branches) < _MAX_BRANCHES:
            for other in ordered[1:4]:
                aside = self._matcher.deep_copy()
                aside.consume_token(other)
                self.branches.append((bytes([*self._written, other]), aside))
        return ordered[0]

    def _whole_text(self, before: bytes) -> bytes | None:
        """The first hint that is all of the text that begins here, if the text may not be empty."""
        if _QUOTE in bytes_in(before):
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
