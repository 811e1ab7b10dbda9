"""An ensemble wherever LlamaIndex takes an LLM: query engines, chat engines, agents."""

from gac_integrations.llama_index.errors import GaCContextOverflowError, GaCRequestError
from gac_integrations.llama_index.llm import GaCLLM

__all__ = ["GaCContextOverflowError", "GaCLLM", "GaCRequestError"]
