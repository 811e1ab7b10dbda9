import itertools
import random
import re
from typing import Any

import pytest
from hypothesis import given, strategies as st

from gac_core import CannotSpellError, RewritesTextError
from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.vocabulary import TokenKind, Vocabulary
from tests.fakes import (
    CORPUS,
    FAMILIES,
    REAL,
    byte_tokenizer_of,
    real_tokenizer,
    tokenizer_of,
)


def spelled(tokenizer: ByteTokenizer, ids: Any) -> bytes:
    return b"".join(tokenizer.vocabulary.token_bytes[i] for i in ids)


@given(
    st.sampled_from(FAMILIES),
    st.binary(max_size=30) | st.text(max_size=20).map(lambda t: t.encode(errors="replace")),
)
def test_any_bytes_are_spelled_exactly(family: str, data: bytes) -> None:
    tokenizer = byte_tokenizer_of(family)
    for ids in (
        tokenizer.encode(data),
        tokenizer.encode_greedily(data),
        tokenizer.encode_unit(data),
    ):
        assert spelled(tokenizer, ids) == data
        assert all(tokenizer.vocabulary.kinds[i] is TokenKind.TEXT for i in ids)


WORDS = [
    " the",
    " a",
    "b c",
    " ",
    "  ",
    "\n",
    ".",
    ", ",
    "é",
    " été",
    "12",
    "'t",
    "🙂"[:1],
    "Hello",
]


@given(
    st.sampled_from(FAMILIES),
    st.lists(
        st.sampled_from([w.encode() for w in WORDS] + [b"\xf0\x9f", b"\x99\x82", b"\xc3"]),
        max_size=40,
    ),
)
def test_encoding_on_equals_encoding_anew(family: str, units: list[bytes]) -> None:
    check_encoding_on(byte_tokenizer_of(family), units)


@pytest.mark.real_tokenizers
@pytest.mark.parametrize("name", [*REAL, "deepseek_v3"])
def test_real_encoding_on_equals_encoding_anew(name: str) -> None:
    tokenizer = byte_tokenizer_of(name)
    assert tokenizer._words_begin_tokens
    rng = random.Random(name)
    text = " ".join(CORPUS).encode()
    for _ in range(40):
        cuts = sorted(rng.sample(range(len(text)), 30))
        check_encoding_on(tokenizer, [text[a:b] for a, b in itertools.pairwise(cuts)])


def check_encoding_on(tokenizer: ByteTokenizer, units: list[bytes]) -> None:
    known, ids = b"", list[int]()
    for unit in units:
        data = known + unit
        ids = tokenizer.encode_open(data, known, ids)
        assert ids == tokenizer.encode_open(data)
        known = data


def test_encoding_on_does_not_read_the_whole_text_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_tokenizer_of("byte_level")
    text = b"Hello world and so on" * 200
    ids = tokenizer.encode(text)
    read: list[int] = []
    encode = tokenizer.encode

    def counting(data: bytes) -> list[int]:
        read.append(len(data))
        return encode(data)

    monkeypatch.setattr(tokenizer, "encode", counting)
    tokenizer.encode_open(text + b" it", text, ids)
    assert sum(read) < 20


@pytest.mark.parametrize("family", ["byte_level", "chatml", "tiktoken"])
@pytest.mark.parametrize("text", CORPUS[:6])
def test_byte_level_continuations_are_what_the_tokenizer_writes(family: str, text: str) -> None:
    tokenizer = tokenizer_of(family)
    assert byte_tokenizer_of(family).encode(text.encode()) == tokenizer.encode(
        text, add_special_tokens=False
    )


@pytest.mark.parametrize("family", ["legacy", "metaspace", "unigram"])
@pytest.mark.parametrize("text", [" Hello world", " Paris; the capital"])
def test_no_dummy_prefix_in_a_continuation(family: str, text: str) -> None:
    """ "Hello" goes on without a space, " Hello" with one, as the tokenizer's own tokens."""
    ours, theirs = byte_tokenizer_of(family), tokenizer_of(family)
    assert ours.encode(text.encode()) == theirs.encode(text[1:], add_special_tokens=False)
    assert spelled(ours, ours.encode(text[1:].encode())) == text[1:].encode()


@pytest.mark.real_tokenizers
@pytest.mark.parametrize("name", [*REAL, "deepseek_v3"])
def test_real_spelling(name: str) -> None:
    ours, theirs = byte_tokenizer_of(name), real_tokenizer(name)
    ours.check()
    for text in [*CORPUS[:6], "\n\nfoo", "e\u0301", "</s><|im_end|>[INST]<|eot_id|>"]:
        assert spelled(ours, ours.encode(text.encode())) == text.encode()
    for text in CORPUS[:6]:
        assert ours.encode_prompt(text) == theirs.encode(text)
        half = text.encode()[:-3]
        assert spelled(ours, ours.encode(half)) == half


