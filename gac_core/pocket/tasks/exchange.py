"""What a task makes: an exchange, of a beginning and turns.

One exchange serves training, which learns from every answer in it, and judging, which asks for the
last one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gac_core.pocket.forms import Form
from gac_core.pocket.words import Source

Message = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """A message to the assistant, and what it should answer."""

    task: str
    asked: Message
    answer: str


@dataclass(frozen=True)
class Exchange:
    """A conversation: what comes first (a system message, or nothing), then the turns."""

    opening: list[Message]
    turns: list[Turn]


Maker = Callable[[Source, int, int], Exchange]  # of so many turns, with so many facts in them


def messages_of(exchange: Exchange, turns: int) -> list[Message]:
    """The messages up to the question of the last of so many turns."""
    messages = [*exchange.opening, exchange.turns[0].asked]
    for before, turn in zip(exchange.turns, exchange.turns[1:turns], strict=False):
        messages += [{"role": "assistant", "content": before.answer}, turn.asked]
    return messages


def user(text: str) -> Message:
    """What a user writes."""
    return {"role": "user", "content": text}


def system(text: str) -> list[Message]:
    """An opening: one system message."""
    return [{"role": "system", "content": text}]


def fill(form: Form, **places: str) -> list[Message]:
    """The messages of a prompt form with these texts in its places."""
    return [{"role": role, "content": text.format(**places)} for role, text in form]
