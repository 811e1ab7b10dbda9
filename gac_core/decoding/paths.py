"""The ways in which a member's tokens can cover the text so far, and what each says comes next.

A text can be cut into a member's tokens in many ways, and the last token may be longer than what is
left of the text. Each way is a path. Over all paths P(x | text) = P(text + x) / P(text) is exact,
where P(text) sums over the paths (https://arxiv.org/abs/2410.09303,
https://arxiv.org/abs/2506.14123). Only the most probable paths are kept.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from gac_core.decoding.path import Distribution, Floats, Leaf, Path, rank, share
from gac_core.members.base import Query
from gac_core.tokens.history import History, common_prefix
from gac_core.tokens.spaces import BYTES
from gac_core.tokens.tokenizer import ByteTokenizer

_END: Final = BYTES.end_row  # 256; the rows before it are the bytes
LIKELY: Final = 1e-3  # probability; what is less likely is not looked at one by one
_MOST_LEAVES: Final = 100
_MANY: Final = 1_000  # tokens
_MOST_BACK: Final = 6  # tokens at the end of a text that one longer token may begin with


class Paths:
    """The paths of one member.

    Args:
        history: what the member has read; all bytes are appended to it before `extend`.
        tokenizer: the member's tokenizer.
        most: the number of paths that are kept.
        least: the smallest share of the best path's mass that a path is kept for.
        leading_space: whether the member writes a space before the answer that is no part of it.
        next_turns: texts with which the member begins the next turn, for want of an end token.
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
        next_turns: tuple[bytes, ...] = (),
        allowed: Callable[[], torch.Tensor] | None = None,
    ) -> None:
        self._history = history
        self._tokenizer = tokenizer
        self._tokens = tokenizer.sorted_tokens
        self._most = most
        self._least = least
        self._has_leading_space = leading_space
        self._next_turns = next_turns
        self._allowed = allowed
        self._paths = [Path(history.ids)]
        self._leaves: list[Leaf] | None = None  # of the paths as they are
        self._behind = b""  # written, but not taken in yet
        self._restarts = False  # whether the paths are found anew from the member's own encodings
        self._restarted: tuple[Sequence[torch.Tensor], ...] = ()  # what was answered of these
        self.own: torch.Tensor | None = None
        self._own_ids: Sequence[int] = history.ids  # after which `own` comes

    def fork(self, history: History, allowed: Callable[[], torch.Tensor] | None) -> Self:
        """A copy for a fork of the answer.

        Args:
            history: of the fork.
            allowed: of the fork.

        """
        other = copy(self)
        other._history, other._allowed, other._leaves = history, allowed, None
        other._paths = [replace(path) for path in self._paths]
        return other

    # ------------------------------------------------ asking and reading

    def queries(self) -> tuple[Query, ...]:
        """The queries that must be answered before the paths can say what comes next."""
        if self._restarts:  # one after the other, since they have almost all ids in common
            encodings = self._encodings()
            ids, _ = encodings[len(self._restarted)]
            return (Query(ids, len(ids) - self._base(encodings) + 1),)
        return tuple(Query(path.ids, branch=n) for n, path in enumerate(self._unread()))

    def read(self, answers: Sequence[Sequence[torch.Tensor]]) -> None:
        """Take the answers to `queries`, which may lead to further ones.

        Args:
            answers: for each query, the next-token probabilities after each of its last positions,
                (vocab_size,) each.

        """
        if self._restarts:
            self._restarted = (*self._restarted, answers[0])
            if len(self._restarted) == len(self._encodings()):
                self._restart(self._restarted)
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
        if probs.dtype is not torch.float64:
            probs = probs.float()
        path.after = Distribution(probs.cpu().numpy())
        path.low, path.high = 0, len(self._tokens.tokens)
        path.end = float(path.rows[self._tokens.ends].sum())
        self._leaves = None

    def _unread(self) -> list[Path]:
        return [path for path in self._paths if path.after is None]

    def _probs(self, path: Path, low: int, high: int) -> Floats:
        """The probabilities of some of a path's sorted tokens, (tokens,)."""
        ids = self._tokens.ids[low:high]
        probs: Floats
        if path.after is not None and high - low > _MANY:  # most likely asked for again
            probs = path.after.ordered(self._tokens.ids)[low:high] * path.scale
        else:
            probs = path.rows[ids].astype(np.float64) * path.scale
        for token in path.without:
            probs[ids == token] = 0.0
        return probs

    # ------------------------------------------------ what comes next

    def next_bytes(self) -> Floats:
        """The probability of every byte and of END to come next, over `BYTES`, (257,)."""
        probs = np.zeros(BYTES.size)
        for path in self._paths:
            probs[:_END] += path.mass * self._next_bytes_of(path)
            probs[_END] += path.mass * path.end
        return probs

    def next_tokens(self) -> torch.Tensor:
        """The probability of each token to be the next of the best path, over the member's rows.

        It may begin with bytes that are written already. (vocab_size,)
        """
        path = self._paths[0]
        probs = np.zeros(len(path.rows))
        probs[self._tokens.ids[path.low : path.high]] = self._probs(path, path.low, path.high)
        probs[self._tokens.ends[0]] = path.end
        return torch.from_numpy(probs)

    def _next_bytes_of(self, path: Path) -> Floats:
        found = np.zeros(_END)
        if path.low < path.high:
            data, begins = self._tokens.by_next_byte(path.low, path.high, len(path.pending))
            found[data] = np.add.reduceat(self._probs(path, path.low, path.high), begins)
        return found

    def _is_whole(self, path: Path) -> bool:
        """Whether any token of the vocabulary may come next, but for those grown."""
        return path.high - path.low == len(self._tokens.tokens)

    def fresh(self) -> list[Path]:
        """The paths at the end of the text after which any token may come."""
        return [path for path in self._paths if self._is_whole(path) and not path.ahead]

    def leaves(self) -> list[Leaf]:
        """What may come next with a probability worth a look, most probable first."""
        if self._leaves is None:
            found = [leaf for path in self._paths for leaf in self._leaves_of(path)]
            found.sort(key=lambda leaf: (-leaf.mass, leaf.text))
            self._leaves = found[:_MOST_LEAVES]
        return self._leaves

    def _leaves_of(self, path: Path) -> Iterator[Leaf]:
        scale = path.mass * path.scale
        if self._is_whole(path):
            likely = np.flatnonzero(path.rows >= LIKELY / scale)
        else:
            ids = self._tokens.ids[path.low : path.high]
            likely = ids[path.rows[ids] >= LIKELY / scale]
        for token in likely.tolist():
            data = self._tokens.token_bytes[token][len(path.pending) :]
            if data and token not in path.without:  # an end has none
                text = path.ahead + data
                may_end = any(turn.startswith(text) for turn in self._next_turns)
                yield Leaf(text, float(path.rows[token]) * scale, False, may_end, path, token)
        if path.end * path.mass >= LIKELY:
            yield Leaf(path.ahead, path.mass * path.end, True, False, path)

    def may_begin(self, leaf: Leaf, text: bytes) -> bool:
        """Whether the member would itself begin this text with a leaf, and go on after it.

        As its own encoding does; and before blanks, which any token may leave to the next one.
        """
        if leaf.is_end or not text.startswith(leaf.text):
            return False
        if text[len(leaf.text) :].isspace():
            return True
        whole = leaf.path.pending + text[len(leaf.path.ahead) :]
        return self._tokenizer.first(whole) == whole[: len(whole) - (len(text) - len(leaf.text))]

    def has_room(self, leaf: Leaf) -> bool:
        """Whether the member can be asked what follows a leaf."""
        limit = self._history.context_size
        return limit is None or len(leaf.path.ids) < limit

    @property
    def is_beyond_text(self) -> bool:
        """Whether the next query is about tokens that are not written yet."""
        return not self._restarts and any(path.ahead for path in self._unread()[:1])

    def grow(self, leaf: Leaf) -> None:
        """Make a path of its own of a token that may come next, to be asked what follows it."""
        path, token = leaf.path, leaf.token
        assert token is not None, "nothing follows an end"
        written = self._tokens.ids_by_bytes[self._tokens.token_bytes[token]]
        grown = Path([*path.ids, written], leaf.mass, ahead=leaf.text)
        rest = replace(path, without=(*path.without, token))
        others = [other for other in self._paths if other is not path]
        # None is dropped, however many there are: those that were asked cost nothing more.
        self._paths = [grown, *share(rest, 1.0 - leaf.mass / path.mass), *others]
        self._paths.sort(key=rank)
        self._leaves = None

    # ------------------------------------------------ going on

    def extend(self, data: bytes) -> None:
        """Take note of bytes that were written, for the next `catch_up`."""
        self._behind += data
        self.own = None
        if not data:  # an opening space, which only the history has
            self.restart()

    def restart(self) -> None:
        """Forget all paths; they are found anew from what the history has."""
        self._restarts, self._restarted, self._has_leading_space = True, (), False

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
        if self._restarts or self._paths[0].after is None:
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
        after_space = list(self._after(path, b" "))
        low, _, high = self._tokens.span(b" ", path.low, path.high)
        before, after = replace(path, high=low), replace(path, low=high, end=0.0)
        self._keep([*after_space, *self._shared(before), *self._shared(after)])

    def _after(self, path: Path, data: bytes) -> Iterator[Path]:
        """The paths after these bytes: the next token ends with them, or goes on after them."""
        if path.ahead.startswith(data):
            yield replace(path, ahead=path.ahead[len(data) :])
            return
        if not data.startswith(path.ahead):
            return
        pending = path.pending + data[len(path.ahead) :]
        start, middle, stop = self._tokens.span(pending, path.low, path.high)
        if start < middle:  # several tokens may have the same bytes
            ids = [*path.ids, self._tokens.ids_by_bytes[pending]]
            yield Path(ids, path.mass * float(self._probs(path, start, middle).sum()))
        yield from self._shared(
            replace(path, pending=pending, ahead=b"", low=middle, high=stop, end=0.0)
        )

    def _ending_within(self, path: Path, data: bytes) -> float:
        """The mass of the path's next tokens that end within these bytes."""
        if not data.startswith(path.ahead):
            return 0.0
        whole, mass = path.pending + data[len(path.ahead) :], 0.0
        low, high = path.low, path.high
        for end in range(len(path.pending) + 1, len(whole)):
            low, middle, high = self._tokens.span(whole[:end], low, high)
            mass += float(self._probs(path, low, middle).sum())
            if low == high:
                break
        return path.mass * mass

    def _shared(self, path: Path) -> Iterator[Path]:
        """The part of a path that these tokens have of it, if they have any mass."""
        return share(path, float(self._probs(path, path.low, path.high).sum()) + path.end)

    def _keep(self, paths: Iterable[Path]) -> None:
        """Keep the most probable of these paths, the best first."""
        allowed = None if self._allowed is None else self._allowed().numpy()
        alive = [path for path in paths if self._goes_on(path, allowed)]
        if not alive:
            self.restart()
            return
        alive.sort(key=rank)
        least = alive[0].mass * self._least
        self._paths = [path for path in alive[: self._most] if path.mass >= least]
        self._leaves = None
        total = sum(path.mass for path in self._paths)
        for path in self._paths:
            path.mass /= total

    def _goes_on(self, path: Path, allowed: NDArray[np.bool_] | None) -> bool:
        limit = self._history.context_size
        if limit is not None and len(path.ids) > limit:
            return False
        if allowed is None or path.after is None or not path.pending:
            return path.mass > 0
        probs = self._probs(path, path.low, path.high)
        return path.mass > 0 and bool(probs[allowed[self._next_of(path)]].any())

    def _next_of(self, path: Path) -> NDArray[np.uint8]:
        """The next byte in each token of the path, (tokens,)."""
        return self._tokens.bytes_at(path.low, path.high - path.low, len(path.pending))

    # ------------------------------------------------ beginning anew

    def _encodings(self) -> list[tuple[list[int], bytes]]:
        """The member's own encodings of the answer: ids, and the bytes they leave pending.

        A blank at the end may stand alone, or begin the next word.
        """
        history = self._history
        found = [(history.ids, b"")]
        if history.answer.endswith(b" "):
            found.append((history.encoded(history.answer[:-1]), b" "))
        return found

    def _base(self, encodings: Sequence[tuple[list[int], bytes]]) -> int:
        """The number of ids up to which all encodings are one path."""
        base = len(self._history.ids) - self._back()
        return min([base, *(common_prefix(self._history.ids, ids) for ids, _ in encodings[1:])])

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

    def _restart(self, answers: Sequence[Sequence[torch.Tensor]]) -> None:
        """Find the paths of the member's own encodings: complete, or with a longer last token.

        Args:
            answers: for each encoding, the distributions after its last positions, (vocab_size,)
                each.

        """
        encodings = self._encodings()
        base, found = self._base(encodings), list[Path]()
        for (ids, pending), probs in zip(encodings, answers, strict=True):
            chain = 1.0
            for at in range(base, len(ids) + 1):
                own = probs[at - len(ids) - 1]
                tail = b"".join(self._tokens.token_bytes[i] for i in ids[at:]) + pending
                if at == len(ids) or not pending:
                    path = Path(ids[:at], chain)
                    self._open(path, own)
                    after = self._after(path, tail) if tail else [path]
                    # What is complete with the tail is an encoding of its own.
                    found.extend(new for new in after if new.after is not None)
                if at < len(ids):
                    chain *= float(own[ids[at]])
        self._restarts = False
        self.own, self._own_ids = answers[0][-1], encodings[0][0]
        whole = next(path for path in found if self._is_whole(path))
        self._keep(found)
        if self._restarts:  # the member holds its own encoding for impossible
            self._restarts = False
            self._paths = [replace(whole, mass=1.0)]
