"""LangChain's messages as gac_core takes them."""

from collections.abc import Sequence
from typing import Any, Final

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    convert_to_openai_messages,
)

from gac_integrations.langchain.errors import GaCInvalidRequestError

_SHOWN_PARTS: Final = ("text", "tool_use")  # types of content of an answer that are kept


def plain_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """LangChain's messages as dicts of role, content and tool calls.

    The name of a `HumanMessage` is written before its text, "Error" before the result of a tool
    that failed. Reasoning in the history is left out, as chat templates do.

    Raises:
        GaCInvalidRequestError: LangChain can not convert the content of a message.

    """
    plain = []
    for message in messages:
        converted = _as_dict(message)
        name = converted.pop("name", None) if converted["role"] != "tool" else None
        content = converted["content"]
        parts = [content] if isinstance(content, str) else content
        if name and isinstance(message, HumanMessage):
            converted["content"] = [f"{name}: ", *parts]
        if isinstance(message, ToolMessage) and message.status == "error":
            converted["content"] = ["Error: ", *parts]
        plain.append(converted)
    return plain


def _as_dict(message: BaseMessage) -> dict[str, Any]:
    if isinstance(message, AIMessage) and isinstance(message.content, list):
        shown = [p for p in message.content if isinstance(p, str) or p.get("type") in _SHOWN_PARTS]
        message = message.model_copy(update={"content": shown})
    try:
        converted = convert_to_openai_messages(message)
    except (TypeError, ValueError, KeyError) as error:
        raise GaCInvalidRequestError(f"{message!r:.80} can not be read: {error}") from error
    assert isinstance(converted, dict)
    return converted
