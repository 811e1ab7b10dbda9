"""Separates calls of tools from text while an answer is being written.

The form of a call is that of `tools.call_text`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gac_core.grammar.call_tags import CALL_CLOSES, CALL_OPENS

_NAME: Final = r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"'  # a JSON string
_CALL_BEGINS: Final = re.compile(r'\s*\{"name": (' + _NAME + r'), "arguments": ')
_LAST_BRACKET: Final = re.compile(r"\}\s*$")
_MAY_BE_LAST: Final = re.compile(  # ... and the beginning of a tag after it
    r"\}\s*(" + "|".join(CALL_CLOSES[:n] for n in range(len(CALL_CLOSES))) + ")$"
)
_QUOTE: Final = re.compile(r'\\.|(")', re.DOTALL)  # not escaped


@dataclass(frozen=True)
class Call:
    """What stands between the tags of a call.

    Attributes:
        body: the text between them.
        name: of the tool; None if the body is no call.
        arguments: of the tool, likewise.
        error: what is wrong with the body, or None.
        was_streamed: whether its parts came before, as `CallPart`s.

    """

    body: str
    name: str | None = None
    arguments: Mapping[str, Any] | None = None
    error: str | None = None
    was_streamed: bool = field(default=False, compare=False)

    @property
    def text(self) -> str:
        """What was written, tags included."""
        return f"{CALL_OPENS}{self.body}{CALL_CLOSES}"

    @classmethod
    def of(cls, body: str) -> "Call":
        """Read a body."""
        try:
            value = json.loads(body)
        except ValueError as error:
            return cls(body, error=f"it is no JSON: {error}")
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return cls(body, error="it has no name")
        arguments = value.get("arguments", {})
        if not isinstance(arguments, dict):
            return cls(body, error="its arguments are no object")
        return cls(body, value["name"], arguments)


@dataclass(frozen=True)
class CallPart:
    """A piece of a call that is still being written.

    Attributes:
        name: of the tool, in the first piece of a call.
        arguments: the next characters of the JSON of its arguments.

    """

    name: str | None
    arguments: str


Piece = str | CallPart | Call


class CallReader:
    """Separates text and calls as they stream in; no piece of a tag leaks into the text.

    A call in the form of `call_text` comes in parts as it is written, then as a whole. Blanks
    between two calls are no text.

    Args:
        comes_first: whether there are calls only in an answer that begins with one.

    """

    def __init__(self, *, comes_first: bool = False) -> None:
        self._held = ""  # what is not certain yet, or belongs to the call that is being written
        self._is_call = False
        self._is_after_call = False
        self._may_call = True
        self._comes_first = comes_first
        self._streamed: int | None = None  # characters of this call's body that came in parts

    def push(self, text: str) -> list[Piece]:
        """The pieces of text and of calls that are certain now."""
        self._held += text
        found: list[Piece] = []
        while self._push_call(found) if self._is_call else self._push_text(found):
            pass
        return found

    def end(self, *, is_cut: bool = False) -> list[Piece]:
        """What is left: text, or a call that was not closed.

        Args:
            is_cut: whether the answer had to end here, so that the beginning of a tag is no text.

        """
        held, self._held = self._held, ""
        if not self._is_call:
            is_tag = is_cut and len(held) > 1 and CALL_OPENS.startswith(held)
            is_blank = self._is_after_call and not held.strip()
            return [held] if held and not is_tag and not is_blank else []
        call = self._whole(held.strip())
        return [call if call.name else replace(call, body=held, error="it was not closed")]

    def _push_text(self, found: list[Piece]) -> bool:
        """The text up to the next call; whether that call has begun."""
        text, opens, rest = self._held.partition(CALL_OPENS)
        if not opens:
            kept = max(n for n in range(len(CALL_OPENS)) if text.endswith(CALL_OPENS[:n]))
            text, rest = text[: len(text) - kept], text[len(text) - kept :]
        if self._is_after_call and not text.strip():
            if not opens:
                return False  # these blanks are no text if another call follows
            text = ""
        if text and self._comes_first and not self._is_after_call:
            self._may_call = False
        if not self._may_call:
            text, opens, rest = self._held, "", ""
        if text:
            found.append(text)
            self._is_after_call = False
        self._held = rest
        self._is_call = bool(opens)
        return self._is_call

    def _push_call(self, found: list[Piece]) -> bool:
        """The next parts of the call, and the call once it is closed; whether it is."""
        found += self._parts()
        at = _end_of_call(self._held)
        if at < 0:
            return False
        found.append(self._whole(self._held[:at].strip()))
        self._held = self._held[at + len(CALL_CLOSES) :]
        return True

    def _whole(self, body: str) -> Call:
        call = replace(Call.of(body), was_streamed=self._streamed is not None)
        self._is_call, self._streamed, self._is_after_call = False, None, True
        return call

    def _parts(self) -> list[CallPart]:
        """The name once it is there, then the arguments, but for what may belong to the end."""
        opening = _CALL_BEGINS.match(self._held)
        if opening is None:
            return []
        name = json.loads(opening[1]) if self._streamed is None else None
        begin = opening.end() if self._streamed is None else self._streamed
        tag = _end_of_call(self._held)
        if tag < 0:
            arguments = _MAY_BE_LAST.sub("", self._held[begin:])
        else:
            arguments = _LAST_BRACKET.sub("", self._held[begin:tag])
        self._streamed = begin + len(arguments)
        return [CallPart(name, arguments)] if name is not None or arguments else []


def _end_of_call(body: str) -> int:
    """Where the closing tag begins, strings apart, which may hold one; -1 if it is not there."""
    at = body.find(CALL_CLOSES)
    while at >= 0 and sum(map(bool, _QUOTE.findall(body, 0, at))) % 2:
        at = body.find(CALL_CLOSES, at + 1)
    return at
