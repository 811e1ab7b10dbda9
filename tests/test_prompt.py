import copy
from typing import Any

import pytest
from hypothesis import given, strategies as st
from transformers import AutoModelForCausalLM

from gac_core import Ensemble, PromptError
from gac_core.chat.content import LEFT_OUT, LEFT_OUT_OF_ANSWERS, check_text
from gac_core.chat.messages import LEFT_OUT_FIELDS, plain_message
from gac_core.chat.prompt import check_messages, has_leading_space, render_prompt
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


# ---------------------------------------------------------------- histories of other providers


def said_in(*content: Any, role: str = "user") -> list[tuple[str, str]]:
    said = check_messages([{"role": role, "content": list(content)}])
    return [(message["role"], message["content"]) for message in said]


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"type": "input_text", "text": "a"}, "a"),
        ({"type": "output_text", "text": "a", "annotations": []}, "a"),
        ({"text": "a"}, "a"),
        ({"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, "a"),
        ({"type": "refusal", "refusal": "No."}, "No."),
        ({"type": "refusal"}, ""),
        ({"type": "json", "json": {"市": "Zürich"}}, '{"市": "Zürich"}'),
        ({"json": [1]}, "[1]"),
        ({"type": "guard_content", "guard_content": {"type": "text", "text": "a"}}, "a"),
        ({"guardContent": {"text": {"text": "a"}}}, "a"),
        ({"citationsContent": {"content": [{"text": "a"}], "citations": []}}, "a"),
        ({"type": "text-plain", "text": "a", "title": "T", "context": "C"}, "T\nC\na"),
        ({"type": "text-plain", "base64": "w6Q=", "mime_type": "text/plain"}, "ä"),
        ({"type": "file", "base64": "w6Q=", "mime_type": "text/markdown"}, "ä"),
        ({"type": "document", "source": {"type": "text", "data": "a"}, "title": "T"}, "T\na"),
        ({"type": "document", "source": {"type": "content", "content": [{"text": "a"}]}}, "a"),
        ({"document": {"name": "N", "source": {"text": "a"}}}, "N\na"),
        (
            {"type": "search_result", "title": "T", "source": "s", "content": [{"text": "a"}]},
            "T\ns\na",
        ),
        ({"type": "resource", "resource": {"uri": "file:///x", "text": "a"}}, "a"),
        ({"type": "resource_link", "name": "x", "uri": "file:///x"}, "x\nfile:///x"),
        ({"type": "audio", "transcript": "a"}, "a"),
        ({"type": "non_standard", "value": {"type": "text", "text": "a"}}, "a"),
    ],
)
def test_text_is_read_in_the_form_of_every_provider(block: Any, text: str) -> None:
    assert said_in("<", block, ">") == [("user", f"<{text}>")]


@pytest.mark.parametrize("kind", [kind for kinds in LEFT_OUT.values() for kind in kinds])
def test_what_is_left_out_is_in_one_list(kind: str) -> None:
    block: Any = {"type": kind, "text": "hm"}
    for part in (block, {"type": "non_standard", "value": block}):
        for role in ("user", "assistant"):
            assert said_in("<", part, ">", role=role) == [(role, "<>")]
    if kind != "thought":
        assert said_in("<", {kind: {}}, ">") == [("user", "<>")]


@pytest.mark.parametrize("kind", LEFT_OUT_OF_ANSWERS)
def test_what_members_can_not_read_is_left_out_of_answers_only(kind: str) -> None:
    block = {"type": kind, "data": "AAAA"}
    assert said_in("<", block, ">", role="assistant") == [("assistant", "<>")]
    with pytest.raises(PromptError, match=f"part 1 is of type '{kind}'.* or leave it out"):
        said_in("<", block, ">")


@pytest.mark.parametrize(
    "block",
    [
        {"type": "unheard_of"},
        {"temperature": 20},
        {"type": "non_standard", "value": {"type": "unheard_of"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf"}},
        {"document": {"name": "N", "source": {"bytes": b"x"}}},
        {"type": "resource", "resource": {"uri": "file:///x", "blob": "AAAA"}},
        {"type": "text-plain", "url": "https://example.org"},
        {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "image"}]},
        7,
    ],
)
@pytest.mark.parametrize("role", ["user", "tool", "assistant"])
def test_what_can_not_be_read_is_an_error_that_says_what_to_do(block: Any, role: str) -> None:
    with pytest.raises(PromptError, match="read text only: say what it holds in"):
        said_in(block, role=role)


def test_a_text_without_text_is_an_error() -> None:
    blocks: list[Any] = [{"type": "text"}, {"text": None}, {"guardContent": {}}]
    for block in blocks:
        with pytest.raises(PromptError, match="part 0 must be a string, not NoneType"):
            said_in(block)
    with pytest.raises(PromptError, match="no text in base64 and UTF-8"):
        said_in({"type": "file", "base64": "/w==", "mime_type": "text/plain"})


