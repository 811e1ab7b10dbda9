"""Several language models with different tokenizers write one text together, token by token."""

from gac_core.config import EnsembleConfig, MemberConfig, SamplingParams
from gac_core.ensemble import Ensemble
from gac_core.errors import (
    CannotSpellError,
    ConfigError,
    ContextOverflowError,
    EngineClosedError,
    GacError,
    LoadError,
    MemberError,
    NonFiniteLogitsError,
    PromptError,
    RewritesTextError,
    VocabularyError,
)
from gac_core.steps import MemberUsage, MemberView, Outcome, Output, Step, Usage
from gac_core.streams import AsyncStream, Stream

__version__ = "0.1.0"

__all__ = [
    "AsyncStream",
    "CannotSpellError",
    "ConfigError",
    "ContextOverflowError",
    "EngineClosedError",
    "Ensemble",
    "EnsembleConfig",
    "GacError",
    "LoadError",
    "MemberConfig",
    "MemberError",
    "MemberUsage",
    "MemberView",
    "NonFiniteLogitsError",
    "Outcome",
    "Output",
    "PromptError",
    "RewritesTextError",
    "SamplingParams",
    "Step",
    "Stream",
    "Usage",
    "VocabularyError",
]
