"""Slow, obvious twins of the methods: dictionaries from bytes to probability, no cache, no batch.

They share nothing with the fast ones but the members' vocabularies and tokenizers and the uniform
number of a step.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from gac_core.decoding.sampling import uniform_at
from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.vocabulary import TokenKind, Vocabulary

END = None
Unit = bytes | None
Key = TypeVar("Key")
_EPS = sys.float_info.epsilon  # the least entropy
_TINY = sys.float_info.min  # the least probability in a product


@dataclass
class SlowMember:
    model: PreTrainedModel
    tokenizer: ByteTokenizer
    weight: float

    @property
    def vocabulary(self) -> Vocabulary:
        return self.tokenizer.vocabulary

    def by_id(self, ids: Sequence[int], banned: frozenset[int]) -> dict[int, float]:
        """The probability of each id that may be chosen, by a plain forward."""
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([list(ids)])).logits[0, -1].tolist()
        tokens, kinds = self.vocabulary.token_bytes, self.vocabulary.kinds
        exps = {
            i: math.exp(logits[i])
            for i in range(len(logits))
            if kinds[i] is TokenKind.END
            or (kinds[i] is TokenKind.TEXT and banned.isdisjoint(tokens[i]))
        }
        total = sum(exps.values())
        return {i: value / total for i, value in exps.items()}

    def log_prob(self, ids: Sequence[int], token: int) -> float:
        """Of one id among all, control tokens too."""
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([list(ids)])).logits[0, -1]
        return float(logits.log_softmax(-1)[token])

    def unit(self, token: int) -> Unit:
        is_text = self.vocabulary.kinds[token] is TokenKind.TEXT
        return self.vocabulary.token_bytes[token] if is_text else END

    def by_unit(self, probs: dict[int, float]) -> dict[Unit, float]:
        units: dict[Unit, float] = {}
        for token, prob in probs.items():
            units[self.unit(token)] = units.get(self.unit(token), 0.0) + prob
        return units


def banned_bytes(members: Sequence[SlowMember]) -> frozenset[int]:
    """Bytes that some member lacks; none where all have the same tokens.

    Every member must have all bytes with which a character may go on.
    """
    if len({member.vocabulary.text_by_id for member in members}) == 1:
        return frozenset()
    return frozenset[int]().union(*(member.vocabulary.missing_bytes for member in members))


@dataclass
class SlowStep:
    unit: Unit
    probs: dict[Unit, float]
    fused: bool
    views: tuple[float, ...] = ()  # what each member gave the unit, where it is told


def slow_ensemble(
    members: Sequence[SlowMember],
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    threshold: float = math.inf,
    primary: int = 0,
    reencode: bool = True,
    seed: int | None = None,
    temperature: float = 1.0,
    fusion: str = "mean",
    weighting: str = "fixed",
    temper: float = 1.0,
    defers: Callable[[Sequence[int]], bool] | None = None,
) -> list[SlowStep]:
    """GaC over members with different tokenizers, at every step or only below the threshold.

    `defers` takes the threshold's place: whether all are asked behind these ids of the primary.
    """
    banned = banned_bytes(members)
    ids = [list(prompt) for prompt in prompts]
    answers = [b"" for _ in members]
    foreign = [False] * len(members)
    steps: list[SlowStep] = []
    order = _canonical_order(members, primary)
    while len(steps) < max_new_tokens:
        by_id = [m.by_id(i, banned) for m, i in zip(members, ids, strict=True)]
        views = [m.by_unit(probs) for m, probs in zip(members, by_id, strict=True)]
        alone = max(by_id[primary].values()) > threshold
        if defers is not None:
            alone = not defers(ids[primary])
        own_token = -1
        if alone:
            probs = views[primary]
            own_order = {token: token for token in by_id[primary]}
            own_token = choose(by_id[primary], own_order, seed, len(steps), temperature)
            unit = members[primary].unit(own_token)
        else:
            evidence = slow_evidence(weighting, members, views, prompts, ids, banned)
            powers = [m.weight * e**temper for m, e in zip(members, evidence, strict=True)]
            weighted = [(p / sum(powers), v) for p, v in zip(powers, views, strict=True)]
            match fusion:
                case "mean":
                    probs = slow_mean(weighted)
                case "geometric":
                    probs = slow_geometric(weighted, members)
                case "unite":
                    probs = slow_unite(weighted, members)
                case "core":
                    probs = slow_core(weighted, primary, order)
            unit = choose(probs, order, seed, len(steps), temperature)
        steps.append(SlowStep(unit, probs, not alone))
        if unit is END:
            break
        for m, member in enumerate(members):
            own_choice = max(views[m], key=lambda u: (views[m][u], -order[u]))
            foreign[m] |= (m != primary) if alone else (own_choice != unit)
            answers[m] += unit
            if reencode and foreign[m]:
                ids[m] = [*prompts[m], *member.tokenizer.encode_open(answers[m])]
            elif alone and m == primary:
                ids[m] += [own_token]
            else:
                own = member.vocabulary.ids_by_bytes.get(unit)
                ids[m] += member.tokenizer.encode(unit) if own is None else [own]
    return steps


Weighted = Sequence[tuple[float, dict[Unit, float]]]


def slow_mean(views: Weighted) -> dict[Unit, float]:
    probs: dict[Unit, float] = {}
    for weight, view in views:
        for u, prob in view.items():
            probs[u] = probs.get(u, 0.0) + weight * prob
    return probs


def slow_value(unit: Unit, view: dict[Unit, float], member: SlowMember) -> float:
    """Of a unit, or of the first piece a member would spell it with."""
    if unit in view:
        return view[unit]
    return view[member.unit(member.tokenizer.encode(unit or b"")[0])]


def slow_geometric(views: Weighted, members: Sequence[SlowMember]) -> dict[Unit, float]:
    products = {
        u: math.prod(
            slow_value(u, view, member) ** weight
            for (weight, view), member in zip(views, members, strict=True)
        )
        for u in {u for _, view in views for u in view}
    }
    total = sum(products.values())
    return {u: product / total for u, product in products.items()}


def slow_unite(views: Weighted, members: Sequence[SlowMember], k: int = 10) -> dict[Unit, float]:
    best = {u for _, view in views for u in sorted(view, key=view.__getitem__)[-k:]}
    fused = dict.fromkeys(best, 0.0)
    for (weight, view), member in zip(views, members, strict=True):
        values = {u: slow_value(u, view, member) for u in best}
        for u, value in values.items():
            fused[u] += weight * value / sum(values.values())
    return fused


def slow_core(
    views: Sequence[tuple[float, dict[Key, float]]],
    primary: int,
    order: dict[Key, int],
    beta: float = 2.0,
    unit: Callable[[Key], Unit] = lambda key: key,  # type: ignore[assignment,return-value]
) -> dict[Key, float]:
    """CoRE over units, or over rows of which `unit` gives the bytes."""
    units = {u for _, view in views for u in view}
    middle: dict[Key, float] = {u: sum(w * view.get(u, 0.0) for w, view in views) for u in units}
    near: list[dict[Key, float]] = []
    trust: list[float] = []
    for weight, view in views:
        scale = {
            u: (math.exp(-beta * abs(view.get(u, 0.0) - middle[u])) - math.exp(-beta))
            / (1 - math.exp(-beta))
            for u in units
        }
        entropy = max(_EPS, -sum(p * math.log(p) for p in view.values() if p > 0))
        trust.append(weight * sum(scale.values()) / entropy)
        average = max(_TINY, sum(scale[u] for u in view) / len(view))
        near.append({u: scale[u] / average for u in view})
    trust[primary] = max(trust[primary], sum(trust) - trust[primary])
    fused: dict[Key, float] = {}
    for m, scale, (_, view) in zip(trust, near, views, strict=True):
        for u in view:
            fused[u] = fused.get(u, 0.0) + m * scale[u] * view[u]
    total = sum(fused.values())
    fused = {u: value / total for u, value in fused.items()}
    winner = max(fused, key=lambda u: (fused[u], -order[u]))
    own = views[primary][1]
    favourite = max(own, key=lambda u: (own[u], -order[u]))
    one, other = unit(winner), unit(favourite)
    if one is not END and other is not END:
        shorter, longer = sorted((one, other), key=len)
        if longer.startswith(shorter):
            fused[winner], fused[favourite] = fused[favourite], fused[winner]
    return fused


def slow_evidence(
    weighting: str,
    members: Sequence[SlowMember],
    views: Sequence[Mapping[Any, float]],
    prompts: Sequence[Sequence[int]],
    ids: Sequence[Sequence[int]],
    banned: frozenset[int],
) -> list[float]:
    """What a member's weight is multiplied with: of the prompt, the text, or the next unit."""
    match weighting:
        case "prompt":
            perplexities = []
            for member, prompt in zip(members, prompts, strict=True):
                logs = [member.log_prob(prompt[:n], prompt[n]) for n in range(1, len(prompt))]
                perplexities.append(math.exp(-sum(logs) / max(1, len(logs))))
            return [1 / perplexity for perplexity in perplexities]
        case "posterior":
            return [
                math.prod(
                    member.by_id(own[:n], banned)[own[n]] for n in range(len(prompt), len(own))
                )
                for member, prompt, own in zip(members, prompts, ids, strict=True)
            ]
        case "entropy":
            return [
                1 / max(_EPS, -sum(p * math.log(p) for p in view.values() if p > 0))
                for view in views
            ]
        case _:
            return [1.0 for _ in members]


