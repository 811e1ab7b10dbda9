"""From a member's configuration to a model and a tokenizer, safely.

Weights come from safetensors only and no code from a repository runs, unless a member's
configuration says so. Downloads, tokenizers and vocabularies are prepared in parallel; weights are
read one model after the other, since transformers sets process-wide defaults while it does so (it
reads the tensors of one model in parallel by itself).
"""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import snapshot_download
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from gac_core.errors import ConfigError, GacError, LoadError, one_line
from gac_core.member_config import MemberConfig, member_names
from gac_core.members.base import Scorer
from gac_core.members.gguf import GgufFile, is_gguf
from gac_core.sampling_params import sampling_defaults

# What is downloaded of a repository: weights, configuration, chat template, tokenizer. No pickle.
_WEIGHTS: Final = ["*.safetensors"]
_BESIDE: Final = ["*.json", "*.jinja", "*.model", "*.txt"]
_PROBE: Final = "The quick brown fox jumps over the lazy dog"  # tells a server's model from others


@dataclass(frozen=True)
class Loaded:
    """A model or scorer that is loaded, with its tokenizer.

    Attributes:
        name: of the member.
        model: a transformers model, or any `Scorer`.
        tokenizer: of the model.
        text_tokens: added tokens that count as text although they look like markup.
        template_options: what the chat template is given besides.
        think_tags: between which the model thinks, where its template does not show them.

    """

    name: str
    model: PreTrainedModel | Scorer
    tokenizer: PreTrainedTokenizerBase
    text_tokens: tuple[str, ...] = ()
    template_options: Mapping[str, Any] = field(default_factory=dict)
    think_tags: tuple[str, str] | None = None

    @property
    def sampling(self) -> dict[str, float]:
        """The sampling that the model's generation config sets; nothing for scorers."""
        config = getattr(self.model, "generation_config", None)
        return {} if config is None else sampling_defaults(config.to_dict())

    @property
    def end_ids(self) -> frozenset[int]:
        """The ids that end an answer (EOS): the model's, or a scorer's `end_ids` if it has any."""
        ends: set[int] = set()
        if not isinstance(self.model, PreTrainedModel):
            return frozenset(getattr(self.model, "end_ids", ()))
        for config in (getattr(self.model, "generation_config", None), self.model.config):
            value = getattr(config, "eos_token_id", None)
            if value is not None:
                ends.update(value if isinstance(value, (list, tuple)) else (value,))
        return frozenset(ends)


@dataclass(frozen=True)
class Loader:
    """Loads members when it is called; can be pickled, which models can not."""

    configs: tuple[MemberConfig, ...]
    progress: bool

    def __call__(self) -> list[Loaded]:
        """The members; see `load_members`."""
        return load_members(self.configs, progress=self.progress)


def load_members(configs: Sequence[MemberConfig], *, progress: bool = True) -> list[Loaded]:
    """Load all members.

    Args:
        configs: one per member.
        progress: whether to show progress bars.

    Raises:
        LoadError: a model is missing, corrupt, incomplete, unsafe to open, or does not fit.

    """
    names = member_names(configs)
    bar = tqdm(total=2 * len(configs), desc="Loading members", disable=not progress, leave=False)
    own_bars = transformers_logging.is_progress_bar_enabled()
    if not progress:
        transformers_logging.disable_progress_bar()
    try:
        with bar, ThreadPoolExecutor(max_workers=len(configs)) as pool:
            pending = [pool.submit(_fetch, config, progress) for config in configs]
            loaded = []
            for index, config in enumerate(configs):
                bar.set_postfix_str(names[index])
                source, tokenizer = pending[index].result()
                bar.update()
                model: PreTrainedModel | Scorer
                if config.url is not None:
                    model = _server(config, str(source), tokenizer, names[index])
                elif isinstance(source, GgufFile):
                    model = _gguf_model(config, source, index, progress=progress)
                else:
                    model = _load_model(config, source, index)
                loaded.append(
                    Loaded(
                        names[index],
                        model,
                        tokenizer,
                        config.text_tokens,
                        config.chat_template_kwargs,
                        config.think_tags,
                    )
                )
                bar.update()
            return loaded
    finally:
        if own_bars:
            transformers_logging.enable_progress_bar()


