"""Drafting changes the number of passes, never the text (law 9)."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gac_core import ConfigError, Ensemble, Grammar
from gac_core.decoding.drafting import AdaptiveLength, continuation
from gac_core.testing import assert_nothing_held, assert_same, naively
from tests.cases import matrix
from tests.fakes import make, pair, scripted

FAMILIES: list[tuple[str, ...]] = [
    ("byte_level", "legacy", "chatml"),
    ("unigram", "tiktoken", "metaspace"),
    ("chatml", "chatml"),
    ("neox", "legacy"),
    ("byte_level", "characters", "sparse"),
]
METHODS: list[dict[str, Any]] = [
    {"method": "every_step"},
    {"method": "every_step", "space": "tokens", "history": "append"},
    {"method": "cascade", "threshold": 0.4},
    {"method": "posterior", "temper": 0.5},
    {"method": "unite"},
]
CHAT = [{"role": "user", "content": "the cat sat on the mat. the cat sat on the mat. the cat"}]
SCHEMA = Grammar.json_schema(
    {"type": "array", "items": {"enum": ["hello", "hello world"]}, "maxItems": 6}
)


@matrix(families=FAMILIES, method=METHODS, draft=["ngrams", 0, 1])
def test_law_9(families: tuple[str, ...], method: dict[str, Any], draft: str | int) -> None:
    rng = random.Random(f"{families} {method} {draft}")
    jobs: list[tuple[Any, dict[str, Any]]] = [
        (
            rng.choice(["Hello Hello Hello Hello", CHAT, "a b a b a b a"]),
            {
                "max_new_tokens": rng.randint(1, 40),
                "temperature": rng.choice([0.0, 0.5, 1.0]),
                "repetition_penalty": rng.choice([1.0, 1.2]),
                "grammar": rng.choice([None, None, SCHEMA]),
                "seed": rng.randrange(100),
            },
        )
        for _ in range(5)
    ]
    for _, sampling in jobs:
        if sampling["grammar"] is not None:
            sampling["max_new_tokens"] = 40
    with make(families, **method) as plain:
        expected = [plain.generate(prompt, **sampling) for prompt, sampling in jobs]
    with make(families, **method, draft=draft, draft_length=6) as drafting:
        streams = [drafting.stream(prompt, **sampling) for prompt, sampling in jobs]
        for stream, want in zip(streams, expected, strict=True):
            assert_same(type(want).of(list(stream)), want)
        prompt, sampling = jobs[0]
        assert_same(naively(drafting, prompt, **sampling)[0], expected[0])
        assert_nothing_held(drafting)


def repeating(text: list[str], times: int, **options: Any) -> Ensemble:
    """Two scripted members that write the same pieces over and over."""
    script = [{piece: 1.0} for piece in text] * times
    members = [scripted(family, 1, script) for family in ("byte_level", "chatml")]
    return Ensemble.from_models(members, **options)


@pytest.mark.parametrize(
    ("draft", "space"), [("ngrams", "tokens"), ("ngrams", "scored"), (1, "tokens")]
)
def test_what_is_guessed_right_costs_no_pass(draft: str | int, space: str) -> None:
    pieces = ["a", "b", "c", "d", "e", "."]
    steps = len(pieces) * 10
    with repeating(pieces, 10, space=space) as plain:
        expected = plain.generate("Hello", max_new_tokens=steps)
        slow = plain.members[0].scorer.stats.queries
    with repeating(pieces, 10, draft=draft, space=space) as drafting:
        output = drafting.generate("Hello", max_new_tokens=steps)
        fast = drafting.members[0].scorer.stats.queries
    assert_same(output, expected)
    assert output.text == "abcde." * 10
    assert slow == steps
    assert fast < steps / 2


def test_a_drafter_that_is_always_wrong_is_seldom_asked() -> None:
    with make(("chatml", "byte_level"), weights=[9, 1], draft=1) as drafting:
        steps = drafting.generate("Hello", max_new_tokens=150).usage.steps
        queries = drafting.members[0].scorer.stats.queries
    assert queries <= 1.1 * steps


@given(st.text("ab c", max_size=60))
def test_what_followed_the_longest_ngram(letters: str) -> None:
    text = letters.encode()
    expected = next(
        (
            (text[start + n :] * 9)[:9]
            for n in (24, 16, 12, 8, 6)
            for start in range(len(text) - n - 1, -1, -1)
            if text[start : start + n] == text[-n:]
        ),
        None,
    )
    if expected is not None:
        assert continuation(text, 9) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"Mila lives in Oslo.\xffWhere is Mila?\xffMil", b"a?"),
        (b"Mila lives in Oslo.\xffWho?\xffMil", b"a lives in Oslo."),
        (b"a familiar town\xffMil", b""),  # not in the middle of a word
        (b"M\xffM", b""),  # one letter begins many words
        (b"", b""),
        (b"\xff", b""),
    ],
)
def test_a_word_that_was_begun_goes_on(text: bytes, expected: bytes) -> None:
    assert continuation(text, 40) == expected


def test_the_length_adapts_to_what_was_accepted() -> None:
    adaptive = AdaptiveLength(16)
    assert adaptive.next_length() == 8
    adaptive.learn(8, 8)
    assert adaptive.next_length() == 16
    adaptive.learn(5, 16)
    assert adaptive.next_length() == 6
    adaptive.learn(0, 6, was_right=True)
    assert adaptive.next_length() == 6
    adaptive.learn(0, 6, was_right=True)
    pauses = []
    for _ in range(9):
        adaptive.learn(0, 3)
        pauses.append(next(n for n in range(1000) if adaptive.next_length()))
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 64, 64]


@pytest.mark.slow
@pytest.mark.parametrize("draft", [0, 1])
def test_the_length_adapts_with_a_gate(draft: int) -> None:
    """Nor are old answers kept: a cascade's drafter is asked in vain here, so drafting pauses."""
    families = ("chatml", "byte_level", "legacy")
    with make(families, method="cascade", threshold=1.1, draft=draft) as drafting:
        output = drafting.generate("Hello", max_new_tokens=100)
        queries = sum(m.scorer.stats.queries for m in drafting.members)
    assert queries < 2 * 3 * output.usage.steps