def _canonical_order(members: Sequence[SlowMember], primary: int) -> dict[Unit, int]:
    """The primary's units by id, END at its smallest end id, then all others by bytes."""
    vocabulary = members[primary].vocabulary
    order: dict[Unit, int] = dict[Unit, int](list(vocabulary.ids_by_bytes.items()))
    order[END] = min(vocabulary.end_ids)
    others = {u for m in members for u in m.vocabulary.ids_by_bytes} - order.keys()
    for n, unit in enumerate(sorted(u for u in others if u is not None)):
        order[unit] = len(vocabulary) + n
    return order


def choose(
    probs: dict[Key, float],
    order: dict[Key, int],
    seed: int | None,
    position: int,
    temperature: float,
) -> Key:
    if seed is None:
        return max(probs, key=lambda u: (probs[u], -order[u]))
    powers = {u: p ** (1 / temperature) for u, p in probs.items()}
    target = uniform_at(seed, position) * sum(powers.values())
    passed = 0.0
    ordered = sorted(powers, key=order.__getitem__)
    for unit in ordered:
        passed += powers[unit]
        if passed > target:
            return unit
    return ordered[-1]


# ---------------------------------------------------------------- bytes

_MOST_BACK = 6  # tokens at the end of a text that one longer token may begin with


@dataclass
class SlowPath:
    """Tokens that lie within the answer, the bytes of it behind them, and what may come next."""

    ids: list[int]
    pending: bytes
    mass: float
    nexts: dict[Unit, float] | None = None  # None until it is asked

    def going_on(self) -> dict[Unit, float]:
        """The tokens that reach beyond the answer, each with its part of the mass."""
        assert self.nexts is not None
        units = {u: p for u, p in self.nexts.items() if _reaches_beyond(u, self.pending)}
        total = sum(units.values())
        return {u: self.mass * p / total for u, p in units.items()} if total > 0 else {}


