"""Speculative decoding without loss: logits after a draft of the text are computed in one pass.

A method does not notice. It asks for the logits after its histories, step by step, as always.
`drafted` stands between method and driver, widens such an ask to the histories to which a draft
would lead, and answers the following asks from the result, for as long as they are for exactly
those ids. So a unit is accepted only if the method itself chooses it, and a wrong draft only costs
time.

Drafts come from n-grams of prompt and answer (prompt lookup), or from a member that writes ahead
(https://arxiv.org/abs/2211.17192).
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

_NGRAMS: Final = (24, 16, 12, 8, 6)  # lengths in bytes of the n-grams looked up, best first
_BYTES_PER_UNIT: Final = 8  # of a draft from n-grams, so that it is rarely too short
_WORD_BEGUN: Final = re.compile(rb"(?<![^\W_])[^\W_]{2,}\Z")  # two letters or more at the end
_LOOK_AHEAD: Final = 24  # bytes that are encoded to find the first token of a draft
_BREAK: Final = b"\xff"  # stands for control tokens; a byte that is in no text
_MOST_QUERIES: Final = 4  # of one member in one pass; drafts that need more are cut
_MOST_ANSWERED: Final = 1000  # asks in a row that are answered without a forward pass
# Of `AdaptiveLength`, in units and in steps.
_FIRST_LENGTH: Final = 8  # units of the first draft
_SHORT_LENGTH: Final = 4  # units of a draft after one that was rejected; the fewest otherwise
_FIRST_PAUSE: Final = 1  # steps without a draft after one that was rejected; then twice as many
_LONGEST_PAUSE: Final = 64  # steps
# Drafts right as text but split into other units: how many to tolerate before pausing.
_MOST_EXCUSED: Final = 2


@dataclass(frozen=True)
class Plan:
    """How drafts are made.

    Attributes:
        draft: "ngrams", or the index of the member that writes ahead.
        length: units at most.
        is_adaptive: whether drafts grow and shrink with what becomes of them.

    """

    draft: str | int
    length: int
    is_adaptive: bool = True


def drafted(decoder: Decoder, request: Request, plan: Plan) -> Decoder:
    """The same steps as a decoder makes, by fewer forward passes.

    Args:
        decoder: of a method that asks for the logits after its histories.
        request: the one it decodes.
        plan: how drafts are made.

    """
    drafter = _Drafter(request, plan)
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
                assert answers is not None, "the widened ask contains the ask itself"
            try:
                event = decoder.send(answers)
            except StopIteration:
                return


@dataclass(frozen=True)
class _Held:
    """A query that was widened by a draft, and its answer."""

    query: Query
    scored: Scored

    def answer(self, query: Query) -> Scored | None:
        """The answer to another query, if it is contained in this one's."""
        held, end = self.query, len(query.ids)
        first = len(held.ids) - held.last
        if end > len(held.ids) or end - query.last < first or query.hidden != held.hidden:
            return None
        if not _begins(query.ids, held.ids):
            return None
        asked = slice(end - query.last - first, end - first)
        hidden = self.scored.hidden
        return Scored(self.scored.logits[asked], None if hidden is None else hidden[asked])


def _begins(short: Sequence[int], long: Sequence[int]) -> bool:
    return common_prefix(short, long) == len(short)


