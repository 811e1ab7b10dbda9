"""The rules that make one distribution of the members'."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from gac_core import Ensemble
from gac_core.fusion import rules as fusion
from gac_core.tokens.union import UnionVocabulary
from gac_core.tokens.vocabulary import TokenKind
from tests.fakes import byte_tokenizer_of, scripted, two_scripts
from tests.test_union import families, vocabularies_of


@given(families, st.integers(0, 10**6), st.data())
def test_law_4_mass_is_kept_and_masked_units_are_0(
    names: list[str], seed: int, data: st.DataObject
) -> None:
    vocabularies = vocabularies_of(names)
    tokenizers = [byte_tokenizer_of(n) for n in names]
    primary = data.draw(st.integers(0, len(names) - 1))
    union = UnionVocabulary(vocabularies, primary)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(len(names), generator=generator) + 0.01
    probs = []
    for m, vocabulary in enumerate(vocabularies):
        logits = 5 * torch.randn(len(vocabulary), generator=generator)
        own = union.mask(m, logits).softmax(-1)
        masked = [
            i
            for i, kind in enumerate(vocabulary.kinds)
            if kind not in (TokenKind.TEXT, TokenKind.END)
        ]
        assert not own[masked].any()
        probs.append(union.project(m, own))
        # Unit by unit, the slow way.
        expected: dict[bytes, float] = {}
        for i, p in enumerate(own.tolist()):
            expected[vocabulary.token_bytes[i]] = expected.get(vocabulary.token_bytes[i], 0) + p
        found: dict[bytes, float] = {}
        for row, p in enumerate(probs[-1].tolist()):
            found[union.unit(row)] = found.get(union.unit(row), 0) + p
        for unit, p in expected.items():
            assert found[unit] == pytest.approx(p, abs=1e-6)
    views = fusion.Views(
        torch.stack(probs),
        weights / weights.sum(),
        primary,
        union,
        tuple(range(len(names))),
        lambda m: torch.tensor(
            [
                union.row_of(m, tokenizers[m].encode(union.unit(row))[0])
                if row in union.rows.values() and not union.has(m)[row]
                else row
                for row in range(union.size)
            ]
        ),
    )
    for rule in (
        fusion.mean,
        fusion.power,
        fusion.geometric,
        fusion.unite,
        fusion.core,
    ):  # not other tests'
        fused = rule(views)
        assert torch.isfinite(fused).all()
        assert float(fused.sum()) == pytest.approx(1.0, abs=1e-5)
        allowed = [r for r in range(union.size) if union.unit(r) or union.is_end(r)]
        assert float(fused[allowed].sum()) == pytest.approx(float(fused.sum()), abs=1e-6)


def test_the_mean_decides_and_views_tell_why() -> None:
    with two_scripts(
        [{"Ġ": 0.6, ".": 0.4}, {"<|endoftext|>": 1.0}],
        [{",": 0.3, ".": 0.7}, {"<|im_end|>": 1.0}],
        fusion="mean",
    ) as ensemble:
        output = ensemble.generate("Hello", max_new_tokens=5)
    assert output.text == "."
    assert (output.finish_reason, output.usage.steps, output.usage.completion_tokens) == (
        "stop",
        2,
        1,
    )
    dot, end = output.steps
    assert math.exp(dot.logprob) == pytest.approx(0.55, abs=1e-4)
    assert [(v.name, v.top) for v in dot.members] == [("a", b" "), ("b", b".")]
    assert [v.prob for v in dot.members] == pytest.approx([0.4, 0.7], abs=1e-4)
    assert [v.top_prob for v in dot.members] == pytest.approx([0.6, 0.7], abs=1e-4)
    assert end.is_end
    assert math.exp(end.logprob) == pytest.approx(1.0, abs=1e-4)  # two end tokens, one end


def test_a_product_wants_what_nobody_finds_impossible() -> None:
    scripts: Any = ([{"Ġ": 0.6, ".": 0.4}], [{",": 0.8, ".": 0.2}])
    with two_scripts(*scripts, fusion="mean") as ensemble:
        assert ensemble.generate("Hello", max_new_tokens=1).text == ","
    for fusion_rule in ("power", "auto"):  # what is scored, by default
        with two_scripts(*scripts, fusion=fusion_rule) as ensemble:
            assert ensemble.generate("Hello", max_new_tokens=1).text == "."
    with two_scripts(*scripts, fusion="geometric") as ensemble:
        assert ensemble.generate("Hello", max_new_tokens=1).text == "."


def test_no_single_member_has_a_veto_over_a_power_mean() -> None:
    scripts: Any = ([{"Ġ": 0.999, ".": 0.001}], [{",": 0.6, ".": 0.001, "a": 0.399}])
    found = {}
    for rule in ("power", "geometric"):
        with two_scripts(*scripts, weights=[8, 2], fusion=rule) as ensemble:
            found[rule] = ensemble.generate("Hello", max_new_tokens=1).text
    assert found == {"power": " ", "geometric": "."}


def test_weights_move_the_decision() -> None:
    scripts: Any = ([{"Ġ": 0.6, ".": 0.4}], [{",": 0.3, ".": 0.7}])
    with two_scripts(*scripts, weights=[9, 1], fusion="mean") as ensemble:
        assert ensemble.generate("Hello", max_new_tokens=1).text == " "


def test_end_mass_of_all_end_tokens_counts() -> None:
    """No single end token is the most probable, but the end is."""
    tiktoken = scripted("tiktoken", 1, [{"<|end|>": 0.35, "<|eot|>": 0.25, ".": 0.4}])
    assert tiktoken[1].tokenize("Hello") == ["Hello"]
    other = scripted("byte_level", 1, [{"<|endoftext|>": 0.45, ".": 0.55}])
    with Ensemble.from_models([tiktoken, other], names=["a", "b"], fusion="mean") as ensemble:
        output = ensemble.generate("Hello", max_new_tokens=3)
    assert output.text == ""
    assert output.steps[0].is_end
    assert math.exp(output.steps[0].logprob) == pytest.approx((0.6 + 0.45) / 2, abs=1e-4)
