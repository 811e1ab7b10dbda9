"""The space of scored tokens against its slow twin, and at its edges."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from gac_core import Ensemble
from gac_core.testing import make_ensemble
from tests.fakes import FAMILIES, pair, scripted
from tests.reference_scored import slow_scored
from tests.twins import WEIGHTS, assert_equal_to_twin

CHAT = [{"role": "user", "content": "Hello"}]


@pytest.mark.slow
@settings(max_examples=25)
@given(
    st.sampled_from(list(itertools.permutations(FAMILIES, 3))),
    st.integers(2, 3),
    st.sampled_from([None, None, 1, 7]),
    st.sampled_from([0.7, 1.0]),
    st.sampled_from(["Hello", "The capital of", "a = 12\n\t", CHAT]),
    st.sampled_from(["fixed", "entropy", "prompt", "posterior"]),
    st.sampled_from(["mean", "power", "geometric", "unite", "core"]),
    st.sampled_from([0, -1]),
    st.sampled_from([0.25, 1.0]),
    st.sampled_from([0.0, 0.2]),
)
def test_equal_to_the_slow_twin(
    families: tuple[str, ...],
    number: int,
    seed: int | None,
    temperature: float,
    prompt: Any,
    weighting: str,
    fusion: str,
    primary: int,
    spread: float,
    threshold: float,
) -> None:
    """At every step, and only where the primary is unsure; with members sure and unsure."""
    options: dict[str, Any] = {
        "weighting": weighting,
        "fusion": fusion,
        "primary": primary % number,
    }
    gate: dict[str, Any] = {"threshold": threshold} if threshold else {}
    cascade: dict[str, Any] = {"method": "cascade", **gate} if gate else {}

    with make_ensemble(
        families[:number],
        pair=lambda family, seed: pair(family, seed, spread=spread),
        weights=WEIGHTS[:number],
        space="scored",
        **cascade,
        **options,
    ) as ensemble:
        assert_equal_to_twin(
            ensemble,
            prompt,
            slow_scored,
            spaced=[m.leading_space for m in ensemble.members],
            transcripts=[m.reads_transcript and prompt is CHAT for m in ensemble.members],
            is_chat=prompt is CHAT,
            seed=seed,
            temperature=temperature,
            tolerance=1e-6,
            **gate,
            **options,
        )


def test_what_is_agreed_in_part_leaves_the_primarys_own_token_in() -> None:
    """All agree on "a" only, so the most probable token that begins with it is chosen."""
    a = scripted("byte_level", 1, [{"an": 0.72, "al": 0.2, ".": 0.08}])
    b = scripted("chatml", 1, [{"an": 0.3, "al": 0.2, "ac": 0.2, ".": 0.3}])
    with Ensemble.from_models([a, b], names=["a", "b"], space="scored") as ensemble:
        (step,) = ensemble.generate("Hello", max_new_tokens=1, logprobs=True).steps
    assert step.unit == step.top[0][0] == b"an"
