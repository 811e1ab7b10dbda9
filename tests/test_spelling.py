"""Members that lack rare bytes may join; what some member can not spell is never written."""

import logging
from typing import Any

import pytest
import torch

from gac_core import Ensemble, GrammarError, PromptError
from gac_core.grammar.grammar import Grammar
from gac_core.testing import laws
from gac_core.testing.models import LACKING
from gac_core.tokens.spelling import CommonSpelling, warn_of
from gac_core.tokens.union import UnionVocabulary
from gac_core.tokens.vocabulary import IN_EVERY_TEXT, NEVER_IN_TEXT, TokenKind
from tests.fakes import byte_tokenizer_of, make, pair


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    """What other tests were warned of is said again."""
    warn_of.cache_clear()


def spelling_of(*families: str, by_bytes: bool = False) -> CommonSpelling:
    return CommonSpelling(
        [byte_tokenizer_of(family).vocabulary for family in families], by_bytes=by_bytes
    )


KNOWN, UNKNOWN = "你".encode(), "一".encode()  # to the family "characters", which has no bytes


@pytest.mark.parametrize(
    ("families", "allowed", "masked"),
    [
        (("byte_level", "legacy"), [b"\x04", KNOWN[:1], UNKNOWN, b"\xff"], []),
        (("byte_level", "sparse"), [b"a\x05", KNOWN[:2], b"\x80", b"\xff"], [b"\x04", b"a\x06b"]),
        (
            ("byte_level", "characters"),
            [b"a\tb\n", KNOWN, b"x" + KNOWN * 2, "é".encode()],
            [UNKNOWN, KNOWN[:1], KNOWN[1:], b"x" + KNOWN[:2], KNOWN + UNKNOWN, b"\xff", b"\x04"],
        ),
        (("characters", "characters"), [UNKNOWN, KNOWN[:1], b"\x04"], []),  # shared: all is theirs
    ],
)
def test_what_every_member_can_write(
    families: tuple[str, ...], allowed: list[bytes], masked: list[bytes]
) -> None:
    spelling = spelling_of(*families)
    assert [unit for unit in allowed if not spelling.allows(unit)] == []
    assert [unit for unit in masked if spelling.allows(unit)] == []


def test_byte_by_byte_each_byte_must_have_a_token() -> None:
    sparse = spelling_of("byte_level", "sparse", by_bytes=True)
    assert sparse.allows(KNOWN)
    assert not sparse.allows(b"\x04")
    characters = spelling_of("byte_level", "characters", by_bytes=True)
    assert characters.allows(b"a\tb\n")
    assert not characters.allows(KNOWN)


@pytest.mark.parametrize("lacking", LACKING)
@pytest.mark.parametrize("primary", [0, 1])
@pytest.mark.parametrize("by_bytes", [False, True])
def test_masked_units_have_exactly_no_probability(
    lacking: str, primary: int, by_bytes: bool
) -> None:
    vocabularies = [byte_tokenizer_of(f).vocabulary for f in ("byte_level", lacking)]
    union = UnionVocabulary(vocabularies, primary, by_bytes=by_bytes)
    generator = torch.Generator().manual_seed(0)
    banned = [row for unit, row in union.rows.items() if not union.spelling.allows(unit)]
    assert banned
    for m, vocabulary in enumerate(vocabularies):
        logits = torch.randn(len(vocabulary), generator=generator, dtype=torch.float64)
        probs = union.mask(m, logits).softmax(-1)
        view = union.project(m, probs)
        assert float(view.sum()) == pytest.approx(1.0)
        assert float(view[banned].abs().max()) == 0.0
        for i in vocabulary.text_ids:
            assert (float(probs[i]) == 0) == (not union.spelling.allows(vocabulary.token_bytes[i]))


# ------------------------------------------------ joining


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if r.levelno == logging.WARNING]


def test_what_a_member_lacks_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with make(["sparse", "byte_level", "characters"]) as ensemble:
            ensemble.batch(["Hello", "Hi"], max_new_tokens=3)
    sparse, characters = warnings_of(caplog)
    assert sparse.startswith("sparse-0 has no tokens for 6 control characters (U+0004, U+0006,")
    assert characters.startswith("characters-2 has no tokens for")
    assert "beyond ASCII" in characters
    assert all("\n" not in line for line in (sparse, characters))


