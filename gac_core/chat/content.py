"""The content of a message, whoever wrote it, as text, calls of tools and results of tools.

Histories come from the two APIs of OpenAI, from Anthropic, Bedrock and Gemini, from MCP servers and
from the frameworks on top of them. The forms of all are read here, so no adapter need know them.
Nothing is left out but what `LEFT_OUT` names, and from the answers of a model what
`LEFT_OUT_OF_ANSWERS` names; what else can not be read is an error.
"""

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gac_core.chat.tools import read_call
from gac_core.errors import PromptError
from gac_core.grammar.call_tags import CALL_CLOSES, CALL_OPENS

Block = Mapping[str, Any]

# The blocks that no member is shown, by the reason.
LEFT_OUT: Final[Mapping[str, tuple[str, ...]]] = {
    "reasoning that is encrypted": ("redacted_thinking",),
    "marks for a cache": ("cache", "cachePoint", "cache_point"),
    "what an answer cites, which stands before it": ("citation",),
    "tools that a provider runs, and what they gave": (
        *("server_tool_use", "server_tool_call", "server_tool_call_chunk", "server_tool_result"),
        *("web_search_tool_result", "web_fetch_tool_result", "tool_search_tool_result"),
        *("code_execution_tool_result", "bash_code_execution_tool_result"),
        *("text_editor_code_execution_tool_result", "mcp_tool_use", "mcp_tool_result"),
        *("web_search_call", "file_search_call", "code_interpreter_call", "computer_call"),
        *("image_generation_call", "local_shell_call", "mcp_call", "mcp_list_tools"),
        *("executable_code", "executableCode", "code_execution_result", "codeExecutionResult"),
    ),
}
# What the members could not have written: in an answer it is left out, elsewhere it is an error.
# What was said in a sound is kept where its transcript is there.
LEFT_OUT_OF_ANSWERS: Final = (
    *("audio", "input_audio", "output_audio", "image", "image_url", "input_image", "output_image"),
    *("video", "file", "input_file", "media", "inlineData"),
)

_LEFT_OUT_KINDS: Final = frozenset(kind for kinds in LEFT_OUT.values() for kind in kinds)
_MARKS: Final = frozenset("\U000f0000\U000f0001")  # with which transformers marks what it sanitises


@dataclass(frozen=True)
class Result:
    """What a tool gave.

    Attributes:
        call_id: of the call, if it is known.
        text: the result, which begins with "Error: " where the tool failed.

    """

    call_id: str | None
    text: str


@dataclass(frozen=True)
class Thought:
    """What a model thought before it answered.

    Attributes:
        text: of the thought, perhaps empty.

    """

    text: str


Piece = str | dict[str, Any] | Result | Thought  # a dict is a call, in the form of `read_call`


def check_text(text: object, where: str) -> str:
    """The text itself, if it is text that can be encoded as UTF-8.

    Raises:
        PromptError: it is no string, or holds a lone surrogate (named with its position).

    """
    if not isinstance(text, str):
        raise PromptError(f"{where} must be a string, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{where} holds the lone surrogate {text[error.start]!r} at position {error.start}, "
            "which no UTF-8 text can hold; decode its source with the right encoding, or "
            "with errors='replace'"
        ) from error
    return text


def message_text(text: object, where: str) -> str:
    """The text itself, if a message can hold it.

    Raises:
        PromptError: as `check_text`, or it holds characters that transformers would drop.

    """
    checked = check_text(text, where)
    if found := _MARKS.intersection(checked):
        codes = ", ".join(f"U+{ord(c):X}" for c in sorted(found))
        raise PromptError(f"{where} holds the private-use characters {codes}; remove them")
    return checked


def read_content(content: object, where: str, *, is_answer: bool = False) -> Iterator[Piece]:
    """The pieces of a content in order.

    Args:
        content: a string, or a list of strings and blocks; None holds nothing.
        where: the message, for errors.
        is_answer: whether a model wrote it.

    Raises:
        PromptError: a part can not be read.

    """
    if content is None:
        return
    if isinstance(content, str):
        yield message_text(content, where)
        return
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        raise PromptError(f"the content of {where} must be text, not {type(content).__name__}")
    for index, part in enumerate(content):
        place = f"{where}, part {index}"
        if isinstance(part, str):
            yield message_text(part, place)
        elif isinstance(part, Mapping):
            yield from _read_block(part, place, is_answer)
        else:
            raise _unreadable(type(part).__name__, place)


