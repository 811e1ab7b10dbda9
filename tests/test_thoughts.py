"""Members that think before they answer, alone, together, and beside members that do not."""

import math
import re
from collections.abc import Hashable, Sequence
from typing import Any

import pytest

from gac_core import (
    ConfigError,
    ContextOverflowError,
    Ensemble,
    Grammar,
    Output,
    PromptError,
    Usage,
)
from gac_core.chat.prompt import render
from gac_core.chat.thoughts import switches, think_tags
from gac_core.decoding.run import Run
from gac_core.engine.naive import run_naively
from gac_core.members.base import Query, Scored
from gac_core.runtime import sampling_of
from gac_core.testing.models import tokenizer_of
from gac_core.testing.thinkers import THINKERS, Speaker, thinking_tokenizer

CHAT = [{"role": "user", "content": "What is 2 + 3?"}]
THOUGHT = "I add: 2 + 3.\nIt is 5."
ANSWER = "The answer is 5."
SPELLED = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
WITH = {
    "hybrid": SPELLED,
    "always": SPELLED,
    "channels": f"<|channel|>analysis<|message|>{THOUGHT}<|end|>"
    f"<|start|>assistant<|channel|>final<|message|>{ANSWER}",
}
WITHOUT = {
    "hybrid": f"<think>\n\n</think>\n\n{ANSWER}",
    "always": f"<think>\n\n</think>\n\n{ANSWER}",
    "channels": f"<|channel|>final<|message|>{ANSWER}",
}
BEGINS = ("<|im_start|>assistant\n", "Answer:", "<|head|>assistant<|/head|>\n\n")

Pair = tuple[Speaker, Any]


def thinker(kind: str, *texts: str, sureness: float = 0.9) -> Pair:
    """A member that thinks `THOUGHT`, and answers at once if its thought is closed already."""
    tokenizer = thinking_tokenizer(kind)
    begins = ("<|start|>assistant",) if kind == "channels" else BEGINS
    texts = texts or (WITH[kind], WITHOUT[kind])
    return Speaker(tokenizer, *texts, begins=begins, sureness=sureness), tokenizer


def plain(family: str = "byte_level", *texts: str, sureness: float = 0.9) -> Pair:
    """A member that has no tags, and reads those of others as text."""
    tokenizer = tokenizer_of(family)
    speaker = Speaker(tokenizer, *(texts or (ANSWER, SPELLED)), begins=BEGINS, sureness=sureness)
    return speaker, tokenizer


def make(*members: Pair, **options: Any) -> Ensemble:
    return Ensemble.from_models(members, **options)


MIXED = {
    "one": (("hybrid",), ()),
    "alike": (("hybrid", "hybrid"), ()),
    "other tags": (("channels", "hybrid"), ()),
    "opened by the prompt": (("always",), ("tiktoken",)),
    "a transcript": (("channels",), ("byte_level",)),
    "three": (("hybrid", "always"), ("byte_level",)),
}


def members_of(name: str) -> list[Pair]:
    kinds, families = MIXED[name]
    return [*map(thinker, kinds), *map(plain, families)]


# ------------------------------------------------ tags


@pytest.mark.parametrize(
    ("kind", "opens", "closes", "skips"),
    [
        ("hybrid", "<think>\n", "\n</think>\n\n", "<think>\n\n</think>\n\n"),
        ("always", "<think>\n", "\n</think>\n\n", ""),
        (
            "channels",
            "<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
            "<|channel|>final<|message|>",
        ),
    ],
)
def test_tags_are_read_off_the_template(kind: str, opens: str, closes: str, skips: str) -> None:
    tags = think_tags(thinking_tokenizer(kind), None, {})
    assert tags is not None
    assert (tags.opens, tags.closes, tags.skips) == (opens, closes, skips)


@pytest.mark.parametrize("family", ["byte_level", "chatml", "legacy", "tiktoken"])
def test_models_that_do_not_think_have_none(family: str) -> None:
    assert think_tags(tokenizer_of(family), None, {}) is None


def test_a_prompt_without_line_breaks_shows_how_tags_are_written() -> None:
    tokenizer = thinking_tokenizer("always")
    own = tokenizer.chat_template
    try:
        tokenizer.chat_template = str(own).replace("<think>\n", "<think>")
        tags = think_tags(tokenizer, None, {})
    finally:
        tokenizer.chat_template = own
    assert tags is not None
    assert (tags.opens, tags.closes, tags.skips) == ("<think>", "</think>", "")


