import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from gac_core import ConfigError, Ensemble, EnsembleConfig, LoadError, MemberConfig
from gac_core.member_config import member_names
from gac_core.members.loading import load_members, pick_device
from tests.fakes import model_of, pair

Folders = tuple[Path, Path]


@pytest.fixture
def broken(saved: Folders, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "model"))


def load(*folders: Path, **options: Any) -> Ensemble:
    return Ensemble.from_pretrained([str(f) for f in folders], progress=False, **options)


def test_loaded_models_write_what_they_wrote_in_memory(saved: Folders) -> None:
    with Ensemble.from_models([pair("chatml"), pair("legacy")]) as ensemble:
        expected = ensemble.generate("Hello", max_new_tokens=12).text
    with load(*saved) as ensemble:
        assert [m.name for m in ensemble.members] == ["chatml", "legacy"]
        assert ensemble.generate("Hello", max_new_tokens=12).text == expected


def test_from_config_and_yaml(saved: Folders, tmp_path: Path) -> None:
    config = EnsembleConfig(
        members=(
            MemberConfig(model=str(saved[0]), weight=2, dtype="float32"),
            MemberConfig(model=str(saved[1]), name="second"),
        ),
        method="cascade",
    )
    path = tmp_path / "ensemble.yaml"
    path.write_text(config.to_yaml())
    for source in (config, path, str(path)):
        with Ensemble.from_config(source, progress=False) as ensemble:
            first, second = ensemble.members
            assert first.weight == pytest.approx(2 / 3)
            assert model_of(first).dtype is torch.float32
            assert model_of(second).dtype is torch.float64  # as stored
            assert second.name == "second"


def test_lazy_loads_when_first_used(saved: Folders) -> None:
    with load(saved[0], Path("./nowhere"), lazy=True) as ensemble:
        assert ensemble._runtime is None
        with pytest.raises(LoadError, match="nowhere"):
            ensemble.generate("Hello")
    with load(*saved, lazy=True) as ensemble:
        assert ensemble.generate("Hello", max_new_tokens=1).usage.steps == 1


async def test_lazy_loads_from_async_code_too(saved: Folders) -> None:
    with load(*saved, lazy=True) as ensemble:
        output = await ensemble.agenerate("Hello", max_new_tokens=1)
        assert output.usage.steps == 1


def test_a_member_of_weight_0_is_not_loaded(saved: Folders) -> None:
    with load(saved[0], Path("./nowhere"), weights=[1, 0]) as ensemble:
        assert len(ensemble.members) == 1
    with load(Path("./nowhere"), saved[0], weights=[0, 1], primary=1) as ensemble:
        assert ensemble.members[0].name == "chatml"


def test_placement_by_accelerate(saved: Folders) -> None:
    with load(*saved, device_map="auto", max_memory={"cpu": "2GiB"}) as ensemble:
        assert ensemble.members[0].scorer.device.type == "cpu"
        assert ensemble.generate("Hello", max_new_tokens=2).usage.steps == 2


def test_devices_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device("cpu", 3) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [pick_device("auto", i).index for i in range(3)] == [0, 1, 0]


def test_names_are_unique() -> None:
    configs = [MemberConfig(model="org/a"), MemberConfig(model="x/a"), MemberConfig(model="b")]
    assert member_names(configs) == ["a", "a-2", "b"]


def test_wrong_shapes() -> None:
    model, tokenizer = pair("chatml")
    for wrong in (["gpt2"], [model], [(tokenizer, model)]):
        with pytest.raises(ConfigError, match=r"must be \(model or scorer, tokenizer\) pairs"):
            Ensemble.from_models(wrong)  # type: ignore[arg-type]
    for config in (None, [1]):
        with pytest.raises(ConfigError, match="config must be"):
            Ensemble.from_config(config)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be a list of paths"):
        Ensemble.from_pretrained([1])  # type: ignore[list-item]
    assert EnsembleConfig.of({"members": ["a/b"]}).members[0].model == "a/b"


def test_a_missing_folder() -> None:
    with pytest.raises(LoadError, match=r"there is no folder \./nowhere"):
        load_members([MemberConfig(model="./nowhere")], progress=False)
    with pytest.raises(LoadError, match="no/such-model could not be loaded"):
        load_members([MemberConfig(model="no/such-model")], progress=False)


def test_a_file_is_no_folder(saved: Folders) -> None:
    with pytest.raises(LoadError, match="is a file"):
        load(saved[0] / "config.json")


def damage(folder: Path, way: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    match way:
        case "no config":
            config.unlink()
        case "corrupt config":
            config.write_text("{")
        case "unknown architecture":
            config.write_text(json.dumps({"model_type": "wizard"}))
        case "pickle only":
            weights.unlink()
            torch.save({}, folder / "pytorch_model.bin")
        case "no weights":
            weights.unlink()
        case "truncated weights":
            weights.write_bytes(weights.read_bytes()[:1000])
        case "lacking weights":
            from safetensors.torch import load_file, save_file

            tensors = load_file(weights)
            del tensors["model.layers.1.mlp.up_proj.weight"]
            save_file(tensors, weights, metadata={"format": "pt"})
        case "other shapes":
            values = json.loads(config.read_text())
            config.write_text(json.dumps({**values, "hidden_size": 64}))
        case "corrupt tokenizer":
            (folder / "tokenizer.json").write_text("[]")
        case "no tokenizer":
            for file in folder.glob("tokenizer*"):
                file.unlink()


@pytest.mark.parametrize(
    ("way", "complaint"),
    [
        ("no config", "has no config.json"),
        ("corrupt config", "config.json is corrupt"),
        ("unknown architecture", "could not be loaded: .*wizard"),
        ("pickle only", "pickle only .pytorch_model.bin.*save_pretrained"),
        ("no weights", "has no weights"),
        ("truncated weights", "could not be loaded"),
        ("lacking weights", "lacks 1 of its weights, model.layers.1.mlp.up_proj.weight"),
        ("other shapes", "could not be loaded"),
        ("corrupt tokenizer", "could not be loaded"),
        ("no tokenizer", "could not be loaded"),
    ],
)
def test_damaged_folders(broken: Path, way: str, complaint: str) -> None:
    damage(broken, way)
    with pytest.raises(LoadError, match=complaint) as caught:
        load(broken)
    assert "\n" not in str(caught.value)


def test_a_full_disk(saved: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gac_core.members.loading.AutoModelForCausalLM.from_pretrained", full)
    with pytest.raises(LoadError, match=r"No space left on device.*disk or memory full"):
        load(saved[0])


def test_wrong_calls(saved: Folders) -> None:
    with pytest.raises(ConfigError, match="must be a list"):
        Ensemble.from_pretrained("org/model")
    with pytest.raises(ConfigError, match="2 models and 1 weights"):
        load(*saved, weights=[1])
    with pytest.raises(ConfigError, match="1 models and 2 names"):
        Ensemble.from_models([pair("chatml")], names=["a", "b"])
    with pytest.raises(ConfigError, match="dtype"):
        load(*saved, dtype="int3")


def test_progress_bars_are_shown_if_asked(
    saved: Folders, capfd: pytest.CaptureFixture[str]
) -> None:
    load(*saved).close()
    assert capfd.readouterr().err == ""
    Ensemble.from_pretrained([str(f) for f in saved]).close()
    assert "Loading members" in capfd.readouterr().err