@pytest.mark.parametrize("families", [["sparse"], ["sparse", "sparse"], ["byte_level", "legacy"]])
def test_where_nothing_is_masked_nothing_is_said(
    families: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with make(families) as ensemble:
        ensemble.generate("Hello", max_new_tokens=2)
    assert warnings_of(caplog) == []


@pytest.mark.real_tokenizers
@pytest.mark.parametrize(
    ("name", "count"), [("falcon", 14), ("gpt_neox", 0), ("starcoder2", 0), ("llama3", 0)]
)
def test_real_tokenizers_may_join(name: str, count: int, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes that no text holds are worth no warning."""
    vocabulary = byte_tokenizer_of(name).vocabulary
    assert IN_EVERY_TEXT.isdisjoint(vocabulary.missing_bytes)
    assert len(vocabulary.missing_bytes - NEVER_IN_TEXT) == count
    with make([name, "byte_level"]) as ensemble:
        assert ensemble.generate("Hello", max_new_tokens=2).usage.steps == 2
    assert len(warnings_of(caplog)) == (count > 0)


@pytest.mark.parametrize("family", LACKING)
@pytest.mark.parametrize("method", [{}, {"method": "chared"}, {"method": "cascade"}])
def test_law_1_alone_nothing_changes(family: str, method: dict[str, Any]) -> None:
    laws.law_1_one_member_is_generate(family, method, "Hello, the été")


# ------------------------------------------------ prompts


@pytest.mark.parametrize(
    ("families", "char", "member"),
    [
        (["byte_level", "sparse"], "\x13", "sparse-1"),
        (["characters", "sparse"], "\u4e00", "characters-0"),
        (["sparse"], "\x04", "sparse-0"),
    ],
)
def test_a_prompt_with_it_is_refused_by_name(families: list[str], char: str, member: str) -> None:
    named = rf"holds {char!r} \(U\+{ord(char):04X}\), for which {member} has no token".replace(
        "\\x", "\\\\x"
    )
    with make(families) as ensemble:
        with pytest.raises(PromptError, match=f"the prompt {named}"):
            ensemble.generate(f"Hello {char}!")
        chat = [{"role": "user", "content": "Hi"}, {"role": "user", "content": f"So {char}!"}]
        with pytest.raises(PromptError, match=f"message 1 {named}"):
            ensemble.generate(chat)


@pytest.mark.real_tokenizers
def test_what_a_tokenizer_rewrites_is_not_lost() -> None:
    """T5 reads a line break as a space; it has no token for a brace."""
    t5 = byte_tokenizer_of("t5")
    assert t5.lost_character("one\ntwo") is None
    assert t5.lost_character("one {two}") == "{"
    assert byte_tokenizer_of("albert").lost_character("Ñandú café") is None
    assert byte_tokenizer_of("falcon").lost_character("one\x0btwo") == "\x0b"


# ------------------------------------------------ grammars


@pytest.mark.parametrize("method", [{}, {"method": "chared"}])
@pytest.mark.parametrize(
    ("grammar", "texts"),
    [
        (Grammar.choice(["\x04a", "yes"]), {"yes"}),
        (Grammar.regex("\x04|aaaa"), {"aaaa"}),
        (Grammar.regex("(\x04|z){3}"), {"zzz"}),
    ],
)
def test_a_grammar_is_held_without_it(
    grammar: Grammar, texts: set[str], method: dict[str, Any]
) -> None:
    for seed in range(4):
        with make(["byte_level", "sparse"], **method) as ensemble:
            output = ensemble.generate("Hello", grammar=grammar, temperature=1.5, seed=seed)
            assert output.text in texts
            assert output.finish_reason == "stop"


@pytest.mark.parametrize("method", [{}, {"method": "chared"}])
@pytest.mark.parametrize(
    "grammar", [Grammar.choice(["\x04a", "b\x06"]), Grammar.regex("(\x04|\x06)+")]
)
def test_a_grammar_that_needs_it_is_refused(grammar: Grammar, method: dict[str, Any]) -> None:
    with (
        make(["byte_level", "sparse"], **method) as ensemble,
        pytest.raises(GrammarError, match="some member can not write"),
    ):
        ensemble.generate("Hello", grammar=grammar)


def test_alone_a_grammar_may_need_it() -> None:
    (model, tokenizer) = pair("byte_level")
    with Ensemble.from_models([(model, tokenizer)]) as ensemble:
        output = ensemble.generate("Hello", grammar=Grammar.choice(["\x04a"]))
        assert output.text == "\x04a"
        kinds = ensemble.members[0].tokenizer.vocabulary.kinds
        assert kinds.count(TokenKind.TEXT) > 256
