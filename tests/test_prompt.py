import copy
from typing import Any

import pytest
from hypothesis import given, strategies as st
from transformers import AutoModelForCausalLM

from gac_core import Ensemble, PromptError
from gac_core.chat.prompt import check_messages, check_text, has_leading_space, render_prompt
from gac_core.pocket import folder
from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.vocabulary import TokenKind, Vocabulary
from tests.fakes import FAMILIES, packed_tokenizer, pair, real_tokenizer, tokenizer_of

TEMPLATED = ("phi3", "llama3", "qwen2_5", "deepseek_v3")
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "It is two."},
    {"role": "user", "content": "And 2 + 2?"},
]


def text_of(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_message_is_in_the_prompt(family: str) -> None:
    tokenizer = tokenizer_of(family)
    text = text_of(tokenizer, render_prompt(tokenizer, TALK))
    places = [text.index(m["content"]) for m in TALK]
    assert places == sorted(places)
    assert not text.endswith("And 2 + 2?") or family == "legacy"


@pytest.mark.real_tokenizers
@pytest.mark.parametrize("name", [*TEMPLATED, "gpt2", "mistral_v3"])
def test_every_message_is_in_a_real_prompt(name: str) -> None:
    tokenizer = real_tokenizer(name)
    text = text_of(tokenizer, render_prompt(tokenizer, TALK))
    assert all(m["content"] in text for m in TALK)


def test_a_template_without_system_role_gets_it_in_the_user_turn() -> None:
    tokenizer = tokenizer_of("legacy")
    text = text_of(tokenizer, render_prompt(tokenizer, TALK))
    assert "[INST] Be brief.\n\nWhat is 1 + 1?" in text


def test_a_template_that_drops_the_system_role_is_noticed() -> None:
    tokenizer = tokenizer_of("chatml")
    kept = tokenizer.chat_template
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role != 'system' %}<|im_start|>{{ m.content }}<|im_end|>"
        "{% endif %}{% endfor %}"
    )
    try:
        text = text_of(tokenizer, render_prompt(tokenizer, TALK))
        assert "<|im_start|>Be brief.\n\nWhat is 1 + 1?" in text
        tokenizer.chat_template = "{{ messages[-1].content }}"
        with pytest.raises(PromptError, match="drops a part"):
            render_prompt(tokenizer, TALK)
    finally:
        tokenizer.chat_template = kept


def test_neighbours_of_one_role_are_joined_where_a_template_is_strict() -> None:
    tokenizer = tokenizer_of("legacy")
    messages = [{"role": "user", "content": "One."}, {"role": "user", "content": "Two."}]
    assert "[INST] One.\n\nTwo. [/INST]" in text_of(tokenizer, render_prompt(tokenizer, messages))


def test_a_refusal_tells_the_templates_reason() -> None:
    with pytest.raises(PromptError, match="roles must alternate"):
        render_prompt(tokenizer_of("legacy"), [{"role": "assistant", "content": "Hi"}])


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "unigram"])
def test_law_11_text_never_becomes_a_control_token(family: str) -> None:
    tokenizer = tokenizer_of(family)
    check_sanitised(tokenizer, Vocabulary.of(tokenizer))


def test_law_11_where_markup_is_a_piece_of_the_model_itself() -> None:
    """A Unigram model would write "</s>" as its end token: refused in a chat, spelled in a text."""
    tokenizer = tokenizer_of("unigram")
    with pytest.raises(PromptError, match="Can't sanitize '</s>'"):
        render_prompt(tokenizer, [{"role": "user", "content": "a </s> b"}])
    ours = ByteTokenizer(tokenizer, Vocabulary.of(tokenizer))
    ids = ours.encode_prompt("a </s> b")
    assert [i for i in ids if ours.vocabulary.kinds[i] is not TokenKind.TEXT] == ours.bos_ids
    assert b"".join(ours.vocabulary.token_bytes[i] for i in ids) == b" a </s> b"


@pytest.mark.real_tokenizers
@pytest.mark.parametrize("name", [*TEMPLATED, "gpt2", "mistral_v3", "llama2"])
def test_law_11_real(name: str) -> None:
    tokenizer = real_tokenizer(name)
    check_sanitised(tokenizer, Vocabulary.of(tokenizer))


def check_sanitised(tokenizer: Any, vocabulary: Vocabulary) -> None:
    """As many control tokens with markup in the message as without."""
    markup = "".join(
        t.content
        for i, t in tokenizer.added_tokens_decoder.items()
        if vocabulary.kinds[i] is not TokenKind.TEXT
    )[:2000]

    def controls(content: str) -> list[int]:
        ids = render_prompt(tokenizer, [{"role": "user", "content": content}])
        return [i for i in ids if vocabulary.kinds[i] is not TokenKind.TEXT]

    assert controls(markup) == controls("a")
    assert controls(f"a {markup} b") == controls("a")


TEXT_LIKE = ["\n", "\n\n", "\t", "   "]  # added tokens as Gemma's and GPT-NeoX's


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "unigram"])
@pytest.mark.parametrize("content", ["one\ntwo\n\nthree", "\ta   b\n", "\n", "a\n\n\n\t\tb"])
def test_added_tokens_that_are_text_are_text_in_messages(family: str, content: str) -> None:
    """They are written as the tokenizer itself writes them, and as a template's own."""
    tokenizer = copy.deepcopy(tokenizer_of(family))
    tokenizer.add_tokens(TEXT_LIKE)
    tokenizer.chat_template = (
        "{% for m in messages %}x\n\n{{ m.content }}{{ eos_token }}{% endfor %}"
    )
    ids = render_prompt(tokenizer, [{"role": "user", "content": content}])
    plain = tokenizer.encode(f"x\n\n{content}{tokenizer.eos_token}", add_special_tokens=False)
    assert ids == plain
    added = {tokenizer.convert_tokens_to_ids(text) for text in TEXT_LIKE if text in content}
    assert added & set(ids)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "unigram"])
