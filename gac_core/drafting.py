"""Drafting without loss: logits of what will probably be written are computed ahead, in one pass.

A method never knows. It asks for the logits behind its histories, step by step, as always.
`drafted` stands between it and the driver, widens such an ask to the histories a guess would lead
to, and answers the following asks from what came back, for as long as they are for exactly those
ids. So what is accepted is what the method draws itself, and a wrong guess costs time only.

Guesses come from n-grams of prompt and answer (prompt lookup), or from a member that writes ahead
(speculative decoding, https://arxiv.org/abs/2211.17192).
"""

from array import array
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

import torch

from gac_core.methods import Decoder
from gac_core.request import Ask, Logits, Request
from gac_core.scorer import Query
from gac_core.steps import Step
from gac_core.vocabulary import Kind

_NGRAMS: Final = (4, 3, 2)  # lengths that are looked up, best first
_MOST_QUERIES: Final = 4  # of one member in one pass
_FIRST_LENGTH: Final = 4
_FIRST_REST: Final = 4
_LONGEST_REST: Final = 64


def drafted(decoder: Decoder, request: Request) -> Decoder:
    """The same steps as a decoder makes, by fewer passes.

    Args:
        decoder: of a method that asks for the logits behind its histories.
        request: it works on; its configuration says how drafts are made.

    """
    drafter = _Drafter(request)
    with closing(decoder):
        event = next(decoder, None)
        while event is not None:
            if isinstance(event, Step):
                yield event
                event = next(decoder, None)
                continue
            logits = drafter.answer(event)
            if logits is None:
                yield from drafter.look_ahead(event)
                logits = drafter.answer(event)
                assert logits is not None, "an ask is part of what is asked in its stead"
            try:
                event = decoder.send(logits)
            except StopIteration:
                return


@dataclass(frozen=True)
class _Scored:
    """Logits behind the last positions of some ids, (positions, rows)."""

    query: Query
    logits: torch.Tensor

    def answer(self, query: Query) -> torch.Tensor | None:
        """What another query asks for, if it is here."""
        held, end = self.query, len(query.ids)
        first = len(held.ids) - held.last
        if end > len(held.ids) or end - query.last < first or query.hidden != held.hidden:
            return None
        if not _begins(query.ids, held.ids):
            return None
        return self.logits[end - query.last - first : end - first]


def _begins(short: Sequence[int], long: Sequence[int]) -> bool:
    return list(long[: len(short)]) == list(short)


