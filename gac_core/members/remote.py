"""A member that is a running server: SGLang, vLLM or llama.cpp.

The server is asked for the most probable ids after each position, or for all of them. It keeps its
own cache, so there is nothing to keep here.
"""

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
import torch

from gac_core.errors import MemberError, ModelChangedError, one_line
from gac_core.members.base import Query, Scored, ScorerStats
from gac_core.members.remote_engines import ENGINES, Top
from gac_core.members.remote_http import Server

# What one call asks for: so many positions, and fewer if there are more values than this in them,
# which are 40 MB in SGLang's answer and 300 in llama.cpp's.
_MOST_POSITIONS: Final = 256
_MOST_VALUES: Final = 4_000_000
_LEAST_REST: Final = 1e-30  # mass of what is not known, which rounding may have taken to 0
_MASS_ERROR: Final = 1e-3  # how far from 1 the mass of a whole distribution may be
_EVERY: Final = 1000  # calls after which the fingerprint is taken again
_PROBED: Final = 4  # positions of a fingerprint
_PROBE_TOP: Final = 20  # ids of a fingerprint; what vLLM gives without further options
# Total variation. Rounding and batching move a model's probabilities by hundredths, and another
# model's differ by tenths.
_CHANGED: Final = 0.1


class RemoteScorer:
    """A server as a `Scorer`. Its logits are logprobs.

    Args:
        url: of the server, without a path.
        engine: what runs there: sglang, vllm or llamacpp.
        name: what messages call it.
        probe: the ids of a short text, five at least, the last one whole characters; what comes
            after its last positions tells the server's model from others.
        vocab_size: the number of the model's logits per position; llama.cpp tells by itself.
        top_k: how many of the most probable ids are asked for at each position; "all" gives whole
            distributions.
        timeout: seconds that one request may take, all tries together.
        api_key: of the server, if it wants one.
        end_ids: the ids that end an answer.
        generation_config: of the model, for `sampling: model`.

    Attributes:
        engine: how the server is asked.
        top_k_logprobs: `top_k`; None if all ids are asked for.
        place: the server's address, so that servers compute at the same time.
        end_ids: the ids that end an answer.
        generation_config: as given.

    The other attributes are those of `Scorer`. It has no hidden states.

    Raises:
        UnreachableError: the server does not answer.
        MemberError: it is another kind of server, or was started so that it can not be a member.

    """

    def __init__(
        self,
        url: str,
        engine: str,
        name: str,
        *,
        probe: Sequence[int],
        vocab_size: int | None = None,
        top_k: int | Literal["all"] = "all",
        timeout: float = 60.0,
        api_key: str | None = None,
        end_ids: Iterable[int] = (),
        generation_config: Any = None,
    ) -> None:
        self.engine = ENGINES[engine](probe[-1])
        self.name = name
        self.hidden_size = 0
        self.device = torch.device("cpu")
        self.stats = ScorerStats()
        self.top_k_logprobs = None if top_k == "all" else top_k
        self.end_ids = frozenset(end_ids)
        self.generation_config = generation_config
        self._server = Server(url, name, timeout, api_key)
        self.place: Hashable = self._server.url
        with self._reading():
            self._about = self.engine.about(self._server)
        rows = self._about.vocab_size or vocab_size
        if rows is None:
            raise MemberError(f"{name} at {url} does not say how many tokens it has; give them")
        self.vocab_size = rows
        limit = self._about.context_size
        self.context_size = None if limit is None else limit - 2  # what is appended and written
        self._probe = Query(list(probe), last=min(_PROBED, len(probe)))
        self._calls = 0
        self._trusted = (-1, 0)  # connections and calls when the fingerprint was last right
        self._fingerprint = self._take_fingerprint()
        if self.top_k_logprobs is not None:  # a step that they do not decide needs all of them
            self._ask([replace(self._probe, last=1)], self.vocab_size)
        self._trust()

    def score(
        self, queries: Sequence[Query], keys: Sequence[Hashable] | None = None
    ) -> list[Scored]:
        """Answer queries; see `Scorer`. The server's own cache replaces names.

        Raises:
            UnreachableError: the server did not answer within the timeout.
            ModelChangedError: it runs another model than before.
            MemberError: it failed, or answered something else than such a server does.

        """
        if keys is not None and len(set(keys)) < len(queries):
            raise ValueError("two queries of one call have the same key; give each its own branch")
        if any(query.hidden for query in queries):
            raise MemberError(
                f"{self.name} is a server, which gives no hidden states; choose another primary or "
                "method"
            )
        self.stats.queries += len(queries)
        answers: list[Scored | None] = [None] * len(queries)
        for whole in (False, True):
            asked = [n for n, query in enumerate(queries) if query.whole == whole]
            if asked:
                scored = self._score([queries[n] for n in asked], whole=whole)
                for n, one in zip(asked, scored, strict=True):
                    answers[n] = one
        connections, calls = self._trusted
        if self._server.connections != connections or self._calls - calls > _EVERY:
            self._check_fingerprint()
        return [answer for answer in answers if answer is not None]

    def drop(self, keys: Iterable[Hashable]) -> None:
        """Nothing is kept here by name; the server drops what it has not been asked about."""

    def clear(self) -> None:
        """Close the connections; the next call opens one."""
        self._server.close()

    # ------------------------------------------------ asking

    def _score(self, queries: Sequence[Query], *, whole: bool) -> list[Scored]:
        count = self.top_k_logprobs or self.vocab_size
        if whole and self.top_k_logprobs is not None:
            count = self.vocab_size
            self.stats.second_asks += len(queries)
        tops = iter(self._ask(queries, min(count, self.vocab_size)))
        return [self.scored([next(tops) for _ in range(query.last)]) for query in queries]

    def _ask(self, queries: Sequence[Query], count: int) -> list[Top]:
        """The most probable ids, at least `count`, for each position of each query."""
        tops: list[Top] = []
        most = max(1, min(_MOST_POSITIONS, _MOST_VALUES // count))
        for call in _calls(queries, most):
            answer = self._server.post(self.engine.path, self.engine.body(call, count, self._about))
            with self._reading():
                tops += self.engine.tops(answer, call)
            self._calls += 1
            self.stats.forwards += 1
            self.stats.positions += sum(query.last for query in call)
        return [self._checked(top, count) for top in tops]

    def _checked(self, top: Top, count: int) -> Top:
        """The `count` most probable ids; what are no probabilities of so many is refused.

        A server may add the one that it wrote, which says nothing of those that it left out.
        """
        what = f"{self.name} at {self._server.url}"
        if len(top.ids) < count:
            raise MemberError(
                f"{what} gave {len(top.ids)} of the {count} probabilities it was asked for; "
                f"{self.engine.cure_of_few}"
            )
        if int(top.ids.min()) < 0 or int(top.ids.max()) >= self.vocab_size:
            raise MemberError(
                f"{what} gave an id of {int(top.ids.max())}, but the tokenizer's model has "
                f"{self.vocab_size}; name the folder or hub name of the model that runs there in "
                "`model`"
            )
        mass = _mass(top)
        is_whole = len(top.ids) >= self.vocab_size
        if not mass <= 1 + _MASS_ERROR or (is_whole and mass < 1 - _MASS_ERROR):
            raise MemberError(
                f"{what} gave probabilities of mass {mass:.4g}; it must report those of the model, "
                "before temperature and filters"
            )
        if len(top.ids) == count:
            return top
        kept = np.argpartition(-top.logprobs, count - 1)[:count]
        return Top(top.ids[kept], top.logprobs[kept])

    def scored(self, tops: Sequence[Top]) -> Scored:
        """The distributions after some positions; what is not known of one is spread evenly."""
        logits = torch.empty(len(tops), self.vocab_size)
        known = torch.zeros(len(tops), self.vocab_size, dtype=torch.bool)
        for row, top in enumerate(tops):
            ids = torch.from_numpy(top.ids)
            missing = self.vocab_size - len(top.ids)
            rest = max(1.0 - _mass(top), _LEAST_REST)
            logits[row] = math.log(rest / max(missing, 1))
            logits[row, ids] = torch.from_numpy(top.logprobs)
            known[row, ids] = True
            if int(known[row].sum()) < len(ids):
                raise MemberError(f"{self.name} at {self.place} gave some ids twice; check engine")
        return Scored(logits) if bool(known.all()) else Scored(logits, known=known)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turns what a strange answer leads to into an error that says so."""
        try:
            yield
        except (LookupError, TypeError, ValueError) as error:
            raise MemberError(
                f"{self.name} at {self.place} does not answer as {self.engine.name} does "
                f"({type(error).__name__}: {one_line(error, 200)}); check engine, and the server's "
                "version"
            ) from error

    # ------------------------------------------------ which model it is

    def _take_fingerprint(self) -> list[dict[int, float]]:
        """The probabilities of the likeliest ids after each of the probe's last positions."""
        tops = self._ask([self._probe], min(_PROBE_TOP, self.vocab_size))
        return [
            dict(zip(top.ids.tolist(), np.exp(top.logprobs).tolist(), strict=True)) for top in tops
        ]

    def _check_fingerprint(self) -> None:
        now = self._take_fingerprint()
        distance = max(map(_distance, self._fingerprint, now))
        if distance > _CHANGED:
            raise ModelChangedError(
                f"{self.name} at {self._server.url} runs another model than when it was loaded: "
                f"its probabilities of a short text differ by {distance:.2f}; start the one that "
                "it was, or load the ensemble again"
            )
        self._trust()

    def _trust(self) -> None:
        self._trusted = (self._server.connections, self._calls)


def _mass(top: Top) -> float:
    return float(np.exp(top.logprobs.astype(np.float64)).sum())


def _calls(queries: Sequence[Query], most: int) -> Iterator[list[Query]]:
    """The queries in calls of at most so many positions, for which one may be cut into several."""
    call: list[Query] = []
    room = most
    for query in queries:
        left = query.last
        while left:
            taken = min(left, room)
            ids = query.ids[: len(query.ids) - left + taken]
            call.append(replace(query, ids=ids, last=taken))
            left, room = left - taken, room - taken
            if not room:
                yield call
                call, room = [], most
    if call:
        yield call


def _distance(before: dict[int, float], now: dict[int, float]) -> float:
    """The total variation of two distributions of which the likeliest ids are known, at least.

    An id that only one of them has is at most as probable in the other as the least that it has.
    """
    least = [min(before.values()), min(now.values())]
    ids = before.keys() | now.keys()
    return 0.5 * sum(abs(before.get(i, least[0]) - now.get(i, least[1])) for i in ids)
