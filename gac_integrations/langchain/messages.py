"""LangChain's messages as gac_core takes them."""

from collections.abc import Sequence
from typing import Any, Final

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from gac_core import PromptError
from gac_core.chat.messages import plain_message

_ROLES: Final = {
    SystemMessage: "system",
    HumanMessage: "user",
    AIMessage: "assistant",
    ToolMessage: "tool",
    FunctionMessage: "tool",
}
# What other integrations keep beside the content of an answer.
_BESIDE: Final = ("reasoning_content", "function_call", "refusal", "audio")


def plain_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """LangChain's messages as `plain_message` of gac_core makes them.

    Parts of a content stand on lines of their own; those of an answer are joined as they are, as
    `AIMessage.text` does.

    Raises:
        PromptError: a message can not be read.

    """
    return [
        plain
        for index, message in enumerate(messages)
        for plain in plain_message(
            _as_dict(message),
            f"message {index}",
            between="" if isinstance(message, AIMessage) else "\n",
        )
    ]


def _as_dict(message: BaseMessage) -> dict[str, Any]:
    """A message in the form of OpenAI's API, its content as it is."""
    plain: dict[str, Any] = {"content": message.content, "name": message.name}
    if isinstance(message, AIMessage):
        plain |= {key: message.additional_kwargs.get(key) for key in _BESIDE}
        plain["tool_calls"] = [{**call} for call in message.tool_calls]
        if wrong := [{**call} for call in message.invalid_tool_calls]:
            parts = message.content if isinstance(message.content, list) else [message.content]
            kept = [p for p in parts if isinstance(p, str) or p.get("type") != wrong[0]["type"]]
            plain["content"] = [*kept, *wrong]
    if isinstance(message, ToolMessage):
        plain |= {"tool_call_id": message.tool_call_id, "status": message.status}
    if isinstance(message, ChatMessage):
        return {**plain, "role": message.role}
    for kind, role in _ROLES.items():
        if isinstance(message, kind):
            return {**plain, "role": role}
    raise PromptError(f"{type(message).__name__} is no message that a model can read")