def _read_block(block: Block, where: str, is_answer: bool) -> Iterator[Piece]:
    kind = _kind_of(block)
    if kind in _LEFT_OUT_KINDS:
        return
    if kind == "non_standard" and isinstance(value := block.get("value"), Mapping):
        yield from _read_block(value, where, is_answer)
        return
    reader = _READERS.get(kind or "")
    try:
        if reader is None:
            raise _unreadable(kind, where)
        yield from reader(block, where)
    except _UnreadableError:
        if not (is_answer and kind in LEFT_OUT_OF_ANSWERS):
            raise


def _kind_of(block: Block) -> str | None:
    """The type of a block; Bedrock and Gemini have a key of that name instead."""
    if isinstance(kind := block.get("type"), str):
        return kind
    if block.get("thought") is True:
        return "thought"
    known = (*_READERS, *_LEFT_OUT_KINDS, *LEFT_OUT_OF_ANSWERS)
    return next((key for key in known if key in block), None)


class _UnreadableError(PromptError):
    """A block that is no text."""


def _unreadable(kind: str | None, where: str) -> PromptError:
    return _UnreadableError(
        f"{where} is of type {kind!r}; these models read text only: say what it holds in "
        '{"type": "text", "text": ...}, or leave it out'
    )


# ---------------------------------------------------------------- text


def _text(block: Block, where: str) -> Iterator[str]:
    yield message_text(block.get("text"), f"the text of {where}")


def _refusal(block: Block, where: str) -> Iterator[str]:
    if block.get("refusal"):
        yield message_text(block["refusal"], where)


def _json(block: Block, where: str) -> Iterator[str]:
    yield message_text(json.dumps(block.get("json"), ensure_ascii=False), where)


def _guarded(block: Block, where: str) -> Iterator[str]:
    inner = block.get("guard_content") or block.get("guardContent")
    text = inner.get("text") if isinstance(inner, Mapping) else None
    yield message_text(text.get("text") if isinstance(text, Mapping) else text, where)


def _sound(block: Block, where: str) -> Iterator[str]:
    if not isinstance(transcript := block.get("transcript"), str):
        raise _unreadable(_kind_of(block), where)
    yield message_text(transcript, where)


def _document(block: Block, where: str) -> Iterator[str]:
    """Title, context and text of a document, if it is one of text."""
    inner = block.get("document") or block.get("resource") or block.get("searchResult") or block
    if not isinstance(inner, Mapping):
        raise _unreadable(_kind_of(block), where)
    source = inner.get("source")
    named = source if isinstance(source, str) else None  # of a search result
    head = [inner.get("title"), inner.get("name"), named, inner.get("context")]
    body = _document_text(source if isinstance(source, Mapping) else inner, where)
    if body is None:
        raise _unreadable(_kind_of(block), where)
    yield message_text("\n".join([*(str(line) for line in head if line), body]), where)


def _document_text(source: Block, where: str) -> str | None:
    if isinstance(text := source.get("text"), str):
        return text
    if source.get("content") is not None:
        return joined_text(read_content(source["content"], where), where)
    media = next((source[k] for k in ("mime_type", "media_type", "mimeType") if source.get(k)), "")
    data = next(
        (source[k] for k in ("base64", "data", "blob") if isinstance(source.get(k), str)), None
    )
    if source.get("type") == "text":
        return data
    if data is None or not str(media).startswith("text/"):
        return None
    try:
        return base64.b64decode(data, validate=True).decode()
    except ValueError as error:
        raise PromptError(f"{where} holds no text in base64 and UTF-8: {error}") from error


