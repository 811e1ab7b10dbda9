"""Holding an ensemble to its slow twin in `reference.py`."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gac_core import Ensemble, Output
from gac_core.chat.prompt import Prompt
from tests.fakes import model_of
from tests.reference import SlowMember, SlowStep

WEIGHTS = (0.5, 0.3, 0.2)  # of the first members


def slow_members(ensemble: Ensemble) -> list[SlowMember]:
    """The members of an ensemble as a slow twin has them."""
    return [SlowMember(model_of(m), m.tokenizer, m.weight) for m in ensemble.members]


def assert_as_slow(output: Output, slow: Sequence[SlowStep], tolerance: float = 1e-5) -> None:
    """The same units, chosen in the same ways, from the same distributions where all were asked."""
    assert [(s.unit or None) for s in output.steps] == [s.unit for s in slow]
    assert [s.decided_by == "ensemble" for s in output.steps] == [s.fused for s in slow]
    for mine, its in zip(output.steps, slow, strict=True):
        if its.fused:
            assert math.exp(mine.logprob) == pytest.approx(its.probs[its.unit], rel=tolerance)
        if its.views:
            assert [view.prob for view in mine.members] == pytest.approx(its.views, rel=tolerance)


def assert_equal_to_twin(
    ensemble: Ensemble,
    prompt: Prompt,
    twin: Callable[..., list[SlowStep]],
    *,
    max_new_tokens: int = 10,
    seed: int | None = None,
    temperature: float = 1.0,
    tolerance: float = 1e-5,
    **options: Any,
) -> None:
    """Ensemble and twin answer a prompt alike.

    Args:
        ensemble: what is tried.
        prompt: of both.
        twin: one of `reference.py`, with members, prompts, and what follows.
        max_new_tokens: of both.
        seed: of what both draw; None if they take the most probable.
        temperature: of what both draw.
        tolerance: of the probability of what was fused, relative.
        options: of the twin, which the ensemble was made with.

    """
    drawn: dict[str, Any] = {} if seed is None else {"temperature": temperature, "seed": seed}
    output = ensemble.generate(prompt, max_new_tokens=max_new_tokens, **drawn)
    slow = twin(
        slow_members(ensemble),
        ensemble.prompt_ids(prompt),
        max_new_tokens=max_new_tokens,
        seed=seed,
        temperature=temperature,
        **options,
    )
    assert_as_slow(output, slow, tolerance)
