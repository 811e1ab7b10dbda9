"""Members that are GGUF files, the form in which llama.cpp and its kin keep models.

transformers reads such a file by unpacking its weights, which takes a minute where a folder of
safetensors takes seconds. So a file is converted once, into a cache that goes by its content:

    <cache>/gguf/<hash of the file>-<version of transformers>/
        tokenizer/      with the chat template; all that `gac vocab` needs
        float32/        configuration and weights; a folder for each dtype that was asked for

Each of them is written beside its place and renamed, under a lock: it is there as a whole or not at
all, and programs that want it at the same time make it once. They may be deleted at any time.
"""

import hashlib
import importlib.util
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from filelock import FileLock, Timeout
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from gac_core.errors import LoadError, one_line

_log = logging.getLogger(__name__)

_MAGIC: Final = b"GGUF"
_PART: Final = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.gguf$", re.IGNORECASE)
_OTHER: Final = "take another file of this model, or its safetensors"
# How Llama 3.1 and 3.2 scale rotary positions; the factor differs.
_LLAMA3: Final = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def cache_folder() -> Path:
    """Where converted files are kept: what GAC_CACHE names, or `gac` in the user's cache folder."""
    if own := os.environ.get("GAC_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gac"


def is_gguf(path: Path) -> bool:
    """Whether a model's path means a GGUF file: by its name, or else by how the file begins."""
    if os.path.isdir(path):  # a model's folder may have any name
        return False
    if path.suffix.lower() == ".gguf":
        return True
    try:
        return os.path.isfile(path) and _begin(path) == _MAGIC
    except OSError:
        return False


class GgufFile:
    """A GGUF file and what it was converted to.

    Args:
        path: of the file; a symbolic link is followed.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, ...] = ()  # of the file whose content was hashed

    def tokenizer(self, *, progress: bool = False) -> Path:
        """The folder of its tokenizer, made if it is not in the cache.

        Args:
            progress: whether to say that it is made.

        Raises:
            LoadError: the file is missing, damaged, or nothing transformers can read; or the cache
                can not be written.

        """
        return self._converted("tokenizer", self._save_tokenizer, progress=progress)

    def weights(self, dtype: str, *, progress: bool = True) -> Path:
        """The folder of its configuration and weights, made if it is not in the cache.

        Weights are unpacked to float32, which loses nothing, unless 16 bits are asked for.

        Args:
            dtype: of the member; float16 and bfloat16 halve the folder and the memory.
            progress: whether to show a progress bar.

        Raises:
            LoadError: as of `tokenizer`; or the memory is full.

        """
        stored = dtype if dtype in ("float16", "bfloat16") else "float32"
        save = partial(self._save_weights, dtype=stored, progress=progress)
        return self._converted(stored, save, progress=progress)

    # ------------------------------------------------ the cache

    @cached_property
    def _entry(self) -> Path:
        """The cache's folder for this content, read by this version of transformers."""
        if _PART.search(self.path.name):
            raise self._is_split()
        try:
            if not self.path.exists():
                raise LoadError(f"there is no file {self.path}; give a GGUF file that exists")
            if not self.path.is_file():
                raise self._error("is no file; give a GGUF file")
            if (begin := _begin(self.path)) != _MAGIC:
                raise self._error(
                    f"is no GGUF file, since it begins with {begin!r} and not with {_MAGIC!r}; "
                    "fetch it again"
                )
            with self.path.open("rb") as file:
                self._stamp = _stamp(file.fileno())
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise self._error(
                f"can not be read: {error.strerror}; let your user read it, with chmod or chown"
            ) from error
        return cache_folder() / "gguf" / f"{digest[:32]}-{transformers.__version__}"

    def _converted(self, name: str, save: Callable[[Path], None], *, progress: bool) -> Path:
        """A folder of the entry, saved if it is not there yet."""
        folder = self._entry / name
        if folder.is_dir():
            return folder
        with self._lock(progress):
            if folder.is_dir():  # another program made it meanwhile
                return folder
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            if progress:
                _say(f"Converting {self.path.name} ({name}) into {self._entry}, once")
            try:
                save(unfinished)
                if _stamp(self.path) != self._stamp:
                    raise self._error("was changed while it was read; load it again")
                with self._writing():
                    unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
        return folder

    @contextmanager
    def _lock(self, progress: bool) -> Iterator[None]:
        """One program at a time adds to the entry; the system frees the lock of a killed one."""
        lock = FileLock(self._entry / "lock")
        with self._writing():
            self._entry.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                if progress:
                    _say(f"Waiting for the program that converts {self.path.name}")
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What goes wrong within is the cache's fault."""
        try:
            yield
        except Exception as error:
            raise self._error(
                f"can not be converted into the cache {cache_folder()}: {_reason(error)}; make "
                "room there, or let GAC_CACHE name a folder on another disk"
            ) from error

    # ------------------------------------------------ converting

    def _save_tokenizer(self, folder: Path) -> None:
        reader = self._reader()
        try:
            with self._alone() as source:
                tokenizer = AutoTokenizer.from_pretrained(**source)
        except Exception as error:
            raise self._error(
                f"of architecture {_field(reader, 'general.architecture')!r} can not be read by "
                f"transformers {transformers.__version__}: {_reason(error)}; {_OTHER}"
            ) from error
        with self._writing():
            tokenizer.save_pretrained(folder)

    def _save_weights(self, folder: Path, dtype: str, progress: bool) -> None:
        factors, scaling = _positions(self._reader())
        try:
            with self._alone() as source, _bar(f"Unpacking {self.path.name}", progress):
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    **source,
                    dtype=getattr(torch, dtype),
                    quantization_config=transformers.GgufConfig(dequantize=True),
                    output_loading_info=True,
                )
        except Exception as error:
            raise self._error(
                f"can not be converted: {_reason(error)}; {_OTHER}, or a dtype of 16 bits where "
                "memory is short"
            ) from error
        model, info = loaded
        if missing := sorted(info["missing_keys"]):
            raise self._error(
                f"lacks {len(missing)} of the weights that transformers looks for, {missing[0]} "
                f"first; {_OTHER}"
            )
        self._scale_positions(model.config, factors, scaling)
        # What the model remembers of the file would make it refuse to be saved.
        vars(model.config).pop("quantization_config", None)
        model.hf_quantizer, model.is_quantized = None, False
        with self._writing():
            model.save_pretrained(folder)

    @contextmanager
    def _alone(self) -> Iterator[dict[str, str]]:
        """The file in a folder of its own, since transformers reads what lies beside it, too.

        Yields:
            The arguments of `from_pretrained` that name it.

        """
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "model.gguf").symlink_to(self.path.resolve())
            yield {"pretrained_model_name_or_path": folder, "gguf_file": "model.gguf"}

    def _reader(self) -> Any:
        """The opened file, unless transformers would stumble over it or read it wrongly."""
        if importlib.util.find_spec("gguf") is None:
            raise self._error("needs a package to be read: pip install gguf")
        import gguf

        try:
            reader = gguf.GGUFReader(self.path)
        except Exception as error:
            raise self._error(
                f"is truncated, damaged or too new: {_reason(error)}; fetch it again, or update "
                "the package gguf"
            ) from error
        if (_field(reader, "split.count") or 1) > 1:
            raise self._is_split()
        if "tokenizer.ggml.tokens" not in reader.fields:
            raise self._error(f"has no tokenizer; {_OTHER}")
        for kind in {tensor.tensor_type for tensor in reader.tensors}:
            _, size = gguf.GGML_QUANT_SIZES[kind]
            try:
                gguf.dequantize(np.zeros((1, size), np.uint8), kind)
            except NotImplementedError as error:
                raise self._error(
                    f"is quantized as {kind.name}, which can not be unpacked here; {_OTHER}"
                ) from error
        return reader

    def _scale_positions(
        self, config: Any, factors: torch.Tensor | None, scaling: str | None
    ) -> None:
        """Set how rotary positions are scaled, which transformers does not read from such files."""
        rope = getattr(config, "rope_parameters", None) or {}
        if factors is not None and "rope_theta" in rope:  # Llama 3.1 and its successors
            config.rope_parameters = rope | _LLAMA3 | {"factor": float(factors.max())}
            frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
            exponents = torch.arange(len(frequencies)) / len(frequencies)
            found = rope["rope_theta"] ** -exponents / frequencies
            if found.shape != factors.shape or not torch.allclose(found, factors, rtol=1e-3):
                raise self._error(f"scales its rotary positions in a way of its own; {_OTHER}")
        elif factors is not None or scaling not in (None, "none"):
            _log.warning(
                "%s scales its rotary positions (%s), which transformers leaves out when it reads "
                "a GGUF file; its texts may be worse than the model's",
                self.path,
                scaling or "by factors",
            )

    # ------------------------------------------------ errors

    def _is_split(self) -> LoadError:
        return self._error(
            "is one part of a split file; merge the parts with llama-gguf-split --merge FIRST "
            "WHOLE, and give the whole"
        )

    def _error(self, what: str) -> LoadError:
        return LoadError(f"{self.path} {what}")