def _reaches_beyond(unit: Unit, pending: bytes) -> bool:
    if unit is END:
        return pending == b""
    return unit.startswith(pending) and unit != pending


def slow_encodings(
    member: SlowMember, answer: bytes, chance: Callable[[Sequence[int], int], float]
) -> list[tuple[list[int], bytes, float]]:
    """How a member itself would cover an answer, and the last tokens replaced by a longer one.

    For each way its whole tokens, the bytes with which the next one begins, and the probability of
    the tokens in which the ways differ; `chance` is that of a token behind others.
    """
    tokens = member.vocabulary
    own = member.tokenizer.encode_open(answer)
    encodings = [(own, b"")]
    if answer.endswith(b" "):  # the last blank may begin the next word
        encodings.append((member.tokenizer.encode_open(answer[:-1]), b" "))
    tails = [b"".join(tokens.token_bytes[i] for i in own[at:]) for at in range(len(own) + 1)]
    base = min(
        at
        for at in range(max(0, len(own) - _MOST_BACK), len(own) + 1)
        if at == len(own) or any(_reaches_beyond(u, tails[at]) for u in tokens.ids_by_bytes)
    )
    for ids, _ in encodings[1:]:
        same = [n for n in range(min(len(own), len(ids)) + 1) if own[:n] == ids[:n]]
        base = min(base, same[-1])
    found = []
    for ids, pending in encodings:
        chain = 1.0
        for at in range(base, len(ids) + 1):
            tail = b"".join(tokens.token_bytes[i] for i in ids[at:]) + pending
            if at == len(ids) or not pending:
                found.append((ids[:at], tail, chain))
            if at < len(ids):
                chain *= chance(ids[:at], ids[at])
    return found


