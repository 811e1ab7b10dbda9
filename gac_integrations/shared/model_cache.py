"""Ensembles by their configuration, so that every adapter object of one process shares them.

Frameworks copy, rebuild and pickle model objects freely; their ensemble is loaded once, and freed
when the last of these objects is gone.
"""

import json
import threading
from pathlib import Path
from typing import Final
from uuid import uuid4
from weakref import WeakKeyDictionary, WeakValueDictionary

from gac_core import ConfigError, Ensemble, EnsembleConfig

_LOCK: Final = threading.Lock()
_ENSEMBLES: Final[WeakValueDictionary[str, Ensemble]] = WeakValueDictionary()  # by configuration
_NAMES: Final[WeakKeyDictionary[Ensemble, str]] = WeakKeyDictionary()  # of `unique_name`


def config_named(model: str) -> EnsembleConfig:
    """The configuration that a model name stands for: "pocket", or the path of a YAML file.

    Raises:
        ConfigError: it is neither, or the file is wrong.

    """
    if model == "pocket":
        return Ensemble.pocket(lazy=True).config
    if Path(model).suffix in (".yaml", ".yml"):
        return EnsembleConfig.from_yaml(model)
    raise ConfigError(
        f"model {model!r} is neither pocket nor a YAML file; `gac config MODEL MODEL -o "
        "ensemble.yaml` writes one"
    )


def shared_ensemble(config: EnsembleConfig) -> Ensemble:
    """The ensemble of this configuration; its models are loaded at first use."""
    key = config.model_dump_json()
    with _LOCK:
        ensemble = _ENSEMBLES.get(key)
        if ensemble is None or ensemble.is_closed:
            ensemble = Ensemble.from_config(config, lazy=True, progress=False)
            _ENSEMBLES[key] = ensemble
        return ensemble


def unique_name(ensemble: Ensemble) -> str:
    """A name that no other ensemble has or had, in this process or another."""
    with _LOCK:
        return _NAMES.setdefault(ensemble, uuid4().hex)


def context_size_of(config: EnsembleConfig) -> int | None:
    """The smallest context of the members, as far as it can be read without loading a model."""
    limits = []
    for index in config.used:
        file = Path(config.members[index].model) / "config.json"
        if file.is_file():
            limit = json.loads(file.read_text(encoding="utf-8")).get("max_position_embeddings")
            if isinstance(limit, int):
                limits.append(limit)
    return min(limits, default=None)
