"""The slow, obvious twin of the space of scored tokens: dictionaries, no cache, no batch.

A helper's tokens are leaves, each a byte string with a probability. A leaf speaks for the primary's
tokens that begin alike, and is shared among them as the primary holds them likely. What a helper
has in hand is an explicit list of ways to cover the text with its tokens.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from gac_core.chat.prompt import TURN_MARKS
from gac_core.errors import CannotSpellError
from tests.reference import (
    END,
    SlowMember,
    SlowStep,
    banned_bytes,
    choose,
    slow_asked,
    slow_core,
    slow_encodings,
    slow_evidence,
)

_MOST_PATHS, _NEGLIGIBLE = 16, 0.05
_LIKELY, _MOST_LIKELY, _MOST_LEAVES = 1e-3, 32, 100
_NATURAL, _GROWN, _OPEN = 0.02, 0.1, 0.05
_MOST_AGREED = 64
_TURNS = tuple(blank + mark.encode() for mark in TURN_MARKS for blank in (b"\n", b"\n\n"))
_COUNTED = 1e-7
_TINY = 2.2250738585072014e-308

Leaf = tuple[bytes, float, bool, "Way", int | None]  # text, mass, is it the end, way, token


@dataclass(eq=False)
class Way:
    """A way to cover the text: whole tokens, and bytes with which the next one begins.

    `ahead` are bytes that the whole tokens cover beyond the text. `nexts` are the tokens that may
    be next, and END, of sum 1; None until they are asked for.
    """

    ids: list[int]
    mass: float = 1.0
    pending: bytes = b""
    ahead: bytes = b""
    nexts: dict[int | None, float] | None = None
    raw: dict[int | None, float] = field(default_factory=dict)  # of all tokens, grown ones too
    is_whole: bool = True  # whether any token may be next

    def part(self, wanted: Callable[[int | None], bool], **changes: object) -> list["Way"]:
        """This way with only some of its next tokens, unless they have no mass."""
        assert self.nexts is not None
        kept = {t: p for t, p in self.nexts.items() if wanted(t)}
        total = sum(kept.values())
        if total <= 0:
            return []
        nexts = {t: p / total for t, p in kept.items()}
        return [replace(self, mass=self.mass * total, nexts=nexts, **changes)]  # type: ignore[arg-type]


@dataclass
class Helper:
    member: SlowMember
    prompt: list[int]
    banned: frozenset[int]
    opens_with_space: bool
    reads_transcript: bool
    answer: bytes = b""
    behind: bytes = b""
    begins_anew: bool = False
    is_first: bool = True
    ways: list[Way] = field(default_factory=lambda: [Way([])])
    asked: list[int] = field(default_factory=list)

    def text(self, token: int | None) -> bytes:
        return b"" if token is None else self.member.vocabulary.token_bytes[token]

    def after(self, ids: Sequence[int]) -> dict[int | None, float]:
        by_id = self.member.by_id([*self.prompt, *ids], self.banned)
        ends = self.member.vocabulary.end_ids
        nexts: dict[int | None, float] = {i: p for i, p in by_id.items() if i not in ends}
        nexts[None] = sum(by_id[i] for i in ends)
        return nexts

    # -------------------------------- what was written

    def tell(self, unit: bytes, spaced: bytes) -> None:
        self.answer += spaced + unit
        self.behind += unit
        if not unit:
            self.begins_anew, self.is_first = True, False

    def catch_up(self) -> None:
        data, self.behind = self.behind, b""
        if not data or self.begins_anew:
            return
        if any(way.nexts is None for way in self.ways):
            self.begins_anew, self.is_first = True, False
            return
        found = [new for way in self.ways for new in self.going_on(way, data)]
        if sum(way.mass for way in found) > sum(self.lost(way, data) for way in self.ways):
            self.keep(found)
        else:
            self.begins_anew, self.is_first = True, False

    def going_on(self, way: Way, data: bytes) -> list[Way]:
        if way.ahead.startswith(data):
            return [replace(way, ahead=way.ahead[len(data) :])]
        if not data.startswith(way.ahead):
            return []
        pending = way.pending + data[len(way.ahead) :]
        assert way.nexts is not None
        ending = sum(p for t, p in way.nexts.items() if self.text(t) == pending)
        found = way.part(lambda t: self.is_longer(t, pending), pending=pending, ahead=b"")
        if any(self.text(t) == pending for t in way.nexts):
            token = self.member.vocabulary.ids_by_bytes[pending]
            found.append(Way([*way.ids, token], way.mass * ending))
        return found

    def is_longer(self, token: int | None, pending: bytes) -> bool:
        text = self.text(token)
        return text.startswith(pending) and len(text) > len(pending)

    def lost(self, way: Way, data: bytes) -> float:
        """The mass of next tokens that end within what was written."""
        if not data.startswith(way.ahead):
            return 0.0
        whole = way.pending + data[len(way.ahead) :]
        assert way.nexts is not None
        within = {whole[:n] for n in range(len(way.pending) + 1, len(whole))}
        return way.mass * sum(p for t, p in way.nexts.items() if self.text(t) in within)

    def keep(self, ways: list[Way]) -> None:
        ways = [way for way in ways if way.mass > 0]
        if not ways:
            self.begins_anew, self.is_first = True, False
            return
        ways.sort(key=_rank)
        ways = [way for way in ways[:_MOST_PATHS] if way.mass >= ways[0].mass * _NEGLIGIBLE]
        total = sum(way.mass for way in ways)
        self.ways = [replace(way, mass=way.mass / total) for way in ways]

    # -------------------------------- what comes next

    def ask(self) -> None:
        """Ask what comes after the ways that are new."""
        if self.begins_anew:
            self.begin_anew()
        new = [way for way in self.ways if way.nexts is None]
        if not new:
            return
        self.asked = new[0].ids
        for way in new:
            way.nexts = way.raw = self.after(way.ids)
        if self.is_first and self.opens_with_space:
            (way,) = self.ways
            early = way.part(lambda t: self.text(t) < b" ", is_whole=False)  # as tokens are sorted
            late = way.part(lambda t: self.text(t)[:1] > b" ", is_whole=False)
            self.keep([*self.going_on(way, b" "), *early, *late])
            self.is_first = False
            self.ask()
        self.is_first = False

    def begin_anew(self) -> None:
        """From its own encodings of the answer: complete, or with a longer last token."""
        found = []
        for ids, tail, chain in slow_encodings(
            self.member, self.answer, lambda ids, token: self.after(ids)[token]
        ):
            way = Way(ids, chain, nexts=self.after(ids), raw=self.after(ids))
            if tail:
                found += way.part(lambda t, tail=tail: self.is_longer(t, tail), pending=tail)  # type: ignore[misc]
            else:
                found.append(way)
        self.asked, self.begins_anew = slow_asked(self.member, self.answer), False
        self.keep(found)

    def leaves(self, least: float) -> list[Leaf]:
        found: list[Leaf] = []
        for way in self.ways:
            assert way.nexts is not None
            for token, prob in way.nexts.items():
                text = way.ahead + self.text(token)[len(way.pending) :]
                if prob * way.mass >= least:
                    found.append((text, prob * way.mass, token is None, way, token))
        return sorted(found, key=lambda leaf: (-leaf[1], leaf[0]))[:_MOST_LEAVES]

    def may_begin(self, leaf: Leaf, text: bytes) -> bool:
        """Whether its own encoding would begin a text with a leaf and go on."""
        own, _, is_end, way, token = leaf
        rest = text[len(own) :]
        if is_end or not text.startswith(own):
            return False
        if rest.isspace():
            return True
        whole = way.pending + text[len(way.ahead) :]
        try:
            first = self.member.tokenizer.encode(whole)[0]
        except CannotSpellError:
            return False
        return self.text(first) == self.text(token)

    def speaks_for(self, leaf: Leaf, text: bytes) -> bool:
        """Whether a leaf and a token of the primary may be two cuts of one text."""
        if leaf[0].startswith(text):
            return leaf[0][len(text) :].isspace()
        return self.may_begin(leaf, text)

    def grow(self, leaf: Leaf) -> None:
        text, mass, _, way, token = leaf
        self.ways.remove(way)
        own = self.member.vocabulary.ids_by_bytes[self.text(token)]
        self.ways += [Way([*way.ids, own], mass, ahead=text), *way.part(lambda t: t != token)]
        self.ways.sort(key=_rank)


def _rank(way: Way) -> tuple[float, int, list[int]]:
    return -way.mass, len(way.pending), way.ids


@dataclass
class Primary:
    """What the primary holds likely at a step: rows with their bytes and probabilities."""

    member: SlowMember
    banned: frozenset[int]
    probs: dict[int, float]
    space: bytes

    def __post_init__(self) -> None:
        tokens, self.ends = self.member.vocabulary.token_bytes, self.member.vocabulary.end_ids
        self.end_row = min(self.ends)
        likely = sorted((i for i, p in self.probs.items() if p >= _LIKELY), key=lambda i: i)
        likely.sort(key=lambda i: -self.probs[i])
        self.likely = [
            (row, tokens[row].removeprefix(self.space), self.probs[row])
            for row in likely[:_MOST_LIKELY]
            if row not in self.ends
        ]

    @property
    def view(self) -> dict[int, float]:
        """Its distribution, its ends in one."""
        view = {row: p for row, p in self.probs.items() if row not in self.ends}
        return view | {self.end_row: sum(self.probs[end] for end in self.ends)}

    def first_of(self, text: bytes) -> int | None:
        """The token with which it would begin to write a text."""
        if not text:
            return None
        ids = self.member.vocabulary.ids_by_bytes
        first = self.member.unit(self.member.tokenizer.encode(text)[0])
        if first is not None and self.banned.isdisjoint(first):
            return ids[first]
        return self.longest_of(text)

    def longest_of(self, text: bytes) -> int | None:
        """The longest token with which a text begins."""
        ids = self.member.vocabulary.ids_by_bytes
        fitting = [text[:n] for n in range(1, len(text) + 1)]
        fitting = [t for t in fitting if t in ids and self.banned.isdisjoint(t)]
        return ids[fitting[-1]] if fitting else None

    def shares(self, helper: Helper, leaf: Leaf) -> dict[int | None, float]:
        """Which rows a helper's leaf speaks for, and how much for each."""
        text, _, is_end, _, _ = leaf
        if is_end and not text:
            return {self.end_row: 1.0}
        natural = self.first_of(self.space + text) if text else None
        weights: dict[int | None, float] = {natural: _NATURAL}
        turns = _TURNS if helper.reads_transcript else ()
        if not is_end and any(turn.startswith(text) for turn in turns):
            weights[self.end_row] = self.view[self.end_row]
        for row, own, prob in self.likely:
            if row == natural or helper.speaks_for(leaf, own):
                weights[row] = weights.get(row, 0.0) + prob
        return {row: weight / sum(weights.values()) for row, weight in weights.items()}


