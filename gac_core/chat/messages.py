"""Messages of any provider as messages of one form."""

from collections.abc import Mapping
from typing import Any, Final

from gac_core.chat.content import Result, Thought, failed, message_text, read_content
from gac_core.chat.tools import read_call, read_calls, text_of_calls
from gac_core.errors import PromptError

Message = Mapping[str, Any]
ROLES: Final = ("system", "user", "assistant", "tool")

# What others call these roles.
_OTHER_NAMES: Final = {
    "developer": "system",
    "human": "user",
    **dict.fromkeys(("ai", "chatbot", "model"), "assistant"),
    "function": "tool",
}
# What a message may have beside role and content.
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "system": ("name",),
    "user": ("name",),
    "assistant": ("name", "tool_calls", "function_call", "refusal", "audio"),
    "tool": ("tool_call_id", "name", "status"),
}
# Fields of an answer that are the thought before it.
_THOUGHTS: Final = ("reasoning_content", "reasoning", "thinking")
# What an answer may have besides, which no member is shown: parts of the same thought again, and
# what it cites.
LEFT_OUT_FIELDS: Final = ("reasoning_details", "thinking_blocks", "annotations")


def plain_message(message: object, where: str, between: str = "") -> list[dict[str, Any]]:
    """A message as dicts of role and content, which is one text, and perhaps `tool_calls`.

    An answer has its thought, if it had one, as `reasoning_content`; members read it whose
    templates show it.

    It is several where results of tools stand beside a text: these come first, each a message of
    the role tool, with the `tool_call_id` if it is known. The name of a user is written before the
    text, "Error: " before the result of a tool that failed; other names are not shown. A field
    that is None counts as not given.

    Args:
        message: role and content as any provider writes them, see `content.py`.
        where: the message, for errors.
        between: what stands between two parts of the content.

    Raises:
        PromptError: an unknown role or field, or content that can not be read.

    """
    if not isinstance(message, Mapping):
        raise PromptError(f"{where} must be a dict with role and content, not {message!r}")
    role = role_of(message)
    if role not in ROLES:
        raise PromptError(f"{where} has the role {role!r}; use one of {', '.join(ROLES)}")
    _check_fields(message, role, where)
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for piece in read_content(message.get("content"), where, is_answer=role == "assistant"):
        if isinstance(piece, Result):
            results.append({"role": "tool", "content": piece.text, "tool_call_id": piece.call_id})
        elif isinstance(piece, dict):
            calls.append(piece)
        elif isinstance(piece, Thought):
            thoughts.append(piece.text)
        else:
            texts.append(piece)
    if calls and role != "assistant":
        raise PromptError(f"{where} calls a tool as {role}; only an assistant can")
    text = between.join(texts)
    if role == "assistant":
        text = _with_other_text(message, text, where)
        calls = _with_other_calls(message, calls, where)
    if results and not texts and not calls:
        return results
    if role == "user" and (name := message.get("name")):
        text = f"{message_text(name, f'the name of {where}')}: {text}"
    if role == "tool" and message.get("status") == "error":
        text = failed(text)
    plain: dict[str, Any] = {"role": role, "content": text}
    if role == "assistant" and (thought := _thought(message, thoughts, where)):
        plain["reasoning_content"] = thought
    if calls:
        message_text(text_of_calls(calls), where)
        plain["tool_calls"] = calls
    if role == "tool" and message.get("tool_call_id"):
        plain["tool_call_id"] = message["tool_call_id"]
    return [*results, plain]


def role_of(message: Message) -> Any:
    """The role of a message under the name that it has here, if it is known."""
    role = message.get("role")
    return _OTHER_NAMES.get(role, role) if isinstance(role, str) else role


def _check_fields(message: Message, role: str, where: str) -> None:
    known = ("role", "content", *_FIELDS[role])
    left_out = (*LEFT_OUT_FIELDS, *_THOUGHTS) if role == "assistant" else ()
    if unknown := sorted(str(key) for key in message.keys() - {*known, *left_out}):
        raise PromptError(
            f"{where} has the unknown fields {unknown}; as {role} it takes {', '.join(known)}"
        )
    if message.get("content") is None and role != "assistant":
        raise PromptError(f"{where} has no content; give a text, which may be empty")


def _thought(message: Message, found: list[str], where: str) -> str:
    """The thought before an answer; providers have it beside the content, or in it."""
    for name in _THOUGHTS:
        value = message.get(name)
        # Under the other names some have an object beside the text, or whether it was to think.
        if value and (isinstance(value, str) or name == _THOUGHTS[0]):
            return message_text(message[name], f"{name} of {where}")
    return "\n".join(filter(None, found))


def _with_other_text(message: Message, text: str, where: str) -> str:
    """The text of an answer, and what it says beside its content: a refusal, or aloud."""
    audio = message.get("audio")
    aloud = audio.get("transcript") if isinstance(audio, Mapping) else None
    for said in (message.get("refusal"), None if text else aloud):
        if said and said not in text:
            text = f"{text}\n{message_text(said, where)}" if text else message_text(said, where)
    return text


def _with_other_calls(
    message: Message, found: list[dict[str, Any]], where: str
) -> list[dict[str, Any]]:
    """The calls of an answer; frameworks have them in its content and beside it."""
    calls = read_calls(message.get("tool_calls"), where)
    if not calls and not found and message.get("function_call"):
        calls = [read_call(message["function_call"], f"the function call of {where}")]
    others = [
        call
        for call in found
        if all(
            call["id"] != known["id"] if call["id"] else call["function"] != known["function"]
            for known in calls
        )
    ]
    return [*calls, *others]