def load_tokenizers(configs: Sequence[MemberConfig]) -> dict[str, PreTrainedTokenizerBase]:
    """The tokenizers without the models, by the members' names.

    Raises:
        LoadError: one is missing or corrupt.

    """
    with ThreadPoolExecutor(max_workers=len(configs)) as pool:
        return dict(zip(member_names(configs), pool.map(_fetch_tokenizer, configs), strict=True))


def _fetch(config: MemberConfig, progress: bool) -> tuple[str | GgufFile, PreTrainedTokenizerBase]:
    """A member's folder or GGUF file, downloaded if it is not local, and its tokenizer."""
    if file := _gguf(config):
        return file, _gguf_tokenizer(config, file, progress=progress)
    path = _local(config)
    if path is not None and config.url is None:
        _check_folder(path, config.model)
    folder = str(path) if path is not None else _download(config, _files_of(config))
    return folder, _tokenizer(config, folder)


def _fetch_tokenizer(config: MemberConfig) -> PreTrainedTokenizerBase:
    if file := _gguf(config):
        return _gguf_tokenizer(config, file, progress=False)
    path = _local(config)
    return _tokenizer(config, str(path) if path is not None else _download(config, _BESIDE))


def _files_of(config: MemberConfig) -> list[str]:
    """What is needed of a repository: no weights where a server has them."""
    return [*_WEIGHTS, *_BESIDE] if config.url is None else _BESIDE


def _server(
    config: MemberConfig, folder: str, tokenizer: PreTrainedTokenizerBase, name: str
) -> Scorer:
    """The server that a configuration names, with what the model's own folder says of it."""
    from gac_core.members.remote import RemoteScorer

    assert config.engine is not None, "the configuration was checked"
    own: dict[str, Any] = {}
    for file in ("config.json", "generation_config.json"):
        path = Path(folder, file)
        try:
            own[file] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (OSError, ValueError) as error:
            raise _load_error(config.model, error, f"its {file} is corrupt") from error
    of_text = own["config.json"].get("text_config", own["config.json"])
    generation = GenerationConfig.from_dict(own["generation_config.json"])
    ends: set[int] = set()
    for value in (generation.eos_token_id, of_text.get("eos_token_id")):
        if value is not None:
            ends.update(value if isinstance(value, list) else [value])
    if config.api_key_env is not None and config.api_key_env not in os.environ:
        raise LoadError(
            f"the environment variable {config.api_key_env}, which api_key_env of {name} names, is "
            "not set; set it to the server's API key"
        )
    return RemoteScorer(
        config.url or "",
        config.engine,
        name,
        probe=tokenizer(_PROBE, add_special_tokens=False).input_ids,
        vocab_size=of_text.get("vocab_size", len(tokenizer)),
        top_k=config.top_k_logprobs,
        timeout=config.timeout,
        api_key=None if config.api_key_env is None else os.environ[config.api_key_env],
        end_ids=ends,
        generation_config=generation,
    )


def _gguf(config: MemberConfig) -> GgufFile | None:
    """The GGUF file that the configuration names, if it does, downloaded if it is not local."""
    path = Path(config.model).expanduser()
    if config.url is not None:
        return None
    if config.gguf_file is None:
        return GgufFile(path) if is_gguf(path) else None
    folder = _local(config) or Path(_download(config, [config.gguf_file]))
    return GgufFile(folder / config.gguf_file)


def _gguf_tokenizer(
    config: MemberConfig, file: GgufFile, *, progress: bool
) -> PreTrainedTokenizerBase:
    folder = str(file.tokenizer(progress=progress))
    tokenizer = _tokenizer(config, folder, _delete(folder))
    tokenizer.name_or_path = str(file.path)
    return tokenizer


