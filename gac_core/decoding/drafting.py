"""Drafting without loss: logits of what will probably be written are computed ahead, in one pass.

A method never knows. It asks for the logits behind its histories, step by step, as always.
`drafted` stands between it and the driver, widens such an ask to the histories a guess would lead
to, and answers the following asks from what came back, for as long as they are for exactly those
ids. So what is accepted is what the method draws itself, and a wrong guess costs time only.

Guesses come from n-grams of prompt and answer (prompt lookup), or from a member that writes ahead
(speculative decoding, https://arxiv.org/abs/2211.17192).
"""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Final

from gac_core.decoding.request import Decoder, Request
from gac_core.errors import CannotSpellError
from gac_core.members.base import Answers, Ask, Query, Scored
from gac_core.tokens.history import common_prefix
from gac_core.tokens.vocabulary import TokenKind

_NGRAMS: Final = (24, 16, 12, 8, 6)  # bytes that are looked up, best first
_BYTES_PER_UNIT: Final = 8
_WORD_BEGUN: Final = re.compile(rb"(?<![^\W_])[^\W_]{2,}\Z")
_LOOK: Final = 24  # bytes of which the first token is wanted
_BREAK: Final = b"\xff"  # in no text
_MOST_QUERIES: Final = 4  # of one member in one pass
_MOST_ANSWERED: Final = 1000  # asks in a row that are answered without a forward pass
_FIRST_LENGTH: Final = 8
_SHORT: Final = 4  # after a wrong one
# Drafts right as text but split into other units: how many to tolerate before pausing.
_MOST_EXCUSED: Final = 2
_FIRST_REST: Final = 1
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
        answered = 0  # asks in a row, without a step and without a pass
        while event is not None:
            if not isinstance(event, Ask):
                yield event
                event = next(decoder, None)
                answered = 0
                continue
            answered += 1
            # A method that repeats an ask we can answer would never reach `Run`'s ask limit.
            answers = drafter.answer(event) if answered < _MOST_ANSWERED else (yield event)
            if answers is None:
                yield from drafter.look_ahead(event)
                answers = drafter.answer(event)
                assert answers is not None, "an ask is part of what is asked in its stead"
            try:
                event = decoder.send(answers)
            except StopIteration:
                return


@dataclass(frozen=True)
class _Held:
    """A query that was computed ahead, and its answer."""

    query: Query
    scored: Scored

    def answer(self, query: Query) -> Scored | None:
        """What another query asks for, if it is here."""
        held, end = self.query, len(query.ids)
        first = len(held.ids) - held.last
        if end > len(held.ids) or end - query.last < first or query.hidden != held.hidden:
            return None
        if not _begins(query.ids, held.ids):
            return None
        rows = slice(end - query.last - first, end - first)
        hidden = self.scored.hidden
        return Scored(self.scored.logits[rows], None if hidden is None else hidden[rows])


def _begins(short: Sequence[int], long: Sequence[int]) -> bool:
    return common_prefix(short, long) == len(short)