def slow_score(helper: Helper, primary: Primary) -> dict[int, float]:
    """The helper's probability of each of the primary's tokens."""
    rows: dict[int | None, float] = {}
    whole = (
        []
        if primary.space
        else [way for way in helper.ways if way.is_whole and not way.pending and not way.ahead]
    )
    for way in whole:
        assert way.nexts is not None
        for token, prob in way.nexts.items():
            if way.raw[token] < _COUNTED and token is not None:
                continue
            row = primary.end_row if token is None else primary.longest_of(helper.text(token))
            rows[row] = rows.get(row, 0.0) + way.mass * prob
    leaves = helper.leaves(_LIKELY)
    open_mass = sum(mass for _, mass, _, way, _ in leaves if way not in whole)
    scale = (1 - sum(way.mass for way in whole)) / open_mass if open_mass > 0 else 0.0
    for leaf in leaves:
        _, mass, _, way, token = leaf
        if way in whole and token is None:
            continue  # an end, which is where it belongs
        if way in whole:  # counted already, for the longest token with which it begins
            longest = primary.longest_of(helper.text(token))
            rows[longest] = rows.get(longest, 0.0) - mass
        shares = primary.shares(helper, leaf)
        for row, share in shares.items():
            rows[row] = rows.get(row, 0.0) + share * mass * (1.0 if way in whole else scale)
    kept = {row: p for row, p in rows.items() if row is not None and p >= _COUNTED}
    total = sum(kept.values())
    return {row: p / total for row, p in kept.items()} if total > 0 else primary.view


