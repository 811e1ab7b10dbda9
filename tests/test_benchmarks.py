"""The benchmarks run and report what they say; their figures are nobody's to assert."""

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import decisions, grammar, overhead, serving, step_profile, tracing
from benchmarks.closed_questions import Closed, pocket_questions, read_closed
from benchmarks.models import SHAPES, Shape, made_up_tokenizer, random_model
from gac_core import ConfigError, Ensemble
from gac_integrations.server import create_app
from tests.fakes import make
from tests.integrations.test_server_clients import running

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


@pytest.mark.slow
async def test_serving_counts_what_clients_saw() -> None:
    with Ensemble.pocket() as ensemble, running(create_app(ensemble)) as url:
        row = await serving.measured(url, clients=2, seconds=0.2)
    assert (row["clients"], row["refused"]) == (2, 0)
    assert row["answers"] >= 2
    assert row["tokens_per_s"] > row["answers_per_s"] > 0
    assert 0 < row["first_token_p50"] <= row["first_token_p99"] <= row["answer_p99"]


def test_lines_of_a_log_that_is_being_written() -> None:
    log = io.StringIO('{"message": "ready"}\nTraceback\n{"mess')
    assert serving.lines_of(log) == [{"message": "ready"}]


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


def test_pocket_questions_have_one_right_answer_and_others_like_it() -> None:
    sets = pocket_questions(20)
    assert sets == pocket_questions(20)
    assert sets != pocket_questions(20, seed=1)
    for questions in sets.values():
        assert len(questions) == 20
        assert len({tuple(question.labels) for question in questions}) == 20
        places = {question.labels.index(question.right) for question in questions}
        assert places == {0, 1, 2, 3}  # which is right can not be told from the order
        for question in questions:
            assert len(set(question.labels)) == 4
    for task in ("arithmetic", "word_problem"):
        for question in sets[task]:
            for label in question.labels:
                steps = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", label)
                signed = [(int(a), int(sign + b), int(c)) for a, sign, b, c in steps]
                right = [a + b == c for a, b, c in signed]
                assert all(right) == (label == question.right)
                assert right.count(False) <= 1


def test_questions_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    row = {"question": "So?", "labels": ["yes", "no"], "answer": "no"}
    path.write_text(json.dumps(row) + "\n\n" + json.dumps({**row, "answer": "yes"}))
    chat = [{"role": "user", "content": "So?"}]
    right = [Closed(chat, ["yes", "no"], answer) for answer in ("no", "yes")]
    assert read_closed(path) == {"mine": right}
    assert read_closed(path, 1) == {"mine": right[:1]}
    for line, message in (
        ("{}", "line 1: a line is a JSON object with question, labels and answer"),
        ("[1]", "line 1: a line is a JSON object"),
        (json.dumps({**row, "answer": "maybe"}), "the answer 'maybe' is none of the labels"),
        ("", "has no questions"),
    ):
        path.write_text(line)
        with pytest.raises(ConfigError, match=message):
            read_closed(path)


def test_the_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    sureness = np.array([0.9, 0.9, 0.9, 0.9, 0.5, 0.5, 1.0])
    right = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    gap = abs(0.75 - 0.9) * 4 + abs(0.5 - 0.5) * 2 + abs(1.0 - 1.0)
    assert decisions.calibration_error(right, sureness) == pytest.approx(gap / 7)
    # What is in one bin is compared as a whole.
    assert decisions.calibration_error(np.array([1.0, 0.0]), np.array([0.61, 0.65])) == (
        pytest.approx(abs(0.5 - 0.63))
    )


@pytest.mark.slow
def test_decisions_are_measured_in_every_way(capsys: pytest.CaptureFixture[str]) -> None:
    with make(["chatml", "legacy"]) as ensemble:
        chat = [{"role": "user", "content": "Hello"}]
        sets = {"a": [Closed(chat, ["yes", "no"], "no")] * 3, "b": [Closed(chat, ["a", "b"], "a")]}
        figures = decisions.measured(ensemble, sets)
        choice = ensemble.choose(chat, ["yes", "no"])
    json.dumps(figures, allow_nan=False)
    assert figures["questions"] == {"a": 3, "b": 1}
    systems = figures["choose"]["systems"]
    assert list(systems) == ["together", "chatml-0", "legacy-1"]
    assert systems["together"]["sets"]["a"] == float(choice.label == "no")
    for way in (*decisions.WAYS, decisions.WRITTEN):
        for own in figures[way]["systems"].values():
            low, high = own["accuracy"]["ci95"]
            assert 0 <= low <= own["accuracy"]["value"] <= high <= 1
            assert 0 <= own["ece"]["value"] <= 1
    assert figures[decisions.WRITTEN]["systems"]["together"]["surprise"]["value"] is None
    decisions.show(figures)
    assert capsys.readouterr().out.count(" | together | ") == len(decisions.WAYS) + 1


@pytest.mark.slow
def test_what_is_traced_costs_more_than_what_is_not() -> None:
    with Ensemble.pocket() as ensemble:
        figures = {way: tracing.parts(ensemble, way, loops=200) for way in tracing.WAYS}
        assert 0 < tracing.ratio(ensemble, turns=1) < math.inf
    for part in ("request", "step"):
        assert 0 < figures["not imported"][part] < figures["traced"][part], part


@pytest.mark.slow
def test_members_that_are_servers_are_measured() -> None:
    from benchmarks import remote

    answers = remote.of_answers(1500, turns=1)
    assert [row["top_k"] for row in answers[:4]] == ["all", 1000, 100, 20]
    assert answers[0]["kilobytes"] > answers[3]["kilobytes"] > 0
    for here in (0, 1):
        (row,) = remote.of_steps(1, (0,), {"every_step": {"space": "tokens"}}, here=here)
        assert row["same_texts"]
        assert (row["calls_per_step"], row["waits_per_step"]) == (3 - here, 1)
