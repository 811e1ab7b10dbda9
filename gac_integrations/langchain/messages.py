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

_SHOWN_PARTS: Final = ("text", "tool_use")


def plain_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """LangChain's messages as dicts of role, content and tool calls.

    The name of a person is written before what they say, "Error" before what a tool said when it
    failed. Reasoning in the history is left out, as chat templates do.

    Raises:
        GaCInvalidRequestError: a message has content that LangChain can not tell as text.

    """
    plain = []
    for message in messages:
        said = _as_dict(message)
        name = said.pop("name", None) if said["role"] != "tool" else None
        if name and isinstance(message, HumanMessage):
            content = said["content"]
            parts = [content] if isinstance(content, str) else content
            said["content"] = [f"{name}: ", *parts]
        if isinstance(message, ToolMessage) and message.status == "error":
            content = said["content"]
            said["content"] = ["Error: ", *([content] if isinstance(content, str) else content)]
        plain.append(said)
    return plain


def _as_dict(message: BaseMessage) -> dict[str, Any]:
    if isinstance(message, AIMessage) and isinstance(message.content, list):
        shown = [p for p in message.content if isinstance(p, str) or p.get("type") in _SHOWN_PARTS]
        message = message.model_copy(update={"content": shown})
    try:
        said = convert_to_openai_messages(message)
    except (TypeError, ValueError, KeyError) as error:
        raise GaCInvalidRequestError(f"{message!r:.80} can not be read: {error}") from error
    assert isinstance(said, dict)
    return said
