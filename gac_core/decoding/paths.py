"""The ways in which a member's tokens can cover the text so far, and what each says comes next.

A text can be cut into a member's tokens in many ways, and the last token may be longer than what is
left of the text. Each way is a path. Over all paths P(x | text) = P(text + x) / P(text) is exact,
where P(text) sums over the paths (https://arxiv.org/abs/2410.09303,
https://arxiv.org/abs/2506.14123). Only the most probable paths are kept.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from gac_core.members.base import Query
from gac_core.tokens.history import History
from gac_core.tokens.spaces import BYTES
from gac_core.tokens.tokenizer import ByteTokenizer

Floats = NDArray[np.float64]

_END: Final = BYTES.end_row  # 256; the rows before it are the bytes
_MOST_BACK: Final = 6  # tokens at the end of a text that one longer token may begin with


@dataclass(eq=False)
class Path:
    """One way in which tokens cover the text.

    Attributes:
        ids: of the prompt and of the tokens that are complete.
        mass: its share of all paths of the member.
        pending: bytes of the text with which the unfinished next token begins.
        ahead: bytes beyond the text that the complete tokens cover; none if some are pending.
        low: index of the first of the sorted tokens that begin with `pending` and are longer.
        probs: the probability of each of these tokens to be the next, (tokens,); None before the
            path's forward pass. With `end` they sum to 1.
        end: the probability of END; 0 within a token.

    """

    ids: Sequence[int]
    mass: float = 1.0
    pending: bytes = b""
    ahead: bytes = b""
    low: int = 0
    probs: Floats | None = None
    end: float = 0.0


@dataclass(frozen=True)
class Leaf:
    """A way in which a member's text may go on.

    Attributes:
        text: the bytes that come next, up to the end of a token.
        mass: its probability.
        is_end: whether the answer ends after these bytes.
        may_end: whether it may begin the next turn, so that the answer ends before it.
        path: the path that goes on so.
        index: of the token among the sorted ones; None for an end.

    """

    text: bytes
    mass: float
    is_end: bool
    may_end: bool
    path: Path
    index: int | None = None


class Paths:
    """The paths of one member.

    Args:
        history: what the member has read; all bytes are appended to it before `extend`.
        tokenizer: the member's tokenizer.
        most: the number of paths that are kept.
        least: the smallest share of the best path's mass that a path is kept for.
        leading_space: whether the member writes a space before the answer that is no part of it.
        turn_marks: texts with which the member begins the next turn, for want of an end token.
        allowed: with a grammar over bytes, which bytes it allows next, (257,) of bool.

    Attributes:
        own: the distribution after the last complete token of the best path, before a leading
            space, over the member's own rows, (vocab_size,); None before the first answer to a
            query since something was written.

    """

    def __init__(
        self,
        history: History,
        tokenizer: ByteTokenizer,
        most: int,
        *,
        least: float = 0.0,
        leading_space: bool = False,
        turn_marks: tuple[bytes, ...] = (),
        allowed: Callable[[], torch.Tensor] | None = None,
    ) -> None:
        self._history = history
        self._tokens = tokenizer.sorted_tokens
        self._most = most
        self._least = least
        self._has_leading_space = leading_space
        self._turn_marks = turn_marks
        self._allowed = allowed
        self._paths = [Path(history.ids)]
        self._behind = b""  # written, but not taken in yet
        self._restarts = False  # whether the paths are found anew from the member's own encoding
        self.own: torch.Tensor | None = None
        self._own_ids: Sequence[int] = history.ids  # after which `own` comes

    def fork(self, history: History, allowed: Callable[[], torch.Tensor] | None) -> Self:
        """A copy for a fork of the answer.

        Args:
            history: of the fork.
            allowed: of the fork.

        """
        other = copy(self)
        other._history, other._allowed = history, allowed
        other._paths = [replace(path) for path in self._paths]
        return other

    # ------------------------------------------------ asking and reading

    def queries(self) -> tuple[Query, ...]:
        """The queries that must be answered before the paths can say what comes next."""
        if self._restarts:
            return (Query(self._history.ids, self._back() + 1),)
        return tuple(Query(path.ids, branch=n) for n, path in enumerate(self._unread()))

    def read(self, answers: Sequence[Sequence[torch.Tensor]]) -> None:
        """Take the answers to `queries`, which may lead to further ones.

        Args:
            answers: for each query, the next-token probabilities after each of its last positions,
                (vocab_size,) each.

        """
        if self._restarts:
            self._restart(answers[0])
            return
        unread = self._unread()
        if self.own is None:  # what comes after a leading space is read, too
            self.own, self._own_ids = answers[0][-1], unread[0].ids
        for path, probs in zip(unread, answers, strict=True):
            self._open(path, probs[-1])
        if self._has_leading_space:
            self._has_leading_space = False
            self._skip_leading_space()

    def _open(self, path: Path, probs: torch.Tensor) -> None:
        rows = probs.cpu().to(torch.float64).numpy()  # some accelerators have no float64
        path.low, path.probs = 0, rows[self._tokens.ids]
        path.end = float(rows[self._tokens.ends].sum())

    def _unread(self) -> list[Path]:
        return [path for path in self._paths if path.probs is None]

    # ------------------------------------------------ what comes next

    def next_bytes(self) -> Floats:
        """The probability of every byte and of END to come next, over `BYTES`, (257,)."""
        probs = np.zeros(BYTES.size)
        for path in self._paths:
            assert path.probs is not None, "queries were not answered"
            probs[:_END] += path.mass * np.bincount(self._next_of(path), path.probs, _END)
            probs[_END] += path.mass * path.end
        return probs

    def next_tokens(self) -> torch.Tensor:
        """The probability of each token to be the next of the best path, over the member's rows.

        It may begin with bytes that are written already. (vocab_size,)
        """
        path = self._paths[0]
        assert path.probs is not None, "queries were not answered"
        probs = np.zeros(len(self._tokens.token_bytes))
        probs[self._tokens.ids[path.low : path.low + len(path.probs)]] = path.probs
        probs[self._tokens.ends[0]] = path.end
        return torch.from_numpy(probs)

    def fresh(self) -> list[Path]:
        """The paths that are at the end of the text, so that any token may come next."""
        return [path for path in self._paths if not path.pending and not path.ahead]

    def leaves(self, least: float) -> list[Leaf]:
        """What may come next with at least this probability, most probable first."""
        found = []
        for path in self._paths:
            assert path.probs is not None, "queries were not answered"
            likely = np.flatnonzero(path.probs * path.mass >= least)
            for index in likely.tolist():
                token = self._tokens.tokens[path.low + index][len(path.pending) :]
                mass, text = float(path.probs[index]) * path.mass, path.ahead + token
                may_end = any(mark.startswith(text) for mark in self._turn_marks)
                found.append(Leaf(text, mass, False, may_end, path, index))
            if path.end * path.mass >= least:
                found.append(Leaf(path.ahead, path.mass * path.end, True, False, path))
        found.sort(key=lambda leaf: (-leaf.mass, leaf.text))
        return found

    def grow(self, leaf: Leaf) -> None:
        """Make a path of its own of a token that may come next, to be asked what follows it."""
        path, index = leaf.path, leaf.index
        assert path.probs is not None
        assert index is not None
        token = self._tokens.tokens[path.low + index]
        grown = Path([*path.ids, self._tokens.ids_by_bytes[token]], leaf.mass, ahead=leaf.text)
        rest = path.probs.copy()
        rest[index] = 0.0
        self._paths.remove(path)
        # None is dropped, however many there are: those that were asked cost nothing more.
        self._paths += [grown, *_share(path, rest, path.end)]
        self._paths.sort(key=_rank)

    # ------------------------------------------------ going on

    def extend(self, data: bytes) -> None:
        """Take note of bytes that were written, for the next `catch_up`."""
        self._behind += data
        self.own = None
        if not data:  # an opening space, which only the history has
            self.restart()

    def restart(self) -> None:
        """Forget all paths; they are found anew from what the history has."""
        self._restarts, self._has_leading_space = True, False

    def take(self, token: int) -> None:
        """Go on with the very token that the member wrote alone."""
        self._paths = [Path([*self._own_ids, token])]
        self._behind, self._restarts, self._has_leading_space = b"", False, False

    def catch_up(self) -> tuple[Query, ...]:
        """Take in what was written; the queries that must be answered then.

        If little of what the member thought of is left, the next query begins anew.
        """
        data, self._behind = self._behind, b""
        if data and not self._restarts:
            if self._unread():
                self.restart()
            else:
                self._advance(data)
        return self.queries()

    def ends_token(self, unit: bytes) -> bool:
        """Whether a token ends with these last bytes: on the best path, or since none goes on."""
        if self._restarts or self._paths[0].probs is None:
            return True
        _, middle, stop = self._tokens.span(unit, 0, len(self._tokens.tokens))
        return middle == stop

    def _advance(self, data: bytes) -> None:
        after = [new for path in self._paths for new in self._after(path, data)]
        lost = sum(self._ending_within(path, data) for path in self._paths)
        if sum(path.mass for path in after) > lost:
            self._keep(after)
        else:
            self.restart()

    def _skip_leading_space(self) -> None:
        """Tokens that begin with a space write the text after it, other tokens the text itself."""
        (path,) = self._paths
        assert path.probs is not None
        after_space = list(self._after(path, b" "))
        low, _, high = self._tokens.span(b" ", 0, len(path.probs))
        without_space = path.probs.copy()
        without_space[low:high] = 0.0
        self._keep([*after_space, *_share(path, without_space, path.end)])

    def _after(self, path: Path, data: bytes) -> Iterator[Path]:
        """The paths after these bytes: the next token ends with them, or goes on after them."""
        assert path.probs is not None
        if path.ahead.startswith(data):
            yield replace(path, ahead=path.ahead[len(data) :])
            return
        if not data.startswith(path.ahead):
            return
        pending, low = path.pending + data[len(path.ahead) :], path.low
        start, middle, stop = self._tokens.span(pending, low, low + len(path.probs))
        ending = path.probs[start - low : middle - low]  # several tokens may have the same bytes
        if len(ending):
            ids = [*path.ids, self._tokens.ids_by_bytes[pending]]
            yield Path(ids, path.mass * float(ending.sum()))
        longer = replace(path, pending=pending, ahead=b"", low=middle)
        yield from _share(longer, path.probs[middle - low : stop - low])

    def _ending_within(self, path: Path, data: bytes) -> float:
        """The mass of the path's next tokens that end within these bytes."""
        if not data.startswith(path.ahead):
            return 0.0
        assert path.probs is not None
        whole, mass = path.pending + data[len(path.ahead) :], 0.0
        for end in range(len(path.pending) + 1, len(whole)):
            start, middle, _ = self._tokens.span(whole[:end], path.low, path.low + len(path.probs))
            mass += float(path.probs[start - path.low : middle - path.low].sum())
            if start == middle == _:
                break
        return path.mass * mass

    def _keep(self, paths: Iterable[Path]) -> None:
        """Keep the most probable of these paths, the best first."""
        allowed = None if self._allowed is None else self._allowed().numpy()
        alive = [path for path in paths if self._goes_on(path, allowed)]
        if not alive:
            self.restart()
            return
        alive.sort(key=_rank)
        least = alive[0].mass * self._least
        self._paths = [path for path in alive[: self._most] if path.mass >= least]
        total = sum(path.mass for path in self._paths)
        for path in self._paths:
            path.mass /= total

    def _goes_on(self, path: Path, allowed: NDArray[np.bool_] | None) -> bool:
        limit = self._history.context_size
        if limit is not None and len(path.ids) > limit:
            return False
        if allowed is None or path.probs is None or not path.pending:
            return path.mass > 0
        return path.mass > 0 and bool(path.probs[allowed[self._next_of(path)]].any())

    def _next_of(self, path: Path) -> NDArray[np.uint8]:
        """The next byte in each token of the path, (tokens,)."""
        assert path.probs is not None
        return self._tokens.bytes_at(path.low, len(path.probs), len(path.pending))

    # ------------------------------------------------ beginning anew

    def _back(self) -> int:
        """The number of tokens at the end of the answer that one longer token may begin with."""
        ids, back, tail = self._history.ids, 0, b""
        most = min(_MOST_BACK, len(ids) - self._history.prompt_length)
        for n in range(1, most + 1):
            tail = self._tokens.token_bytes[ids[-n]] + tail
            _, middle, stop = self._tokens.span(tail, 0, len(self._tokens.tokens))
            if stop > middle:
                back = n
        return back

    def _restart(self, probs: Sequence[torch.Tensor]) -> None:
        """Find the paths of the member's own encoding: complete, or with a longer last token.

        Args:
            probs: after each of the last positions of the history, (vocab_size,) each.

        """
        ids, found, chain = self._history.ids, list[Path](), 1.0
        for n in reversed(range(len(probs))):
            own = probs[len(probs) - 1 - n]
            path = Path(ids[: len(ids) - n], chain)
            self._open(path, own)
            if n == 0:
                found.append(path)
                break
            tail = b"".join(self._tokens.token_bytes[i] for i in ids[len(ids) - n :])
            _, middle, stop = self._tokens.span(tail, 0, len(self._tokens.tokens))
            assert path.probs is not None
            longer = replace(path, pending=tail, low=middle, end=0.0)
            found.extend(_share(longer, path.probs[middle:stop]))
            chain *= float(own[ids[len(ids) - n]])
        self._restarts = False
        self.own, self._own_ids = probs[-1], ids
        self._keep(found)
        if self._restarts:  # the member holds its own encoding for impossible
            self._restarts = False
            self._paths = [replace(found[-1], mass=1.0)]


def _rank(path: Path) -> tuple[float, int, Sequence[int]]:
    """What paths are sorted by, the best first."""
    return -path.mass, len(path.pending), path.ids


def _share(path: Path, probs: Floats, end: float = 0.0) -> Iterator[Path]:
    """The part of a path in which the next token is one of these or END, if it has any mass."""
    total = float(probs.sum()) + end
    if total > 0:
        yield replace(path, mass=path.mass * total, probs=probs / total, end=end / total)
