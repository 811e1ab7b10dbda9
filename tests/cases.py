"""The configurations that are held to the laws: the examples of every method's spec, and rules."""

from collections.abc import Sequence
from functools import cache
from itertools import combinations, product
from typing import Any

import pytest

from gac_core import ConfigError
from gac_core.chat.prompt import Prompt
from gac_core.method_specs import PRESETS
from gac_core.registry import METHODS
from gac_core.testing.laws import can_draw, configurations
from tests.fakes import make

RULES: list[dict[str, Any]] = [
    {"method": "every_step", "history": "reencode", "fusion": "geometric"},
    {"method": "unite"},
    {"method": "core"},
    {"method": "packllm"},
    {"method": "posterior", "temper": 0.5},
    {"method": "entropy"},
]
CONFIGURATIONS: list[dict[str, Any]] = [
    *(c for name in METHODS.builtin for c in configurations(METHODS.get(name))),
    *RULES,
]


def named(method: dict[str, Any]) -> str:
    """What a configuration is called in test ids."""
    return "-".join(str(value) for name, value in method.items() if name != "gate")


def is_rule(method: dict[str, Any]) -> bool:
    """Whether it is `every_step` with another rule or other weights."""
    return method["method"] in PRESETS or "fusion" in method


@cache
def _draws(name: str, gate: str | None) -> bool:
    return can_draw({"method": name} if gate is None else {"method": name, "gate": gate})


def draws(method: dict[str, Any]) -> bool:
    """Whether a method chooses step by step, so that it can draw and be held to a grammar."""
    return _draws(method["method"], method.get("gate"))


def assert_only_greedy(
    families: Sequence[str], method: dict[str, Any], prompt: Prompt, **sampling: Any
) -> None:
    """What stands in for a law where a method can not draw: it says so."""
    refusal = f"method {method['method']} takes no"
    with make(families, **method) as ensemble, pytest.raises(ConfigError, match=refusal):
        ensemble.generate(prompt, **sampling)


IDS = [named(method) for method in CONFIGURATIONS]
DECODERS = [  # one for each way to write, and one rule that sees the grammar
    method for method in CONFIGURATIONS if not is_rule(method) or method["method"] == "unite"
]


def matrix(strength: int = 2, **axes: Sequence[Any]) -> pytest.MarkDecorator:
    """All combinations of some axes; those beyond a covering array are marked `wide`.

    In the covering array every combination of values of any `strength` axes occurs (1: every
    value), so what takes two particular values to go wrong is found without the full product.
    What is in it, but beyond a choice in which every value occurs, is marked `slow`.
    """
    names, values = list(axes), list(axes.values())
    cases = list(product(*map(range, map(len, values))))
    covering = _covering(cases, min(strength, len(names)))
    quick = set(_covering(covering, 1))

    def param(case: tuple[int, ...]) -> Any:
        chosen = [own[i] for own, i in zip(values, case, strict=True)]
        marks = () if case in quick else pytest.mark.slow if case in covering else pytest.mark.wide
        return pytest.param(*chosen, id="-".join(map(_shown, chosen)), marks=marks)

    return pytest.mark.parametrize(names, [param(case) for case in cases])


def _covering(cases: Sequence[tuple[int, ...]], strength: int) -> list[tuple[int, ...]]:
    """A small choice of the cases, found greedily, in which all combinations occur."""

    def parts(case: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return set(combinations(enumerate(case), strength))

    missing = set().union(*map(parts, cases))
    # By turns: neighbouring values of one axis meet different values of the others.
    order = sorted(cases, key=lambda case: (sum(case) % max(len(case), 2), case))
    kept = []
    while missing:
        best = max(order, key=lambda case: len(parts(case) & missing))
        kept.append(best)
        missing -= parts(best)
    return kept


def _shown(value: Any) -> str:
    match value:
        case {"method": _}:
            return named(value)
        case str() | int() | float() | None:
            return str(value)
        case [{"role": _}, *_]:
            return "chat"
        case list() if not value:
            return "none"
        case tuple():
            return "+".join(map(str, value))
        case {}:
            return "+".join(map(str, value)) or "greedy"
        case _:
            return type(value).__name__
