"""Each method against its slow twin in `reference.py`."""

import copy
import itertools
import math
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings, strategies as st

from gac_core import Ensemble
from gac_core.testing import naively
from tests.fakes import CHATML, FAMILIES, make, scripted, tiny_model, tokenizer_of
from tests.reference import slow_ensemble
from tests.twins import WEIGHTS, assert_equal_to_twin

triples = list(itertools.permutations((*FAMILIES, "sparse"), 3))


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.sampled_from(triples),
    st.integers(2, 3),
    st.sampled_from([None, 0.15, 0.4, 0.7]),
    st.sampled_from(["append", "reencode"]),
    st.sampled_from([None, 1, 7]),
    st.sampled_from([0.7, 1.0]),
    st.sampled_from(["Hello", "The capital of", "a = 12\n\t"]),
    st.integers(0, 1),
    st.sampled_from(["mean", "geometric", "unite", "core"]),
    st.sampled_from(["fixed", "prompt", "posterior", "entropy"]),
)
def test_equal_to_the_slow_twin(
    families: tuple[str, ...],
    count: int,
    threshold: float | None,
    history: str,
    seed: int | None,
    temperature: float,
    prompt: str,
    primary: int,
    fusion: str,
    weighting: str,
) -> None:
    method: dict[str, Any] = (
        {"method": "every_step"}
        if threshold is None
        else {"method": "cascade", "threshold": threshold}
    )
    temper = 1.0 if weighting == "fixed" else 0.5
    both: dict[str, Any] = {"fusion": fusion, "weighting": weighting, "temper": temper}
    method |= {"space": "tokens", "history": history, "primary": primary, **both}
    with make(families[:count], weights=WEIGHTS[:count], **method) as ensemble:
        assert_equal_to_twin(
            ensemble,
            prompt,
            slow_ensemble,
            threshold=math.inf if threshold is None else threshold,
            primary=primary,
            reencode=history == "reencode",
            seed=seed,
            temperature=temperature,
            **both,
        )


def test_the_gate_asks_helpers_only_where_the_primary_is_unsure() -> None:
    first = [{".": 0.9, ",": 0.1}, {".": 0.4, ",": 0.6}, {"<|endoftext|>": 1.0}]
    second = [{",": 1.0}, {".": 1.0}, {"<|im_end|>": 1.0}]
    a, b = scripted("byte_level", 1, first), scripted("chatml", 1, second)
    with Ensemble.from_models(
        [a, b], names=["a", "b"], method="cascade", threshold=0.7, space="tokens", history="append"
    ) as ensemble:
        b[0].calls.clear()
        output = ensemble.generate("Hello", max_new_tokens=5)
        assert output.text == ".."
        assert [s.decided_by for s in output.steps] == ["primary", "ensemble", "primary"]
        assert [len(s.members) for s in output.steps] == [1, 2, 1]
        assert output.usage.fused_steps == 1
        # One pass over the prompt and the unit it had missed.
        assert b[0].calls == [(1, 2)]


class TestOpeningSpace:
    """ "▁Hello" and "Hello" open an answer alike; in a raw continuation they differ."""

    CHAT: ClassVar = [{"role": "user", "content": "a"}]

    def ensemble(self, first: dict[str, float], second: dict[str, float]) -> Ensemble:
        members = []
        for family, probs, end in (
            ("legacy", first, "</s>"),
            ("chatml", second, "<|im_end|>"),
        ):
            with make([family]) as probe:
                length = len(probe.prompt_ids(self.CHAT)[0])
            members.append(scripted(family, length, [probs, {end: 1.0}]))
        return Ensemble.from_models(members, names=["spaced", "plain"], space="tokens")

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ({"▁Hello": 0.5, "▁": 0.3}, {"Hello": 0.4, ".": 0.6}),
            ({"▁Hello": 1.0}, {"Hello": 1.0}),
            ({"▁Hello": 0.9}, {".": 0.8, "Hello": 0.2}),
        ],
    )
    def test_both_spellings_add_up(self, first: dict[str, float], second: dict[str, float]) -> None:
        with self.ensemble(first, second) as ensemble:
            spaced, plain = ensemble.members
            assert spaced.leading_space
            assert not plain.leading_space
            output = ensemble.generate(self.CHAT, max_new_tokens=4)
        assert output.text == "Hello"
        assert [m.completion_tokens for m in output.usage.members] == [1, 1]
        total = (first["▁Hello"] / sum(first.values()) + second["Hello"]) / 2
        assert math.exp(output.steps[0].logprob) == pytest.approx(total, abs=1e-3)

    def test_a_lone_opening_space_is_no_text(self) -> None:
        with self.ensemble({"▁": 1.0}, {"Hello": 0.3, ".": 0.7}) as ensemble:
            output = ensemble.generate(self.CHAT, max_new_tokens=2)
        assert not output.text.startswith(" ")

    @pytest.mark.parametrize("method", [{}, {"method": "cascade", "threshold": 0.0}])
    def test_one_vocabulary_with_two_templates(self, method: dict[str, Any]) -> None:
        """Histories hold what their ids say, though one member opens with a space."""
        other = copy.deepcopy(tokenizer_of("legacy"))
        other.chat_template = CHATML
        model = tiny_model("legacy", 3)
        for pairs in (
            [(model, tokenizer_of("legacy")), (model, other)],
            [(model, other), (model, tokenizer_of("legacy"))],
        ):
            with Ensemble.from_models(pairs, names=["a", "b"], **method) as ensemble:
                assert ensemble.union.is_shared
                for seed in range(30):
                    sampling: dict[str, Any] = {"temperature": 2.0, "seed": seed}
                    _, request = naively(ensemble, self.CHAT, max_new_tokens=3, **sampling)
                    for member, history in zip(ensemble.members, request.histories, strict=True):
                        own = history.ids[history.prompt_length :]
                        tokens = member.tokenizer.vocabulary.token_bytes
                        assert b"".join(tokens[i] for i in own) == history.answer

    def test_views_show_units_as_they_open_an_answer(self) -> None:
        with self.ensemble({"▁Hello": 0.9, "▁": 0.1}, {"Hello": 0.8, ".": 0.2}) as ensemble:
            step = ensemble.generate(self.CHAT, max_new_tokens=1, logprobs=True).steps[0]
        assert {view.top for view in step.members} == {b"Hello"} == {step.unit}
        assert step.top[0][0] == step.unit

    @pytest.mark.parametrize("family", ["legacy", "metaspace"])
    def test_alone_too(self, family: str) -> None:
        """One SentencePiece model: no space before a chat answer, its space in a raw text."""
        with make([family]) as probe:
            opens = probe.members[0].leading_space
            length = len(probe.prompt_ids(self.CHAT)[0])
            raw_length = len(probe.prompt_ids("Hello")[0])
        assert opens
        model, tokenizer = scripted(family, length, [{"▁Hello": 1.0}, {"</s>": 1.0}])
        with Ensemble.from_models([(model, tokenizer)]) as ensemble:
            assert ensemble.generate(self.CHAT).text == "Hello"
        model, tokenizer = scripted(family, raw_length, [{"▁Hello": 1.0}, {"</s>": 1.0}])
        with Ensemble.from_models([(model, tokenizer)]) as ensemble:
            assert ensemble.generate("Hello").text == " Hello"
