"""Text and calls, however they arrive."""

import json

import pytest

from gac_core.chat.call_reader import Call, CallPart, CallReader, Piece
from gac_core.chat.tools import call_text

CALL_NOW = call_text("now", {})


def read_in_pieces(text: str, size: int, reader: CallReader | None = None) -> list[Piece]:
    reader = reader or CallReader()
    starts = range(0, len(text), size)
    pieces = [piece for at in starts for piece in reader.push(text[at : at + size])]
    return [*pieces, *reader.end()]


def text_in(pieces: list[Piece]) -> str:
    return "".join(piece for piece in pieces if isinstance(piece, str))


def calls_in(pieces: list[Piece]) -> list[Call]:
    return [piece for piece in pieces if isinstance(piece, Call)]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_calls_are_read_however_they_arrive(size: int) -> None:
    tricky = {
        "tag": "<tool_call>} </tool_call>",
        "b": "}<x",
        "c": "}} </to",
        "q": '"\\',
        "in": {"a": [{}]},
        "n": 1,
    }
    text = (
        f"Let me <tool look. {call_text('find', tricky)}"
        f"\n{CALL_NOW}"
        '<tool_call>{"name": "free"}</tool_call>'
    )
    pieces = read_in_pieces(text, size)
    assert text_in(pieces) == "Let me <tool look. "  # blanks between calls are no text
    assert [(c.name, c.arguments, c.error, c.was_streamed) for c in calls_in(pieces)] == [
        ("find", tricky, None, True),
        ("now", {}, None, True),
        ("free", {}, None, False),
    ]
    parts = [p for p in pieces if isinstance(p, CallPart)]
    assert [p.name for p in parts if p.name] == ["find", "now"]
    now = next(i for i, p in enumerate(parts) if p.name == "now")
    assert json.loads("".join(p.arguments for p in parts[:now])) == tricky
    assert json.loads("".join(p.arguments for p in parts[now:])) == {}
    if size == 1:  # nothing is held back for long
        assert len(parts) > 50


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{", "no JSON"),
        ("[1]", "no name"),
        ('{"name": "f", "arguments": [1]}', "no object"),
        (r'{"name": "\f\x", "arguments": {}}', "no JSON"),
        ('{"name": "f\n", "arguments": {}}', "no JSON"),
    ],
)
def test_a_call_that_is_none_says_why(body: str, reason: str) -> None:
    (call,) = calls_in(read_in_pieces(f"<tool_call>{body}</tool_call>", 1))
    assert (call.body, call.name) == (body, None)
    assert reason in (call.error or "")


def test_names_may_be_any_json_string() -> None:
    body = r'{"name": "\u00e9\"日", "arguments": {}}'
    (call,) = calls_in(read_in_pieces(f"<tool_call>{body}</tool_call>", 1))
    assert (call.name, call.was_streamed) == ('é"日', True)


@pytest.mark.parametrize("size", [1, 1000])
def test_calls_may_come_first_or_not_at_all(size: int) -> None:
    in_text = f'{{"x": "{CALL_NOW}"}}'
    for text, calls in ((in_text, 0), (CALL_NOW, 1), (f"{CALL_NOW}\n{CALL_NOW}", 2)):
        pieces = read_in_pieces(text, size, CallReader(comes_first=True))
        assert len(calls_in(pieces)) == calls
        assert text_in(pieces) == ("" if calls else text)


def test_blanks_after_a_call_wait_for_what_follows() -> None:
    reader = CallReader()
    assert [type(p) for p in reader.push(f"{CALL_NOW}\n")] == [CallPart, Call]
    assert reader.push("So") == ["\nSo"]
    reader.push(f"{CALL_NOW} ")
    assert reader.end() == []


def test_a_call_that_was_cut_says_so() -> None:
    reader = CallReader()
    reader.push("Well <tool_c")
    assert reader.end(is_cut=True) == []
    (call,) = calls_in(read_in_pieces('Well <tool_call>{"name": "f', 1000))
    assert call.error == "it was not closed"
    assert read_in_pieces("Well <tool_c", 1000) == ["Well ", "<tool_c"]