def test_a_guess_that_can_not_be_spelled_is_no_error() -> None:
    """A vocabulary without bytes, alone: what a guess cuts in half has no tokens."""
    corpus = ["Привет мир, привет всем, как дела мир"]
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=70, special_tokens=["<unk>", "<end>"], show_progress=False
    )
    backend.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().double()
    prompt = "приветмир" * 6
    for seed in range(4):
        sampling: dict[str, Any] = {"max_new_tokens": 30, "temperature": 1.0, "seed": seed}
        with (
            Ensemble.from_models([(model, tokenizer)]) as plain,
            Ensemble.from_models([(model, tokenizer)], draft="ngrams") as drafting,
        ):
            assert_same(drafting.generate(prompt, **sampling), plain.generate(prompt, **sampling))


def test_a_drafter_is_not_asked_beyond_its_context() -> None:
    small, tokenizer = pair("chatml", 1, context=40)
    members = [pair("byte_level"), (small, tokenizer)]
    with (
        Ensemble.from_models(members, method="cascade") as plain,
        Ensemble.from_models(members, method="cascade", draft=1) as drafting,
    ):
        expected = plain.generate("Hello Hello")
        assert_same(naively(drafting, "Hello Hello", max_new_tokens=30)[0],
                    naively(plain, "Hello Hello", max_new_tokens=30)[0])  # fmt: skip
        assert drafting.generate("Hello Hello").text == expected.text


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"draft": "magic"}, "ngrams or the index of a member, not 'magic'"),
        ({"draft": 2}, "draft is 2, which is no member"),
        ({"draft_length": 3}, "draft_length needs draft"),
        ({"draft": "ngrams", "method": "safe"}, "draft means nothing to method safe"),
    ],
)
def test_options_are_checked(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Ensemble.from_models([pair("chatml"), pair("legacy")], **options)
