import pytest
import torch
from hypothesis import given, strategies as st

from gac_core import SamplingParams
from gac_core.decoding.sampling import Sampler, choose, make_warpers, uniform_at

NONE = make_warpers(SamplingParams())


def drawn(probs: list[float], uniform: float | None, **options: float) -> int:
    warpers = make_warpers(SamplingParams.of({"temperature": 1.0, **options}))
    return choose(torch.tensor(probs), warpers, uniform)


def test_the_uniform_of_a_step_depends_on_seed_and_position_alone() -> None:
    assert uniform_at(3, 5) == uniform_at(3, 5)
    values = {uniform_at(seed, position) for seed in range(40) for position in range(40)}
    assert len(values) == 1600
    assert all(0 <= v < 1 for v in values)
    assert abs(sum(values) / 1600 - 0.5) < 0.03


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=9).filter(lambda p: sum(p) > 1e-3),
    st.floats(0, 1, exclude_max=True),
)
def test_a_draw_falls_where_the_cumulated_mass_passes_the_uniform(
    probs: list[float], uniform: float
) -> None:
    row = drawn(probs, uniform)
    exact = torch.tensor(probs).double()
    below, upto = float(exact[:row].sum()), float(exact[: row + 1].sum())
    total = float(exact.sum())
    assert probs[row] > 0
    assert below <= uniform * total + 1e-9
    assert uniform * total < upto + 1e-9


@pytest.mark.parametrize("temperature", [1e-3, 1e-40, 1e-310])
def test_the_smallest_temperatures_take_the_most_probable(temperature: float) -> None:
    assert drawn([0.2, 0.7, 0.1, 0.0], 0.3, temperature=temperature) == 1


def test_greedy_takes_the_most_probable() -> None:
    assert choose(torch.tensor([0.2, 0.5, 0.3]), NONE, None) == 1


def test_draws_follow_the_distribution() -> None:
    probs = [0.5, 0.2, 0.3]
    rows = [drawn(probs, uniform_at(1, n)) for n in range(4000)]
    for row, prob in enumerate(probs):
        assert rows.count(row) / 4000 == pytest.approx(prob, abs=0.03)


@pytest.mark.parametrize(
    ("options", "possible"),
    [
        ({"top_k": 2}, {1, 3}),
        ({"top_p": 0.5}, {1, 3}),
        ({"top_p": 0.3}, {3}),
        ({"min_p": 0.9}, {3}),
        ({"min_p": 0.5}, {1, 3}),
        ({}, {0, 1, 2, 3}),
        ({"temperature": 0.01}, {3}),
    ],
)
def test_filters(options: dict[str, float], possible: set[int]) -> None:
    probs = [0.15, 0.3, 0.15, 0.4]
    rows = {drawn(probs, uniform_at(2, n), **options) for n in range(300)}
    assert rows == possible


def test_temperature_sharpens() -> None:
    rows = [drawn([0.4, 0.6], uniform_at(3, n), temperature=0.5) for n in range(4000)]
    assert rows.count(1) / 4000 == pytest.approx(0.36 / (0.36 + 0.16), abs=0.03)


def test_repetition_penalty_is_that_of_transformers() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits, ids = torch.randn(20), [1, 4, 4, 9]
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([ids]), logits[None])[0]
    sampler = Sampler(SamplingParams(repetition_penalty=1.3, seed=0))
    assert torch.equal(sampler.penalised(logits, ids), expected)
    assert Sampler(SamplingParams(seed=0)).penalised(logits, ids) is logits
