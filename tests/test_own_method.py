"""What somebody else writes is a method like ours: laws, drafts, grammars, configuration."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gac_core import (
    Ask,
    ConfigError,
    EnsembleConfig,
    Grammar,
    MethodError,
    MethodSpec,
    Query,
    Request,
    Weighting,
    register_fusion,
    register_method,
)
from gac_core.registry import FUSIONS, METHODS, WEIGHTINGS
from gac_core.testing import assert_nothing_held, assert_same, check_method, naively
from tests.fakes import make

with METHODS.scoped(), FUSIONS.scoped():  # importing it registers; other tests shall not see
    from examples import own_method

METHOD: dict[str, Any] = {"method": "until_sure", "sure": 0.3, "fusion": "boldest"}
CHAT = [{"role": "user", "content": "Hello, how are you? 🙂"}]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """What the example registers, and what a test does, is there for that test only."""
    with METHODS.scoped(), FUSIONS.scoped():
        options = own_method.UntilSureOptions
        register_method("until_sure", own_method.until_sure, options=options)
        register_fusion("boldest", own_method.boldest)
        yield


def test_it_is_short() -> None:
    lines = Path(own_method.__file__).read_text().splitlines()
    assert len(lines) < 60


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["mean", "boldest"])
def test_the_laws(fusion: str) -> None:
    check_method("until_sure", sure=0.3, fusion=fusion)


@pytest.mark.parametrize("families", [("chatml", "legacy", "tiktoken"), ("unigram", "neox")])
def test_drafting_and_grammars(families: tuple[str, ...]) -> None:
    options: list[dict[str, Any]] = [
        {"max_new_tokens": 20},
        {"max_new_tokens": 20, "temperature": 1.0, "seed": 5},
        {"max_new_tokens": 20, "grammar": Grammar.choice(["yes", "no", "perhaps"])},
    ]
    with make(families, **METHOD) as plain, make(families, **METHOD, draft="ngrams") as drafting:
        for sampling in options:
            output = plain.generate(CHAT, **sampling)
            assert_same(output, naively(plain, CHAT, **sampling)[0])
            assert_same(output, drafting.generate(CHAT, **sampling))
        assert output.text in ("yes", "no", "perhaps")


def test_it_is_configured_like_any_other(tmp_path: Path) -> None:
    config = EnsembleConfig.of({"members": ({"model": "a"}, {"model": "b"}), **METHOD})
    path = tmp_path / "ensemble.yaml"
    path.write_text(config.to_yaml())
    read = EnsembleConfig.from_yaml(path)
    assert read == config
    assert read.options == own_method.UntilSureOptions(sure=0.3)
    assert read.with_method("every_step").changed == {"fusion"}
    assert read.with_method("until_sure", sure=0.5).changed == {"method", "fusion", "sure"}


def test_its_options_are_checked_like_any_others() -> None:
    members = ({"model": "a"}, {"model": "b"})
    with pytest.raises(ConfigError, match=r"sure: Input should be greater than or equal to 0"):
        EnsembleConfig.of({"members": members, "method": "until_sure", "sure": -1})
    with pytest.raises(ConfigError, match=r"sure needs method until_sure, not cascade"):
        EnsembleConfig.of({"members": members, "method": "cascade", "sure": 0.5})
    with pytest.raises(ConfigError, match=r"surer: unknown option; .*, sure"):
        EnsembleConfig.of({"members": members, "method": "until_sure", "surer": 0.5})


def test_its_option_says_how_many_are_asked() -> None:
    asked = []
    for sure in (0.0, 1.0):
        with make(["chatml", "legacy", "tiktoken"], method="until_sure", sure=sure) as ensemble:
            output = ensemble.generate(CHAT, max_new_tokens=5)
        asked.append({len(step.members) for step in output.steps})
    assert asked == [{1}, {3}]


def test_names_are_not_taken_twice() -> None:
    with pytest.raises(ConfigError, match="there is a method 'every_step' already"):
        register_method("every_step", own_method.until_sure)
    with pytest.raises(ConfigError, match="there is a fusion 'mean' already"):
        register_fusion("mean", own_method.boldest)
    register_fusion("boldest", own_method.boldest)  # the same once more is fine
    with pytest.raises(ConfigError, match="method number must be a function"):
        register_method("number", 3)  # type: ignore[arg-type]


def every_step(request: Request) -> Any:
    while not request.finished:
        yield request.emit_fused(request.fuse(request.read((yield request.ask()))))


@pytest.mark.parametrize("is_spec", [False, True])
def test_a_package_brings_it_as_an_entry_point(
    is_spec: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a function, without options, or as a spec."""
    options = own_method.UntilSureOptions
    spec = MethodSpec("packaged", own_method.until_sure, options=options)
    brought: dict[str, Any] = {
        "gac.method": spec if is_spec else every_step,
        "gac.fusion": own_method.boldest,
        "gac.weighting": Weighting,
    }

    class Point:
        value = "a.package:thing"

        def __init__(self, group: str) -> None:
            self.load = lambda: brought[group]

    def entry_points(group: str, name: str) -> list[Point]:
        return [Point(group)] if name == "packaged" else []

    monkeypatch.setattr("gac_core.registry.entry_points", entry_points)
    given: dict[str, Any] = dict.fromkeys(("method", "fusion", "weighting"), "packaged")
    given |= {"sure": 0.0} if is_spec else {}
    with WEIGHTINGS.scoped(), make(["chatml", "legacy"], **given) as ensemble:
        output = ensemble.generate("Hello", max_new_tokens=3)
    assert {len(step.members) for step in output.steps} == {1 if is_spec else 2}