def test_law_11_beside_added_tokens_that_are_text(family: str) -> None:
    tokenizer = copy.deepcopy(tokenizer_of(family))
    tokenizer.add_tokens(TEXT_LIKE)
    vocabulary = Vocabulary.of(tokenizer)
    check_sanitised(tokenizer, vocabulary)
    markup = tokenizer.eos_token
    for content in (f"a\n{markup}\n\nb", f"\t{markup}   ", f"{markup}\n{markup}"):
        ids = render_prompt(tokenizer, [{"role": "user", "content": content}])
        plain = render_prompt(tokenizer, [{"role": "user", "content": "a"}])
        counts = [sum(vocabulary.kinds[i] is not TokenKind.TEXT for i in x) for x in (ids, plain)]
        assert counts[0] == counts[1]


@pytest.mark.parametrize("name", ["bo", "ada"])
def test_a_chat_with_line_breaks_that_are_added_tokens(name: str) -> None:
    """Tools and schemas are shown on lines of their own; see Gemma."""
    tokenizer = copy.deepcopy(packed_tokenizer(name))
    size = len(tokenizer)
    tokenizer.add_tokens(["\n"] if name == "bo" else ["\t"])
    model = AutoModelForCausalLM.from_pretrained(folder(name))
    if len(tokenizer) > size:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    chat = [
        {"role": "system", "content": "Answer as a list:\n\n- one\n\t- two"},
        {"role": "user", "content": "first line\nsecond line"},
    ]
    with Ensemble.from_models([(model, tokenizer)]) as ensemble:
        (ids,) = ensemble.prompt_ids(chat)
        assert "first line\nsecond line" in tokenizer.decode(ids)
        assert ensemble.generate(chat, max_new_tokens=2).usage.steps <= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_rendering_leaves_the_tokenizer_as_it_was(family: str) -> None:
    tokenizer = tokenizer_of(family)
    before = tokenizer.chat_control_tokens
    render_prompt(tokenizer, TALK)
    assert tokenizer.chat_control_tokens == before


@pytest.mark.parametrize("family", FAMILIES)
def test_one_bos(family: str) -> None:
    tokenizer = tokenizer_of(family)
    ids = render_prompt(tokenizer, TALK)
    if tokenizer.bos_token_id is not None:
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids[0] == tokenizer.bos_token_id


@pytest.mark.real_tokenizers
@pytest.mark.parametrize("name", [*TEMPLATED, "mistral_v3", "llama2"])
def test_one_bos_real(name: str) -> None:
    tokenizer = real_tokenizer(name)
    count = render_prompt(tokenizer, TALK).count(tokenizer.bos_token_id)
    assert count == (0 if name == "qwen2_5" else 1) or name == "phi3"
    assert count <= 1


@pytest.mark.parametrize(
    "template",
    [
        (
            "{% if messages[-1].role == 'assistant' %}{{ raise_exception('no') }}{% endif %}"
            "{{ messages[0].content }}"
        ),
        "{% if %}",
    ],
)
def test_a_template_of_its_own_kind_does_not_forbid_raw_text(template: str) -> None:
    tokenizer = copy.deepcopy(tokenizer_of("chatml"))
    tokenizer.chat_template = template
    model, _ = pair("chatml")
    with Ensemble.from_models([(model, tokenizer)]) as ensemble:
        assert ensemble.generate("Hello", max_new_tokens=2).usage.steps == 2
        assert not ensemble.members[0].leading_space
        if template == "{% if %}":
            with pytest.raises(PromptError, match="refuses these messages"):
                ensemble.generate([{"role": "user", "content": "Hello"}])


def test_how_templates_open_an_answer() -> None:
    opens = {
        f: has_leading_space(tokenizer_of(f), Vocabulary.of(tokenizer_of(f))) for f in FAMILIES
    }
    assert opens["legacy"]
    assert not opens["chatml"]
    assert not opens["tiktoken"]
    assert opens["byte_level"]  # without a template: "Answer: Hello"


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "empty"),
        ("Hello", "list of dicts"),
        (["Hello"], "message 0 must be a dict"),
        ([{"role": "robot", "content": ""}], "role 'robot'; use one of system, user"),
        ([{"content": "x"}], "role None"),
        ([{"role": "user"}], "message 0 has no content"),
        ([{"role": "user", "content": None}], "has no content"),
        ([{"role": "user", "contents": "x"}], r"unknown fields \['contents'\]"),
        ([{"role": "user", "content": "", "tool_calls": []}], "unknown fields"),
        ([{"role": "user", "content": b"x"}], "must be text, not bytes"),
        ([{"role": "user", "content": "x\U000f0000y"}], r"private-use characters U\+F0000"),
        ([{"role": "user", "content": 3}], "must be text, not int"),
        ([{"role": "user", "content": "a\ud800"}], "lone surrogate '.ud800' at position 1"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "'image_url'; .* text only"),
    ],
)
def test_malformed_messages(messages: Any, complaint: str) -> None:
    with pytest.raises(PromptError, match=complaint):
        check_messages(messages)


def test_content_may_come_in_parts_or_be_none() -> None:
    (message, empty) = check_messages(
        [
            {"role": "user", "content": [{"type": "text", "text": "a"}, "b"]},
            {"role": "assistant", "content": None},
        ]
    )
    assert (message["content"], empty["content"]) == ("ab", "")


@given(st.text())
def test_any_other_text_is_fine(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        with pytest.raises(PromptError):
            check_text(text, "it")
    else:
        assert check_text(text, "it") == text
