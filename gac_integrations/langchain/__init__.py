"""An ensemble wherever LangChain takes a chat model (`ChatGaC`) or a plain one (`GaC`)."""

from gac_integrations.langchain.chat_model import ChatGaC
from gac_integrations.langchain.errors import (
    GaCContextOverflowError,
    GaCInvalidRequestError,
    GaCModelError,
    GaCModelNotFoundError,
    GaCTimeoutError,
)
from gac_integrations.langchain.text_model import GaC

__all__ = [
    "ChatGaC",
    "GaC",
    "GaCContextOverflowError",
    "GaCInvalidRequestError",
    "GaCModelError",
    "GaCModelNotFoundError",
    "GaCTimeoutError",
]