def slow_asked(member: SlowMember, answer: bytes) -> list[int]:
    """The last encoding of an answer that is asked about."""
    return member.tokenizer.encode_open(answer.removesuffix(b" "))


class SlowBytes:
    """One member of `slow_bytes`; `asked` are the ids of the answer after which it was asked."""

    def __init__(
        self,
        member: SlowMember,
        prompt: Sequence[int],
        paths: int,
        banned: frozenset[int],
        *,
        leading_space: bool,
        allowed: Callable[[bytes], set[Unit]] | None = None,
    ) -> None:
        self.member, self.prompt, self.most, self.banned = member, list(prompt), paths, banned
        self.answer = self.hidden = b""
        self.allowed = allowed
        self.begun_anew = False
        self.paths = [SlowPath([], b"", 1.0)]
        self.ask()
        if leading_space:
            (first,) = self.paths
            assert first.nexts is not None
            self.answer = self.hidden = b" "
            early, late = dict[Unit, float](), dict[Unit, float]()  # as tokens are sorted
            for unit, prob in first.nexts.items():
                if unit is END or not unit.startswith(b" "):
                    (early if unit is END or unit < b" " else late)[unit] = prob
            plain = [SlowPath([], b"", sum(part.values()), part) for part in (early, late)]
            self.keep([*self.behind(first, b" "), *plain])

    def after(self, ids: Sequence[int]) -> dict[Unit, float]:
        return self.member.by_unit(self.member.by_id([*self.prompt, *ids], self.banned))

    def ask(self) -> None:
        """Ask what comes after the paths that are new."""
        self.begun_anew = False
        new = [path for path in self.paths if path.nexts is None]
        if new:
            self.asked = new[0].ids
        for path in new:
            path.nexts = self.after(path.ids)

    def view(self) -> dict[Unit, float]:
        """The probability of each next byte."""
        self.ask()
        view: dict[Unit, float] = {}
        for path in self.paths:
            for unit, prob in path.going_on().items():
                place = len(path.pending)
                byte = END if unit is END else unit[place : place + 1]
                view[byte] = view.get(byte, 0.0) + prob
        return view

    def behind(self, path: SlowPath, byte: bytes) -> list[SlowPath]:
        pending = path.pending + byte
        units = path.going_on()
        longer = {u: p for u, p in units.items() if u is not END and _reaches_beyond(u, pending)}
        found = [SlowPath(path.ids, pending, sum(longer.values()), path.nexts)]
        if units.get(pending, 0.0) > 0:
            ids = [*path.ids, self.member.vocabulary.ids_by_bytes[pending]]
            found.append(SlowPath(ids, b"", units[pending]))
        return found

    def advance(self, byte: bytes) -> None:
        self.answer += byte
        self.keep([after for path in self.paths for after in self.behind(path, byte)])

    def keep(self, paths: list[SlowPath]) -> None:
        paths = [path for path in paths if path.mass > 0 and self.goes_on(path)]
        paths = sorted(paths, key=lambda p: (-p.mass, len(p.pending), p.ids))[: self.most]
        if not paths:  # the others wrote what this member can not
            self.begin_anew()
            return
        total = sum(path.mass for path in paths)
        self.paths = [SlowPath(p.ids, p.pending, p.mass / total, p.nexts) for p in paths]

    def goes_on(self, path: SlowPath) -> bool:
        if self.allowed is None or path.nexts is None or not path.pending:
            return True
        place = len(path.pending)
        nexts = {u[place : place + 1] for u in path.going_on() if u is not END}
        return not nexts.isdisjoint(self.allowed(self.answer.removeprefix(self.hidden)))

    def begin_anew(self) -> None:
        """From its own encodings of the answer: complete, or with a longer last token."""
        found = []
        for ids, tail, chain in slow_encodings(self.member, self.answer, self.chance):
            nexts = self.after(ids)
            longer = sum(p for u, p in nexts.items() if not tail or _reaches_beyond(u, tail))
            found.append(SlowPath(ids, tail, chain * longer, nexts))
        self.asked = slow_asked(self.member, self.answer)
        complete = next(path for path in found if not path.pending)
        self.paths = [SlowPath(complete.ids, b"", 1.0, complete.nexts)]
        if any(path.mass > 0 and self.goes_on(path) for path in found):
            self.keep(found)
        self.begun_anew = True

    def chance(self, ids: Sequence[int], token: int) -> float:
        return self.member.by_id([*self.prompt, *ids], self.banned)[token]

    @property
    def ends_token(self) -> bool:
        return self.begun_anew or self.paths[0].nexts is None


