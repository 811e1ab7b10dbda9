"""LlamaIndex's messages as gac_core takes them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from llama_index.core.base.llms.types import (
    ChatMessage,
    CitableBlock,
    DocumentBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from gac_core.chat.messages import plain_message, role_of

# What other integrations keep beside the content, by the role of the message.
_BESIDE: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("name",),
    "assistant": ("reasoning_content", "function_call", "refusal", "audio"),
    "tool": ("tool_call_id",),
}


def plain_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """LlamaIndex's messages as `plain_message` of gac_core makes them.

    Parts of a content are joined by new lines, as `ChatMessage.content` does.

    Raises:
        PromptError: a message can not be read.

    """
    return [
        plain
        for index, message in enumerate(messages)
        for plain in plain_message(_as_dict(message), f"message {index}", between="\n")
    ]


def _as_dict(message: ChatMessage) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": message.role.value}
    plain["content"] = [_part(block) for block in message.blocks]
    role, beside = role_of(plain), message.additional_kwargs
    plain |= {key: beside[key] for key in _BESIDE.get(role, ()) if beside.get(key)}
    if role == "assistant" and not any(isinstance(b, ToolCallBlock) for b in message.blocks):
        plain["tool_calls"] = [_plain(call) for call in beside.get("tool_calls") or ()]
    return plain


def _part(block: Any) -> dict[str, Any]:
    """A block of a message as a part of a content; what gac_core refuses it names by the type."""
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    if isinstance(block, ThinkingBlock):
        return {"type": "thinking", "thinking": block.content or ""}
    if isinstance(block, ToolCallBlock):
        call = {"name": block.tool_name, "args": block.tool_kwargs}
        return {"type": "tool_call", "id": block.tool_call_id, **call}
    if isinstance(block, CitableBlock):
        parts = [_part(part) for part in block.content]
        about = {"title": block.title, "source": block.source}
        return {"type": "search_result", **about, "content": parts}
    if isinstance(block, DocumentBlock) and _is_text(block):
        text = block.resolve_document().read().decode(errors="replace")
        return {"type": "document", "title": block.title, "text": text}
    return {"type": block.block_type}


def _is_text(document: DocumentBlock) -> bool:
    """Whether it is a text that is here; nothing is fetched."""
    return document.url is None and (document.document_mimetype or "").startswith("text/")


def _plain(call: Any) -> Any:
    """A call as other integrations leave it in a history: a dict, or an object of a client."""
    return call.model_dump() if hasattr(call, "model_dump") else call
