"""A configuration file to start from: every option at its default, with a comment."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from gac_core.config import EnsembleConfig
from gac_core.member_config import MemberConfig
from gac_core.registry import METHODS
from gac_core.sampling_params import sampling_defaults


def commented_yaml(models: Sequence[str]) -> str:
    """The YAML of an ensemble in which every option except the models is a comment.

    Args:
        models: folders, GGUF files or hub names, one or more.

    """
    lines = ["# An ensemble for gac. Options left out have the values shown.", "members:"]
    for index, model in enumerate(models):
        lines.append(f"  - model: {_flow(model)}")
        if sampling := _sampling(model):
            lines.append(f"    # Its generation config, for sampling: model, has {_flow(sampling)}")
        if index == 0:
            lines += _options(MemberConfig, "model", indent="    ")
    lines.append("")
    lines += _options(EnsembleConfig, "members", "options")
    for method in METHODS.builtin:
        own = METHODS.get(method).options
        if own.model_fields:
            lines += ["", f"# Of method {method} only:", *_options(own)]
    return "\n".join(lines) + "\n"


def _sampling(model: str) -> dict[str, float]:
    """The sampling that a model's generation config sets, if it lies in a folder here."""
    path = Path(model).expanduser() / "generation_config.json"
    try:
        return sampling_defaults(json.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError):  # a hub name, a GGUF file; what is wrong is said when loading
        return {}


def _options(kind: type[BaseModel], *skipped: str, indent: str = "") -> list[str]:
    lines = []
    for name, field in kind.model_fields.items():
        if name not in skipped:
            comment = f"  # {field.description}" if field.description else ""
            lines.append(f"{indent}# {name}: {_flow(field.default)}{comment}")
    return lines


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()