def slow_bytes(
    members: Sequence[SlowMember],
    prompts: Sequence[Sequence[int]],
    *,
    paths: int,
    max_new_tokens: int,
    primary: int = 0,
    spaced: Sequence[bool] | None = None,
    seed: int | None = None,
    temperature: float = 1.0,
    fusion: str = "mean",
    weighting: str = "fixed",
    choices: Sequence[str] = (),
) -> list[SlowStep]:
    """All members, byte by byte; `spaced` says who opens answers with a space."""
    banned = banned_bytes(members)
    spaced = spaced or [False for _ in members]
    texts = [choice.encode() for choice in choices]

    def allowed(answer: bytes) -> set[Unit]:
        going_on = [text for text in texts if text.startswith(answer)]
        return {text[len(answer) :][:1] or END for text in going_on}

    states = [
        SlowBytes(
            member,
            prompt,
            paths,
            banned,
            leading_space=space,
            allowed=allowed if texts else None,
        )
        for member, prompt, space in zip(members, prompts, spaced, strict=True)
    ]
    order: dict[Unit, int] = {bytes([b]): b for b in range(256)} | {END: 256}
    steps: list[SlowStep] = []
    answer = b""
    while len(steps) < max_new_tokens:
        unit, chance, chances = b"", 1.0, [1.0 for _ in members]
        while True:
            views = [state.view() for state in states]
            asked = [[*p, *state.asked] for p, state in zip(prompts, states, strict=True)]
            evidence = slow_evidence(weighting, members, views, prompts, asked, banned)
            powers = [m.weight * e for m, e in zip(members, evidence, strict=True)]
            weighted = [(p / sum(powers), v) for p, v in zip(powers, views, strict=True)]
            probs = slow_fused_bytes(fusion, weighted, primary, order, allowed, answer, texts)
            may = {u: p for u, p in probs.items() if not texts or u in allowed(answer)}
            if sum(may.values()) > 0:
                byte = choose(may, order, seed, len(answer), temperature)
            else:
                byte = min((t for t in texts if t.startswith(answer)), key=len)[len(answer) :][:1]
                byte = byte or END
            if byte is END:
                break
            chance *= probs.get(byte, 0.0)
            chances = [c * v.get(byte, 0.0) for c, v in zip(chances, views, strict=True)]
            unit, answer = unit + byte, answer + byte
            for state in states:
                state.advance(byte)
            longer = any(_reaches_beyond(u, unit) for u in members[primary].vocabulary.ids_by_bytes)
            if states[primary].ends_token or not longer:
                break
        if unit:
            steps.append(SlowStep(unit, {unit: chance}, True, tuple(chances)))
        if byte is END and len(steps) < max_new_tokens:
            ends = tuple(view.get(END, 0.0) for view in views)
            steps.append(SlowStep(END, {END: probs.get(END, 0.0)}, True, ends))
        if byte is END:
            break
    return steps


