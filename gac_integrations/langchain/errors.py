"""Errors of gac_core as those that LangChain's middleware and fallbacks know."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final

from langchain_core import exceptions as core_errors

import gac_core
from gac_core import GacError
from gac_integrations.shared.errors import DeadlineError, translated


class GaCModelError(core_errors.ModelError):
    """A member failed, or the ensemble was closed."""


class GaCInvalidRequestError(core_errors.ModelInvalidRequestError, ValueError):
    """An option, a message or a schema is wrong."""


class GaCContextOverflowError(core_errors.ContextOverflowError, ValueError):
    """The prompt and the answer do not fit a member's context."""


class GaCModelNotFoundError(core_errors.ModelNotFoundError):
    """A model or tokenizer can not be loaded, or can not take part."""


class GaCTimeoutError(core_errors.ModelTimeoutError, TimeoutError):
    """The answer was not complete in time."""


_THEIRS: Final[Mapping[type[GacError], type[Exception]]] = {
    gac_core.ContextOverflowError: GaCContextOverflowError,
    gac_core.LoadError: GaCModelNotFoundError,
    gac_core.VocabularyError: GaCModelNotFoundError,
    gac_core.ConfigError: GaCInvalidRequestError,
    gac_core.PromptError: GaCInvalidRequestError,
    DeadlineError: GaCTimeoutError,
    GacError: GaCModelError,
}


def translated_errors() -> AbstractContextManager[None]:
    """Errors of gac_core as those that LangChain's middleware and fallbacks know."""
    return translated(_THEIRS)
