"""Members without a chat template read a transcript; an answer ends where the next turn begins."""

from collections.abc import Sequence
from typing import Any

import pytest

from gac_core import Ensemble, Output
from gac_core.chat.prompt import render_prompt
from gac_core.grammar.grammar import Grammar
from gac_core.testing import assert_same, naively
from gac_core.testing.laws import law_8_pieces_join
from tests.fakes import scripted, tokenizer_of

CHAT = [{"role": "user", "content": "What is the capital of Italy?"}]


def says(family: str, text: str, prompt: Any = CHAT) -> tuple[Any, Any]:
    """A member that answers the prompt with this text and never ends."""
    tokenizer = tokenizer_of(family)
    is_raw = isinstance(prompt, str)
    ids = tokenizer(prompt).input_ids if is_raw else render_prompt(tokenizer, prompt)
    return scripted(family, len(ids), [{piece: 1.0} for piece in tokenizer.tokenize(text)])


def answers(members: Sequence[Any], prompt: Any = CHAT, **sampling: Any) -> Output:
    """The first member's answer, which it gives alone; the same streamed and on both drivers."""
    with Ensemble.from_models(members, method="cascade", threshold=0) as ensemble:
        output = ensemble.generate(prompt, **sampling)
        assert_same(output, naively(ensemble, prompt, **sampling)[0])
        with ensemble.stream(prompt, **sampling) as steps:
            assert "".join(step.text for step in steps) == output.text
    law_8_pieces_join(output, sampling.get("stop", ()))
    return output


@pytest.mark.parametrize("mark", ["\nQuestion:", "\n\nQuestion:", "\r\n \nSystem:", "\nTool:"])
def test_an_answer_ends_where_the_next_turn_begins(mark: str) -> None:
    output = answers([says("byte_level", f"Rome.{mark} What is 1 + 2?")])
    assert (output.text, output.finish_reason, output.stop) == ("Rome.", "stop", None)


def test_an_answer_may_be_empty() -> None:
    assert answers([says("byte_level", "\n\nQuestion: Hello")]).text == ""


@pytest.mark.parametrize(
    "text", ["Rome. Question: Hello", "Rome.\nUsers: two", "Rome.\nThe Question: x"]
)
def test_a_mark_within_a_line_is_text(text: str) -> None:
    member = says("byte_level", text)
    output = answers([member], max_new_tokens=len(member[0].script))
    assert (output.text, output.finish_reason) == (text, "length")


def test_another_member_ends_there_too() -> None:
    """It would go on with a turn that the member without a template has asked for."""
    writer, reader = says("chatml", "Rome.\n\nQuestion: What"), says("byte_level", "")
    steps = len(writer[0].script)
    assert answers([writer, reader]).text == "Rome."
    alone = answers([writer], max_new_tokens=steps)
    assert alone.text == "Rome.\n\nQuestion: What"  # with a template of its own it has its own end


def test_only_in_chats_and_in_no_grammar() -> None:
    text = "a\nQuestion: b"
    member = says("byte_level", text)
    steps = len(member[0].script)
    held = answers([member], max_new_tokens=steps, grammar=Grammar.regex(r"a\nQuestion: b"))
    assert held.text == text
    raw = says("byte_level", text, "Hello")
    assert answers([raw], "Hello", max_new_tokens=steps).text == text


@pytest.mark.parametrize(
    ("stop", "text", "found"),
    [
        ("\n", "Rome.", "\n"),
        ("e.", "Rom", "e."),
        ("Question: X", "Rome.", None),
        ("Question:", "Rome.\n\n", "Question:"),
        ("zz", "Rome.", None),
    ],
)
def test_stop_strings_beside_it(stop: str, text: str, found: str | None) -> None:
    output = answers([says("byte_level", "Rome.\n\nQuestion: Who?")], stop=[stop])
    assert (output.text, output.finish_reason, output.stop) == (text, "stop", found)
