"""The laws every method must keep, as functions of a method's configuration.

`test_laws.py` runs them over every configuration in `METHODS` below; add one for a new method.
"""

import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from gac_core import ConfigError, Ensemble, Output, SamplingParams
from gac_core.chat.prompt import Prompt
from gac_core.config import PRESETS
from gac_core.decoding.request import Request
from gac_core.engine.naive import run_naively
from gac_core.tokens.vocabulary import TokenKind
from tests.fakes import pair, random_gate

METHODS: list[dict[str, Any]] = [
    {"method": "every_step", "history": "append"},
    {"method": "every_step", "history": "reencode"},
    {"method": "every_step", "history": "reencode", "fusion": "geometric"},
    {"method": "unite"},
    {"method": "core"},
    {"method": "packllm"},
    {"method": "posterior", "temper": 0.5},
    {"method": "entropy"},
    {"method": "safe"},
    {"method": "safe", "block": 3, "history": "append", "sharpen": "prefix"},
    {"method": "cascade", "threshold": 0.4, "history": "append"},
    {"method": "cascade", "threshold": 0.4, "history": "reencode"},
    {"method": "chared"},
    {"method": "chared", "paths": 4},
    {"method": "co_llm", "gate": random_gate()},
    {"method": "twist"},
]


def named(method: dict[str, Any]) -> str:
    """What a configuration is called in test ids."""
    return "-".join(str(value) for name, value in method.items() if name != "gate")


def is_rule(method: dict[str, Any]) -> bool:
    """Whether it is `every_step` with another rule or other weights."""
    return method["method"] in PRESETS or "fusion" in method


def draws(method: dict[str, Any]) -> bool:
    """Whether a method chooses step by step, so that it can draw and be held to a grammar."""
    return str(method["method"]) != "twist"


METHOD_IDS = [named(method) for method in METHODS]
DECODERS = [  # one for each way to write, and one rule that sees the grammar
    method for method in METHODS if not is_rule(method) or method["method"] == "unite"
]


def make(families: Sequence[str], seeds: Sequence[int] | None = None, **options: Any) -> Ensemble:
    """An ensemble of tiny random models."""
    seeds = seeds if seeds is not None else range(len(families))
    pairs = [pair(family, seed) for family, seed in zip(families, seeds, strict=True)]
    names = [f"{family}-{seed}" for family, seed in zip(families, seeds, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{name}-{index}" for index, name in enumerate(names)]
    return Ensemble.from_models(pairs, names=names, **options)


def naively(ensemble: Ensemble, prompt: Prompt, **sampling: Any) -> tuple[Output, Request]:
    """The same request on the naive driver."""
    parts = ensemble._loaded()
    ids = ensemble.prompt_ids(prompt)
    params = SamplingParams.of({"seed": 0, **sampling})
    request = Request(
        parts.settings,
        ids,
        params,
        is_chat=not isinstance(prompt, str),
        constraint=parts.constraint(params, ids),
    )
    return run_naively(parts.method, request), request


def assert_same(a: Output, b: Output) -> None:
    """The same text by the same steps, but for the last bits of the figures."""
    assert [s.unit for s in a.steps] == [s.unit for s in b.steps]
    assert [s.text for s in a.steps] == [s.text for s in b.steps]
    assert [s.decided_by for s in a.steps] == [s.decided_by for s in b.steps]
    assert (a.text, a.finish_reason, a.stop, a.usage) == (b.text, b.finish_reason, b.stop, b.usage)
    for one, other in zip(a.steps, b.steps, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-6)  # -inf where none wanted it
        for mine, its in zip(one.members, other.members, strict=True):
            assert (mine.name, mine.top) == (its.name, its.top)
            assert abs(mine.prob - its.prob) < 1e-6


def assert_nothing_held(ensemble: Ensemble) -> None:
    """No memory is held any more, soon after the last answer."""
    deadline = time.monotonic() + 20
    while any(member.scorer.held_rows for member in ensemble.members):
        assert time.monotonic() < deadline, "rows are still held"
        time.sleep(0.01)


def law_1_one_member_is_generate(family: str, method: dict[str, Any], prompt: str) -> None:
    model, _ = pair(family, 5)
    with make([family], [5], **method) as ensemble:
        (prompt_ids,) = ensemble.prompt_ids(prompt)
        vocabulary = ensemble.members[0].tokenizer.vocabulary
        masked = [
            i for i, k in enumerate(vocabulary.kinds) if k not in (TokenKind.TEXT, TokenKind.END)
        ]
        ids = torch.tensor([prompt_ids])
        generated = model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            pad_token_id=0,
            eos_token_id=sorted(vocabulary.end_ids),
            do_sample=False,
            max_new_tokens=40,
            suppress_tokens=masked or None,
        )[0, len(prompt_ids) :].tolist()
        output, request = naively(ensemble, prompt, max_new_tokens=40)
        text_ids = [i for i in generated if i not in vocabulary.end_ids]
        assert request.histories[0].ids[len(prompt_ids) :] == text_ids
        assert_same(ensemble.generate(prompt, max_new_tokens=40, seed=0), output)


def law_2_a_member_twice_is_that_member(
    family: str, method: dict[str, Any], prompt: Prompt, **sampling: Any
) -> None:
    with make([family], [3], **method) as alone:
        expected = alone.generate(prompt, **sampling).text
    with make([family, family], [3, 3], **method) as twice:
        assert twice.generate(prompt, **sampling).text == expected
    with make([family, "byte_level", "legacy"], [3, 4, 5], weights=[1, 0, 0], **method) as weighted:
        assert weighted.generate(prompt, **sampling).text == expected


def law_3_order_is_nothing(
    families: Sequence[str], method: dict[str, Any], prompt: Prompt, **sampling: Any
) -> None:
    count = len(families)
    weights = [1.0 + 0.5 * i for i in range(count)]
    with make(families, range(count), weights=weights, **method) as ensemble:
        expected = ensemble.generate(prompt, **sampling).text
    order = list(range(count))[::-1]
    with make(
        [families[i] for i in order],
        order,
        weights=[weights[i] for i in order],
        primary=order.index(0),
        **method,
    ) as ensemble:
        assert ensemble.generate(prompt, **sampling).text == expected


def assert_only_greedy(
    families: Sequence[str], method: dict[str, Any], prompt: Prompt, **sampling: Any
) -> None:
    """What stands in for a law where a method can not draw: it says so."""
    refusal = f"method {method['method']} takes no"
    with make(families, **method) as ensemble, pytest.raises(ConfigError, match=refusal):
        ensemble.generate(prompt, **sampling)


def law_7_thresholds(families: Sequence[str], history: str, prompt: Prompt) -> None:
    with make(families, method="cascade", threshold=0, history=history) as ensemble:
        never = ensemble.generate(prompt, max_new_tokens=30)
    with make(families[:1], [0]) as alone:
        assert never.text == alone.generate(prompt, max_new_tokens=30).text
    assert never.usage.fused_steps == 0
    with make(families, method="cascade", threshold=1.1, history=history) as ensemble:
        always = ensemble.generate(prompt, max_new_tokens=30)
    with make(families, method="every_step", history=history) as ensemble:
        assert_same(always, ensemble.generate(prompt, max_new_tokens=30))
