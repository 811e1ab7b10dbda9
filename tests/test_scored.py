"""The space of scored tokens against its slow twin, and at its edges."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from gac_core.testing import make_ensemble
from tests.fakes import FAMILIES, pair
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