# ---------------------------------------------------------------- mistakes


def bad_ask(request: Request) -> Any:
    yield request.ask()
    yield 3


def unknown_member(request: Request) -> Any:
    yield Ask({9: (Query([0]),)})


def never_emits(request: Request) -> Any:
    while True:
        yield request.ask()


def forgets_to_yield(request: Request) -> Any:
    while True:
        request.emit_fused(request.fuse(request.read((yield request.ask()))))


def forgets_to_yield_the_ask(request: Request) -> Any:
    while not request.finished:
        yield request.emit_fused(request.fuse(request.read(request.ask())))  # type: ignore[arg-type]


def ends_early(request: Request) -> Any:
    yield request.ask()


def no_generator(request: Request) -> Any:
    return 3


def emits_a_tensor(request: Request) -> Any:
    own = request.read((yield request.ask()))
    yield request.emit_fused(own[0])  # type: ignore[arg-type]


MISTAKES: list[tuple[Any, str]] = [
    (bad_ask, "yielded 3; it may yield Ask and Step only"),
    (unknown_member, "asked for member 9, but there are 2"),
    (never_emits, "without a step; it must emit one"),
    (forgets_to_yield, "emitted a step and did not yield it"),
    (forgets_to_yield_the_ask, "`read` takes answers, not Ask: yield the ask"),
    (ends_early, "ended before the answer did"),
    (no_generator, "must be a generator function"),
    (emits_a_tensor, "must be a Fused with"),
]


@pytest.mark.parametrize(("method", "problem"), MISTAKES, ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize("draft", [None, pytest.param("ngrams", marks=pytest.mark.slow)])
def test_a_method_that_breaks_the_rules_is_told_so(
    method: Any, problem: str, draft: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gac_core.decoding.run._MOST_ASKS", 50)
    register_method(method.__name__, method)
    with make(["chatml", "legacy"], method=method.__name__, draft=draft) as ensemble:
        with pytest.raises(MethodError, match=problem):
            ensemble.generate("Hello", max_new_tokens=3)
        assert_nothing_held(ensemble)


RULES: list[tuple[str, Any]] = [
    ("not_a_number", lambda v: v.probs[0] * float("nan")),
    ("logs", lambda v: v.probs.mean(0).clamp_min(1e-9).log()),
    ("nothing", lambda v: v.probs[0] * 0),
    ("too_much", lambda v: v.probs.sum(0)),
    ("negative", lambda v: 2 * v.probs[0] - v.probs[1]),
    ("too_short", lambda v: v.probs[0][:10]),
    ("all_of_them", lambda v: v.probs),
    ("none", lambda v: None),  # noqa: ARG005
]


@pytest.mark.parametrize(("name", "rule"), RULES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_rule_that_returns_no_distribution_is_told_so(name: str, rule: Any) -> None:
    register_fusion(name, rule)
    with make(["chatml", "legacy"], fusion=name) as ensemble:
        for temperature in (0.0, 1.0):
            with pytest.raises(MethodError, match=r"must be a Fused with|has mass"):
                ensemble.generate("Hello", max_new_tokens=3, temperature=temperature)


def test_a_name_of_a_preset_is_taken() -> None:
    with pytest.raises(ConfigError, match="there is a method 'unite' already"):
        register_method("unite", ends_early)