def test_the_end_of_any_prompt_shows_whether_it_opens_a_thought() -> None:
    """Also with tags that nobody knows, behind whatever was asked."""
    tokenizer = thinking_tokenizer("always")
    own = tokenizer.chat_template
    shown = str(own).replace(
        "{{ m.content.split('</think>')[-1] }}",
        "{% if m.thinking %}<r>{{ m.thinking }}</r>{% endif %}{{ m.content }}",
    )
    try:
        tokenizer.chat_template = shown.replace("<think>\n", "<r>")
        tags = think_tags(tokenizer, None, {})
        assert tags is not None
        assert (tags.opens, tags.closes) == ("", "</r>")
        ends = [tags.prompt_end(render(tokenizer, chat).text) for chat in (CHAT, [*CHAT, *CHAT])]
    finally:
        tokenizer.chat_template = own
    assert ends == ["open", "open"]
    assert tags.prompt_end("<|im_start|>assistant\n") == "none"
    assert tags.prompt_end("<|im_start|>assistant\n<r></r>") == "closed"


def test_a_template_that_shows_no_question() -> None:
    tokenizer = thinking_tokenizer("always")
    own = tokenizer.chat_template
    try:
        tokenizer.chat_template = (
            "{% for m in messages if m.role == 'assistant' %}<think>\n{{ m.thinking }}\n"
            "</think>\n\n{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}<think>\n{% endif %}"
        )
        tags = think_tags(tokenizer, None, {})
    finally:
        tokenizer.chat_template = own
    assert tags is not None
    assert (tags.opens, tags.closes, tags.open_tag) == ("<think>\n", "\n</think>\n\n", "<think>")


def test_a_template_that_thinks_only_when_told_to() -> None:
    tokenizer = thinking_tokenizer("hybrid")
    own = tokenizer.chat_template
    try:
        tokenizer.chat_template = str(own).replace(
            "enable_thinking is defined and not enable_thinking", "not enable_thinking"
        )
        with make(thinker("hybrid"), plain()) as ensemble:
            silent = ensemble.generate(CHAT, max_new_tokens=120)
            output = ensemble.generate(CHAT, max_new_tokens=120, thinking="on")
    finally:
        tokenizer.chat_template = own
    assert (silent.thought, silent.text) == (None, ANSWER)
    assert (output.thought, output.text) == (THOUGHT, ANSWER)


@pytest.mark.parametrize(
    ("thinking", "others", "thought", "before"),
    [
        ("auto", [], None, ""),
        ("off", [], None, ""),
        ("on", [], THOUGHT, "<think>\n"),
        ("auto", ["always"], THOUGHT, "<think>\n"),
    ],
)
def test_a_template_that_opens_a_thought_only_when_told_to(
    thinking: str, others: list[str], thought: str | None, before: str
) -> None:
    """Without one it writes nothing; where another member thinks, it reads an open tag."""
    tokenizer = thinking_tokenizer("hybrid")
    own = str(tokenizer.chat_template)
    last = own.rindex("{% if enable_thinking")
    shown = own[:last] + "{% if enable_thinking %}<think>\n{% endif %}{% endif %}"
    speaker = Speaker(tokenizer, ANSWER, SPELLED, begins=BEGINS)
    try:
        tokenizer.chat_template = shown
        with make((speaker, tokenizer), *map(thinker, others)) as ensemble:
            output = ensemble.generate(CHAT, max_new_tokens=120, thinking=thinking)
    finally:
        tokenizer.chat_template = own
    assert (output.thought, output.text) == (thought, ANSWER)
    written = speaker.read[-1].rpartition("assistant\n")[2]
    assert written == (f"{before}{THOUGHT}\n</think>\n\n{ANSWER}" if thought else ANSWER)


