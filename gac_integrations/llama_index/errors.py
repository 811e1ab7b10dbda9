"""Errors of gac_core as errors that LlamaIndex does not swallow.

Its response synthesizers catch every `ValueError` and go on without the part of the context that
caused it, so an over-long prompt would be an empty answer.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import gac_core
from gac_core import GacError


class GaCRequestError(GacError):
    """An option, a message or a schema is wrong."""


class GaCContextOverflowError(GaCRequestError):
    """The prompt and the answer do not fit a member's context."""


@contextmanager
def translated_errors() -> Iterator[None]:
    """Errors of gac_core that are a `ValueError` as those that are none."""
    try:
        yield
    except gac_core.ContextOverflowError as error:
        raise GaCContextOverflowError(str(error)) from error
    except (gac_core.ConfigError, gac_core.PromptError) as error:
        raise GaCRequestError(str(error)) from error