def slow_fused_bytes(
    fusion: str,
    weighted: Weighted,
    primary: int,
    order: dict[Unit, int],
    allowed: Callable[[bytes], set[Unit]],
    answer: bytes,
    texts: Sequence[bytes],
) -> dict[Unit, float]:
    """One distribution over bytes; 0 stands for what a member can not go on with."""
    match fusion:
        case "mean":
            return slow_mean(weighted)
        case "power":
            units = {u for _, view in weighted for u in view}
            powers = {u: sum(w * v.get(u, 0.0) ** 0.25 for w, v in weighted) ** 4 for u in units}
            total = sum(powers.values())
            return {u: p / total for u, p in powers.items()}
        case "core":
            return slow_core(
                [(w, {u: p for u, p in view.items() if p > 0}) for w, view in weighted],
                primary,
                order,
            )
        case "geometric":
            products = {
                u: math.exp(sum(w * math.log(max(view.get(u, 0.0), _TINY)) for w, view in weighted))
                for u in {u for _, view in weighted for u in view if view[u] > 0}
            }
            total = sum(products.values())
            return {u: p / total for u, p in products.items()}
        case _:
            may = allowed(answer) if texts else set(order)
            best = {
                u
                for _, view in weighted
                for u in sorted(
                    (u for u in view if view[u] > 0 and u in may), key=view.__getitem__
                )[-10:]
            }
            fused = dict.fromkeys(best, 0.0)
            for weight, view in weighted:
                total = sum(view.get(u, 0.0) for u in best)
                for u in best:
                    fused[u] += weight * view.get(u, 0.0) / (total or 1.0)
            total = sum(fused.values())
            return {u: p / (total or 1.0) for u, p in fused.items()}


def chance_of_text(
    member: SlowMember, ids: list[int], text: bytes, banned: frozenset[int] = frozenset()
) -> float:
    """That an answer behind these ids begins with the text: over all ways to cut it into tokens."""
    if not text:
        return 1.0
    chance = 0.0
    for token, prob in member.by_id(ids, banned).items():
        unit = member.unit(token)
        if unit is not END and unit.startswith(text):
            chance += prob
        elif unit is not END and text.startswith(unit):
            chance += prob * chance_of_text(member, [*ids, token], text[len(unit) :], banned)
    return chance


# ------------------------------------------------ twist


@dataclass
class SlowBeam:
    tokens: list[int]
    text: bytes
    score: float
    is_ended: bool

    @property
    def mean(self) -> float:
        return self.score / len(self.tokens)


def slow_twist(
    members: Sequence[SlowMember],
    prompts: Sequence[Sequence[int]],
    *,
    primary: int,
    beams: int,
    rounds: int,
    guidance: float,
    max_new_tokens: int,
    spaced: Sequence[bool],
) -> list[int]:
    """Twist decoding; the primary's tokens. `spaced` says who opens answers with a space."""
    banned = banned_bytes(members)
    others = [m for m in range(len(members)) if m != primary]
    others.sort(key=lambda m: members[m].weight)
    turns = [primary] if not others else [m for _ in range(rounds) for m in [*others, primary]]
    found: list[SlowBeam] = []
    for m in turns:
        found = _slow_search(
            members[m], prompts[m], found, beams, guidance, max_new_tokens, banned, spaced[m]
        )
    return found[0].tokens