class _Drafter:
    """Makes drafts for one request, and keeps the answers that were computed for them."""

    def __init__(self, request: Request, plan: Plan) -> None:
        self._request = request
        self._plan = plan
        self._held: dict[int, list[_Held]] = {}
        self._adaptive_length = AdaptiveLength(plan.length)
        self._by_paths = request.space != "tokens"  # members ask about ids of their own making
        vocabulary = request.union.vocabularies[request.primary]
        self._prompt = b"".join(
            vocabulary.token_bytes[i] if vocabulary.kinds[i] is TokenKind.TEXT else _BREAK
            for i in request.histories[request.primary].ids
        )
        # Of the last draft:
        self._began = 0  # the position at which it begins
        self._length = 0  # its number of units
        self._guessed = b""  # its text
        self._answer_before = 0  # the number of bytes of the answer before it

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
        """Ask for what is not known of this, and for the logits after a draft of what follows.

        A draft is made where the primary has to be asked: not for the others alone, which a gate
        asks after the primary in the same step, since this is as rare as it is cheap.
        """
        request, primary = self._request, self._request.primary
        is_new_step = any(self._known(primary, q) is None for q in ask.queries.get(primary, ()))
        if is_new_step:
            self._held.clear()
        if not is_new_step or not self._is_plain(ask):
            unknown = {
                m: [query for query in queries if self._known(m, query) is None]
                for m, queries in ask.queries.items()
            }
            unknown = {m: queries for m, queries in unknown.items() if queries}
            self._keep(unknown, (yield Ask(unknown)))
            return
        futures = [{m: queries[0].ids for m, queries in ask.queries.items()}]
        if self._length:
            accepted = request.position - self._began - 1
            self._adaptive_length.learn(accepted, self._length, was_right=self._was_right())
        length = (
            self._adaptive_length.next_length() if self._plan.is_adaptive else self._plan.length
        )
        length = min(length, request.steps_left - 1)
        if length > 0 and request.position > 0:
            with suppress(CannotSpellError):  # a draft may hold half a character
                yield from self._guess(length, futures)
        self._began = request.position
        self._answer_before = len(request.histories[primary].answer)
        queries = self._queries(ask, futures)
        self._length = len(futures) - 1
        self._keep(queries, (yield Ask(queries)))

    def _was_right(self) -> bool:
        """Whether the last draft was right as text, though perhaps split into other units."""
        answer = self._request.histories[self._request.primary].answer
        written = answer[self._answer_before :]
        return self._guessed.startswith(written) or written.startswith(self._guessed)

    def _keep(self, queries: Mapping[int, Sequence[Query]], answers: Answers) -> None:
        for m, asked in queries.items():
            held = self._held.setdefault(m, [])
            held.extend(_Held(q, scored) for q, scored in zip(asked, answers[m], strict=True))

    def _is_plain(self, ask: Ask) -> bool:
        """Whether an ask is for the logits after histories only, so that a draft can widen it."""
        if self._by_paths:
            first, *_ = ask.queries[self._request.primary]
            return list(first.ids) == self._request.histories[self._request.primary].ids
        return all(
            m < len(self._request.histories)
            and len(queries) == 1
            and queries[0].ids is self._request.histories[m].ids
            for m, queries in ask.queries.items()
        )

    def _guess(
        self, length: int, futures: list[dict[int, Sequence[int]]]
    ) -> Generator[Ask, Answers, None]:
        """Add the members' ids after each unit of a draft, by member index, to `futures`."""
        self._guessed = b""
        if isinstance(self._plan.draft, int):
            yield from self._guess_by_member(self._plan.draft, length, futures)
        else:
            self._guess_by_ngrams(length, futures)

    def _guess_by_member(
        self, member: int, length: int, futures: list[dict[int, Sequence[int]]]
    ) -> Generator[Ask, Answers, None]:
        members = list(futures[0])
        # What another space holds to a grammar is not what the drafter chooses from.
        future = self._request.fork(free=self._by_paths)
        space = future.rows_of(member)
        for _ in range(length):
            if not future.histories[member].fits():
                return
            query = Query(future.histories[member].ids)
            if (scored := self._known(member, query)) is None:
                answers = yield Ask({member: (query,)})
                self._keep({member: [query]}, answers)
                scored = answers[member][0]
            probs = future.mixer.to_probs(member, scored.logits[-1])
            if not self._by_paths:
                probs = future.mixer.to_union(member, probs)
            row = future.answer.choose(probs, space)
            if space.is_end(row):
                return
            unit = space.unit(row)
            future.answer.append_agreed(unit, space.token(future.primary, row))
            self._guessed += unit
            futures.append({m: future.histories[m].ids for m in members})

    def _guess_by_ngrams(self, length: int, futures: list[dict[int, Sequence[int]]]) -> None:
        members = list(futures[0])
        future = self._request.fork(free=True)
        rest = self._guessed = self._continuation(length)
        while rest and len(futures) <= length:
            unit = self._next_unit(rest, members)
            if len(unit) == len(rest) and len(futures) > 1:
                return  # the last token of the draft may be cut off
            future.answer.append_agreed(unit)
            futures.append({m: future.histories[m].ids for m in members})
            rest = rest[len(unit) :]

    def _continuation(self, length: int) -> bytes:
        history = self._request.histories[self._request.primary]
        return continuation(self._prompt + history.answer, _BYTES_PER_UNIT * length)

    def _next_unit(self, text: bytes, members: Sequence[int]) -> bytes:
        """The unit with which most members, by weight, would begin to write this text."""
        votes: dict[bytes, float] = {}
        voters = () if self._by_paths else members
        for m in (self._request.primary, *voters):
            member = self._request.members[m]
            token = member.tokenizer.encode(_head(text))[0]
            unit = member.tokenizer.vocabulary.token_bytes[token]
            votes[unit] = votes.get(unit, 0.0) + (member.weight if m in members else 0.0)
        return max(votes, key=votes.__getitem__)  # the primary's unit, if there is a tie

    def _queries(self, ask: Ask, futures: list[dict[int, Sequence[int]]]) -> dict[int, list[Query]]:
        """Few queries by member that cover the ask and as many futures as possible.

        Futures that would need too many queries or do not fit a context are removed from the list.
        """
        while True:
            queries = {}
            for m, (query, *more) in ask.queries.items():
                limit = self._request.histories[m].context_size
                fits = limit is None or all(len(f[m]) <= limit for f in futures[1:])
                if self._by_paths and m != self._request.primary:
                    queries[m] = self._reaching(m, [query, *more], futures[-1][m])
                else:
                    queries[m] = [*self._covering(m, query, [f[m] for f in futures]), *more]
                if len(futures) > 1 and (len(queries[m]) > _MOST_QUERIES or not fits):
                    break
            else:
                return queries
            futures.pop()

    def _reaching(self, member: int, own: list[Query], ids: Sequence[int]) -> list[Query]:
        """A member's own queries, one of them widened to reach the end of a draft in its ids."""
        for at, query in enumerate(own):
            if _begins(query.ids, ids):
                own[at] = replace(query, ids=ids, last=len(ids) - len(query.ids) + query.last)
                return own
        last = len(ids) - common_prefix(own[0].ids, ids)
        return [*own, Query(ids, max(last, 1), branch=("draft", member))]

    def _covering(self, member: int, first: Query, futures: Sequence[Sequence[int]]) -> list[Query]:
        """Queries that cover a member's futures; the first of these is what the method asked for.

        A future that is the beginning of a later one is covered by the later one's query. Where
        encoding anew changes tokens before the new unit, a future needs a query of its own.
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
    return text[:_LOOK_AHEAD].decode(errors="ignore").encode() or text[:_LOOK_AHEAD]


def continuation(text: bytes, length: int) -> bytes:
    """The bytes after the last earlier occurrence of the longest n-gram with which a text ends.

    If there is none, the bytes after the last earlier occurrence of the word that has just begun.

    Args:
        text: of prompt and answer, with `_BREAK` for control tokens.
        length: bytes at most.

    Example:
        >>> continuation(b"Mila lives in Rome. Tom lives in Oslo. Mila lives", 8)
        b' in Rome'

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
    period = text[at:]  # a text that repeats itself goes on after its end
    return (period * (length // len(period) + 1))[:length].split(_BREAK)[0]


class AdaptiveLength:
    """The number of units to draft: more after accepted drafts, and pauses after rejected ones.

    Args:
        longest: units at most.

    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._length = min(_FIRST_LENGTH, longest)
        self._next_pause = _FIRST_PAUSE
        self._pause = 0  # steps without a draft from now on
        self._excused = 0

    def next_length(self) -> int:
        """The number of units to draft now, 0 during a pause; called once a step."""
        if self._pause > 0:
            self._pause -= 1
            return 0
        return self._length

    def learn(self, accepted: int, drafted: int, *, was_right: bool = False) -> None:
        """Adapt to a draft that was checked.

        Args:
            accepted: the number of its units that were written.
            drafted: the number of its units.
            was_right: whether its text was written, though perhaps in other units.

        """
        if accepted == 0 and was_right and self._excused < _MOST_EXCUSED:
            self._excused += 1
            return
        self._excused = 0
        if accepted == 0:
            self._pause = self._next_pause
            self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)
            self._length = min(_SHORT_LENGTH, self._longest)
        else:
            self._next_pause = _FIRST_PAUSE
            wanted = 2 * accepted if accepted == drafted else accepted + 1
            self._length = min(max(wanted, _SHORT_LENGTH), self._longest)