@pytest.mark.real_tokenizers
@pytest.mark.parametrize("name", [*REAL, "deepseek_v3"])
def test_control_tokens_in_a_raw_prompt_stay_text(name: str) -> None:
    ours, theirs = byte_tokenizer_of(name), real_tokenizer(name)
    typed = " ".join(t.content for t in theirs.added_tokens_decoder.values())
    kinds = ours.vocabulary.kinds
    ids = ours.encode_prompt(typed)
    bos = ours.bos_ids
    assert ids[: len(bos)] == bos
    assert len(bos) == (name in ("llama2", "mistral_v3", "phi3"))
    assert all(kinds[i] is TokenKind.TEXT for i in ids[len(bos) :])


@pytest.mark.real_tokenizers
def test_unfit_tokenizers_are_refused_with_the_reason() -> None:
    with pytest.raises(RewritesTextError, match="'Hello World' as ' hello world'"):
        byte_tokenizer_of("albert").check()
    with pytest.raises(CannotSpellError, match="9 of the characters"):
        byte_tokenizer_of("t5").check()


@pytest.mark.parametrize("char", ["~", "\t", "\n", " "])
def test_characters_of_every_text_must_have_tokens(char: str) -> None:
    whole = byte_tokenizer_of("byte_level").vocabulary
    without = Vocabulary(
        tuple(b"" if t == char.encode() else t for t in whole.token_bytes),
        tuple(
            TokenKind.HOLE if t == char.encode() else k
            for t, k in zip(whole.token_bytes, whole.kinds, strict=True)
        ),
    )
    tokenizer = ByteTokenizer(tokenizer_of("byte_level"), without)
    with pytest.raises(
        CannotSpellError,
        match=re.escape(f"1 of the characters that every text is made of ({char!r})"),
    ):
        tokenizer.check()


@pytest.mark.parametrize(
    ("family", "data", "named"),
    [
        ("sparse", b"a\x04", r"the byte 0x04 of '\\x04' \(U\+0004\)"),
        ("characters", "ab\u4e00".encode(), r"of '\u4e00' \(U\+4E00\)"),
        ("characters", b"a\xe4", "the byte 0xE4$"),
        ("characters", "a\u4f60".encode()[:-1], "the byte 0xE4$"),
    ],
)
def test_what_can_not_be_spelled_is_named(family: str, data: bytes, named: str) -> None:
    tokenizer = byte_tokenizer_of(family)
    tokenizer.check()  # it may join all the same
    with pytest.raises(CannotSpellError, match=f"no tokens for .*{named}"):
        tokenizer.encode(data)


def test_a_cover_goes_back_where_the_longest_token_leads_nowhere() -> None:
    pieces = (b"a", b"abc", b"ab", b"cd", b"")
    kinds = (*[TokenKind.TEXT] * 4, TokenKind.END)
    vocabulary = Vocabulary(pieces, kinds)
    assert vocabulary.cover(b"abcd") == ([2, 3], 4)
    assert vocabulary.cover(b"aabcd" * 50) == ([0, 2, 3] * 50, 250)
    assert vocabulary.cover(b"abcdd") == ([2, 3], 4)
    assert vocabulary.cover(b"abc" * 300 + b"d") == ([1] * 299 + [2, 3], 901)
    assert vocabulary.cover(b"d") == ([], 0)


@pytest.mark.parametrize(
    ("family", "text", "lost"),
    [
        ("sparse", "one\x04two\x06", "\x04"),
        ("sparse", "one \x05 \u4f60 two", None),
        ("characters", "\u4f60\u597d, \u4e00", "\u4e00"),
        ("characters", "a\x07", "\x07"),
        ("byte_level", "\x00\x04\u4e00", None),
    ],
)
def test_what_a_tokenizer_loses_is_found(family: str, text: str, lost: str | None) -> None:
    tokenizer = byte_tokenizer_of(family)
    assert tokenizer.lost_character(text) == lost
    if lost is None:
        assert spelled(tokenizer, tokenizer.encode_prompt(text)) in (
            text.encode(),
            b" " + text.encode(),
        )
    else:
        with pytest.raises(CannotSpellError, match=f"U\\+{ord(lost):04X}"):
            tokenizer.encode_prompt(text)