def slow_agreed(primary: Primary, helpers: Sequence[Helper]) -> bytes:
    """The beginning of the primary's favourite token of which all hold each byte likely."""
    if not primary.likely or primary.likely[0][2] <= 0.5:
        return b""
    agreed = primary.likely[0][1]
    for helper in helpers:
        leaves, before = helper.leaves(_LIKELY), 1.0
        for n in range(1, len(agreed) + 1):
            mass = sum(
                m
                for text, m, is_end, _, _ in leaves
                if text.startswith(agreed[:n]) or (not is_end and agreed[:n].startswith(text))
            )
            if mass <= 0.5 * before:
                agreed = agreed[: n - 1]
                break
            before = mass
    return agreed


def slow_scored(
    members: Sequence[SlowMember],
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    primary: int = 0,
    threshold: float = math.inf,
    spaced: Sequence[bool],
    transcripts: Sequence[bool],
    is_chat: bool,
    seed: int | None = None,
    temperature: float = 1.0,
    fusion: str = "mean",
    weighting: str = "fixed",
) -> list[SlowStep]:
    """All members over the primary's tokens, at every step or only below the threshold.

    `spaced` says who opens answers with a space in a chat, `transcripts` who reads chats as such.
    """
    banned = banned_bytes(members)
    main, others = members[primary], [m for m in range(len(members)) if m != primary]
    helpers = {
        m: Helper(members[m], list(prompts[m]), banned, is_chat and spaced[m], transcripts[m])
        for m in others
    }
    ids, steps = list(prompts[primary]), list[SlowStep]()
    order = {row: row for row in range(len(main.vocabulary))}
    while len(steps) < max_new_tokens:
        opens = is_chat and not steps
        space = b" " if opens and spaced[primary] else b""
        own = Primary(main, banned, main.by_id(ids, banned), space)
        is_alone = max(own.probs.values()) > threshold
        views, agreed = {primary: own.view}, b""
        if is_alone:
            probs, given = own.probs, [own.probs]
        else:
            for helper in helpers.values():
                helper.catch_up()
                helper.ask()
                while leaf := _to_grow(helper, own):
                    helper.grow(leaf)
                    helper.ask()
            views |= {m: slow_score(helper, own) for m, helper in helpers.items()}
            given = [views[m] for m in sorted(views)]
            asked = [
                [*p, *helpers[m].asked] if m in helpers else ids for m, p in enumerate(prompts)
            ]
            evidence = slow_evidence(weighting, members, given, prompts, asked, banned)
            powers = [m.weight * e for m, e in zip(members, evidence, strict=True)]
            weighted = [(p / sum(powers), v) for p, v in zip(powers, given, strict=True)]
            probs = _fused(fusion, weighted, primary, main, order)
            agreed = slow_agreed(own, [helpers[m] for m in sorted(helpers)])
        row = choose(probs, order, seed, len(steps), temperature)
        tokens = main.vocabulary.token_bytes
        if agreed and seed is None:
            best = max(own.view, key=lambda r: (own.view[r], -r))
            ranked = sorted(probs, key=lambda r: -probs[r])[:_MOST_AGREED]
            texts = {r: tokens[r].removeprefix(space) for r in [best, *ranked]}
            row = next(
                (
                    r
                    for r in [best, *ranked]
                    if r not in own.ends
                    and (agreed.startswith(texts[r]) or (r != best and texts[r].startswith(agreed)))
                ),
                best,
            )
        told = tuple(view.get(row, 0.0) for view in given)
        if row in own.ends:
            steps.append(SlowStep(END, {END: probs[row]}, not is_alone, told))
            break
        unit = tokens[row].removeprefix(space)
        has_space = space + unit == tokens[row] and space != b""
        steps.append(SlowStep(unit or END, {unit or END: probs[row]}, not is_alone, told))
        ids.append(row)
        differ = opens and len(set(spaced)) > 1
        for m, helper in helpers.items():
            adds = spaced[m] if differ else has_space
            helper.tell(unit, b" " if adds else b"")
    return steps