def _slow_search(
    member: SlowMember,
    prompt: Sequence[int],
    guides: list[SlowBeam],
    width: int,
    guidance: float,
    max_new_tokens: int,
    banned: frozenset[int],
    spaced: bool,
) -> list[SlowBeam]:
    live, done = [SlowBeam([], b"", 0.0, False)], list[SlowBeam]()
    for length in range(1, max_new_tokens + 1):
        longer = []
        for beam in live:
            opens = spaced and length == 1
            for token, prob in member.by_id([*prompt, *beam.tokens], banned).items():
                unit = member.unit(token)
                near = any(slow_is_near(unit, len(beam.text), guide, opens) for guide in guides)
                core = b"" if unit is END else unit.removeprefix(b" ") if opens else unit
                score = beam.score + math.log(prob) + guidance * near
                tokens = [*beam.tokens, token]
                longer.append(SlowBeam(tokens, beam.text + core, score, unit is END))
        longer.sort(key=lambda beam: beam.score, reverse=True)
        last = length == max_new_tokens
        done += [beam for beam in longer[:width] if beam.is_ended or last]
        done = sorted(done, key=lambda beam: beam.mean, reverse=True)[:width]
        live = [beam for beam in longer if not beam.is_ended][:width]
        if len(done) == width and live[0].mean <= done[-1].mean:
            break
    return done


def slow_is_near(unit: Unit, offset: int, guide: SlowBeam, opens: bool) -> bool:
    if unit is END:
        return guide.is_ended and len(guide.text) == offset
    return any(
        text[start : start + len(unit)] == unit
        for text in ([guide.text, b" " + guide.text] if opens else [guide.text])
        for start in range(max(0, offset - 2), offset + 3)
    )


# ---------------------------------------------------------------- SAFE


@dataclass
class SlowText:
    """What one member has read."""

    member: SlowMember
    prompt: list[int]
    reencode: bool
    answer: bytes = b""
    own_ids: tuple[int, ...] = ()
    is_foreign: bool = False

    def tell(self, unit: bytes, token: int | None, *, is_foreign: bool) -> "SlowText":
        foreign, answer = self.is_foreign or is_foreign, self.answer + unit
        if self.reencode and foreign:
            ids = tuple(self.member.tokenizer.encode_open(answer))
        else:
            known = self.member.vocabulary.ids_by_bytes.get(unit) if token is None else token
            more = self.member.tokenizer.encode(unit) if known is None else [known]
            ids = (*self.own_ids, *more)
        return SlowText(self.member, self.prompt, self.reencode, answer, ids, foreign)

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *self.own_ids]

    def before(self, length: int) -> list[int] | None:
        """Its ids for a beginning of the answer, if no token crosses the end of that."""
        done = 0
        for count in range(len(self.own_ids) + 1):
            if done == length:
                return [*self.prompt, *self.own_ids[:count]]
            if count < len(self.own_ids):
                done += len(self.member.vocabulary.token_bytes[self.own_ids[count]])
        return None


