"""What somebody else writes is a method like ours: laws, drafts, grammars, configuration."""

from pathlib import Path
from typing import Any

import pytest

import examples.own_method
from gac_core import ConfigError, EnsembleConfig, Grammar, register_fusion, register_method
from tests import laws
from tests.laws import assert_same, make, naively

METHOD: dict[str, Any] = {"method": "until_sure", "fusion": "boldest"}
CHAT = [{"role": "user", "content": "Hello, how are you? 🙂"}]


def test_it_is_short() -> None:
    lines = Path(examples.own_method.__file__).read_text().splitlines()
    assert len(lines) < 60


@pytest.mark.parametrize("family", ["chatml", "legacy"])
def test_laws_1_and_2(family: str) -> None:
    laws.law_1_one_member_is_generate(family, {"method": "until_sure"}, "Hello, the été")
    laws.law_2_a_member_twice_is_that_member(
        family, METHOD, CHAT, max_new_tokens=20, temperature=1.0, seed=3
    )


@pytest.mark.parametrize("families", [("chatml", "legacy", "tiktoken"), ("unigram", "neox")])
def test_laws_6_9_and_12(families: tuple[str, ...]) -> None:
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
    assert EnsembleConfig.from_yaml(path).method == "until_sure"


def test_names_are_not_taken_twice() -> None:
    with pytest.raises(ConfigError, match="there is a method 'every_step' already"):
        register_method("every_step", examples.own_method.until_sure)
    with pytest.raises(ConfigError, match="there is a fusion 'mean' already"):
        register_fusion("mean", examples.own_method.boldest)
    register_fusion("boldest", examples.own_method.boldest)  # the same once more is fine
    with pytest.raises(ConfigError, match="method number must be a function"):
        register_method("number", 3)  # type: ignore[arg-type]
