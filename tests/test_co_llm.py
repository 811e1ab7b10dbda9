"""Co-LLM against its slow twin; fitting, keeping and using a gate."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from gac_core import ConfigError, Ensemble, EnsembleConfig, LoadError, SamplingParams
from gac_core.evaluation.gate_fitting import (
    RECORDING,
    RecordedStep,
    Recording,
    fit,
    parse_prompts,
    quality,
    record,
    recording_config,
    recording_ensemble,
)
from gac_core.methods.co_llm import GateHead
from gac_core.pocket.questions import training_prompts
from gac_core.registry import METHODS, register_method
from gac_core.testing import assert_same
from tests.fakes import FAMILIES, make, model_of, random_gate, scripted
from tests.reference import slow_ensemble
from tests.test_cli import gac, models
from tests.twins import WEIGHTS, assert_equal_to_twin

QUESTION = [{"role": "user", "content": "What is 77 - 49?"}]


@pytest.mark.slow
@settings(max_examples=30)
@given(
    st.sampled_from(list(itertools.permutations(FAMILIES, 3))),
    st.integers(1, 3),
    st.sampled_from([None, 0.2, 0.9]),
    st.sampled_from(["append", "reencode"]),
    st.sampled_from([None, 1]),
    st.sampled_from(["Hello", "a = 12\n\t"]),
    st.integers(0, 2),
)
def test_equal_to_the_slow_twin(
    families: tuple[str, ...],
    number: int,
    threshold: float | None,
    history: str,
    seed: int | None,
    prompt: str,
    primary: int,
) -> None:
    families, primary = families[:number], primary % number
    bar = threshold or 0.5
    method: dict[str, Any] = {"method": "co_llm", "gate": random_gate(), "threshold": bar}
    method |= {"space": "tokens", "history": history, "primary": primary}
    gate = GateHead.load(random_gate(), 32)
    with make(families, weights=WEIGHTS[:number], **method) as ensemble:
        model = model_of(ensemble.members[primary])

        def defers(ids: Any) -> bool:
            with torch.no_grad():
                out = model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True)
            score = float(out.hidden_states[-1][0, -1] @ gate.weight.double() + gate.bias.double())
            return number > 1 and 1 / (1 + math.exp(-score)) > bar

        assert_equal_to_twin(
            ensemble,
            prompt,
            slow_ensemble,
            primary=primary,
            reencode=history == "reencode",
            seed=seed,
            defers=defers,
        )


def test_the_ends_of_the_threshold() -> None:
    """Above 1 the primary is alone; at 0 every step is fused."""
    families, gate = ["chatml", "legacy"], random_gate()
    with make(families, method="co_llm", gate=gate, threshold=1.0) as ensemble:
        never = ensemble.generate("Hello", max_new_tokens=30)
        assert ensemble.members[1].scorer.stats.queries == 0
    with make(families[:1]) as alone:
        assert never.text == alone.generate("Hello", max_new_tokens=30).text
    with make(families, method="co_llm", gate=gate, threshold=0.0) as ensemble:
        always = ensemble.generate("Hello", max_new_tokens=30)
    with make(families) as ensemble:
        assert_same(always, ensemble.generate("Hello", max_new_tokens=30))


# ------------------------------------------------ fitting


def toy(steps: int, seed: int) -> Recording:
    """The primary is wrong where the third feature is high; features have scales of their own."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(steps, 6, generator=generator).double()
    differs = hidden[:, 2] > 0.8
    primary = torch.where(differs, 0.1, 0.95).double().log()
    fused = torch.where(differs, 0.8, 0.94).double().log()
    hidden = hidden * torch.tensor([1.0, 50.0, 0.01, 3.0, 1.0, 1.0]) + 7.0
    return Recording(hidden, primary, fused, differs)


def test_a_fitted_gate_catches_where_members_differ() -> None:
    held_out = toy(2000, 1)
    found = quality(fit(toy(2000, 0)), held_out)
    assert found.caught is not None
    assert found.caught > 0.95
    assert found.deferred < 2 * found.differ
    assert found.log_likelihood > found.log_likelihood_never + 0.2
    costly = quality(fit(toy(2000, 0), cost=1.0), held_out)
    free = quality(fit(toy(2000, 0), cost=0.0), held_out)
    assert costly.deferred < found.deferred < free.deferred
    assert quality(fit(toy(2000, 0), cost=9.0), held_out).deferred == 0.0


def test_what_is_recorded_is_the_text_not_how_it_is_cut() -> None:
    primary = scripted(
        "byte_level",
        1,
        [{"Hello": 0.9, "H": 0.1}, {".": 0.6, ",": 0.4}, {"<|endoftext|>": 0.8, ".": 0.2}],
    )
    other = scripted("chatml", 1, [{"H": 1.0}, {",": 1.0}, {"<|im_end|>": 1.0}])
    with METHODS.scoped():
        register_method("record_steps", RECORDING)
        own = Ensemble.from_models([primary, other], names=["a", "b"], method="record_steps")
    with own:
        output = own.generate("Hello", max_new_tokens=5)
        known, held_out = record(own, ["Hello"] * 7, SamplingParams(max_new_tokens=5))
    assert output.text == "Hello,"  # "H" was the fused choice, which the primary writes as "Hello"
    assert [step.decided_by for step in output.steps] == ["primary", "ensemble", "primary"]
    assert (len(known.primary), len(held_out.primary)) == (6 * 3, 3)
    assert held_out.hidden.shape == (3, len(primary[1]))
    assert held_out.differs.tolist() == [False, True, False]
    assert held_out.primary.exp().tolist() == pytest.approx([1.0, 0.4, 0.8], abs=1e-4)
    assert held_out.fused.exp().tolist() == pytest.approx([1.0, 0.7, 0.9], abs=1e-4)


