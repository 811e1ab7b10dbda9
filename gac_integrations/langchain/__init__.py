"""An ensemble wherever LangChain takes a chat model, a plain one, or one that decides.

`ChatGaC`, `GaC`, and `GaCDecisions`, for which langchain-core must be 1.8 or newer.
"""

from typing import TYPE_CHECKING, Any

from gac_integrations.langchain.chat_model import ChatGaC
from gac_integrations.langchain.errors import (
    GaCContextOverflowError,
    GaCInvalidRequestError,
    GaCModelError,
    GaCModelNotFoundError,
    GaCTimeoutError,
)
from gac_integrations.langchain.text_model import GaC

if TYPE_CHECKING:
    from gac_integrations.langchain.decisions import GaCDecisions as GaCDecisions

__all__ = [  # `GaCDecisions` is not among them, so that `import *` works with any langchain-core
    "ChatGaC",
    "GaC",
    "GaCContextOverflowError",
    "GaCInvalidRequestError",
    "GaCModelError",
    "GaCModelNotFoundError",
    "GaCTimeoutError",
]


def __getattr__(name: str) -> Any:
    if name != "GaCDecisions":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from gac_integrations.langchain.decisions import GaCDecisions
    except ModuleNotFoundError as error:
        if error.name != "langchain_core.decisions":
            raise
        raise ImportError(
            "GaCDecisions needs langchain-core 1.8 or newer: pip install -U 'langchain-core>=1.8'"
        ) from error
    return GaCDecisions