def _gguf_model(
    config: MemberConfig, file: GgufFile, index: int, *, progress: bool
) -> PreTrainedModel:
    folder = str(file.weights(config.dtype, progress=progress))
    model = _load_model(config, folder, index, _delete(folder))
    model.name_or_path = str(file.path)
    return model


def _delete(folder: str) -> str:
    """What helps where a converted file can not be loaded."""
    return f"if memory is not full, delete {folder}, so that the file is converted anew"


def _local(config: MemberConfig) -> Path | None:
    """The folder that the configuration names, or None for a hub name."""
    model = config.model
    path = Path(model).expanduser()
    if path.exists():
        return path
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise LoadError(f"there is no folder {model}; give a folder that exists or a hub name")
    return None


def _download(config: MemberConfig, files: Sequence[str]) -> str:
    if config.trust_remote_code:
        files = [*files, "*.py"]
    try:
        return snapshot_download(config.model, revision=config.revision, allow_patterns=list(files))
    except Exception as error:
        cure = "check the name, the revision and the network, or give a folder"
        raise _load_error(config.model, error, cure) from error


def _tokenizer(
    config: MemberConfig,
    folder: str,
    cure: str = "its tokenizer files are missing or corrupt; fetch them again",
) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
    except Exception as error:
        raise _load_error(config.model, error, cure) from error


def _check_folder(path: Path, model: str) -> None:
    if not path.is_dir():
        raise LoadError(
            f"{model} is a file; give the folder that holds config.json and the weights, or a GGUF "
            "file"
        )
    config = path / "config.json"
    if not config.exists():
        if found := sorted(file.name for file in path.glob("*.gguf")):
            raise LoadError(
                f"{model} is a folder of GGUF files; name one of them with gguf_file: {found[0]}"
            )
        raise LoadError(f"{model} has no config.json, so it is no model folder")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _load_error(model, error, "its config.json is corrupt; fetch it again") from error
    if not any(path.glob("*.safetensors")):
        pickles = sorted(
            p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in path.glob(pattern)
        )
        if pickles:
            raise LoadError(
                f"{model} has its weights as pickle only ({pickles[0]}), which can run any code "
                "when opened; convert them where you trust them, with "
                "model.save_pretrained(folder), which writes safetensors"
            )
        raise LoadError(f"{model} has no weights (*.safetensors); fetch them again")


def _load_model(
    config: MemberConfig,
    folder: str,
    index: int,
    cure: str = "its files may be damaged, or disk or memory full",
) -> PreTrainedModel:
    options: dict[str, Any] = {
        "dtype": config.dtype,
        "attn_implementation": config.attention,
        "trust_remote_code": config.trust_remote_code,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    if config.quantization is not None:
        options["quantization_config"] = config.quantization
    if config.device_map is not None:
        options["device_map"] = config.device_map
        options["max_memory"] = config.max_memory
    elif config.quantization is not None:  # quantized weights can not be moved afterwards
        options["device_map"] = {"": pick_device(config.device, index)}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
        model: PreTrainedModel
        model, info = loaded
        if missing := sorted(info["missing_keys"]):
            raise LoadError(
                f"{config.model} lacks {len(missing)} of its weights, {missing[0]} first; its "
                "files are incomplete: fetch them again"
            )
        if config.device_map is None and config.quantization is None:
            torch.nn.Module.to(model, pick_device(config.device, index))
    except GacError:
        raise
    except Exception as error:
        raise _load_error(config.model, error, cure) from error
    model.eval()
    return model


def pick_device(device: str, index: int) -> torch.device:
    """The device asked for; for "auto", GPUs in turn, else MPS, else the CPU.

    Args:
        device: its name, or "auto".
        index: of the member, by which GPUs take turns.

    Raises:
        ConfigError: there is no such device.

    """
    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"there is no device {device!r} here; use cpu, cuda, cuda:1, mps or auto"
            ) from error
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", index % torch.cuda.device_count())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _load_error(model: str, error: BaseException, cure: str) -> LoadError:
    return LoadError(f"{model} could not be loaded: {one_line(error, 300)}; {cure}")
