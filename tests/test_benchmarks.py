"""The benchmarks run and report what they say; their figures are nobody's to assert."""

import math

import pytest
import torch

from benchmarks import grammar, overhead, step_profile, tracing
from benchmarks.models import SHAPES, Shape, made_up_tokenizer, random_model
from gac_core import Ensemble

TINY = Shape(32, 1, 2, 2, 64, (600, 700), ("none", "none"))


@pytest.mark.slow
def test_overhead_measures_every_figure() -> None:
    plan = overhead.Plan("the quick brown fox ", steps=4, turns=1, tax=(4, 1), shares=(0.5,))
    figures = overhead.measured(TINY, plan, "tiny")
    assert figures["tokenizers"] == "made up"
    ratios = (
        "every_step_tax",
        "every_step_tax_tokens",
        "every_step_tax_append",
        "cascade0_vs_generate",
        "batch16_vs_generate",
        "union_build_s",
    )
    for name in ratios:
        assert 0 < figures[name] < math.inf, name
    assert figures["extra_memory_mb"] < 100
    (cascade,) = figures["cascade_vs_every_step"]
    assert 0 <= cascade["fused_share"] <= 1
    assert cascade["speedup"] > 0


def test_bare_forwards_compute_what_the_ensemble_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side of the tax reads the same ids at the same places."""
    model = random_model(TINY, 600, 0)
    seen = []
    plain = model.forward

    def forward(input_ids: torch.Tensor, **kwargs: object) -> object:
        cache = kwargs["past_key_values"]
        before = cache.get_seq_length()  # type: ignore[attr-defined]
        seen.append((before, input_ids[0].tolist()))
        return plain(input_ids, **kwargs)

    monkeypatch.setattr(model, "forward", forward)
    chunks = [overhead.Chunk(0, [1, 2, 3]), overhead.Chunk(3, [4]), overhead.Chunk(2, [5, 6])]
    overhead.bare_forwards(model, chunks)
    assert seen == [(0, [1, 2, 3]), (3, [4]), (2, [5, 6])]


def test_made_up_tokenizers_can_take_part_and_share_most_words() -> None:
    a, b = (made_up_tokenizer(2000, seed) for seed in (0, 1))
    assert len(a) == len(b) == 2000
    assert 1000 < len(a.get_vocab().keys() & b.get_vocab().keys()) < 2000
    assert a.decode(a("hello wörld").input_ids) == "hello wörld"


def test_timers_add_up_to_the_whole() -> None:
    timers = step_profile.Timers()
    inner = timers.around("inner", lambda: sum(range(20_000)))
    outer = timers.around("outer", lambda: [inner() for _ in range(3)])
    whole = timers.around("whole", lambda: outer())
    whole()
    assert set(timers.seconds) == {"inner", "outer", "whole"}
    assert timers.seconds["inner"] > timers.seconds["outer"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("count", [8, pytest.param(30, marks=pytest.mark.wide)])
def test_texts_under_random_grammars_are_valid(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "small", TINY)
    figures = grammar.measured(count, ["small"], TINY)
    assert figures["json_schema"]["valid"] == figures["tools"]["valid"] == count
    assert figures["cost_small"]["mask_ms"] > 0
    with pytest.raises(ValueError, match="not calls alone"):
        grammar.check_calls({}, "Hello")


@pytest.mark.slow
def test_an_agent_answers_questions_about_tools_it_never_met() -> None:
    from benchmarks import agent

    figures = agent.measured(20, alone=False)
    assert figures["together"] >= 0.85


@pytest.mark.slow
def test_questions_are_answered_through_a_query_engine() -> None:
    from benchmarks import rag

    figures = rag.measured(12)
    assert set(figures) == {"retrieved", "ada", "bo", "cy", "together"}
    assert figures["together"] >= 0.5


@pytest.mark.slow
def test_what_is_traced_costs_more_than_what_is_not() -> None:
    with Ensemble.pocket() as ensemble:
        figures = {way: tracing.parts(ensemble, way, loops=200) for way in tracing.WAYS}
        assert 0 < tracing.ratio(ensemble, turns=1) < math.inf
    for part in ("request", "step"):
        assert 0 < figures["not imported"][part] < figures["traced"][part], part