def _link(block: Block, where: str) -> Iterator[str]:
    """A link of an MCP server: what it says, since nothing is fetched."""
    said = [block.get(key) for key in ("title", "name", "uri", "description")]
    yield message_text("\n".join(dict.fromkeys(str(line) for line in said if line)), where)


def _nested(block: Block, where: str) -> Iterator[Piece]:
    inner = block.get("citationsContent")
    yield from read_content(inner.get("content") if isinstance(inner, Mapping) else inner, where)


# ---------------------------------------------------------------- thoughts, calls and results


def _thought(block: Block, where: str) -> Iterator[Thought]:
    """A thought, as far as it can be read; providers also have summaries, and encrypt."""
    inner = block.get("reasoningContent") or block.get("reasoning_content") or block
    if isinstance(inner, Mapping):
        inner = inner.get("reasoningText") or inner
    if isinstance(inner, Mapping):
        keys = ("thinking", "reasoning", "text", "content")
        inner = next((inner[key] for key in keys if isinstance(inner.get(key), str)), "")
    yield Thought(message_text(inner, f"the thought of {where}"))


def _call(block: Block, where: str) -> Iterator[dict[str, Any]]:
    inner = block.get("toolUse") or block.get("functionCall") or block
    yield read_call(inner, where)


def _custom_call(block: Block, where: str) -> Iterator[dict[str, Any]]:
    yield read_call({**block, "arguments": {"input": block.get("input", "")}}, where)


def _invalid_call(block: Block, where: str) -> Iterator[str]:
    """A call whose arguments are no JSON, as it was written."""
    name = json.dumps(block.get("name"), ensure_ascii=False)
    body = f'{{"name": {name}, "arguments": {block.get("args") or "{}"}}}'
    yield message_text(f"{CALL_OPENS}{body}{CALL_CLOSES}", where)


def _result(block: Block, where: str) -> Iterator[Result]:
    inner = block.get("toolResult") or block.get("functionResponse") or block
    if not isinstance(inner, Mapping):
        raise _unreadable(_kind_of(block), where)
    ids = ("tool_use_id", "toolUseId", "call_id", "tool_call_id", "id")
    content = next((inner[k] for k in ("content", "output", "response") if k in inner), None)
    if isinstance(content, Mapping):
        content = [{"json": content}]
    text = joined_text(read_content(content, where), where)
    if inner.get("is_error") or inner.get("status") == "error":
        text = failed(text)
    yield Result(next((inner[key] for key in ids if inner.get(key)), None), text)


def joined_text(pieces: Iterator[Piece], where: str) -> str:
    """Pieces that are all text, a line or more each.

    Raises:
        PromptError: one of them is a call or a result.

    """
    texts = []
    for piece in pieces:
        if isinstance(piece, Thought):
            continue
        if not isinstance(piece, str):
            raise PromptError(f"{where} holds a call or a result where only text can be")
        texts.append(piece)
    return "\n".join(texts)


def failed(text: str) -> str:
    """How the result of a tool that failed is shown."""
    return f"Error: {text}"


_READERS: Final[Mapping[str, Callable[[Block, str], Iterator[Piece]]]] = {
    **dict.fromkeys(("text", "input_text", "output_text"), _text),
    **dict.fromkeys(("guard_content", "guardContent"), _guarded),
    **dict.fromkeys(("audio", "output_audio"), _sound),
    **dict.fromkeys(
        ("text-plain", "document", "file", "resource", "search_result", "searchResult"), _document
    ),
    **dict.fromkeys(("tool_use", "toolUse", "tool_call", "tool_call_chunk"), _call),
    **dict.fromkeys(("function_call", "functionCall"), _call),
    **dict.fromkeys(("tool_result", "toolResult"), _result),
    **dict.fromkeys(("function_call_output", "custom_tool_call_output"), _result),
    "functionResponse": _result,
    **dict.fromkeys(("thinking", "reasoning", "thought"), _thought),
    **dict.fromkeys(("reasoning_content", "reasoningContent"), _thought),
    "custom_tool_call": _custom_call,
    "refusal": _refusal,
    "json": _json,
    "resource_link": _link,
    "citationsContent": _nested,
    "invalid_tool_call": _invalid_call,
}
