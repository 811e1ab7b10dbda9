"""An ensemble wherever LlamaIndex takes an LLM or a selector: query engines, routers, agents."""

from gac_integrations.llama_index.errors import GaCContextOverflowError, GaCRequestError
from gac_integrations.llama_index.llm import GaCLLM
from gac_integrations.llama_index.selector import GaCSelector

__all__ = ["GaCContextOverflowError", "GaCLLM", "GaCRequestError", "GaCSelector"]
