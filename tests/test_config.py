import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from gac_core import ConfigError, Ensemble, EnsembleConfig, MemberConfig, SamplingParams
from gac_core.config_template import commented_yaml
from gac_core.methods.co_llm import CoLLMOptions
from gac_core.runtime import sampling_of
from gac_core.sampling_params import sampling_defaults
from tests.fakes import pair


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"max_tokens": 3}, "max_tokens: unknown option; SamplingParams has: max_new_tokens, temp"),
        ({"temperature": -1}, "temperature: .*greater than or equal to 0, got -1"),
        ({"temperature": float("nan")}, "temperature: "),
        ({"top_p": 0}, "top_p: "),
        ({"max_new_tokens": 0}, "max_new_tokens: "),
        ({"stop": [""]}, "stop.0: "),
        ({"seed": -1}, "seed: "),
        ({"top_k": "many"}, "top_k: .*got 'many'"),
        ({"top_logprobs": 3}, "top_logprobs needs logprobs=True"),
    ],
)
def test_sampling_is_checked(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        SamplingParams.of(values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"space": "bytes", "paths": 0},
            "paths: got 0; Input should be greater than or equal to 1, or Input should be 'top'",
        ),
        (
            {"draft": 1.5},
            "draft: got 1.5; Input should be a valid string, or Input should be a valid integer",
        ),
    ],
)
def test_what_is_none_of_several_types(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EnsembleConfig.of({"members": ["a", "b"], **options})
    assert str(caught.value) == message


def test_one_stop_string_or_none() -> None:
    assert SamplingParams.of({"stop": "\n"}).stop == ("\n",)
    assert SamplingParams.of({"stop": None}).stop == ()
    assert SamplingParams.of({"stop": ["a", "b"]}).stop == ("a", "b")


TWO = ({"model": "a"}, {"model": "b"})


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"members": []}, "at least 1 item"),
        ({"members": TWO, "treshold": 0.5}, "treshold: unknown option"),
        ({"members": TWO, "primary": 2}, r"primary is 2, but there are 2 members \(0 to 1\)"),
        ({"members": ({"model": "a", "weight": 0},)}, "all weights are 0"),
        ({"members": ({"model": "a", "weight": 0}, {"model": "b"})}, "primary .* has weight 0"),
        ({"members": ({"model": "a", "weight": -1},)}, "members.0.weight"),
        ({"members": ({"model": "a", "name": "x"}, {"model": "b", "name": "x"})}, "same name"),
        ({"members": TWO, "threshold": 0.5}, "threshold needs method cascade"),
        ({"members": TWO, "method": "magic"}, "no method 'magic'; there are every_step, cascade"),
        (
            {"members": ({"model": "a", "device": "cpu", "device_map": "auto"},)},
            "device and device_map exclude each other",
        ),
        ({"members": ({"model": "a", "max_memory": {0: "1GiB"}},)}, "max_memory needs device_map"),
    ],
)
def test_ensembles_are_checked(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        EnsembleConfig.of(values)


SERVER = {"model": "org/a", "url": "http://127.0.0.1:30000", "engine": "sglang"}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"engine": None}, "url needs engine, what runs there: sglang, vllm or llamacpp"),
        ({"engine": "tgi"}, "engine: .*'sglang', 'vllm' or 'llamacpp', got 'tgi'"),
        ({"url": None}, "engine needs url, the address of a server"),
        ({"url": None, "engine": None, "top_k_logprobs": 5}, "top_k_logprobs needs url"),
        ({"url": None, "engine": None, "timeout": 5}, "timeout needs url"),
        ({"url": None, "engine": None, "api_key_env": "KEY"}, "api_key_env needs url"),
        ({"url": "localhost:30000"}, "url: .*match pattern '.https"),
        ({"gguf_file": "a.gguf"}, "url and a GGUF file exclude each other; .* the tokenizer"),
        ({"model": "models/a.gguf"}, "url and a GGUF file exclude each other"),
        ({"device": "cuda"}, "device means nothing with url; set it where the server starts"),
        ({"device_map": "auto"}, "device_map means nothing with url"),
        ({"dtype": "bfloat16"}, "dtype means nothing with url"),
        ({"quantization": {"quant_method": "x"}}, "quantization means nothing with url"),
        ({"attention": "eager"}, "attention means nothing with url"),
        ({"top_k_logprobs": 0}, "top_k_logprobs: got 0"),
        ({"top_k_logprobs": "most"}, "top_k_logprobs: got 'most'"),
        ({"timeout": 0}, "timeout: .*greater than 0"),
    ],
)
def test_members_that_are_servers_are_checked(values: dict[str, Any], complaint: str) -> None:
    given = {name: value for name, value in {**SERVER, **values}.items() if value is not None}
    with pytest.raises(ConfigError, match=complaint):
        EnsembleConfig.of({"members": [given]})


