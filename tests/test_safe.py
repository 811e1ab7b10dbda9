"""SAFE against its slow twin, and what its paper proves."""

import copy
import itertools
import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from gac_core import ConfigError, Ensemble
from gac_core.chat.prompt import render_prompt
from gac_core.methods.safe import gather_longer
from gac_core.testing import assert_same, naively
from gac_core.tokens.union import UnionVocabulary
from tests.fakes import FAMILIES, byte_tokenizer_of, make, pair, scripted, tokenizer_of
from tests.reference import slow_gathered, slow_safe
from tests.twins import WEIGHTS, assert_equal_to_twin


@pytest.mark.slow
@settings(max_examples=50)
@given(
    st.sampled_from(list(itertools.permutations(FAMILIES, 3))),
    st.integers(2, 3),
    st.integers(1, 6),
    st.sampled_from(["geometric", "prefix", "none"]),
    st.sampled_from([None, 0.3]),
    st.sampled_from(["append", "reencode"]),
    st.sampled_from([None, 1, 7]),
    st.sampled_from([0.7, 1.0]),
    st.sampled_from(["Hello", "The capital of", "a = 12\n\t"]),
    st.integers(0, 1),
)
def test_equal_to_the_slow_twin(
    families: tuple[str, ...],
    count: int,
    block: int,
    sharpen: str,
    threshold: float | None,
    history: str,
    seed: int | None,
    temperature: float,
    prompt: str,
    primary: int,
) -> None:
    both: dict[str, Any] = {"primary": primary, "sharpen": sharpen, "block": block}
    method = {"method": "safe", "space": "tokens", "history": history, **both}
    method["threshold"] = threshold
    with make(families[:count], weights=WEIGHTS[:count], **method) as ensemble:
        assert_equal_to_twin(
            ensemble,
            prompt,
            slow_safe,
            max_new_tokens=14,
            threshold=math.inf if threshold is None else threshold,
            reencode=history == "reencode",
            seed=seed,
            temperature=temperature,
            **both,
        )


def neighbour(family: str, seed: int, noise: int) -> tuple[Any, Any]:
    """A member that mostly agrees with `pair(family, seed)`."""
    model, tokenizer = pair(family, seed)
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(noise)
    with torch.no_grad():
        for parameter in model.parameters():
            noise_here = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise_here, alpha=0.02)
    return model, tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(0, 1), (3, 4), (5, 9)])
@pytest.mark.parametrize("block", [1, 5, 8])
def test_what_it_skips_fusing_would_not_have_changed(seeds: tuple[int, int], block: int) -> None:
    """The agreement theorem, where tokens align: with one vocabulary it is GaC, for fewer steps."""
    members = [pair("chatml", seeds[0]), neighbour("chatml", seeds[0], seeds[1])]
    with Ensemble.from_models(members, method="every_step") as every_step:
        expected = [every_step.generate(p, max_new_tokens=40) for p in ("Hello", "a b", "The")]
    options: dict[str, Any] = {"block": block, "sharpen": "none"}
    with Ensemble.from_models(members, method="safe", **options) as safe:
        outputs = [safe.generate(p, max_new_tokens=40) for p in ("Hello", "a b", "The")]
    for output, want in zip(outputs, expected, strict=True):
        assert output.text == want.text
    assert sum(o.usage.fused_steps for o in outputs) < sum(o.usage.steps for o in outputs)


@pytest.mark.slow
def test_drawn_text_comes_from_the_ensemble() -> None:
    """Over many seeds, the first unit is distributed as the fused distribution says."""
    families = ["chatml", "chatml"]
    with make(families, method="every_step") as every_step:
        step = every_step.generate("Hello", max_new_tokens=1, logprobs=True, top_logprobs=5)
        expected = {unit: math.exp(logprob) for unit, logprob in step.steps[0].top}
    draws = 1500
    with make(families, method="safe") as safe:
        counts = dict.fromkeys(expected, 0)
        streams = [
            safe.stream("Hello", max_new_tokens=1, temperature=1.0, seed=seed)
            for seed in range(draws)
        ]
        for (first,) in streams:
            if first.unit in counts:
                counts[first.unit] += 1
    for unit, prob in expected.items():
        error = math.sqrt(prob * (1 - prob) / draws)
        assert abs(counts[unit] / draws - prob) < 4 * error


@given(st.integers(0, 10**6))
def test_longer_units_give_their_mass_to_what_they_begin_with(seed: int) -> None:
    union = UnionVocabulary([byte_tokenizer_of(f).vocabulary for f in ("chatml", "legacy")])
    rng = random.Random(seed)
    probs = torch.rand(union.size, dtype=torch.float64)
    probs = probs * torch.tensor([bool(union.unit(r)) for r in range(union.size)])
    rows = rng.sample(sorted(union.rows.values()), 6)
    found = gather_longer(probs, rows, union)
    by_unit: dict[bytes | None, float] = {
        union.unit(r): float(probs[r]) for r in union.rows.values()
    }
    expected = slow_gathered(by_unit, [union.unit(r) for r in rows])
    for unit, row in union.rows.items():
        assert float(found[row]) == pytest.approx(expected.get(unit, 0.0), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["unite", "core", "geometric"])
def test_any_host_rule(fusion: str) -> None:
    with make(["chatml", "legacy", "tiktoken"], method="safe", fusion=fusion) as ensemble:
        output = ensemble.generate("The capital of", max_new_tokens=24, seed=0)
        assert_same(output, naively(ensemble, "The capital of", max_new_tokens=24)[0])
        assert output.usage.fused_steps > 0


def test_a_space_that_only_opens_is_no_place() -> None:
    """Members whose templates open with a space: the first real token is verified in its place."""
    chat = [{"role": "user", "content": "Hello"}]
    tokenizer = tokenizer_of("legacy")
    length = len(render_prompt(tokenizer, chat))
    first = scripted("legacy", length, [{"▁": 1.0}, {"a": 0.6, "b": 0.4}, {"c": 1.0}])
    second = scripted("legacy", length, [{"▁": 1.0}, {"b": 0.99, "a": 0.01}, {"c": 1.0}])
    members = [first, second]
    texts = []
    for method in ("every_step", "safe"):
        with Ensemble.from_models(members, names=["a", "b"], method=method) as ensemble:
            texts.append(ensemble.generate(chat, max_new_tokens=3).text)
    assert texts == ["bc", "bc"]


def test_options_of_other_methods_are_refused() -> None:
    with pytest.raises(ConfigError, match="block needs method safe, not every_step"):
        make(["chatml"], block=3)
    with (
        make(["chatml", "legacy"], method="safe", fusion="unite") as ensemble,
        pytest.raises(ConfigError, match="method safe takes no temperature with fusion unite"),
    ):
        ensemble.generate("Hello", temperature=1.0)
    with pytest.raises(ConfigError, match="method safe takes weighting fixed, prompt or entropy"):
        make(["chatml"], method="safe", weighting="posterior")
