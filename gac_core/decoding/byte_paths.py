"""The state of one member while answers are written byte by byte.

A text can be cut into a member's tokens in many ways, and its last token may reach beyond the text.
Each such way is a path. Over all of them P(byte | text) = P(text + byte) / P(text) is exact, where
P(text) sums over the paths (https://arxiv.org/abs/2410.09303, https://arxiv.org/abs/2506.14123); of
these the most probable ones are kept.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from gac_core.decoding.request import Request
from gac_core.members.base import Answers, Ask, Query
from gac_core.tokens.history import History
from gac_core.tokens.spaces import BYTES
from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.vocabulary import Vocabulary

Floats = NDArray[np.float64]

_END: Final = BYTES.end_row


@dataclass
class _Path:
    """One way in which tokens cover the text.

    Attributes:
        ids: the prompt and the tokens that lie within the text.
        mass: its share of all paths of the member.
        branch: of its queries; no two paths have the same.
        pending: the rest of the text, with which the next token begins, but does not end.
        low: the first of the sorted tokens that begin so.
        probs: of these tokens to be the next, (tokens,); None before its forward pass. With `end`
            they sum to 1.
        end: the probability of END; 0 within a token.

    """

    ids: Sequence[int]
    mass: float = 1.0
    branch: int = 0
    pending: bytes = b""
    low: int = 0
    probs: Floats | None = None
    end: float = 0.0


class BytePaths:
    """The paths of one member, and what they say of the next byte.

    Args:
        history: what the member has read, told of every byte before `advance`; where no path can go
            on, one begins again with its ids.
        tokenizer: the member's tokenizer.
        most: paths kept.
        leading_space: whether the answer begins after a space that is no part of the text.
        allowed: with a grammar, which bytes may come next, (257,) of bool.

    """

    def __init__(
        self,
        history: History,
        tokenizer: ByteTokenizer,
        most: int,
        *,
        leading_space: bool = False,
        allowed: Callable[[], torch.Tensor] | None = None,
    ) -> None:
        self._history = history
        self._tokens = _sorted_tokens(tokenizer)
        self._most = most
        self._opens_with_space = leading_space
        self._allowed = allowed
        self._paths = [_Path(history.ids)]

    def queries(self) -> tuple[Query, ...]:
        """What must be computed before the next byte can be told."""
        return tuple(Query(path.ids, branch=path.branch) for path in self._unread())

    def read(self, probs: Sequence[torch.Tensor]) -> None:
        """Take the answers to `queries`; there may be further ones then.

        Args:
            probs: behind each query's ids, (rows,).

        """
        for path, own in zip(self._unread(), probs, strict=True):
            rows = own.cpu().to(torch.float64).numpy()  # some accelerators have no float64
            path.probs = rows[self._tokens.ids]
            path.end = float(rows[self._tokens.ends].sum())
        if self._opens_with_space:
            self._opens_with_space = False
            self._open()

    def next_bytes(self) -> Floats:
        """The probability of every byte and of END to come next, (257,), the rows of `BYTES`."""
        probs = np.zeros(BYTES.size)
        for path in self._paths:
            assert path.probs is not None, "queries were not answered"
            probs[:_END] += path.mass * np.bincount(self._next_of(path), path.probs, _END)
            probs[_END] += path.mass * path.end
        return probs

    def advance(self, byte: bytes) -> None:
        """The text goes on with this byte."""
        self._keep(after for path in self._paths for after in self._after(path, byte))

    def _unread(self) -> list[_Path]:
        return [path for path in self._paths if path.probs is None]

    def _open(self) -> None:
        """Tokens that begin with a space write the text behind it, others the text itself."""
        (path,) = self._paths
        assert path.probs is not None
        spaced = list(self._after(path, b" "))
        low, _, high = self._tokens.span(b" ", 0, len(path.probs))
        plain = path.probs.copy()
        plain[low:high] = 0.0
        self._keep([*spaced, *_share(path, plain, path.end)])

    def _after(self, path: _Path, byte: bytes) -> Iterator[_Path]:
        """What becomes of a path: its next token ends with this byte, or goes on behind it."""
        assert path.probs is not None
        pending, low = path.pending + byte, path.low
        start, middle, stop = self._tokens.span(pending, low, low + len(path.probs))
        ending = path.probs[start - low : middle - low]  # several tokens may have the same bytes
        if len(ending):
            ids = [*path.ids, self._tokens.ids_by_bytes[pending]]
            yield _Path(ids, path.mass * float(ending.sum()), path.branch)
        longer = replace(path, pending=pending, low=middle)
        yield from _share(longer, path.probs[middle - low : stop - low])

    def _keep(self, paths: Iterable[_Path]) -> None:
        """Keep the most probable of these paths, each with a branch of its own."""
        allowed = None if self._allowed is None else self._allowed().numpy()
        alive = [path for path in paths if self._goes_on(path, allowed)]
        alive.sort(key=lambda p: (-p.mass, len(p.pending), p.ids))
        self._paths = alive[: self._most] or [_Path(self._history.ids)]
        total = sum(path.mass for path in self._paths)
        taken: set[int] = set()
        # A path that is to be read takes its parent's place, unless that is still in use.
        for path in sorted(self._paths, key=lambda p: p.probs is None):
            path.mass /= total
            if path.branch in taken:
                path.branch = next(branch for branch in count() if branch not in taken)
            taken.add(path.branch)

    def _goes_on(self, path: _Path, allowed: NDArray[np.bool_] | None) -> bool:
        limit = self._history.context_size
        if limit is not None and len(path.ids) > limit:
            return False
        if allowed is None or path.probs is None or not path.pending:
            return path.mass > 0
        return path.mass > 0 and bool(path.probs[allowed[self._next_of(path)]].any())

    def _next_of(self, path: _Path) -> NDArray[np.uint8]:
        """The byte behind the text in each token of the path, (tokens,)."""
        assert path.probs is not None
        return self._tokens.bytes_at(path.low, len(path.probs), len(path.pending))


class NextBytes:
    """What every member of a request says of the next byte.

    Args:
        request: whose answer is written byte by byte.
        paths: kept per member.

    """

    def __init__(self, request: Request, paths: int = 1) -> None:
        self._request = request
        constraint = request.answer.constraint
        self._members = [
            BytePaths(
                history,
                member.tokenizer,
                paths,
                leading_space=request.is_chat and member.leading_space,
                allowed=None if constraint is None else constraint.allowed,
            )
            for member, history in zip(request.members, request.histories, strict=True)
        ]

    def read(self) -> Generator[Ask, Answers, dict[int, torch.Tensor]]:
        """Ask where a token came to its end.

        Returns:
            Each member's distribution over the rows of `BYTES`, (257,), by member index.

        """
        while queries := {m: asked for m, s in enumerate(self._members) if (asked := s.queries())}:
            answers = yield Ask(queries)
            for m, asked in queries.items():
                self._members[m].read(
                    [
                        self._request.to_probs(m, scored.logits[-1], query.ids)
                        for query, scored in zip(asked, answers[m], strict=True)
                    ]
                )
        return {m: torch.from_numpy(s.next_bytes()) for m, s in enumerate(self._members)}

    def advance(self, byte: bytes) -> None:
        """The answer goes on with this byte."""
        for member in self._members:
            member.advance(byte)


def _share(path: _Path, probs: Floats, end: float = 0.0) -> Iterator[_Path]:
    """The part of a path whose next token is one of these, if there is any."""
    total = float(probs.sum()) + end
    if total > 0:
        yield replace(path, mass=path.mass * total, probs=probs / total, end=end / total)


class _SortedTokens:
    """The text tokens of a vocabulary by their bytes: those that begin alike are neighbours.

    Attributes:
        ids: of the sorted tokens, (tokens,).
        ends: ids of the end tokens.
        ids_by_bytes: which of several tokens with the same bytes is written.

    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        ids = sorted(vocabulary.text_ids, key=vocabulary.token_bytes.__getitem__)
        self.ids = np.array(ids)
        self.ends = np.array(sorted(vocabulary.end_ids))
        self.ids_by_bytes = vocabulary.ids_by_bytes
        self._tokens = [vocabulary.token_bytes[i] for i in ids]
        self._data = np.frombuffer(b"".join(self._tokens), np.uint8)
        lengths = np.fromiter(map(len, self._tokens), np.int64, len(ids))
        self._starts = np.cumsum(lengths) - lengths

    def bytes_at(self, low: int, number: int, place: int) -> NDArray[np.uint8]:
        """The byte at this place of each of so many tokens from `low` on, all of them longer."""
        at: NDArray[np.uint8] = self._data[self._starts[low : low + number] + place]
        return at

    def span(self, prefix: bytes, low: int, high: int) -> tuple[int, int, int]:
        """Where the tokens that are this prefix begin, those that go on behind it, and their end.

        Args:
            prefix: what tokens begin with.
            low: they are looked for from here on,
            high: up to here.

        """
        tokens, length = self._tokens, len(prefix)
        start = bisect_left(tokens, prefix, low, high)
        middle = bisect_right(tokens, prefix, start, high)
        return start, middle, bisect_right(tokens, prefix, middle, high, key=lambda t: t[:length])


_SORTED: Final[WeakKeyDictionary[ByteTokenizer, _SortedTokens]] = WeakKeyDictionary()


def _sorted_tokens(tokenizer: ByteTokenizer) -> _SortedTokens:
    if tokenizer not in _SORTED:
        _SORTED[tokenizer] = _SortedTokens(tokenizer.vocabulary)
    return _SORTED[tokenizer]