def _to_grow(helper: Helper, primary: Primary) -> Leaf | None:
    """The likeliest leaf that a likely token of the primary goes beyond."""
    for leaf in helper.leaves(_GROWN):
        if not leaf[2] and any(
            prob >= _OPEN and own != leaf[0] and helper.may_begin(leaf, own)
            for _, own, prob in primary.likely
        ):
            return leaf
    return None


def _fused(
    fusion: str,
    weighted: Sequence[tuple[float, dict[int, float]]],
    primary: int,
    main: SlowMember,
    order: dict[int, int],
) -> dict[int, float]:
    rows = sorted({row for _, view in weighted for row in view})
    match fusion:
        case "mean":
            return {row: sum(w * v.get(row, 0.0) for w, v in weighted) for row in rows}
        case "geometric":
            products = {
                row: math.exp(sum(w * math.log(max(v.get(row, 0.0), _TINY)) for w, v in weighted))
                for row in rows
                if any(v.get(row, 0.0) > 0 for _, v in weighted)
            }
            return _scaled(products)
        case "power":
            powers = {r: sum(w * v.get(r, 0.0) ** 0.25 for w, v in weighted) ** 4 for r in rows}
            return _scaled(powers)
        case "unite":
            best = {
                row
                for _, view in weighted
                for row in sorted((r for r in view if view[r] > 0), key=view.__getitem__)[-10:]
            }
            fused = dict.fromkeys(best, 0.0)
            for weight, view in weighted:
                total = sum(view.get(row, 0.0) for row in best)
                for row in best:
                    fused[row] += weight * view.get(row, 0.0) / (total or 1.0)
            return _scaled(fused)
        case _:
            positive = [(w, {r: p for r, p in view.items() if p > 0}) for w, view in weighted]
            return slow_core(positive, primary, order, unit=main.unit)


def _scaled(probs: dict[int, float]) -> dict[int, float]:
    total = sum(probs.values())
    return {row: p / (total or 1.0) for row, p in probs.items()}