# Refuses fields that it does not know, and names its tags nowhere but in a comment.
STRICT = (
    "{# <think> </think> #}{% for m in messages %}{% for name in m %}"
    "{% if name not in ('role', 'content') %}{{ raise_exception('unknown field') }}{% endif %}"
    "{% endfor %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_refuses_thoughts() -> None:
    """Its tags are looked for, and thoughts of a history are left out."""
    tokenizer = thinking_tokenizer("hybrid")
    own = tokenizer.chat_template
    chat = [*CHAT, {"role": "assistant", "content": "5", "reasoning_content": "I add."}, *CHAT]
    try:
        tokenizer.chat_template = STRICT
        with make(thinker("hybrid"), plain()) as ensemble:
            outputs = ensemble.batch([CHAT, chat], max_new_tokens=120)
        shown = render(tokenizer, chat).text
    finally:
        tokenizer.chat_template = own
    assert [(out.thought, out.text) for out in outputs] == [(THOUGHT, ANSWER)] * 2
    assert "\n5<|im_end|>" in shown
    assert "I add." not in shown


def test_only_options_that_a_template_names_are_switched() -> None:
    hybrid, channels = thinking_tokenizer("hybrid"), thinking_tokenizer("channels")
    assert switches(hybrid, "off") == {"enable_thinking": False}
    assert switches(hybrid, "on") == {"enable_thinking": True}
    assert switches(hybrid, "auto") == switches(channels, "off") == {}


def test_tags_that_no_template_shows_can_be_given() -> None:
    said = f"[R]\n{THOUGHT}\n[/R]\n\n{ANSWER}"
    tokenizer = tokenizer_of("chatml")
    assert think_tags(tokenizer, ("[R]", "[/R]"), {}) is not None
    with pytest.raises(ConfigError, match="no chat template"):
        think_tags(tokenizer_of("byte_level"), ("[R]", "[/R]"), {})
    speaker = Speaker(tokenizer, said, begins=BEGINS)
    from gac_core.members.loading import Loaded

    loaded = [Loaded("a", speaker, tokenizer, think_tags=("[R]", "[/R]"))]
    config = make((speaker, tokenizer)).config
    with Ensemble(config, lambda: loaded) as ensemble:
        output = ensemble.generate(CHAT, max_new_tokens=120)
    assert (output.thought, output.text) == (THOUGHT, ANSWER)


# ------------------------------------------------ thought and answer


@pytest.mark.parametrize("space", ["tokens", "scored", "bytes"])
@pytest.mark.parametrize("name", MIXED)
def test_members_think_and_answer_together(name: str, space: str) -> None:
    with make(*members_of(name), space=space) as ensemble:
        output = ensemble.generate(CHAT, max_new_tokens=120)
        again = ensemble.generate(CHAT, max_new_tokens=120, thinking="on")
        silent = ensemble.generate(CHAT, max_new_tokens=120, thinking="off")
    assert (output.thought, output.text, output.finish_reason) == (THOUGHT, ANSWER, "stop")
    assert (again.thought, again.text) == (THOUGHT, ANSWER)
    assert (silent.thought, silent.text, silent.finish_reason) == (None, ANSWER, "stop")
    assert silent.usage.thought_tokens == 0 < output.usage.thought_tokens
    assert output.usage.completion_tokens > output.usage.thought_tokens
    assert output.usage.steps == len(output.steps)
    assert output.usage.prompt_tokens == again.usage.prompt_tokens


@pytest.mark.parametrize("space", ["tokens", "scored", "bytes"])
@pytest.mark.parametrize(
    "options",
    [
        {"method": "cascade", "threshold": 0.95},
        {"method": "cascade", "threshold": 0.5},
        {"method": "safe"},
        {"draft": "ngrams"},
        {"draft": 1},
        {"fusion": "geometric"},
        {"weighting": "entropy"},
    ],
    ids=str,
)
def test_every_method_thinks(space: str, options: dict[str, Any]) -> None:
    with make(*members_of("three"), space=space, **options) as ensemble:
        output = ensemble.generate(CHAT, max_new_tokens=120)
    assert (output.thought, output.text) == (THOUGHT, ANSWER)


@pytest.mark.parametrize("method", ["twist", "unite", "core"])
def test_methods_of_one_space_think(method: str) -> None:
    with make(*members_of("three"), method=method) as ensemble:
        output = ensemble.generate(CHAT, max_new_tokens=60)
    assert (output.thought, output.text) == (THOUGHT, ANSWER)


@pytest.mark.parametrize("space", ["tokens", "scored", "bytes"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_engine_writes_what_the_naive_driver_writes(space: str, temperature: float) -> None:
    options: dict[str, Any] = {"max_new_tokens": 60, "temperature": temperature, "seed": 3}
    with make(*members_of("three"), space=space) as ensemble:
        runtime = ensemble.runtime
        naive = run_naively(runtime.method, runtime.turn(CHAT, sampling_of(None, options)))
        outputs = ensemble.batch([CHAT] * 3, **options)
    for output in outputs:
        assert (output.thought, output.text) == (naive.thought, naive.text)
        assert output.usage == naive.usage


def test_streamed_thoughts_are_the_whole_ones() -> None:
    with make(*members_of("three")) as ensemble, ensemble.stream(CHAT) as stream:
        steps = list(stream)
    output = Output.of(steps)
    assert (output.thought, output.text) == (THOUGHT, ANSWER)
    kinds = [step.is_thought for step in steps]
    assert kinds == sorted(kinds, reverse=True)
    assert [step.is_thought for step in steps if step.is_end] == [True, False]
    assert all(step.text == "" for step in steps if step.is_thought)
    assert [step.outcome is not None for step in steps] == [False] * (len(steps) - 1) + [True]


@pytest.mark.parametrize("space", ["tokens", "scored", "bytes"])
def test_usage_can_be_read_at_every_step(space: str) -> None:
    """As of an answer that is cancelled there."""
    with make(*members_of("three"), space=space) as ensemble:
        runtime = ensemble.runtime
        expected = run_naively(runtime.method, runtime.turn(CHAT, sampling_of(None, {})))
        so_far: list[Usage] = []
        turn = runtime.turn(CHAT, sampling_of(None, {}))
        run = Run(runtime.method, turn, lambda _step: so_far.append(run.usage()))
        ask = run.resume()
        while ask is not None:
            score = {m: runtime.members[m].scorer.score(q) for m, q in ask.queries.items()}
            ask = run.resume(score)
    assert [usage.steps for usage in so_far] == [n + 1 for n in range(len(expected.steps))]
    for step, usage in zip(expected.steps, so_far, strict=True):
        assert usage.prompt_tokens == expected.usage.prompt_tokens
        if not step.is_thought:
            assert usage.thought_tokens == expected.usage.thought_tokens
        elif not step.is_end:
            assert usage.thought_tokens == usage.completion_tokens
    assert so_far[-1].members == expected.usage.members


# ------------------------------------------------ whether they think


@pytest.mark.parametrize(("weight", "thinks"), [(0.6, True), (0.4, False)])
def test_members_that_can_think_vote(weight: float, thinks: bool) -> None:
    never = thinker("hybrid", ANSWER, WITHOUT["hybrid"], SPELLED)
    ensemble = make(thinker("hybrid"), never, weights=[weight, 1 - weight])
    with ensemble:
        output = ensemble.generate(CHAT, max_new_tokens=120)
    assert (output.thought, output.text) == (THOUGHT if thinks else None, ANSWER)


def test_members_without_tags_have_no_vote() -> None:
    with make(thinker("hybrid"), plain(), plain("tiktoken"), weights=[0.2, 0.4, 0.4]) as ensemble:
        output = ensemble.generate(CHAT, max_new_tokens=120)
    assert (output.thought, output.text) == (THOUGHT, ANSWER)


def test_a_member_whose_template_is_told_not_to_think() -> None:
    from gac_core.members.loading import Loaded

    pairs = [thinker("hybrid"), plain()]
    silent = [
        Loaded(
            str(m), model, tokenizer, template_options={"enable_thinking": False} if not m else {}
        )
        for m, (model, tokenizer) in enumerate(pairs)
    ]
    with Ensemble(make(*pairs).config, lambda: silent) as ensemble:
        output = ensemble.generate(CHAT, max_new_tokens=120)
    assert (output.thought, output.text) == (None, ANSWER)


def test_what_can_not_think_is_refused() -> None:
    with make(plain()) as ensemble:
        assert ensemble.generate(CHAT, thinking="off").text == ANSWER
        with pytest.raises(ConfigError, match="no member of this ensemble has think tags"):
            ensemble.generate(CHAT, thinking="on")
    with make(thinker("hybrid")) as ensemble, pytest.raises(PromptError, match="in chats only"):
        ensemble.generate("2 + 3 =", thinking="on")


# ------------------------------------------------ ends and budgets


@pytest.mark.parametrize("space", ["tokens", "scored", "bytes"])
def test_a_tag_that_members_spell_out_ends_a_thought(space: str) -> None:
    """The members without tags decide, and write the tag as text."""
    members = [thinker("hybrid", sureness=0.3), plain(), plain("tiktoken")]
    with make(*members, space=space, weights=[0.1, 0.45, 0.45]) as ensemble:
        output = ensemble.generate(CHAT, max_new_tokens=120, thinking="on")
    assert (output.thought, output.text) == (THOUGHT, ANSWER)
    assert output.stop is None
    # The tag is no token of the thought: as many as if it had been one that ends.
    assert output.usage.completion_tokens == output.usage.members[0].completion_tokens
    assert output.usage.steps == len(output.steps)


@pytest.mark.parametrize("space", ["tokens", "bytes"])
def test_a_budget_that_cuts_a_spelled_tag_leaves_nothing_of_it(space: str) -> None:
    members = [thinker("hybrid", sureness=0.3), plain(), plain("tiktoken")]
    with make(*members, space=space, weights=[0.1, 0.45, 0.45]) as ensemble:
        options: dict[str, Any] = {"max_new_tokens": 120, "thinking": "on"}
        whole = ensemble.generate(CHAT, **options)
        steps = sum(step.is_thought for step in whole.steps)
        for most in range(steps - 5, steps):
            output = ensemble.generate(CHAT, max_thought_tokens=most, **options)
            assert (output.thought, output.text) == (THOUGHT, ANSWER)
            streamed = ensemble.stream(CHAT, max_thought_tokens=most, **options)
            assert "".join(step.thought or "" for step in streamed) == THOUGHT


@pytest.mark.parametrize("space", ["tokens", "scored", "bytes"])
def test_thoughts_of_any_characters_are_written_and_cut(space: str) -> None:
    """Half a character at the cut is shown as in an answer."""
    thought = "Grüße 🙂👍🏽 你好.\nДа."
    said = f"<think>\n{thought}\n</think>\n\n{ANSWER}"
    with make(thinker("hybrid", said), plain("byte_level", said, ANSWER), space=space) as ensemble:
        output = ensemble.generate(CHAT, max_new_tokens=120)
        cut = [ensemble.generate(CHAT, max_thought_tokens=most).thought for most in range(1, 12)]
    assert (output.thought, output.text) == (thought, ANSWER)
    assert all(text and thought.startswith(text.removesuffix("\ufffd")) for text in cut)


@pytest.mark.parametrize("most", [0, 1, 5])
def test_a_budget_ends_a_thought(most: int) -> None:
    cut = "The rest."
    speaker = thinker("hybrid", WITH["hybrid"], WITHOUT["hybrid"])
    with make(speaker, space="tokens") as ensemble:
        output = ensemble.generate(CHAT, max_thought_tokens=most, max_new_tokens=120)
    assert cut not in output.text
    if most == 0:
        assert (output.thought, output.text) == (None, ANSWER)
    else:
        assert output.thought is not None
        assert THOUGHT.startswith(output.thought)
        assert output.usage.thought_tokens == most
        read = speaker[0].read[-1]
        assert re.search(r"<think>\n.*\n</think>\n\n", read, re.DOTALL)


def test_a_thought_that_takes_all_steps_leaves_no_answer() -> None:
    with make(*members_of("three")) as ensemble:
        output = ensemble.generate(CHAT, max_new_tokens=6)
    assert (output.text, output.finish_reason) == ("", "length")
    assert output.thought is not None
    assert THOUGHT.startswith(output.thought)
    assert output.usage.thought_tokens == output.usage.completion_tokens == 6
    assert output.usage.steps == len(output.steps) == 6


@pytest.mark.parametrize("space", ["tokens", "scored", "bytes"])
def test_a_thought_that_ends_with_the_last_step_leaves_no_answer(space: str) -> None:
    with make(*members_of("three"), space=space) as ensemble:
        whole = ensemble.generate(CHAT, max_new_tokens=120)
        steps = sum(step.is_thought for step in whole.steps)
        output = ensemble.generate(CHAT, max_new_tokens=steps)
    assert output.steps[-1].is_end
    assert (output.thought, output.text, output.finish_reason) == (THOUGHT, "", "length")


@pytest.mark.parametrize("kind", THINKERS)
@pytest.mark.parametrize("more", range(0, 24, 2))
def test_no_member_reads_more_than_its_context_holds(kind: str, more: int) -> None:
    """Not for a vote, a tag, a thought, a unit of several of its tokens, or the answer after it."""
    prompt = len(render(thinking_tokenizer(kind), CHAT).ids)
    said = "<think>\nI think, thank you.\n</think>\n\nyou"
    speaker, tokenizer = thinker(kind)
    speaker.context_size = prompt + more
    lengths: list[int] = []
    score = speaker.score

    def noted(queries: Sequence[Query], keys: Sequence[Hashable] | None = None) -> list[Scored]:
        lengths.extend(len(query.ids) for query in queries)
        return score(queries, keys)

    speaker.score = noted  # type: ignore[method-assign]
    other = plain("byte_level", said, sureness=0.99)
    with make(other, (speaker, tokenizer), weights=[0.9, 0.1]) as ensemble:
        try:
            output = ensemble.generate(CHAT)
        except ContextOverflowError:
            assert more < 6  # no room for the tags of an answer
            return
    assert output.steps
    assert max(lengths) <= prompt + more


def test_a_full_context_ends_a_thought_before_the_answer() -> None:
    length = len(render(thinking_tokenizer("hybrid"), CHAT).ids)
    speaker, tokenizer = thinker("hybrid")
    speaker.context_size = length + 15
    with make((speaker, tokenizer)) as ensemble:
        output = ensemble.generate(CHAT)
    assert output.text == ""  # the member was asked for one, after its tags
    assert speaker.read[-1].endswith("</think>\n\n")
    assert output.thought
    assert THOUGHT.startswith(output.thought)


def test_stop_strings_end_the_answer_and_no_thought() -> None:
    with make(*members_of("three")) as ensemble:
        output = ensemble.generate(CHAT, max_new_tokens=120, stop=[" 5", "add"])
    assert (output.thought, output.text, output.stop) == (THOUGHT, "The answer is", " 5")


@pytest.mark.parametrize("space", ["tokens", "scored", "bytes"])
def test_a_grammar_begins_after_the_thought(space: str) -> None:
    with make(*members_of("three"), space=space) as ensemble:
        output = ensemble.generate(CHAT, max_new_tokens=120, grammar=Grammar.choice(["5", "55"]))
        # Enough is kept of the budget for the shortest text of the grammar.
        short = ensemble.generate(CHAT, max_new_tokens=6, grammar=Grammar.choice(["12345"]))
    assert output.thought == THOUGHT
    assert output.text in ("5", "55")
    assert short.text == "12345"


# ------------------------------------------------ histories


def test_thoughts_go_back_into_templates_that_show_them() -> None:
    chat = [
        *CHAT,
        {"role": "assistant", "content": "5", "reasoning_content": "I add."},
        {"role": "user", "content": "And <think>?"},
    ]
    hybrid = render(thinking_tokenizer("hybrid"), chat)
    assert "<think>\nI add.\n</think>\n\n5" in hybrid.text
    tag = thinking_tokenizer("hybrid").get_vocab()["<think>"]
    assert hybrid.ids.count(tag) == 1  # what the user typed is text
    assert "analysis<|message|>I add.<|end|>" in render(thinking_tokenizer("channels"), chat).text
    assert "I add." not in render(tokenizer_of("chatml"), chat).text
    with pytest.raises(PromptError, match="reasoning_content of message 0"):
        render(
            tokenizer_of("chatml"), [{"role": "assistant", "content": "", "reasoning_content": 5}]
        )


def test_what_a_model_thinks_can_be_asked_on() -> None:
    with make(*members_of("three")) as ensemble:
        first = ensemble.generate(CHAT)
        said = {"role": "assistant", "content": first.text, "reasoning_content": first.thought}
        second = ensemble.generate([*CHAT, said, *CHAT])
    assert (second.thought, second.text) == (THOUGHT, ANSWER)


@pytest.mark.parametrize("name", list(MIXED))
def test_labels_are_answers_without_a_thought(name: str) -> None:
    """What was written before the label, a thought or nothing, would make it unlikely."""
    with make(*members_of(name)) as ensemble:
        choice = ensemble.choose(CHAT, ["The answer is 6.", ANSWER, THOUGHT])
        written = ensemble.generate(CHAT, thinking="off")
        spaced = [member.leading_space for member in ensemble.members]
    assert choice.label == written.text == ANSWER
    for own, has_space in zip(choice.members, spaced, strict=True):
        if not has_space:  # these speakers write none, whatever their template has
            assert own.probs[1] > 0.99
            assert math.exp(own.logprobs[1]) > 0.9**30
