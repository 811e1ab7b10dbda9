"""Answers on the naive driver, and comparisons of answers, on which the laws rest."""

import math
import time
from typing import Any, Final

from gac_core.chat.prompt import Prompt
from gac_core.decoding.request import Request
from gac_core.engine.naive import run_naively
from gac_core.ensemble import Ensemble
from gac_core.outputs import Output
from gac_core.sampling_params import SamplingParams

_TOLERANCE: Final = 1e-6  # of the probabilities and logprobs of a step, in float64
_PATIENCE: Final = 20.0  # seconds until memory must have been freed


def naively(ensemble: Ensemble, prompt: Prompt, **sampling: Any) -> tuple[Output, Request]:
    """The same request on the naive driver: no cache, no batch, no thread.

    Args:
        ensemble: the ensemble that answers.
        prompt: a text to continue, or chat messages.
        sampling: fields of `SamplingParams`.

    Returns:
        The answer, and the request as it is after it.

    """
    params = SamplingParams.of({"seed": 0, **sampling})
    request = ensemble.runtime.request(prompt, params)
    return run_naively(ensemble.runtime.method, request), request


def assert_same(a: Output, b: Output) -> None:
    """Assert that two answers have the same text and steps, up to rounding of probabilities."""
    for what in ("unit", "text", "decided_by"):
        ours, theirs = ([getattr(step, what) for step in output.steps] for output in (a, b))
        assert ours == theirs, f"{what}s differ: {ours} and {theirs}"
    assert (a.text, a.finish_reason, a.stop, a.usage) == (b.text, b.finish_reason, b.stop, b.usage)
    for one, other in zip(a.steps, b.steps, strict=True):
        assert _are_close(one.logprob, other.logprob)  # -inf if no member gave it any probability
        for mine, its in zip(one.members, other.members, strict=True):
            assert (mine.name, mine.top) == (its.name, its.top)
            assert abs(mine.prob - its.prob) < _TOLERANCE


def _are_close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


def assert_nothing_held(ensemble: Ensemble) -> None:
    """Law 10: no memory is held any more, soon after the last answer.

    It is read from the scorers' `held_sequences`, which a `Scorer` need not have.
    """
    deadline = time.monotonic() + _PATIENCE
    while any(getattr(member.scorer, "held_sequences", 0) for member in ensemble.members):
        assert time.monotonic() < deadline, "sequences are still held"
        time.sleep(0.01)