class _Drafter:
    """What was computed ahead for one request."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._held: dict[int, list[_Held]] = {}
        self._pace = Pace(request.config.draft_length)
        vocabulary = request.union.vocabularies[request.primary]
        self._prompt = b"".join(
            vocabulary.token_bytes[i] if vocabulary.kinds[i] is TokenKind.TEXT else _BREAK
            for i in request.histories[request.primary].ids
        )
        self._began = 0  # where the last draft did
        self._length = 0  # units it had
        self._guessed = b""  # its text
        self._answer_before = 0  # bytes of the answer there were

    def answer(self, ask: Ask) -> Answers | None:
        """The answer to an ask, if all of it is known."""
        found: dict[int, list[Scored]] = {}
        for m, queries in ask.queries.items():
            found[m] = []
            for query in queries:
                scored = self._known(m, query)
                if scored is None:
                    return None
                found[m].append(scored)
        return found

    def _known(self, member: int, query: Query) -> Scored | None:
        held = self._held.get(member, ())
        return next((s for h in held if (s := h.answer(query)) is not None), None)

    def look_ahead(self, ask: Ask) -> Generator[Ask, Answers, None]:
        """Ask for this and for what probably follows."""
        request = self._request
        leads = request.primary in ask.queries
        if leads:
            self._held.clear()
        for m in ask.queries:
            self._held.pop(m, None)
        if not self._is_plain(ask):
            self._keep(ask.queries, (yield ask))
            return
        futures = [{m: queries[0].ids for m, queries in ask.queries.items()}]
        # A gate's second ask, for the others at the same step, is as rare as it is cheap.
        if leads:
            if self._length:
                accepted = request.position - self._began - 1
                self._pace.learn(accepted, self._length, was_right=self._was_right())
            length = min(self._pace.next_length(), request.steps_left - 1)
            if length > 0 and request.position > 0:
                with suppress(CannotSpellError):  # such as half a character; a guess may be wrong
                    yield from self._guess(length, futures)
            self._began = request.position
            self._answer_before = len(request.histories[request.primary].answer)
        queries = self._queries(ask, futures)
        if leads:
            self._length = len(futures) - 1
        self._keep(queries, (yield Ask(queries)))

    def _was_right(self) -> bool:
        """Whether the text was guessed, if not how it is cut into units."""
        answer = self._request.histories[self._request.primary].answer
        written = answer[self._answer_before :]
        return self._guessed.startswith(written) or written.startswith(self._guessed)

    def _keep(self, queries: Mapping[int, Sequence[Query]], answers: Answers) -> None:
        for m, asked in queries.items():
            held = self._held.setdefault(m, [])
            held.extend(_Held(q, scored) for q, scored in zip(asked, answers[m], strict=True))

    def _is_plain(self, ask: Ask) -> bool:
        return all(
            m < len(self._request.histories)
            and len(queries) == 1
            and queries[0].ids is self._request.histories[m].ids
            for m, queries in ask.queries.items()
        )

    def _guess(
        self, length: int, futures: list[dict[int, Sequence[int]]]
    ) -> Generator[Ask, Answers, None]:
        """Add what the histories will be after each unit that probably comes."""
        self._guessed = b""
        draft = self._request.config.draft
        if isinstance(draft, int):
            yield from self._guess_by_member(draft, length, futures)
        else:
            self._guess_by_ngrams(length, futures)

    def _guess_by_member(
        self, member: int, length: int, futures: list[dict[int, Sequence[int]]]
    ) -> Generator[Ask, Answers, None]:
        members = list(futures[0])
        future = self._request.fork()
        for _ in range(length):
            if not future.histories[member].fits():
                return
            query = Query(future.histories[member].ids)
            if (scored := self._known(member, query)) is None:
                answers = yield Ask({member: (query,)})
                self._keep({member: [query]}, answers)
                scored = answers[member][0]
            probs = future.mixer.to_union(member, future.to_probs(member, scored.logits[-1]))
            row = future.answer.choose(probs, future.union)
            if future.union.is_end(row):
                return
            unit = future.union.unit(row)
            future.answer.append_agreed(unit)
            self._guessed += unit
            futures.append({m: future.histories[m].ids for m in members})

    def _guess_by_ngrams(self, length: int, futures: list[dict[int, Sequence[int]]]) -> None:
        members = list(futures[0])
        future = self._request.fork(free=True)
        rest = self._guessed = self._continuation(length)
        while rest and len(futures) <= length:
            unit = self._next_unit(rest, members)
            if len(unit) == len(rest) and len(futures) > 1:
                return  # what stands at the cut may be half a unit
            future.answer.append_agreed(unit)
            futures.append({m: future.histories[m].ids for m in members})
            rest = rest[len(unit) :]

    def _continuation(self, length: int) -> bytes:
        history = self._request.histories[self._request.primary]
        return continuation(self._prompt + history.answer, _BYTES_PER_UNIT * length)

    def _next_unit(self, text: bytes, members: Sequence[int]) -> bytes:
        """The unit that most members, by weight, would go on with to write this text."""
        votes: dict[bytes, float] = {}
        for m in (self._request.primary, *members):
            member = self._request.members[m]
            token = member.tokenizer.encode(_head(text))[0]
            unit = member.tokenizer.vocabulary.token_bytes[token]
            votes[unit] = votes.get(unit, 0.0) + (member.weight if m in members else 0.0)
        return max(votes, key=votes.__getitem__)  # the primary's, if there is a tie

    def _queries(self, ask: Ask, futures: list[dict[int, Sequence[int]]]) -> dict[int, list[Query]]:
        """Few queries that cover the ask and as many futures as they can.

        Futures that need too many, or do not fit a context, are dropped from the list.
        """
        while True:
            queries = {}
            for m, (query, *more) in ask.queries.items():
                limit = self._request.histories[m].context_size
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
            if self._known(member, wanted) is not None:
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


def _head(text: bytes) -> bytes:
    """The beginning of a text, cut between characters if that is possible."""
    return text[:_LOOK].decode(errors="ignore").encode() or text[:_LOOK]


def continuation(text: bytes, length: int) -> bytes:
    """What followed the longest n-gram of bytes that a text ends in, the last time it was there.

    Where there is none, what followed the word that has just begun.

    Args:
        text: of prompt and answer, with `_BREAK` where something else stands between.
        length: bytes at most.

    """
    at = -1
    for n in _NGRAMS:
        at = text.rfind(text[-n:], 0, len(text) - 1) if n < len(text) else -1
        if at >= 0:
            at += n
            break
    else:
        word = _WORD_BEGUN.search(text, max(0, len(text) - _NGRAMS[0]))
        if word is not None:
            begun = re.compile(rb"(?<![^\W_])" + re.escape(word[0]))
            at = max((m.end() for m in begun.finditer(text, 0, word.start())), default=-1)
    if at < 0:
        return b""
    period = text[at:]  # a loop goes on, longer than what there is of it
    return (period * (length // len(period) + 1))[:length].split(_BREAK)[0]


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
        self._excused = 0

    def next_length(self) -> int:
        """Units to draft now; 0 for none."""
        if self._rest > 0:
            self._rest -= 1
            return 0
        return self._length

    def learn(self, accepted: int, drafted: int, *, was_right: bool = False) -> None:
        """A draft was checked.

        Args:
            accepted: units of it that were written.
            drafted: units it had.
            was_right: whether its text was written, though perhaps by other units.

        """
        if accepted == 0 and was_right and self._excused < _MOST_EXCUSED:
            self._excused += 1
            return
        self._excused = 0
        if accepted == 0:
            self._rest, self._wait = self._wait, min(2 * self._wait, _LONGEST_REST)
            self._length = min(_SHORT, self._longest)
        else:
            self._wait = _FIRST_REST
            wanted = 2 * accepted if accepted == drafted else accepted + 1
            self._length = min(max(wanted, _SHORT), self._longest)
