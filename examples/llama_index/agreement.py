"""A callback that prints which tokens the members agreed on."""

from typing import Any

from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.llm import LLMChatInProgressEvent
from llama_index.core.llms import ChatMessage
from llama_index_instrumentation import get_dispatcher

from gac_integrations.llama_index import GaCLLM


class Agreement(BaseEventHandler):
    """Prints a token as it is where all wanted it, in brackets where one wanted another."""

    def handle(self, event: Any, **kwargs: Any) -> None:
        """Called by LlamaIndex with every event."""
        if isinstance(event, LLMChatInProgressEvent) and event.response.raw is not None:
            for token in event.response.raw["tokens"]:
                agreed = {view["top"] for view in token["members"]} == {token["token"]}
                print(token["token"] if agreed else f"[{token['token']}]", end="")


get_dispatcher().add_event_handler(Agreement())
for _ in GaCLLM(model="pocket").stream_chat([ChatMessage(content="What is 77 - 49?")]):
    pass
print()
