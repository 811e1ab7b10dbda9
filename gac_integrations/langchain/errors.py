"""Errors of gac_core as those that LangChain's middleware and fallbacks know."""

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core import exceptions as core_errors

import gac_core
from gac_core import GacError
from gac_integrations.shared.call import DeadlineError


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


@contextmanager
def translated_errors() -> Iterator[None]:
    """Errors of gac_core as those that LangChain's middleware and fallbacks know."""
    try:
        yield
    except gac_core.ContextOverflowError as error:
        raise GaCContextOverflowError(str(error)) from error
    except (gac_core.LoadError, gac_core.VocabularyError) as error:
        raise GaCModelNotFoundError(str(error)) from error
    except (gac_core.ConfigError, gac_core.PromptError) as error:
        raise GaCInvalidRequestError(str(error)) from error
    except DeadlineError as error:
        raise GaCTimeoutError(str(error)) from error
    except GacError as error:
        raise GaCModelError(str(error)) from error
