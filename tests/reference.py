"""Slow, obvious twins of the methods: dictionaries from bytes to probability, no cache, no batch.

They share nothing with the fast ones but the members' vocabularies and spellers and the uniform
number of a step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from gac_core.sampling import uniform_at
from gac_core.speller import Speller
from gac_core.vocabulary import NEVER_IN_TEXT, Kind, Vocabulary

END = None
Unit = bytes | None
Key = TypeVar("Key")


@dataclass
class SlowMember:
    model: PreTrainedModel
    speller: Speller
    weight: float

    @property
    def vocabulary(self) -> Vocabulary:
        return self.speller.vocabulary

    def by_id(self, ids: Sequence[int], banned: frozenset[int]) -> dict[int, float]:
        """The probability of each id that may be chosen, by a plain forward."""
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([list(ids)])).logits[0, -1].tolist()
        tokens, kinds = self.vocabulary.token_bytes, self.vocabulary.kinds
        exps = {
            i: math.exp(logits[i])
            for i in range(len(logits))
            if kinds[i] is Kind.END or (kinds[i] is Kind.TEXT and banned.isdisjoint(tokens[i]))
        }
        total = sum(exps.values())
        return {i: value / total for i, value in exps.items()}

    def unit(self, token: int) -> Unit:
        is_text = self.vocabulary.kinds[token] is Kind.TEXT
        return self.vocabulary.token_bytes[token] if is_text else END

    def by_unit(self, probs: dict[int, float]) -> dict[Unit, float]:
        units: dict[Unit, float] = {}
        for token, prob in probs.items():
            units[self.unit(token)] = units.get(self.unit(token), 0.0) + prob
        return units


@dataclass
class SlowStep:
    unit: Unit
    probs: dict[Unit, float]
    fused: bool


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
) -> list[SlowStep]:
    """GaC over members with different tokenizers, at every step or only below the threshold."""
    banned = NEVER_IN_TEXT & frozenset().union(*(m.vocabulary.missing_bytes for m in members))
    ids = [list(prompt) for prompt in prompts]
    answers = [b"" for _ in members]
    foreign = [False] * len(members)
    steps: list[SlowStep] = []
    order = _canonical_order(members, primary)
    while len(steps) < max_new_tokens:
        by_id = [m.by_id(i, banned) for m, i in zip(members, ids, strict=True)]
        views = [m.by_unit(probs) for m, probs in zip(members, by_id, strict=True)]
        alone = max(by_id[primary].values()) > threshold
        own_token = -1
        if alone:
            probs = views[primary]
            own_order = {token: token for token in by_id[primary]}
            own_token = _choose(by_id[primary], own_order, seed, len(steps), temperature)
            unit = members[primary].unit(own_token)
        else:
            probs = FUSIONS[fusion]([(m.weight, v) for m, v in zip(members, views, strict=True)])
            unit = _choose(probs, order, seed, len(steps), temperature)
        steps.append(SlowStep(unit, probs, not alone))
        if unit is END:
            break
        for m, member in enumerate(members):
            own_choice = max(views[m], key=lambda u: (views[m][u], -order[u]))
            foreign[m] |= (m != primary) if alone else (own_choice != unit)
            answers[m] += unit
            if reencode and foreign[m]:
                ids[m] = [*prompts[m], *member.speller.encode(answers[m])]
            elif alone and m == primary:
                ids[m] += [own_token]
            else:
                own = member.vocabulary.ids_by_bytes.get(unit)
                ids[m] += member.speller.encode(unit) if own is None else [own]
    return steps


Weighted = Sequence[tuple[float, dict[Unit, float]]]


def slow_mean(views: Weighted) -> dict[Unit, float]:
    probs: dict[Unit, float] = {}
    for weight, view in views:
        for u, prob in view.items():
            probs[u] = probs.get(u, 0.0) + weight * prob
    return probs


def slow_geometric(views: Weighted) -> dict[Unit, float]:
    views = [(weight, view) for weight, view in views if weight > 0]
    products = {
        u: math.prod(view.get(u, min(view.values())) ** weight for weight, view in views)
        for u in {u for _, view in views for u in view}
    }
    total = sum(products.values())
    return {u: product / total for u, product in products.items()}


FUSIONS = {"mean": slow_mean, "geometric": slow_geometric}


def _canonical_order(members: Sequence[SlowMember], primary: int) -> dict[Unit, int]:
    """The primary's units by id, END at its smallest end id, then all others by bytes."""
    vocabulary = members[primary].vocabulary
    order: dict[Unit, int] = dict[Unit, int](list(vocabulary.ids_by_bytes.items()))
    order[END] = min(vocabulary.end_ids)
    others = {u for m in members for u in m.vocabulary.ids_by_bytes} - order.keys()
    for n, unit in enumerate(sorted(u for u in others if u is not None)):
        order[unit] = len(vocabulary) + n
    return order


def _choose(
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
