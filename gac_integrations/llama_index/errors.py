"""Errors of gac_core as errors that LlamaIndex does not swallow.

Its response synthesizers catch every `ValueError` and continue without the part of the context that
caused it, so an over-long prompt would be an empty answer.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final

import gac_core
from gac_core import GacError
from gac_integrations.shared.errors import translated


class GaCRequestError(GacError):
    """An option, a message or a schema is wrong."""


class GaCContextOverflowError(GaCRequestError):
    """The prompt and the answer do not fit a member's context."""


_THEIRS: Final[Mapping[type[GacError], type[Exception]]] = {
    gac_core.ContextOverflowError: GaCContextOverflowError,
    gac_core.ConfigError: GaCRequestError,
    gac_core.PromptError: GaCRequestError,
}


def translated_errors() -> AbstractContextManager[None]:
    """Errors of gac_core that are a `ValueError` as those that are none."""
    return translated(_THEIRS)