def slow_safe(
    members: Sequence[SlowMember],
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    block: int,
    sharpen: str,
    threshold: float = math.inf,
    primary: int = 0,
    reencode: bool = True,
    seed: int | None = None,
    temperature: float = 1.0,
) -> list[SlowStep]:
    banned = banned_bytes(members)
    texts = [SlowText(m, list(p), reencode) for m, p in zip(members, prompts, strict=True)]
    order = _canonical_order(members, primary)
    verifiers = [m for m in range(len(members)) if m != primary]
    steps: list[SlowStep] = []

    def told(before: list[SlowText], unit: bytes, token: int | None, tops: dict[int, Unit]):  # type: ignore[no-untyped-def]
        return [
            text.tell(
                unit,
                token if m == primary else None,
                is_foreign=tops[m] != unit if tops else m != primary,
            )
            for m, text in enumerate(before)
        ]

    while len(steps) < max_new_tokens and (not steps or steps[-1].unit is not END):
        future = texts
        draft: list[tuple[dict[int, float], int, Unit]] = []
        while len(draft) < min(block, max_new_tokens - len(steps)):
            by_id = members[primary].by_id(future[primary].ids, banned)
            own_order = {token: token for token in by_id}
            token = choose(by_id, own_order, seed, len(steps) + len(draft), temperature)
            unit = members[primary].unit(token)
            draft.append((by_id, token, unit))
            if unit is END:
                break
            future = told(future, unit, token, {})
        for by_id, token, unit in draft:
            own = members[primary].by_unit(by_id)
            here = {m: future[m].before(len(texts[m].answer)) for m in verifiers}
            asked = {m: ids for m, ids in here.items() if ids is not None}
            if verifiers and len(asked) == len(verifiers):
                views = {
                    m: members[m].by_unit(members[m].by_id(ids, banned)) for m, ids in asked.items()
                }
                views[primary] = own
                fused = slow_mean([(members[m].weight, views[m]) for m in sorted(views)])
                if max(fused.values()) < 0.5 and sharpen == "geometric":
                    fused = slow_geometric(
                        [(members[m].weight, views[m]) for m in sorted(views)],
                        [members[m] for m in sorted(views)],
                    )
                elif max(fused.values()) < 0.5 and sharpen == "prefix":
                    fused = slow_gathered(fused, [u for u, p in own.items() if p > 0.1])
                if seed is None:
                    aligned = {primary: by_id[token]}
                    agree = True
                    for m in verifiers:
                        count = len(asked[m]) - len(prompts[m])
                        mine = END if unit is END else members[m].unit(future[m].own_ids[count])
                        aligned[m] = views[m][mine]
                        agree &= max(views[m].values()) == views[m][mine]
                    mean = sum(members[m].weight * p for m, p in aligned.items())
                    keep = agree or mean > 0.5 or max(by_id.values()) > threshold
                    rest = fused
                else:
                    ens = _tempered(fused, temperature)
                    dra = members[primary].by_unit(_tempered(by_id, temperature))
                    u = uniform_at(seed, len(steps), 1)
                    keep = u * dra[unit] < ens.get(unit, 0.0) or max(by_id.values()) > threshold
                    rest = {v: max(0.0, p - dra.get(v, 0.0)) for v, p in ens.items()}
                if not keep:
                    if seed is None:
                        unit = choose(fused, order, None, 0, 1.0)
                    else:
                        unit = _drawn_with(rest, order, uniform_at(seed, len(steps), 2))
                    steps.append(SlowStep(unit, fused, True))
                    if unit is not END:
                        tops = {
                            m: max(view, key=lambda v: (view[v], -order[v]))
                            for m, view in views.items()
                        }
                        texts = told(texts, unit, None, tops)
                    break
            steps.append(SlowStep(unit, own, False))
            if unit is not END:
                texts = told(texts, unit, token, {})
    return steps


def slow_gathered(probs: dict[Unit, float], likely: Sequence[Unit]) -> dict[Unit, float]:
    gathered: dict[Unit, float] = {}
    for unit, prob in probs.items():
        heads = [v for v in likely if v is not END and unit is not END and unit.startswith(v)]
        into = unit if unit in likely or not heads else max(heads, key=len)
        gathered[into] = gathered.get(into, 0.0) + prob
    return gathered


def _tempered(probs: dict[Key, float], temperature: float) -> dict[Key, float]:
    powers = {u: p ** (1 / temperature) for u, p in probs.items()}
    total = sum(powers.values())
    return {u: p / total for u, p in powers.items()}


def _drawn_with(probs: dict[Key, float], order: dict[Key, int], uniform: float) -> Key:
    passed, target = 0.0, uniform * sum(probs.values())
    ordered = sorted(probs, key=order.__getitem__)
    for unit in ordered:
        passed += probs[unit]
        if passed > target:
            return unit
    return ordered[-1]
