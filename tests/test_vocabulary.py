import copy
from typing import Any

import pytest
from tokenizers import AddedToken

from gac_core import VocabularyError
from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.vocabulary import TokenKind, Vocabulary, byte_alphabet, template_end_ids
from tests.fakes import CORPUS, FAMILIES, REAL, real_source, real_tokenizer, tokenizer_of

PROBES = [
    "Hello world",
    " the été, naïve café",
    "def f(x):\n\n    return x\t# é",
    "Привет 你好 🙂👍🏽 \u200b",
    "12 345 6789",
    "a" * 40,
]


def id_of(tokenizer: Any, piece: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(piece))


def spelled(vocabulary: Vocabulary, ids: list[int]) -> str:
    return b"".join(vocabulary.token_bytes[i] for i in ids).decode()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", [*PROBES, *CORPUS[:6]])
def test_token_bytes_spell_the_text(family: str, text: str) -> None:
    tokenizer = tokenizer_of(family)
    vocabulary = Vocabulary.of(tokenizer)
    read = spelled(vocabulary, tokenizer.encode(text, add_special_tokens=False))
    assert read in (text, " " + text)


@pytest.mark.real_tokenizers
@pytest.mark.parametrize("name", [*REAL, "deepseek_v3"])
def test_real_token_bytes_spell_the_text(name: str) -> None:
    tokenizer = real_tokenizer(name)
    vocabulary = Vocabulary.of(tokenizer, vocab_size=real_source(name)["model_vocab_size"])
    for text in PROBES:
        read = spelled(vocabulary, tokenizer.encode(text, add_special_tokens=False))
        assert read in (text, " " + text)


@pytest.mark.real_tokenizers
@pytest.mark.parametrize(
    ("name", "twins", "padding", "missing"),
    [
        ("gpt2", 0, 0, 0),
        ("gpt_neox", 23, 155, 13),
        ("llama2", 96, 0, 0),
        ("phi3", 96, 53, 0),
        ("mistral_v3", 125, 0, 0),
        ("llama3", 0, 0, 0),
        ("qwen2_5", 0, 271, 0),
        ("deepseek_v3", 0, 465, 0),
        ("starcoder2", 0, 0, 14),
        ("falcon", 0, 0, 28),
    ],
)
def test_known_figures(name: str, twins: int, padding: int, missing: int) -> None:
    source = real_source(name)
    vocabulary = Vocabulary.of(
        real_tokenizer(name), vocab_size=source["model_vocab_size"], end_ids=source["eos_ids"]
    )
    assert len(vocabulary) == source["model_vocab_size"]
    assert len(vocabulary.text_ids) - len(vocabulary.ids_by_bytes) == twins
    assert vocabulary.kinds.count(TokenKind.PADDING) == padding
    assert len(vocabulary.missing_bytes) == missing
    assert vocabulary.end_ids == frozenset(source["eos_ids"])


@pytest.mark.real_tokenizers
@pytest.mark.parametrize("name", [*REAL, "deepseek_v3"])
def test_of_twins_the_id_that_encoding_reaches_is_chosen(name: str) -> None:
    tokenizer = real_tokenizer(name)
    vocabulary = Vocabulary.of(tokenizer, vocab_size=real_source(name)["model_vocab_size"])
    text = "".join(CORPUS) + "   if x:\n        y = '  '\n" + "".join(map(chr, range(32, 127)))
    for i in tokenizer.encode(text, add_special_tokens=False):
        if vocabulary.kinds[i] is TokenKind.TEXT:
            assert vocabulary.ids_by_bytes[vocabulary.token_bytes[i]] == i


@pytest.mark.real_tokenizers
def test_markup_is_control_even_where_it_is_not_special() -> None:
    for name, marks in [
        ("qwen2_5", ["<tool_call>", "<|fim_prefix|>"]),
        ("deepseek_v3", ["<｜User｜>"]),
        ("phi3", ["</s>"]),
    ]:
        vocabulary = Vocabulary.of(real_tokenizer(name))
        for mark in marks:
            token = id_of(real_tokenizer(name), mark)
            assert vocabulary.kinds[token] is TokenKind.CONTROL


