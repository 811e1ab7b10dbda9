import pytest
import torch
from hypothesis import given, strategies as st

from gac_core import VocabularyError
from gac_core.tokens.spelling import check_spelling
from gac_core.tokens.union import UnionVocabulary
from gac_core.tokens.vocabulary import Vocabulary
from tests.fakes import FAMILIES, byte_tokenizer_of, real_source, real_tokenizer, tokenizer_of

families = st.lists(st.sampled_from(FAMILIES), min_size=1, max_size=3)


def vocabularies_of(names: list[str]) -> list[Vocabulary]:
    return [Vocabulary.of(tokenizer_of(n), vocab_size=len(tokenizer_of(n)) + 2) for n in names]


def test_the_same_text_is_one_unit_in_every_family() -> None:
    """ "." and "é" and a tab and a space are one unit each, however a tokenizer writes them."""
    union = UnionVocabulary(vocabularies_of(list(FAMILIES)))
    text = [u for r in range(union.size) if (u := union.unit(r)) and r in union.rows.values()]
    assert len(text) == len(set(text))
    for char in (".", "é", "\t", "\n", " ", "🙂"):
        if char.encode() in union.rows:
            row = union.rows[char.encode()]
            for m, vocabulary in enumerate(union.vocabularies):
                own = vocabulary.ids_by_bytes.get(char.encode())
                if own is not None:
                    one_hot = torch.zeros(len(vocabulary))
                    one_hot[own] = 1.0
                    assert float(union.project(m, one_hot)[row]) == 1.0


def test_all_end_tokens_are_one_end() -> None:
    vocabularies = vocabularies_of(["byte_level", "tiktoken"])
    assert len(vocabularies[1].end_ids) == 2
    for order, member in (([0, 1], 1), ([1, 0], 0)):
        union = UnionVocabulary([vocabularies[i] for i in order])
        ends = torch.zeros(len(vocabularies[1]))
        ends[list(vocabularies[1].end_ids)] = 0.5
        projected = union.project(member, ends)
        assert len(union.end_rows) == 1
        assert float(projected[next(iter(union.end_rows))]) == 1.0


def test_a_shared_vocabulary_is_kept_as_it_is() -> None:
    vocabularies = vocabularies_of(["legacy", "legacy"])
    union = UnionVocabulary(vocabularies)
    assert union.is_shared
    assert union.size == len(vocabularies[0])
    probs = torch.rand(union.size)
    assert torch.equal(union.project(1, probs), probs)


@pytest.mark.parametrize("primary", [0, 1])
def test_one_tokenizer_padded_differently_or_with_other_ends_is_shared(primary: int) -> None:
    """Two sizes of one family, or a base model and its chat model."""
    tokenizer = tokenizer_of("chatml")
    size = len(tokenizer)
    base, chat = (
        Vocabulary.of(tokenizer, vocab_size=size + 3),
        Vocabulary.of(tokenizer, vocab_size=size + 9, end_ids=[2]),
    )
    assert base.end_ids != chat.end_ids
    union = UnionVocabulary([base, chat], primary)
    assert union.is_shared
    assert len(union.end_rows) == 1
    (end,) = union.end_rows
    for m, vocabulary in enumerate((base, chat)):
        probs = union.mask(m, torch.zeros(len(vocabulary))).softmax(-1)
        out = union.project(m, probs)
        assert out.shape == (union.size,)
        assert float(out.sum()) == pytest.approx(1.0)
        assert float(out[end]) == pytest.approx(float(probs[list(vocabulary.end_ids)].sum()))
        for i in vocabulary.text_ids:
            assert out[i] == probs[i]
    only_padded = UnionVocabulary([base, Vocabulary.of(tokenizer)], primary)
    assert only_padded.is_shared


@given(st.sampled_from(FAMILIES), st.sampled_from(FAMILIES))
def test_no_unit_is_in_both_of_the_leading_space_pairs(a: str, b: str) -> None:
    union = UnionVocabulary(vocabularies_of([a, b]))
    with_space, without = union.leading_space_pairs
    assert not set(with_space.tolist()) & set(without.tolist())
    assert len(set(without.tolist())) == len(without)


@pytest.mark.real_tokenizers
@pytest.mark.parametrize(
    ("a", "b", "size", "common"),
    [
        ("llama2", "llama3", 133302, 26599),
        ("mistral_v3", "llama3", 130782, 29110),
        ("llama2", "mistral_v3", 39708, 24085),
        ("gpt2", "gpt_neox", 63571, 36937),
    ],
)
def test_known_unions(a: str, b: str, size: int, common: int) -> None:
    first, second = (
        Vocabulary.of(real_tokenizer(n), vocab_size=real_source(n)["model_vocab_size"])
        for n in (a, b)
    )
    union = UnionVocabulary([first, second])
    assert len(union.rows) == size
    assert len(first.ids_by_bytes.keys() & second.ids_by_bytes.keys()) == common


@pytest.mark.real_tokenizers
def test_unfit_members_are_refused_only_in_company() -> None:
    gpt2, t5 = byte_tokenizer_of("gpt2"), byte_tokenizer_of("t5")
    check_spelling({"a": t5})
    check_spelling({"a": t5, "b": t5})
    with pytest.raises(VocabularyError, match="t5"):
        check_spelling({"a": gpt2, "b": t5})


@pytest.mark.real_tokenizers
def test_units_that_a_member_can_not_spell_are_masked_for_all() -> None:
    gpt2, neox = (Vocabulary.of(real_tokenizer(n)) for n in ("gpt2", "gpt_neox"))
    union = UnionVocabulary([gpt2, neox])
    probs = union.mask(0, torch.zeros(len(gpt2))).softmax(-1)
    assert float(probs[gpt2.ids_by_bytes[b"\xff"]]) == 0.0
    assert float(probs[gpt2.ids_by_bytes[b"\xe2"]]) > 0.0
