"""`gac eval`: what is measured, and how it is told."""

import io
import json
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gac_core import ConfigError, EnsembleConfig, evaluation
from gac_core.cli import main
from gac_core.evaluation import Row, Settings, evaluate, gain, systems_of
from gac_core.pocket import tasks
from gac_core.terminal import evaluation_tables


def row(name: str, right: dict[str, list[bool]], kind: Any = "member") -> Row:
    return Row(name, kind, {task: np.array(own) for task, own in right.items()}, steps=10)


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
    systems = list(systems_of(config(1, 0, 2), thresholds=(0.5,)))
    assert [(s.name, s.kind) for s in systems] == [
        ("m0", "member"),
        ("m2", "member"),
        ("every_step", "method"),
        ("every_step_append", "method"),
        ("cascade_0.5", "method"),
    ]
    assert [s.config.weights for s in systems] == [(1, 0, 0), (0, 0, 1), *[(1, 0, 2)] * 3]
    for system in systems:  # copies are not checked as they are made
        EnsembleConfig.of(system.config.model_dump())


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"tasks": ("cooking",)}, "no task 'cooking'; choose from retrieval"),
        ({"items": 0}, "1 or more, not 0"),
        ({"thresholds": (float("nan"),)}, "0 or more, not nan"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Settings(**wrong)


def test_one_member_is_nothing_to_compare() -> None:
    with pytest.raises(ConfigError, match="two members"):
        next(evaluate(config(1, 0), Settings(items=1)))


def test_the_command_measures_every_system_on_the_same_items(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as done:
        main(["eval", "--json", "--items", "3", "--task", "arithmetic", "--threshold", "0.9"])
    assert done.value.code in (0, None)
    found = json.loads(capsys.readouterr().out)
    rows = {r["name"]: r for r in found["rows"]}
    assert list(rows) == ["ada", "bo", "cy", "every_step", "every_step_append", "cascade_0.9"]
    for each in rows.values():
        assert each["tasks"]["arithmetic"]["total"] == 3
        assert each["average"] == each["tasks"]["arithmetic"]["correct"] / 3
        assert each["ci95"][0] <= each["average"] <= each["ci95"][1]
        assert each["tokens_per_second"] > 0
    assert rows["ada"]["forwards_per_token"] == {"ada": 1.0}
    assert rows["every_step"]["fused_share"] == 1
    assert set(rows["every_step"]["forwards_per_token"].values()) == {1.0}
    cascade = rows["cascade_0.9"]
    assert cascade["forwards_per_token"]["ada"] == 1.0
    assert cascade["forwards_per_token"]["bo"] == cascade["fused_share"] < 1
    assert found["best_member"] in ("ada", "bo", "cy")


def test_the_table_names_every_system_and_the_gain(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["eval", "--items", "2", "--task", "word_problem", "--threshold", "0.5"])
    text = capsys.readouterr().out
    for said in ("word", "cascade 0.5", "every step append", "forwards", "best member"):
        assert said in text


def test_the_tables_fit_a_terminal_of_80_columns() -> None:
    right = {task: [True] * 300 for task in tasks.JUDGED}
    rows = [row("every_step_append", right, "method"), *(row(n, right) for n in ("ada", "bo"))]
    console = Console(width=80, file=io.StringIO())
    for table in evaluation_tables(rows):
        console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert not any("…" in line for line in lines)
    assert sum("every step append" in line and "100.0%" in line for line in lines) >= 1


def test_what_is_said_of_the_gain() -> None:
    rows = [row("a", {"x": [True, False]}), row("every_step", {"x": [True, True]}, "method")]
    assert evaluation.verdict(rows).startswith("Fusing at every step, +100.0% right answers")
    assert evaluation.verdict(rows[:1]) == ""


def test_every_judged_task_can_be_asked_by_name() -> None:
    asked = Settings(items=2, tasks=tuple(tasks.JUDGED)).questions()
    assert {task: len(items) for task, items in asked.items()} == dict.fromkeys(tasks.JUDGED, 2)