def test_added_text_is_text_and_comes_before_its_twin() -> None:
    tokenizer = tokenizer_of("neox")
    vocabulary = Vocabulary.of(tokenizer)
    four = id_of(tokenizer, " " * 4)
    assert vocabulary.kinds[four] is TokenKind.TEXT
    assert vocabulary.ids_by_bytes[b"    "] == four
    call = id_of(tokenizer, "<tool_call>")
    assert vocabulary.kinds[call] is TokenKind.CONTROL
    as_text = Vocabulary.of(tokenizer, text_tokens=["<tool_call>"])
    assert as_text.token_bytes[call] == b"<tool_call>"


def test_end_is_a_set() -> None:
    tokenizer = tokenizer_of("tiktoken")
    turn_end = id_of(tokenizer, "<|eot|>")
    assert template_end_ids(tokenizer) == {turn_end}
    vocabulary = Vocabulary.of(tokenizer, end_ids=[3])
    assert vocabulary.end_ids == {tokenizer.eos_token_id, turn_end, 3}
    assert all(vocabulary.token_bytes[i] == b"" for i in vocabulary.end_ids)


def test_padding_rows_and_lost_tokens() -> None:
    tokenizer = tokenizer_of("byte_level")
    size = len(tokenizer)
    vocabulary = Vocabulary.of(tokenizer, vocab_size=size + 7)
    assert len(vocabulary) == size + 7
    assert set(vocabulary.kinds[size:]) == {TokenKind.PADDING}
    with pytest.raises(VocabularyError, match="do not belong together"):
        Vocabulary.of(tokenizer, vocab_size=size - 7)


def test_refusals_say_what_is_wrong() -> None:
    with pytest.raises(VocabularyError, match="outside the 330 rows"):
        Vocabulary.of(tokenizer_of("byte_level"), end_ids=[999])
    with pytest.raises(VocabularyError, match=r"text_tokens names \['<x>'\]"):
        Vocabulary.of(tokenizer_of("byte_level"), text_tokens=["<x>"])


def test_the_byte_alphabet_has_every_byte_once() -> None:
    assert sorted(byte_alphabet().values()) == list(range(256))
    assert byte_alphabet()["Ġ"] == 0x20
    assert byte_alphabet()["Ċ"] == 0x0A


def test_the_longest_tokens_cover_the_text_as_far_as_there_are_any() -> None:
    tokens = (b"a", b"ab", b"abcde", b"c", b"x" * 100, b"")
    vocabulary = Vocabulary(tokens, (*[TokenKind.TEXT] * 5, TokenKind.END))
    assert vocabulary.cover(b"abcabcde") == ([1, 3, 2], 8)
    assert vocabulary.cover(b"abcd") == ([1, 3], 3)
    assert vocabulary.cover(b"da") == ([], 0)
    assert vocabulary.cover(b"x" * 100 + b"a") == ([4, 0], 101)
    assert vocabulary.cover(b"") == ([], 0)


def test_an_added_token_that_is_a_piece_stands_for_the_bytes_of_the_piece() -> None:
    """Gemma's added "▁▁" is two spaces, to its model and to its decoder."""
    tokenizer = copy.deepcopy(tokenizer_of("metaspace"))
    piece = next(p for p in sorted(tokenizer.get_vocab()) if p.startswith("▁") and len(p) > 1)
    tokenizer.add_tokens([AddedToken(piece, normalized=False)])
    vocabulary = Vocabulary.of(tokenizer)
    row = id_of(tokenizer, piece)
    assert row in vocabulary.added_text
    assert vocabulary.token_bytes[row] == piece.replace("▁", " ").encode()
    ours = ByteTokenizer(tokenizer, vocabulary)
    for text in (piece, piece.replace("▁", " "), f"a{piece}b"):
        assert spelled(vocabulary, ours.encode(text.encode())) == text