@contextmanager
def _bar(title: str, shown: bool) -> Iterator[None]:
    """The bar with which transformers unpacks, which has no switch, with a title or not at all."""
    module: Any = modeling_gguf_pytorch_utils
    own = module.tqdm
    module.tqdm = lambda items, **_: tqdm(items, desc=title, disable=not shown, leave=False)
    try:
        yield
    finally:
        module.tqdm = own


def _say(line: str) -> None:
    """Print above the bars."""
    tqdm.write(line, file=sys.stderr)


def _field(reader: Any, name: str) -> Any:
    """A value of the file's metadata; None if it has none of this name."""
    field = reader.get_field(name)
    return None if field is None else field.contents()


def _positions(reader: Any) -> tuple[torch.Tensor | None, str | None]:
    """How rotary positions are scaled: a factor for each frequency, or the name of a way."""
    found = (
        t.data for t in reader.tensors if re.fullmatch(r"rope_(freqs|factors_long)\.weight", t.name)
    )
    factors = next(map(torch.tensor, found), None)
    return factors, _field(reader, f"{_field(reader, 'general.architecture')}.rope.scaling.type")


def _reason(error: BaseException) -> str:
    return one_line(error, 300).rstrip(".")


def _begin(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_MAGIC))


def _stamp(file: Path | int) -> tuple[int, ...]:
    """What differs if a file was replaced or written to."""
    stat = os.stat(file)
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
