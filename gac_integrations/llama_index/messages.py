"""LlamaIndex's messages as gac_core takes them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

_ROLES: Final = {
    MessageRole.DEVELOPER: "system",
    MessageRole.FUNCTION: "tool",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
}


def plain_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """LlamaIndex's messages as dicts of role, content and tool calls.

    Text blocks are joined by new lines, as `ChatMessage.content` does. Reasoning in the history is
    left out, as chat templates do.
    """
    return [_as_dict(message) for message in messages]


def _as_dict(message: ChatMessage) -> dict[str, Any]:
    role = _ROLES.get(message.role, message.role.value)
    texts: list[Any] = []
    calls: list[Any] = []
    for block in message.blocks:
        if isinstance(block, TextBlock):
            texts += ["\n", block.text] if texts else [block.text]
        elif isinstance(block, ToolCallBlock):
            function = {"name": block.tool_name, "arguments": block.tool_kwargs}
            calls.append({"id": block.tool_call_id, "function": function})
        elif not isinstance(block, (ThinkingBlock, CachePoint)):
            texts.append(
                {"type": block.block_type}
            )  # refused by gac_core, with a message that names it
    plain: dict[str, Any] = {"role": role, "content": texts}
    if role == "assistant":
        calls = calls or _plain_calls(message.additional_kwargs.get("tool_calls"))
        if calls:
            plain["tool_calls"] = calls
    if role == "tool" and (call_id := message.additional_kwargs.get("tool_call_id")):
        plain["tool_call_id"] = call_id
    return plain


def _plain_calls(calls: Any) -> list[Any]:
    """Calls as other integrations leave them in a history: dicts, or objects of a client."""
    return [c if isinstance(c, Mapping) else c.model_dump() for c in calls or ()]
