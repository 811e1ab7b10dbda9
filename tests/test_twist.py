"""Twist decoding against its slow twin and against the beam search of transformers."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from gac_core import ConfigError, Ensemble, Grammar
from gac_core.testing import naively
from gac_core.tokens.vocabulary import TokenKind
from tests.cases import matrix
from tests.fakes import FAMILIES, make, pair, scripted
from tests.reference import slow_twist
from tests.twins import slow_members

CHAT = [{"role": "user", "content": "Hello"}]


@pytest.mark.slow
@settings(max_examples=40)
@given(
    st.sampled_from(list(itertools.permutations(FAMILIES, 3))),
    st.integers(1, 3),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 2]),
    st.sampled_from([0.3, 3.0]),
    st.sampled_from(["Hello", "a = 12\n\t", CHAT]),
    st.integers(0, 2),
)
def test_equal_to_the_slow_twin(
    families: tuple[str, ...],
    number: int,
    beams: int,
    rounds: int,
    guidance: float,
    prompt: Any,
    primary: int,
) -> None:
    families, weights, primary = families[:number], [0.3, 0.5, 0.2][:number], primary % number
    options: dict[str, Any] = {"beams": beams, "rounds": rounds, "guidance": guidance}
    with make(families, weights=weights, method="twist", primary=primary, **options) as ensemble:
        output, request = naively(ensemble, prompt, max_new_tokens=8)
        assert ensemble.generate(prompt, max_new_tokens=8).text == output.text
        members = ensemble.members
        tokens = slow_twist(
            slow_members(ensemble),
            ensemble.prompt_ids(prompt),
            primary=primary,
            max_new_tokens=8,
            spaced=[m.leading_space and prompt is CHAT for m in members],
            **options,
        )
    history = request.histories[primary]
    own = members[primary].tokenizer.vocabulary
    assert history.ids[history.prompt_length :] == [t for t in tokens if t not in own.end_ids]
    assert (tokens[-1] in own.end_ids) == output.steps[-1].is_end
    assert {s.decided_by for s in output.steps} == {"ensemble" if number > 1 else "primary"}


@matrix(family=FAMILIES, beams=[2, 4], seed=range(3))
def test_one_member_is_the_beam_search_of_transformers(family: str, beams: int, seed: int) -> None:
    model, _ = pair(family, seed)
    with make([family], [seed], method="twist", beams=beams) as ensemble:
        (prompt_ids,) = ensemble.prompt_ids("Hello, the été")
        vocabulary = ensemble.members[0].tokenizer.vocabulary
        masked = [
            i for i, k in enumerate(vocabulary.kinds) if k not in (TokenKind.TEXT, TokenKind.END)
        ]
        ids = torch.tensor([prompt_ids])
        generated = model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            pad_token_id=0,
            eos_token_id=sorted(vocabulary.end_ids),
            do_sample=False,
            num_beams=beams,
            length_penalty=1.0,
            max_new_tokens=30,
            suppress_tokens=masked or None,
            renormalize_logits=True,
        )[0, len(prompt_ids) :].tolist()
        _, request = naively(ensemble, "Hello, the été", max_new_tokens=30)
    text_ids = [i for i in generated if i not in vocabulary.end_ids]
    assert request.histories[0].ids[len(prompt_ids) :] == text_ids


def test_who_comes_before_is_heard_and_its_end_too() -> None:
    """The primary alone would write "."; the other's text is close enough to change its mind."""
    other = scripted("chatml", 1, [{",": 1.0}, {"<|im_end|>": 1.0}])
    primary = scripted(
        "byte_level",
        1,
        [{".": 0.55, ",": 0.45}, {"a": 0.55, "<|endoftext|>": 0.45}, {"<|endoftext|>": 1.0}],
    )
    for guidance, text in ((0.0, ".a"), (0.3, ",")):
        with Ensemble.from_models(
            [primary, other], names=["a", "b"], method="twist", guidance=guidance
        ) as ensemble:
            output = ensemble.generate("Hello", max_new_tokens=5, logprobs=True)
        assert (output.text, output.finish_reason) == (text, "stop")
        assert [step.decided_by for step in output.steps] == ["ensemble"] * len(output.steps)
        assert output.steps[0].members[0].top == b"."  # the primary's own view
        assert output.steps[0].top[0][0] == b"."


def test_an_opening_space_is_no_difference() -> None:
    """ "Hello" guides a member whose template opens with a space towards "▁Hello", and back."""
    families = {"legacy": "</s>", "chatml": "<|im_end|>"}
    for first, second in itertools.permutations(families):
        lengths = {}
        for family in families:
            with make([family]) as probe:
                lengths[family] = len(probe.prompt_ids(CHAT)[0])
        pieces = {"legacy": ("▁Hello", "."), "chatml": ("Hello", ".")}
        sure = scripted(
            second, lengths[second], [{pieces[second][0]: 1.0}, {families[second]: 1.0}]
        )
        told, rather = pieces[first]
        unsure = scripted(
            first, lengths[first], [{rather: 0.55, told: 0.45}, {families[first]: 1.0}]
        )
        with Ensemble.from_models(
            [unsure, sure], names=["unsure", "sure"], method="twist"
        ) as ensemble:
            output, request = naively(ensemble, CHAT, max_new_tokens=5)
        assert output.text == "Hello"
        assert request.histories[0].answer == (b" Hello" if first == "legacy" else b"Hello")


def test_a_stop_string_ends_what_is_emitted() -> None:
    with make(["chatml", "legacy"], method="twist") as ensemble:
        whole = ensemble.generate("Hello", max_new_tokens=20)
        stop = whole.text[3:5]
        cut = ensemble.generate("Hello", max_new_tokens=20, stop=stop)
    assert (cut.text, cut.finish_reason, cut.stop) == (whole.text.split(stop)[0], "stop", stop)


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": 1.0}, {"repetition_penalty": 1.2}, {"grammar": Grammar.choice(["a"])}],
    ids=["drawn", "penalised", "grammar"],
)
def test_what_twist_can_not_follow_is_refused_before_anything_is_computed(
    sampling: dict[str, Any],
) -> None:
    with make(["chatml", "legacy"], method="twist") as ensemble:
        (option,) = sampling
        for ask in (ensemble.generate, ensemble.stream):
            with pytest.raises(ConfigError, match=f"method twist takes no {option}: .*leave it"):
                ask("Hello", **sampling)
        assert [m.scorer.stats.queries for m in ensemble.members] == [0, 0]


def test_a_full_context_ends_the_answer() -> None:
    pairs = [pair("chatml", 0, context=12), pair("legacy", 1, context=20)]
    with Ensemble.from_models(pairs, names=["a", "b"], method="twist", beams=2) as ensemble:
        output = ensemble.generate("Hello")
        assert output.usage.prompt_tokens + output.usage.completion_tokens <= 13
        assert output.finish_reason == "length"