def test_servers_in_yaml_there_and_back(tmp_path: Path) -> None:
    server = MemberConfig.of({**SERVER, "top_k_logprobs": 50, "timeout": 10.0, "weight": 0.3})
    config = EnsembleConfig(members=(server, MemberConfig(model="org/b")))
    path = tmp_path / "ensemble.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert EnsembleConfig.from_yaml(path) == config
    assert config.names == ("a", "b")


def test_yaml_there_and_back(tmp_path: Path) -> None:
    config = EnsembleConfig(
        members=(MemberConfig(model="org/a", weight=0.7), MemberConfig(model="org/é", name="b")),
        method="cascade",
        threshold=0.8,
    )
    path = tmp_path / "ensemble.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert EnsembleConfig.from_yaml(path) == config


def test_folders_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "models" / "a").mkdir(parents=True)
    path = tmp_path / "ensemble.yaml"
    path.write_text("members:\n- model: models/a\n- model: ./b\n- model: org/c\n")
    models = [m.model for m in EnsembleConfig.from_yaml(path).members]
    assert models == [str(tmp_path / "models/a"), str(tmp_path / "b"), "org/c"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "there is no file .*gac config"),
        ("members: [", "can not be read as YAML"),
        ("- a", "must hold a mapping"),
        ("members: [{modell: a}]", "ensemble.yaml: members.0.model.*members.0.modell"),
        ("", "must hold a mapping"),
    ],
)
def test_bad_files(tmp_path: Path, content: str | None, complaint: str) -> None:
    path = tmp_path / "ensemble.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=complaint):
        EnsembleConfig.from_yaml(path)


@pytest.mark.parametrize("gate", ["gates/own.safetensors", "/gates/own.safetensors"])
def test_a_gate_is_relative_to_its_file(tmp_path: Path, gate: str) -> None:
    path = tmp_path / "ensemble.yaml"
    path.write_text(f"members: [a]\nmethod: co_llm\ngate: {gate}\n")
    config = EnsembleConfig.from_yaml(path)
    assert isinstance(config.options, CoLLMOptions)
    assert config.options.gate == str(tmp_path / gate)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"method": "unite", "fusion": "core"}, "method unite is fusion unite; drop one of them"),
        ({"method": "mod", "weighting": "entropy"}, "method mod is weighting fixed"),
        ({"paths": 4}, "paths needs space bytes"),
        ({"method": "twist", "fusion": "core"}, "fusion means nothing to method twist"),
        ({"temper": 0.5}, "temper needs weighting prompt, posterior or entropy"),
        ({"method": "safe", "weighting": "posterior"}, "fixed, prompt or entropy"),
        ({"method": "co_llm"}, "needs gate, a file that `gac fit-gate` writes"),
        ({"fusion": "magic"}, "no fusion 'magic'; there are mean, power, geometric, unite, core"),
    ],
)
def test_options_that_nobody_would_hear_are_refused(
    options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        EnsembleConfig.of({"members": TWO, **options})


def test_presets_are_names_for_options() -> None:
    config = EnsembleConfig.of({"members": TWO, "method": "packllm", "temper": 2})
    assert (config.method, config.weighting, config.temper) == ("every_step", "prompt", 2)
    assert EnsembleConfig.of(config.model_dump()) == config


@pytest.mark.parametrize("method", ["cascade", "safe"])
def test_null_is_the_default_of_an_option_of_a_method(method: str) -> None:
    null = EnsembleConfig.of({"members": TWO, "method": method, "threshold": None})
    assert null == EnsembleConfig.of({"members": TWO, "method": method})


def test_options_of_a_method_can_be_read_as_attributes() -> None:
    config = EnsembleConfig(members=TWO, method="safe", block=3)
    assert getattr(config, "block") == config.model_dump()["block"] == 3  # noqa: B009
    with pytest.raises(AttributeError, match="gate"):
        getattr(config, "gate")  # noqa: B009
    for copied in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), config.model_copy()):
        assert copied == config


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": None},
        {"block": 5, "paths": "top", "sharpen": None},
        {"method": "twist", "threshold": None, "gate": None},
    ],
)
def test_options_of_other_methods_that_change_nothing_are_left_out(options: dict[str, Any]) -> None:
    """As in a file that lists every option at its default."""
    method = options.get("method", "every_step")
    assert EnsembleConfig.of({"members": TWO, **options}) == EnsembleConfig.of(
        {"members": TWO, "method": method}
    )