class _Drafter:
    """What was computed ahead for one request."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._scored: dict[int, list[_Scored]] = {}
        self._pace = Pace(request.config.draft_length)
        self._began = 0  # where the last draft did
        self._length = 0  # units it had

    def answer(self, ask: Ask) -> Logits | None:
        """The answer to an ask, if all of it is known."""
        found: dict[int, list[torch.Tensor]] = {}
        for m, queries in ask.queries.items():
            for query in queries:
                rows = self._rows(m, query)
                if rows is None:
                    return None
                found.setdefault(m, []).append(rows)
        return found

    def _rows(self, member: int, query: Query) -> torch.Tensor | None:
        held = self._scored.get(member, ())
        return next((r for s in held if (r := s.answer(query)) is not None), None)

    def look_ahead(self, ask: Ask) -> Generator[Ask, Logits, None]:
        """Ask for this and for what probably follows."""
        request = self._request
        for m in ask.queries:
            self._scored.pop(m, None)
        futures = [{m: queries[0].ids for m, queries in ask.queries.items()}]
        # A gate's second ask, for the others at the same step, is as rare as it is cheap.
        if request.primary in ask.queries:
            if self._length:
                self._pace.learn(request.position - self._began - 1, self._length)
            length = min(self._pace.next_length(), request.steps_left - 1)
            if length > 0 and request.position > 0 and self._is_plain(ask):
                yield from self._guess(length, futures)
            self._began, self._length = request.position, len(futures) - 1
        queries = self._queries(ask, futures)
        self._length = min(self._length, len(futures) - 1)
        logits = yield Ask(queries)
        self._keep(queries, logits)

    def _keep(self, queries: dict[int, list[Query]], logits: Logits) -> None:
        for m, asked in queries.items():
            held = self._scored.setdefault(m, [])
            held.extend(_Scored(q, rows) for q, rows in zip(asked, logits[m], strict=True))

    def _is_plain(self, ask: Ask) -> bool:
        return all(
            len(queries) == 1 and queries[0].ids is self._request.histories[m].ids
            for m, queries in ask.queries.items()
        )

    def _guess(
        self, length: int, futures: list[dict[int, Sequence[int]]]
    ) -> Generator[Ask, Logits, None]:
        """Add what the histories will be behind each unit that probably comes."""
        members = list(futures[0])
        draft = self._request.config.draft
        if isinstance(draft, int):
            future = self._request.fork()
            member = self._request.place_of(draft)
            for _ in range(length):
                query = Query(future.histories[member].ids)
                if (rows := self._rows(member, query)) is None:
                    logits = yield Ask({member: (query,)})
                    self._keep({member: [query]}, logits)
                    rows = logits[member][0]
                row = future.preview(member, rows[-1])
                if row is None:
                    return
                future.assume(future.union.unit(row))
                futures.append({m: future.histories[m].ids for m in members})
            return
        future = self._request.fork(free=True)
        for token in self._ngram_continuation(length):
            future.assume(future.union.vocabularies[future.primary].token_bytes[token], token)
            futures.append({m: future.histories[m].ids for m in members})

    def _ngram_continuation(self, length: int) -> list[int]:
        """What followed, the last time, the tokens of the primary that the answer now ends in."""
        request = self._request
        ids = request.histories[request.primary].ids
        at = last_continuation(ids)
        kinds = request.union.vocabularies[request.primary].kinds
        guess: list[int] = []
        for token in ids[at : at + length]:
            if kinds[token] is not Kind.TEXT:
                break
            guess.append(token)
        return guess

    def _queries(self, ask: Ask, futures: list[dict[int, Sequence[int]]]) -> dict[int, list[Query]]:
        """Few queries that cover the ask and as many futures as they can.

        Futures that need too many, or do not fit a context, are dropped from the list.
        """
        while True:
            queries = {}
            for m, (query, *more) in ask.queries.items():
                limit = self._request.members[m].scorer.context_size
                fits = limit is None or all(len(f[m]) <= limit for f in futures[1:])
                queries[m] = [*self._covering(m, query, [f[m] for f in futures]), *more]
                if len(futures) > 1 and (len(queries[m]) > _MOST_QUERIES or not fits):
                    break
            else:
                return queries
            futures.pop()

    def _covering(self, member: int, first: Query, futures: Sequence[Sequence[int]]) -> list[Query]:
        """Queries that cover a member's futures, the first of which a method asked for.

        A future that is the beginning of a later one comes with it; where encoding anew tears a
        token that was there, it needs a query of its own.
        """
        found: list[Query] = []
        for n in reversed(range(len(futures))):
            ids = futures[n]
            wanted = first if n == 0 else replace(first, ids=ids, last=1)
            if self._rows(member, wanted) is not None:
                continue
            for at, other in enumerate(found):
                if _begins(ids, other.ids):
                    last = max(other.last, len(other.ids) - len(ids) + wanted.last)
                    found[at] = replace(other, last=last)
                    break
            else:
                branch = first.branch if not found else ("draft", len(found))
                found.append(replace(wanted, branch=branch))
        return found


def last_continuation(ids: Sequence[int]) -> int:
    """Where the longest n-gram that ids end in ends earlier, as late as it can; else their end."""
    tokens = array("q", ids)
    data, width = tokens.tobytes(), tokens.itemsize
    for n in _NGRAMS:
        if n >= len(ids):
            continue
        tail = data[-n * width :]
        at = data.rfind(tail, 0, len(data) - width)
        while at >= 0 and at % width:
            at = data.rfind(tail, 0, at + len(tail) - 1)
        if at >= 0:
            return at // width + n
    return len(ids)


class Pace:
    """How many units to draft: more where drafts were right, and seldom where they were not.

    Args:
        longest: units at most.

    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._length = min(_FIRST_LENGTH, longest)
        self._wait = _FIRST_REST
        self._rest = 0

    def next_length(self) -> int:
        """Units to draft now; 0 for none."""
        if self._rest > 0:
            self._rest -= 1
            return 0
        return self._length

    def learn(self, accepted: int, drafted: int) -> None:
        """A draft was checked.

        Args:
            accepted: units of it that were written.
            drafted: units it had.

        """
        if accepted == 0:
            self._rest, self._wait = self._wait, min(2 * self._wait, _LONGEST_REST)
            self._length = min(_FIRST_LENGTH, self._longest)
        else:
            self._wait = _FIRST_REST
            wanted = 2 * accepted if accepted == drafted else accepted + 1
            self._length = min(max(wanted, 2), self._longest)
