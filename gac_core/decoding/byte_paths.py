"""A member's next-byte distribution, while answers are written byte by byte.

A text can be cut into a member's tokens in many ways, and the last token may be longer than what is
left of the text. Each way is a path. Over all paths P(byte | text) = P(text + byte) / P(text) is
exact, where P(text) sums over the paths (https://arxiv.org/abs/2410.09303,
https://arxiv.org/abs/2506.14123). Only the most probable paths are kept.
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

_END: Final = BYTES.end_row  # 256; the rows before it are the bytes


@dataclass
class _Path:
    """One way in which tokens cover the text.

    Attributes:
        ids: of the prompt and of the tokens that are complete.
        mass: its share of all paths of the member.
        branch: of its queries; no two paths have the same.
        pending: bytes already emitted with which the unfinished next token begins.
        low: index of the first of the sorted tokens that begin with `pending` and are longer.
        probs: the probability of each of these tokens to be the next, (tokens,); None before the
            path's forward pass. With `end` they sum to 1.
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
    """The paths of one member, and its distribution over the next byte.

    Args:
        history: what the member has read; every byte is appended to it before `advance`. If no path
            can go on, a new one begins with its ids.
        tokenizer: the member's tokenizer.
        most: the number of paths that are kept.
        leading_space: whether the member writes a space before the answer that is no part of it.
        allowed: with a grammar, which bytes it allows next, (257,) of bool.

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
        self._has_leading_space = leading_space
        self._allowed = allowed
        self._paths = [_Path(history.ids)]

    def queries(self) -> tuple[Query, ...]:
        """The queries that must be answered before `next_bytes`."""
        return tuple(Query(path.ids, branch=path.branch) for path in self._unread())

    def read(self, probs: Sequence[torch.Tensor]) -> None:
        """Take the answers to `queries`, which may lead to further ones.

        Args:
            probs: the next-token probabilities after each query's ids, (vocab_size,) each.

        """
        for path, own in zip(self._unread(), probs, strict=True):
            rows = own.cpu().to(torch.float64).numpy()  # some accelerators have no float64
            path.probs = rows[self._tokens.ids]
            path.end = float(rows[self._tokens.ends].sum())
        if self._has_leading_space:
            self._has_leading_space = False
            self._skip_leading_space()

    def next_bytes(self) -> Floats:
        """The probability of every byte and of END to come next, over `BYTES`, (257,)."""
        probs = np.zeros(BYTES.size)
        for path in self._paths:
            assert path.probs is not None, "queries were not answered"
            probs[:_END] += path.mass * np.bincount(self._next_of(path), path.probs, _END)
            probs[_END] += path.mass * path.end
        return probs

    def advance(self, byte: bytes) -> None:
        """Extend the text by a byte."""
        self._keep(after for path in self._paths for after in self._after(path, byte))

    def _unread(self) -> list[_Path]:
        return [path for path in self._paths if path.probs is None]

    def _skip_leading_space(self) -> None:
        """Tokens that begin with a space write the text after it, other tokens the text itself."""
        (path,) = self._paths
        assert path.probs is not None
        after_space = list(self._after(path, b" "))
        low, _, high = self._tokens.span(b" ", 0, len(path.probs))
        without_space = path.probs.copy()
        without_space[low:high] = 0.0
        self._keep([*after_space, *_share(path, without_space, path.end)])

    def _after(self, path: _Path, byte: bytes) -> Iterator[_Path]:
        """The paths after a byte: the next token ends with it, or goes on after it."""
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
        # A path without probabilities takes its parent's branch, unless that is still in use.
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
        """The next byte in each token of the path, (tokens,)."""
        assert path.probs is not None
        return self._tokens.bytes_at(path.low, len(path.probs), len(path.pending))


class NextBytes:
    """The next-byte distributions of all members of a request.

    Args:
        request: the one that is answered byte by byte.
        paths: the number kept per member.

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
        """Ask the members that are at the end of a token.

        Returns:
            Each member's distribution over the rows of `BYTES`, (257,), by member index.

        """
        while queries := {m: asked for m, s in enumerate(self._members) if (asked := s.queries())}:
            answers = yield Ask(queries)
            for m, asked in queries.items():
                self._members[m].read(
                    [
                        self._request.mixer.to_probs(m, scored.logits[-1], query.ids)
                        for query, scored in zip(asked, answers[m], strict=True)
                    ]
                )
        return {m: torch.from_numpy(s.next_bytes()) for m, s in enumerate(self._members)}

    def advance(self, byte: bytes) -> None:
        """Extend the answer by a byte, after it was emitted."""
        for member in self._members:
            member.advance(byte)


def _share(path: _Path, probs: Floats, end: float = 0.0) -> Iterator[_Path]:
    """The part of a path in which the next token is one of these or END, if it has any mass."""
    total = float(probs.sum()) + end
    if total > 0:
        yield replace(path, mass=path.mass * total, probs=probs / total, end=end / total)


class _SortedTokens:
    """The text tokens of a vocabulary sorted by bytes, so that those with a prefix are neighbours.

    Attributes:
        ids: of the sorted tokens, (tokens,).
        ends: ids of the end tokens.
        ids_by_bytes: the id that is written, of several tokens with the same bytes.

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

    def bytes_at(self, low: int, number: int, offset: int) -> NDArray[np.uint8]:
        """The byte at an offset of each of `number` tokens from `low` on, all of them longer."""
        at: NDArray[np.uint8] = self._data[self._starts[low : low + number] + offset]
        return at

    def span(self, prefix: bytes, low: int, high: int) -> tuple[int, int, int]:
        """The indices of the tokens that begin with a prefix.

        Args:
            prefix: the bytes with which tokens begin.
            low: index from which they are looked for.
            high: index before which they are looked for.

        Returns:
            The first that equals the prefix, the first that is longer, and the end of these.

        """
        tokens, length = self._tokens, len(prefix)
        start = bisect_left(tokens, prefix, low, high)
        middle = bisect_right(tokens, prefix, start, high)
        return start, middle, bisect_right(tokens, prefix, middle, high, key=lambda t: t[:length])


# By tokenizer, since sorting a large vocabulary takes a while.
_SORTED: Final[WeakKeyDictionary[ByteTokenizer, _SortedTokens]] = WeakKeyDictionary()


def _sorted_tokens(tokenizer: ByteTokenizer) -> _SortedTokens:
    if tokenizer not in _SORTED:
        _SORTED[tokenizer] = _SortedTokens(tokenizer.vocabulary)
    return _SORTED[tokenizer]