@pytest.mark.parametrize(
    "block",
    [
        {"type": "thinking", "thinking": "Hm."},
        {"type": "reasoning", "reasoning": "Hm."},
        {"type": "reasoning_content", "reasoning_content": {"text": "Hm."}},
        {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "x"}}},
        {"text": "Hm.", "thought": True},
    ],
)
def test_thoughts_of_any_provider(block: Any) -> None:
    [answer] = check_messages([{"role": "assistant", "content": [block, {"text": "Hi"}]}])
    assert (answer["content"], answer["reasoning_content"]) == ("Hi", "Hm.")
    [user] = check_messages([{"role": "user", "content": [block, {"text": "Hi"}]}])
    assert user == {"role": "user", "content": "Hi"}


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_beside_the_content(name: str) -> None:
    [answer] = check_messages([{"role": "assistant", "content": "Hi", name: "Hm."}])
    assert (answer["content"], answer["thinking"]) == ("Hi", "Hm.")


def test_roles_have_other_names() -> None:
    names = ["developer", "system", "human", "user", "ai", "model", "chatbot", "function", "tool"]
    said = check_messages([{"role": name, "content": "x"} for name in names])
    assert [message["role"] for message in said] == (
        ["system"] * 2 + ["user"] * 2 + ["assistant"] * 3 + ["tool"] * 2
    )


def test_an_answer_as_a_client_dumps_it() -> None:
    beside = dict.fromkeys(["name", "refusal", "audio", "function_call", "tool_calls"])
    left_out = dict.fromkeys(LEFT_OUT_FIELDS, "hm")
    dumped = {"role": "assistant", "content": "Hi", **beside, **left_out}
    refused = {"role": "assistant", "content": None, "refusal": "I can not."}
    aloud = {"role": "assistant", "content": None, "audio": {"id": "1", "transcript": "Hello."}}
    called = {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": ""}}
    texts = [m["content"] for m in check_messages([dumped, refused, aloud, called])]
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    assert texts == ["Hi", "I can not.", "Hello.", call]
    with pytest.raises(PromptError, match=r"unknown fields \['reasoning'\]"):
        check_messages([{"role": "user", "content": "x", "reasoning": "y"}])


def test_the_name_of_a_user_is_shown() -> None:
    names = [{"role": role, "content": "x", "name": "Mila"} for role in ("system", "user", "tool")]
    assert [m["content"] for m in check_messages(names)] == ["x", "Mila: x", "x"]


def test_results_beside_a_text_come_first_each_as_a_message() -> None:
    results = [
        {"type": "tool_result", "tool_use_id": "1", "content": "SUNNY"},
        {"toolResult": {"toolUseId": "2", "content": [{"json": {"at": 1}}, {"text": "NOON"}]}},
        {"type": "function_call_output", "id": "fc", "call_id": "3", "output": "x"},
        {"functionResponse": {"name": "f", "response": {"ok": True}}},
        {"type": "tool_result", "tool_use_id": "4", "content": "gone", "is_error": True},
        {"type": "tool_result", "tool_use_id": "5"},
    ]
    told = ["SUNNY", '{"at": 1}\nNOON', "x", '{"ok": true}', "Error: gone", ""]
    plain = plain_message({"role": "user", "content": ["Be ", *results, "QUICK."]}, "it")
    assert [(m["role"], m["content"]) for m in plain] == [
        *(("tool", text) for text in told),
        ("user", "Be QUICK."),
    ]
    assert [m.get("tool_call_id") for m in plain] == ["1", "2", "3", None, "4", "5", None]
    assert [m["role"] for m in plain_message({"role": "user", "content": results}, "it")] == [
        "tool"
    ] * 6
    again = [message for m in plain for message in plain_message(m, "it")]
    assert again == [{k: v for k, v in m.items() if v is not None} for m in plain]


def test_calls_are_read_in_the_form_of_every_provider() -> None:
    calls = [
        {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}},
        {"toolUse": {"toolUseId": "2", "name": "f", "input": {"a": 1}}},
        {"type": "function_call", "id": "fc", "call_id": "3", "name": "f", "arguments": '{"a": 1}'},
        {"type": "tool_call", "id": "4", "name": "f", "args": {"a": 1}},
        {"functionCall": {"id": "5", "name": "f", "args": {"a": 1}}},
        {"type": "custom_tool_call", "call_id": "6", "name": "f", "input": "a"},
    ]
    (plain,) = plain_message({"role": "assistant", "content": ["Look: ", *calls]}, "it")
    assert plain["content"] == "Look: "
    assert [call["id"] for call in plain["tool_calls"]] == list("123456")
    assert [call["function"]["arguments"] for call in plain["tool_calls"]] == [
        *[{"a": 1}] * 5,
        {"input": "a"},
    ]
    # Frameworks have a call in the content and beside it: it is one call.
    twice = {"role": "assistant", "content": calls, "tool_calls": plain["tool_calls"]}
    assert plain_message(twice, "it")[0]["tool_calls"] == plain["tool_calls"]
    with pytest.raises(PromptError, match="calls a tool as user"):
        plain_message({"role": "user", "content": calls}, "it")
    written = {"type": "invalid_tool_call", "name": "f", "args": "{a: 1}", "error": "no JSON"}
    assert said_in(written, role="assistant") == [
        ("assistant", '<tool_call>{"name": "f", "arguments": {a: 1}}</tool_call>')
    ]
