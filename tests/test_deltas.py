"""From steps to deltas, however the pieces are cut."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from gac_core import AnswerCutError, MemberUsage, Outcome, Step, Usage
from gac_core.chat.deltas import (
    CallDelta,
    Delta,
    DeltaReader,
    EndDelta,
    TextDelta,
    ThoughtDelta,
    ToolCall,
)
from gac_core.chat.response_format import AnswerForm
from gac_core.chat.tools import call_text
from gac_core.outputs import FinishReason

FIND: dict[str, Any] = {"name": "find"}
NOW: dict[str, Any] = {"name": "now"}
TOOLS = AnswerForm((FIND, NOW))
SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}}


def steps_of(pieces: Sequence[str], reason: FinishReason = "stop") -> list[Step]:
    """The steps of an answer that is written in these pieces."""
    usage = Usage(3, 4, (MemberUsage("a", 3, 4),), fused_steps=0, steps=len(pieces))
    outcome = Outcome(reason, None, usage, seed=0)
    return [
        Step(
            unit=piece.encode(),
            is_end=False,
            text=piece,
            logprob=0.0,
            decided_by="primary",
            members=(),
            outcome=outcome if number == len(pieces) else None,
        )
        for number, piece in enumerate(pieces, 1)
    ]


def read(
    pieces: Sequence[str], form: AnswerForm = TOOLS, reason: FinishReason = "stop"
) -> tuple[DeltaReader, list[Delta]]:
    reader = DeltaReader(form)
    deltas = [delta for step in steps_of(pieces, reason) for delta in reader.push(step)]
    assert [isinstance(delta, EndDelta) for delta in deltas] == [False] * (len(deltas) - 1) + [True]
    return reader, deltas


def finish_reason(deltas: list[Delta]) -> str:
    assert isinstance(deltas[-1], EndDelta)
    return deltas[-1].finish_reason


def put_together(deltas: list[Delta]) -> tuple[str, list[ToolCall]]:
    """Text and calls as a client joins them, who sees nothing but the deltas."""
    text, calls = "", list[ToolCall]()
    for delta in deltas:
        if isinstance(delta, TextDelta):
            assert delta.text
            text += delta.text
        elif isinstance(delta, CallDelta) and delta.name is not None:
            assert (delta.index, bool(delta.id)) == (len(calls), True)
            calls.append(ToolCall(delta.id or "", delta.name, delta.arguments))
        elif isinstance(delta, CallDelta):
            assert (delta.index, delta.id) == (len(calls) - 1, None)
            calls[-1].arguments += delta.arguments
    return text, calls


def openai_delta(delta: Delta) -> dict[str, Any]:
    """What a server sends of a delta: nothing is left to decide."""
    match delta:
        case ThoughtDelta(text):
            return {"delta": {"reasoning_content": text}, "finish_reason": None}
        case TextDelta(text):
            return {"delta": {"content": text}, "finish_reason": None}
        case CallDelta(index, None, None, arguments):
            call = {"index": index, "function": {"arguments": arguments}}
            return {"delta": {"tool_calls": [call]}, "finish_reason": None}
        case CallDelta(index, id_, name, arguments):
            function = {"name": name, "arguments": arguments}
            call = {"index": index, "id": id_, "type": "function", "function": function}
            return {"delta": {"tool_calls": [call]}, "finish_reason": None}
        case EndDelta(reason):
            return {"delta": {}, "finish_reason": reason}


def test_text_comes_as_it_is_written() -> None:
    for form in (AnswerForm(), TOOLS, AnswerForm(schema=SCHEMA)):
        reader, deltas = read(["It is", "", " noon", "."], form)
        texts = [delta.text for delta in deltas if isinstance(delta, TextDelta)]
        assert texts == ["It is", " noon", "."]
        assert (reader.text, reader.calls) == ("It is noon.", [])
        assert finish_reason(deltas) == "stop"
        assert finish_reason(read(["It is"], form, "length")[1]) == "length"


def test_without_tools_a_tag_is_text() -> None:
    for form in (AnswerForm(), AnswerForm((NOW,), "none"), AnswerForm(schema=SCHEMA)):
        reader, deltas = read([call_text("now", {}), "<tool_c"], form)
        assert reader.text == call_text("now", {}) + "<tool_c"
        assert finish_reason(deltas) == "stop"


TRICKY = {"q": "<tool_call>} </tool_call>", "ü": '"\\', "in": {"a": [{}]}}
PARALLEL = f"Let me <tool. {call_text('find', TRICKY)}\n{call_text('now', {})}"


@pytest.mark.parametrize("cut", range(1, len(PARALLEL)))
def test_parallel_calls_cut_at_every_position(cut: int) -> None:
    reader, deltas = read([PARALLEL[:cut], PARALLEL[cut:]])
    text, calls = put_together(deltas)
    assert text == reader.text == "Let me <tool. "
    assert calls == reader.calls
    assert [(c.name, json.loads(c.arguments)) for c in calls] == [("find", TRICKY), ("now", {})]
    assert len({c.id for c in calls}) == 2
    assert finish_reason(deltas) == "tool_calls"


def test_calls_letter_by_letter() -> None:
    reader, deltas = read(list(PARALLEL))
    assert put_together(deltas) == (reader.text, reader.calls)
    assert len([d for d in deltas if isinstance(d, CallDelta)]) > 40  # as they are written
    sent = [openai_delta(delta) for delta in deltas]
    first = [c for s in sent for c in s["delta"].get("tool_calls", ()) if "id" in c]
    assert [(c["index"], c["function"]["name"]) for c in first] == [(0, "find"), (1, "now")]
    assert [s["finish_reason"] for s in sent if s["finish_reason"]] == ["tool_calls"]


def test_arguments_are_as_written() -> None:
    written = '{"city":  "Köln",\n "n": 1.0}'
    reader, _ = read([f'<tool_call>{{"name": "find", "arguments": {written}}}</tool_call>'])
    assert reader.calls[0].arguments == written


@pytest.mark.parametrize(
    "body", ["", "{", "now()", '{"arguments": {}}', '{"name": "\\x", "arguments": {}}']
)
def test_a_call_that_is_no_call_is_text(body: str) -> None:
    text = f"So: <tool_call>{body}</tool_call> Done."
    for pieces in ([text], list(text)):
        reader, deltas = read(pieces)
        assert put_together(deltas) == (reader.text, reader.calls) == (text, [])
        assert finish_reason(deltas) == "stop"


def test_a_call_in_another_form_comes_as_a_whole() -> None:
    reader, deltas = read(list('<tool_call>{"arguments": {"a": "ü"}, "name": "find"}</tool_call>'))
    (call, end) = deltas
    assert isinstance(call, CallDelta)
    assert isinstance(end, EndDelta)
    assert (call.index, call.name, call.arguments) == (0, "find", '{"a": "ü"}')
    assert [call.id] == [c.id for c in reader.calls]
    assert end.finish_reason == "tool_calls"


def test_a_call_that_the_members_chose_and_the_budget_cut_is_an_error() -> None:
    for text in (PARALLEL, PARALLEL[:-20], call_text("now", {})):
        with pytest.raises(AnswerCutError, match=r"budget of 1 steps .* call of '\w+'; raise max_"):
            read([text], reason="length")


def test_a_call_that_there_has_to_be_is_cut_within_its_schema() -> None:
    for choice in ("required", "find"):
        reader, deltas = read([call_text("find", {})], AnswerForm((FIND,), choice), "length")
        assert finish_reason(deltas) == "length"
        assert [call.name for call in reader.calls] == ["find"]


def test_the_beginning_of_a_tag_is_text_unless_it_was_cut() -> None:
    assert read(["Well ", "<tool_c"])[0].text == "Well <tool_c"
    assert read(["Well ", "<tool_c"], reason="length")[0].text == "Well "


def test_json_that_holds_a_tag_is_no_call() -> None:
    form = AnswerForm((NOW,), schema=SCHEMA)
    text = json.dumps({"x": call_text("now", {})})
    for pieces in ([text], list(text)):
        reader, _ = read(pieces, form)
        assert (reader.text, reader.calls) == (text, [])
        reader, _ = read(list(call_text("now", {})), form)
        assert (reader.text, [call.name for call in reader.calls]) == ("", ["now"])
