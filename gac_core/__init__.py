"""Several language models with different tokenizers write one text together, token by token."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gac_core.config import EnsembleConfig, MemberConfig, SamplingParams
    from gac_core.decoding.mixing import Fused
    from gac_core.decoding.request import Request
    from gac_core.engine.streams import AsyncStream, Stream
    from gac_core.ensemble import Ensemble
    from gac_core.errors import (
        AnswerCutError,
        CannotSpellError,
        ConfigError,
        ContextOverflowError,
        EngineClosedError,
        GacError,
        GrammarError,
        LoadError,
        MemberError,
        MethodError,
        NonFiniteLogitsError,
        PromptError,
        RewritesTextError,
        VocabularyError,
    )
    from gac_core.fusion.rules import Views
    from gac_core.fusion.weighting import Weighting
    from gac_core.grammar.grammar import Grammar
    from gac_core.members.base import Ask, Query, Scored, Scorer
    from gac_core.method_specs import MethodOptions, MethodSpec
    from gac_core.outputs import MemberUsage, MemberView, Outcome, Output, Step, Usage
    from gac_core.registry import register_fusion, register_method, register_weighting

__version__ = "0.1.0"

__all__ = [
    "AnswerCutError",
    "Ask",
    "AsyncStream",
    "CannotSpellError",
    "ConfigError",
    "ContextOverflowError",
    "EngineClosedError",
    "Ensemble",
    "EnsembleConfig",
    "Fused",
    "GacError",
    "Grammar",
    "GrammarError",
    "LoadError",
    "MemberConfig",
    "MemberError",
    "MemberUsage",
    "MemberView",
    "MethodError",
    "MethodOptions",
    "MethodSpec",
    "NonFiniteLogitsError",
    "Outcome",
    "Output",
    "PromptError",
    "Query",
    "Request",
    "RewritesTextError",
    "SamplingParams",
    "Scored",
    "Scorer",
    "Step",
    "Stream",
    "Usage",
    "Views",
    "VocabularyError",
    "Weighting",
    "register_fusion",
    "register_method",
    "register_weighting",
]

# The names by module. Importing torch and transformers takes seconds, so a module is imported only
# when one of its names is used.
_HOMES = {
    "gac_core.config": ("EnsembleConfig", "MemberConfig", "SamplingParams"),
    "gac_core.ensemble": ("Ensemble",),
    "gac_core.errors": (
        "AnswerCutError",
        "CannotSpellError",
        "ConfigError",
        "ContextOverflowError",
        "EngineClosedError",
        "GacError",
        "GrammarError",
        "LoadError",
        "MemberError",
        "MethodError",
        "NonFiniteLogitsError",
        "PromptError",
        "RewritesTextError",
        "VocabularyError",
    ),
    "gac_core.fusion.rules": ("Views",),
    "gac_core.fusion.weighting": ("Weighting",),
    "gac_core.grammar.grammar": ("Grammar",),
    "gac_core.decoding.mixing": ("Fused",),
    "gac_core.decoding.request": ("Request",),
    "gac_core.members.base": ("Ask", "Query", "Scored", "Scorer"),
    "gac_core.method_specs": ("MethodOptions", "MethodSpec"),
    "gac_core.registry": ("register_fusion", "register_method", "register_weighting"),
    "gac_core.outputs": ("MemberUsage", "MemberView", "Outcome", "Output", "Step", "Usage"),
    "gac_core.engine.streams": ("AsyncStream", "Stream"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