def test_any_configuration_can_be_recorded(folders: tuple[Path, Path]) -> None:
    options: dict[str, Any] = {"method": "co_llm", "gate": "/not/yet", "threshold": 0.7}
    for method in (
        {"method": "unite", "primary": 1},
        {"method": "cascade", "threshold": 0.3},
        options,
    ):
        members = ({"model": str(folder)} for folder in folders)
        config = EnsembleConfig.of({"members": tuple(members), **method})
        with recording_ensemble(recording_config(config)) as ensemble:
            recording = ensemble.config
            (step,) = ensemble.generate("Hello", max_new_tokens=1).steps
        assert isinstance(step, RecordedStep)
        assert (recording.fusion, recording.primary) == (config.fusion, config.primary)


def test_a_gate_is_kept_and_used(tmp_path: Path) -> None:
    gate = fit(toy(200, 0))
    path = tmp_path / "gate.safetensors"
    gate.save(path)
    again = GateHead.load(path, 6)
    assert torch.equal(again.weight, gate.weight)
    assert torch.equal(again.bias, gate.bias)
    hidden = toy(5, 3).hidden[0]
    score = float(hidden @ gate.weight.double() + gate.bias.double())
    assert again(hidden) == pytest.approx(1 / (1 + math.exp(-score)), abs=1e-4)


def test_a_gate_that_is_missing_or_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "gate.safetensors"
    with pytest.raises(LoadError, match=r"can not be read .*`gac fit-gate` makes one"):
        make(["chatml"], method="co_llm", gate=str(path))
    path.write_text("no gate")
    with pytest.raises(LoadError, match="can not be read"):
        make(["chatml"], method="co_llm", gate=str(path))
    with pytest.raises(LoadError, match=r"needs weight \(32,\) .*fit it again"):
        make(["chatml"], method="co_llm", gate=random_gate(31))
    with pytest.raises(ConfigError, match="method co_llm needs gate"):
        make(["chatml"], method="co_llm")


def test_prompts_of_a_file() -> None:
    messages = [{"role": "user", "content": "Hello"}]
    lines = [json.dumps({"messages": messages}), "", json.dumps({"prompt": "Once"})]
    assert sorted(map(str, parse_prompts(lines, is_jsonl=True, seed=0))) == ["Once", str(messages)]
    assert parse_prompts(["Hello", " "], is_jsonl=False, seed=0) == [messages]
    for line in ("{", '"Hello"', '{"prompt": 3}', '{"prompt": "a", "messages": []}'):
        with pytest.raises(ConfigError, match="line 1 is no prompt"):
            parse_prompts([line], is_jsonl=True, seed=0)
    assert training_prompts(7, 1) == training_prompts(7, 1) != training_prompts(7, 2)


# ------------------------------------------------ the command and the embedded gate


def test_fit_gate_writes_a_gate_that_can_be_used(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, gate = tmp_path / "questions.txt", tmp_path / "gate.safetensors"
    prompts.write_text("".join(f"What is {n} + 1?\n" for n in range(12)))
    options = [*models(folders), "--prompts", str(prompts), "--max-new-tokens", "9"]
    assert gac("fit-gate", *options, "--out", str(gate), "--items", "10") == 0
    out, err = capsys.readouterr()
    assert "log-likelihood" in out
    assert err == ""
    assert gac("fit-gate", *options, "--out", str(gate)) == 2
    assert "add --force" in capsys.readouterr().err
    assert gac("fit-gate", *options, "--out", str(gate), "--force", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 2 * 9
    assert 0 <= found["deferred"] <= 1
    config = tmp_path / "ensemble.yaml"
    config.write_text(
        f"members: [{folders[0]}, {folders[1]}]\nmethod: co_llm\ngate: {gate}\nthreshold: 0.3\n"
    )
    assert gac("run", "-c", str(config), "Hello", "--max-new-tokens", "5") == 0
    gate.unlink()  # a configuration may name the gate that is to be made
    options = ["-c", str(config), *options[4:], "--out", str(gate)]
    assert gac("fit-gate", *options) == 0
    assert gate.exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-m", "a", "-m", "b"], "--prompts is needed"),
        (["-m", "a", "--prompts", "x.txt"], "name two models or more"),
        (["--prompts", "/nowhere"], "--prompts: /nowhere can not be read"),
        (["--items", "3"], "there are 3 prompts; give 5 at least"),
        (["--out", "/nowhere/gate"], "there is no folder /nowhere"),
    ],
)
def test_what_fit_gate_refuses(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gac("fit-gate", *arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert complaint in err


@pytest.mark.slow
def test_the_pocket_ensemble_has_a_gate() -> None:
    with Ensemble.pocket(method="co_llm") as ensemble:
        assert ensemble.generate(QUESTION).text == "77 - 49 = 28"
        outputs = ensemble.batch(training_prompts(24, 99), max_new_tokens=160)
    fused = sum(output.usage.fused_steps for output in outputs)
    assert 0 < fused < 0.1 * sum(output.usage.steps for output in outputs)
    with pytest.raises(ConfigError, match="needs gate"):
        Ensemble.pocket(method="co_llm", primary=1, lazy=True)
