"""`gac eval`: what is measured, and how it is told."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gac_core import (
    ConfigError,
    Ensemble,
    EnsembleConfig,
    GacError,
    MemberError,
    Outcome,
    Request,
    Step,
    Usage,
    register_method,
)
from gac_core.cli.app import main
from gac_core.cli.evaluation_tables import comparison_table, evaluation_tables
from gac_core.evaluation import controls
from gac_core.evaluation.evaluate import evaluate
from gac_core.evaluation.questions import TaskSet
from gac_core.evaluation.results import Result, as_json, gain, verdict
from gac_core.evaluation.systems import (
    CONTROLS,
    EvalOptions,
    methods_and_controls,
    systems_of,
)
from gac_core.method_specs import PRESETS
from gac_core.methods.cascade import CascadeOptions
from gac_core.pocket import tasks
from gac_core.pocket.questions import HELDOUT
from gac_core.registry import METHODS


def row(name: str, right: dict[str, list[bool]], kind: Any = "member") -> Result:
    own = {task: np.array(answers) for task, answers in right.items()}
    return Result(name, kind, own, tokens=10, steps=10)


def config(*weights: float) -> EnsembleConfig:
    members = [{"model": f"m{i}", "name": f"m{i}", "weight": w} for i, w in enumerate(weights)]
    return EnsembleConfig.of({"members": members})


def test_the_average_is_that_of_the_tasks() -> None:
    found = row("a", {"x": [True, False], "y": [True] * 8})
    assert found.average == pytest.approx(0.75)
    low, high = found.ci95
    assert 0 <= low < 0.75 < high <= 1


def test_the_interval_narrows_with_more_items_and_is_never_of_width_0() -> None:
    few, many = (row("a", {"x": [True] * n}).ci95 for n in (10, 1000))
    assert few[1] - few[0] > many[1] - many[0] > 0


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        drawn = {"x": list(rng.random(60) < 0.8), "y": list(rng.random(60) < 0.4)}
        low, high = row("a", drawn).ci95
        covered += low <= 0.6 <= high
    assert 0.92 <= covered / 400 <= 0.99


def test_the_gain_is_paired() -> None:
    """Two systems that err on the same items differ by nothing, surely."""
    answers = [n % 3 > 0 for n in range(300)]
    better = [n % 3 > 0 or n % 2 > 0 for n in range(300)]
    same = gain(row("a", {"x": answers}), row("b", {"x": answers}))
    assert same.relative == 0
    assert same.ci95 == (0, 0)
    more = gain(row("a", {"x": better}), row("b", {"x": answers}))
    assert more.relative == pytest.approx(sum(better) / sum(answers) - 1)
    assert 0 < more.ci95[0] < more.relative < more.ci95[1]


def test_systems_are_the_members_then_the_methods() -> None:
    systems = list(systems_of(config(1, 0, 2), EvalOptions(HELDOUT, thresholds=(0.5,))))
    assert [(s.name, s.kind) for s in systems] == [
        ("m0", "member"),
        ("m2", "member"),
        ("every_step", "method"),
        ("gac", "method"),
        ("cascade_0.5", "method"),
    ]
    assert [s.config.weights for s in systems] == [(1, 0, 0), (0, 0, 1), *[(1, 0, 2)] * 3]


GATE = {"co_llm": {"gate": "gate.safetensors"}}


def test_everything_is_all_methods_then_the_controls() -> None:
    order = "every_step gac unite core chared geometric packllm posterior entropy mod "
    order += "cascade safe twist co_llm self_consistency routing rerank"
    names = order.split()
    assert list(methods_and_controls()) == names
    systems = list(systems_of(config(1, 1), EvalOptions(HELDOUT, everything=True, defaults=GATE)))
    assert [s.name for s in systems] == ["m0", "m1", *names]
    assert [s.kind for s in systems if s.name in CONTROLS] == ["control"] * 3
    assert {s.kind for s in systems[2:-3]} == {"method"}
    for system in systems[2:]:
        method = system.name if system.name in METHODS.names else "every_step"
        assert system.config.method == method
        for name, value in PRESETS.get(system.name, {}).items():
            assert getattr(system.config, name) == value


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "method": "cascade",
            "threshold": 0.9,
            "space": "tokens",
            "history": "append",
            "max_batch": 3,
        },
        {"method": "core", "weighting": "prompt", "temper": 2.0, "draft": "ngrams"},
        {"method": "posterior", "temper": 0.5, "draft": 1},
        {"method": "safe", "block": 3, "fusion": "unite"},
        {"method": "chared", "paths": 2, "weighting": "entropy", "temper": 3.0},
        {"method": "twist", "beams": 2, "rounds": 2},
        {"method": "co_llm", "gate": "own.safetensors", "threshold": 0.3, "primary": 1},
    ],
)
def test_a_method_gets_the_options_it_understands(options: dict[str, Any]) -> None:
    given = EnsembleConfig.of({"members": config(1, 1).members, **options})
    skipped: list[tuple[str, GacError]] = []
    found = systems_of(
        given, EvalOptions(HELDOUT, everything=True), lambda *why: skipped.append(why)
    )
    systems = {system.name: system.config for system in found}
    for own in systems.values():
        assert EnsembleConfig.of(own.model_dump()) == own
    assert all(own.max_batch == given.max_batch for own in systems.values())
    configured = systems.get(given.method)
    if given.method != "every_step":
        assert configured == given
    if given.method != "co_llm":
        assert [(name, "needs gate" in str(why)) for name, why in skipped] == [("co_llm", True)]
    else:
        assert skipped == []
        assert systems["cascade"].options == CascadeOptions()
    assert systems["cascade"].history == systems["core"].history == given.history
    assert systems["mod"].history == "append"
    assert systems["mod"].temper == systems["twist"].temper == 1


def test_rows_can_be_chosen() -> None:
    options = EvalOptions(HELDOUT, everything=True, only=("rerank", "cascade"))
    names = [system.name for system in systems_of(config(1, 1), options)]
    assert names == ["m0", "m1", "cascade", "rerank"]


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"tasks": ("cooking",)}, "no task 'cooking'; choose from retrieval"),
        ({"items": 0}, "1 or more, not 0"),
        ({"only": ("guess",)}, "no method or control 'guess'; choose from every_step, "),
        ({"thresholds": (float("nan"),)}, "0 or more, not nan"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        EvalOptions(HELDOUT, **wrong)


def test_one_member_is_nothing_to_compare() -> None:
    with pytest.raises(ConfigError, match="two members"):
        next(evaluate(config(1, 0), EvalOptions(HELDOUT, items=1)))


@pytest.mark.slow
def test_the_command_measures_every_system_on_the_same_items(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as done:
        main(["eval", "--json", "--items", "3", "--task", "arithmetic", "--threshold", "0.9"])
    assert done.value.code in (0, None)
    found = json.loads(capsys.readouterr().out)
    rows = {r["name"]: r for r in found["rows"]}
    assert list(rows) == ["ada", "bo", "cy", "every_step", "gac", "cascade_0.9"]
    for each in rows.values():
        assert each["tasks"]["arithmetic"]["total"] == 3
        assert each["average"] == each["tasks"]["arithmetic"]["correct"] / 3
        assert each["ci95"][0] <= each["average"] <= each["ci95"][1]
        assert each["tokens_per_second"] > 0
    assert rows["ada"]["forwards_per_token"] == {"ada": 1.0}
    assert rows["every_step"]["fused_share"] == 1
    for forwards in rows["every_step"]["forwards_per_token"].values():
        assert forwards == pytest.approx(1.1, rel=0.15)  # units are shorter than tokens
    cascade = rows["cascade_0.9"]
    assert cascade["forwards_per_token"]["ada"] == pytest.approx(1.0, rel=0.05)
    assert cascade["forwards_per_token"]["bo"] == pytest.approx(cascade["fused_share"], rel=0.05)
    assert cascade["fused_share"] < 1
    assert found["best_member"] in ("ada", "bo", "cy")


@pytest.mark.slow
def test_the_table_names_every_system_and_the_gain(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["eval", "--items", "2", "--task", "word_problem", "--threshold", "0.5"])
    text = capsys.readouterr().out
    for said in ("word", "cascade 0.5", "gac", "forwards", "best member"):
        assert said in text


def test_the_tables_fit_a_terminal_of_80_columns() -> None:
    right = {task: [True] * 300 for task in tasks.JUDGED}
    rows = [row("gac", right, "method"), *(row(n, right) for n in ("ada", "bo"))]
    console = Console(width=80, file=io.StringIO())
    for table in evaluation_tables(rows):
        console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert not any("…" in line for line in lines)
    assert sum("gac" in line and "100.0%" in line for line in lines) >= 1


def test_what_is_said_of_the_gain() -> None:
    rows = [row("a", {"x": [True, False]}), row("every_step", {"x": [True, True]}, "method")]
    assert verdict(rows).startswith("Fusing at every step, +100.0% right answers")
    assert verdict(rows[:1]) == ""


def test_every_judged_task_can_be_asked_by_name() -> None:
    asked = EvalOptions(HELDOUT, items=2, tasks=tuple(tasks.JUDGED)).questions()
    assert {task: len(items) for task, items in asked.items()} == dict.fromkeys(tasks.JUDGED, 2)


def test_a_long_task_is_asked_by_name_only() -> None:
    assert "report" not in EvalOptions(HELDOUT, items=1).questions()
    (item, *_) = EvalOptions(HELDOUT, items=1, tasks=("report",)).questions()["report"]
    assert isinstance(item, tasks.Item)
    assert len(item.answer) >= 150
    assert item.max_new_tokens > len(item.answer)  # even if a unit is a byte


def test_the_questions_are_those_of_the_task_set_that_is_handed_in() -> None:
    def draw(count: int, seed: int) -> list[tasks.Item]:
        return [question(f"{seed} {n}") for n in range(count)]

    own = TaskSet({"say": draw}, by_name_only={"shout": draw})
    options = EvalOptions(own, items=2, seed=3)
    assert options.questions() == {"say": draw(2, 3)}
    assert replace(options, tasks=("shout", "say")).questions().keys() == {"shout", "say"}
    assert options.development.questions() == {"say": draw(2, 4)}
    with pytest.raises(ConfigError, match="no task 'retrieval'; choose from say, shout"):
        EvalOptions(own, tasks=("retrieval",))


@pytest.mark.slow
def test_everything_of_the_pocket_ensemble(capsys: pytest.CaptureFixture[str]) -> None:
    rows = ("every_step", "cascade", *CONTROLS)
    chosen = [part for name in rows for part in ("--method", name)]
    with pytest.raises(SystemExit) as done:
        main(["eval", "--json", "--items", "2", "--task", "arithmetic", *chosen])
    assert done.value.code in (0, None)
    found = {r["name"]: r for r in json.loads(capsys.readouterr().out)["rows"]}
    assert list(found) == ["ada", "bo", "cy", *rows]
    assert [r["kind"] for r in found.values()] == ["member"] * 3 + ["method"] * 2 + ["control"] * 3
    keys = {"name", "kind", "tasks", "average", "ci95", "fused_share"}
    keys |= {"forwards_per_token", "tokens_per_second", "seconds", "all"}
    for each in found.values():
        gains = set() if each["kind"] == "member" else {"gain_over_best_member"}
        assert set(each) == keys | gains
        assert (each["fused_share"] > 0) == (each["name"] == "every_step")
    forwards = {name: found[name]["forwards_per_token"] for name in CONTROLS}
    assert sum(forwards["routing"].values()) == pytest.approx(1.0)
    sampled = sorted(forwards["self_consistency"].values())
    assert sampled[:2] == [0, 0]
    assert sampled[2] == pytest.approx(3, rel=0.1)
    assert all(count > 0 for count in forwards["rerank"].values())
    assert sum(forwards["rerank"].values()) > 3  # all write, then all read


@pytest.mark.slow
def test_what_fails_is_told_and_left_out() -> None:
    def failing(request: Request) -> Iterator[Any]:
        yield request.ask()
        raise MemberError("out of order")

    with METHODS.scoped():
        register_method("failing", failing)
        check_that_it_is_left_out()


def check_that_it_is_left_out() -> None:
    with Ensemble.pocket(lazy=True, method="failing") as pocket:
        asked = pocket.config
    only = ("failing", "unite")
    options = EvalOptions(HELDOUT, items=1, tasks=("arithmetic",), everything=True, only=only)
    told: list[str] = []
    rows = evaluate(asked, options, on_skip=lambda name, why: told.append(f"{name}: {why}"))
    assert {row.name for row in rows} == {"ada", "bo", "cy", "unite"}
    assert told == ["failing: out of order"]
    plain = EvalOptions(HELDOUT, items=1, tasks=("arithmetic",), thresholds=())
    with pytest.raises(MemberError):
        list(evaluate(asked, plain))


def test_gains_of_methods_and_controls() -> None:
    rows = [row("a", {"x": [True, False]}), row("rerank", {"x": [True, True]}, "control")]
    member, control = as_json(rows)["rows"]
    assert "gain_over_best_member" not in member
    assert control["gain_over_best_member"]["relative"] == pytest.approx(1.0)


def test_the_comparison_fits_a_terminal_of_80_columns() -> None:
    rng = np.random.default_rng(0)
    right = {task: list(rng.random(10) < 0.9) for task in tasks.JUDGED}
    rows = [row("a", right)]
    rows += [row(name, right, "method") for name in methods_and_controls()]
    console = Console(width=80, file=io.StringIO())
    console.print(comparison_table(rows))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 2 + len(rows)
    assert all(name in "".join(lines) for name in methods_and_controls())


# ------------------------------------------------ controls


class Scripted:
    """In place of an ensemble: these answers, one after another."""

    def __init__(self, *answers: str) -> None:
        self.answers = iter(answers)
        self.seeds: list[int] = []

    def stream(self, prompt: Any, *, seed: int | None = None, **_: Any) -> list[Step]:
        if seed is not None:
            self.seeds.append(seed)
        outcome = Outcome("stop", None, Usage(1, 1, (), 0, 2), 0)
        return [Step(b"", True, next(self.answers), 0.0, "primary", (), outcome=outcome)]


def question(answer: str) -> tasks.Item:
    return tasks.Item("x", [{"role": "user", "content": f"Say {answer}."}], answer)


def told(answers: controls.Answers, items: list[tasks.Item]) -> list[str]:
    return [output.text for output in answers("x", items)]


def test_self_consistency_is_the_majority_of_samples() -> None:
    member: Any = Scripted("a", "b", " b ", "c", "d", "e")
    answers = controls.self_consistency(member, samples=3)
    assert told(answers, [question("b"), question("c")]) == ["b", "c"]
    assert member.seeds == list(range(6))


def test_the_first_vote_wins_a_tie() -> None:
    assert controls.majority(["a", "b", "b", "a"]) == 0
    assert controls.majority(["a", "b", "b"]) == 1


def test_routing_asks_the_member_of_the_task() -> None:
    members: Any = {"x": Scripted("right"), "y": Scripted("wrong")}
    assert told(controls.routing(members), [question("right")]) == ["right"]


def test_rerank_takes_what_all_find_most_likely() -> None:
    item = next(tasks.heldout("arithmetic", 1, seed=1))
    members: Any = [Scripted("I like trains."), Scripted(item.answer), Scripted("")]
    with Ensemble.pocket() as judges:
        assert told(controls.rerank(members, judges), [item]) == [item.answer]


@pytest.mark.slow
@pytest.mark.parametrize("member", range(3))
def test_a_likelihood_is_that_of_the_members_own_tokens_and_the_end(member: int) -> None:
    items = list(tasks.heldout("retrieval", 3, seed=1))
    weights = [float(m == member) for m in range(3)]
    with Ensemble.pocket(weights=weights, primary=member) as ensemble:
        written = ensemble.batch([item.messages for item in items])
        texts = [[output.text, "no"] for output in written]
        found = controls.joint_likelihoods(ensemble, [item.messages for item in items], texts)
    for output, (score, other) in zip(written, found, strict=True):
        expected = sum(step.logprob for step in output.steps)
        assert score * (len(output.text.encode()) + 1) == pytest.approx(expected, abs=1e-3)
        assert other < score


def test_a_joint_likelihood_is_the_members_weighted_mean() -> None:
    item = next(tasks.heldout("word_problem", 1, seed=1))
    found = []
    for weights in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 3]):
        with Ensemble.pocket(weights=weights, primary=weights.index(1)) as ensemble:
            found += controls.joint_likelihoods(ensemble, [item.messages], [[item.answer]])[0]
    assert found[3] == pytest.approx(0.25 * found[0] + 0.75 * found[2], rel=1e-4)
