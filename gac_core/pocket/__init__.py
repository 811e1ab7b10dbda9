"""The pocket ensemble: three tiny chat models in this package, trained by the package itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gac_core.member_config import MemberConfig

NAMES: Final = ("ada", "bo", "cy")


def folder(name: str) -> Path:
    """The folder of an embedded member."""
    return Path(__file__).parent / "members" / name


GATE: Final = folder("gate.safetensors")  # of method co_llm, for the first member as the primary


def members() -> list[MemberConfig]:
    """The configurations of the three members: on the CPU, in float32."""
    return [
        MemberConfig(model=str(folder(name)), name=name, device="cpu", dtype="float32")
        for name in NAMES
    ]


def with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an `EnsembleConfig`, with the embedded gate where it fits and none is named."""
    fits = options.get("method") == "co_llm" and options.get("primary", 0) == 0
    return {"gate": str(GATE), **options} if fits else dict(options)