def test_another_method_can_be_named_beside_what_was_dumped() -> None:
    cascade = EnsembleConfig.of({"members": TWO, "method": "cascade"})
    for method in ("every_step", "safe"):
        other = EnsembleConfig.of({**cascade.model_dump(), "method": method})
        assert other == EnsembleConfig.of({"members": TWO, "method": method})
    own = EnsembleConfig.of({"members": TWO, "method": "safe", "block": 3})
    with pytest.raises(ConfigError, match="block needs method safe, not cascade"):
        EnsembleConfig.of({**own.model_dump(), "method": "cascade"})
    assert own.model_dump(include={"method"}) == {"method": "safe"}
    assert "block" not in own.model_dump(exclude={"block"})


def test_copies_take_options_of_the_method_too() -> None:
    config = EnsembleConfig.of({"members": TWO, "method": "cascade"})
    copied = config.model_copy(update={"threshold": 0.9, "max_batch": 3})
    assert copied == EnsembleConfig.of({**config.model_dump(), "threshold": 0.9, "max_batch": 3})
    assert "threshold: 0.9" in copied.to_yaml()
    safe = copied.model_copy(update={"method": "safe", "block": 2})
    assert safe == EnsembleConfig.of({"members": TWO, "method": "safe", "block": 2, "max_batch": 3})


def test_options_is_no_option() -> None:
    for given in ("x", {"block": 3}):
        with pytest.raises(ConfigError, match="options: unknown option; EnsembleConfig has: memb"):
            EnsembleConfig.of({"members": TWO, "method": "safe", "options": given})


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_the_schema_names_the_options_of_methods(mode: Any) -> None:
    schema = EnsembleConfig.model_json_schema(mode=mode)
    assert {"members", "method", "threshold", "block", "gate"} <= schema["properties"].keys()
    assert "options" not in schema["properties"]


# ------------------------------------------------ a model's own sampling


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, {}),
        ({"temperature": 0.6, "top_p": 0.95}, {}),  # transformers does not sample then
        ({"do_sample": True}, {"temperature": 1.0}),
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "pad_token_id": 0},
            {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
        ),
        ({"repetition_penalty": 1.1, "top_k": None}, {"repetition_penalty": 1.1}),
    ],
)
def test_what_a_generation_config_says_of_sampling(
    own: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    assert sampling_defaults(own) == expected
    (tmp_path / "generation_config.json").write_text(json.dumps(own))
    shown = commented_yaml([str(tmp_path)])
    assert ("# Its generation config, for sampling: model, has" in shown) == bool(expected)
    assert EnsembleConfig.of(yaml.safe_load(shown)).members[0].model == str(tmp_path)


def test_sampling_is_the_models_if_the_ensemble_says_so() -> None:
    model, tokenizer = pair("chatml")
    own = model.generation_config
    assert own is not None
    own.do_sample, own.temperature, own.top_k = True, 0.7, 3
    try:
        for sampling, given, expected in (
            ("greedy", {}, (0.0, 0, 1.0)),
            ("model", {}, (0.7, 3, 1.0)),
            ("model", {"temperature": 0.0, "top_p": 0.5}, (0.0, 3, 0.5)),
        ):
            with Ensemble.from_models([(model, tokenizer)], sampling=sampling) as ensemble:
                params = sampling_of(None, given, ensemble.runtime.sampling)
                options: dict[str, Any] = {"max_new_tokens": 3, "seed": 1, **given}
                output = ensemble.generate("Hello", **options)
                same = ensemble.generate("Hello", params, max_new_tokens=3, seed=1)
            assert (params.temperature, params.top_k, params.top_p) == expected
            assert output.text == same.text
    finally:
        own.do_sample = own.temperature = own.top_k = None
