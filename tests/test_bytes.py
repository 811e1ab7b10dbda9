"""The space of bytes against its slow twin, against all tokenisations of a text, at its edges."""

import copy
import itertools
import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from gac_core import Ensemble, EnsembleConfig
from gac_core.decoding.paths import Paths
from gac_core.grammar.grammar import Grammar
from gac_core.testing import assert_same, naively
from gac_core.tokens.history import History
from gac_core.tokens.spaces import BYTES
from tests.fakes import (
    FAMILIES,
    ScriptedModel,
    make,
    model_of,
    pair,
    scripted,
    tiny_model,
    tokenizer_of,
    two_scripts,
)
from tests.reference import chance_of_text, slow_bytes
from tests.twins import WEIGHTS, assert_as_slow, assert_equal_to_twin, slow_members

byte_scripts = partial(two_scripts, space="bytes")
CHAT = [{"role": "user", "content": "Hello"}]


@pytest.mark.slow
@settings(max_examples=20)
@given(
    st.sampled_from(list(itertools.permutations((*FAMILIES, "sparse"), 3))),
    st.integers(2, 3),
    st.sampled_from(["top", 2, 8]),
    st.sampled_from([None, 1, 7]),
    st.sampled_from([0.7, 1.0]),
    st.sampled_from(["Hello", "The capital of", "a = 12\n\t", CHAT]),
    st.sampled_from(["fixed", "entropy", "prompt", "posterior"]),
    st.sampled_from(["mean", "power", "geometric", "unite", "core"]),
    st.sampled_from([0, -1]),
)
def test_equal_to_the_slow_twin(
    families: tuple[str, ...],
    number: int,
    paths: Any,
    seed: int | None,
    temperature: float,
    prompt: Any,
    weighting: str,
    fusion: str,
    primary: int,
) -> None:
    options: dict[str, Any] = {
        "weighting": weighting,
        "fusion": fusion,
        "primary": primary % number,
    }
    with make(
        families[:number], weights=WEIGHTS[:number], space="bytes", paths=paths, **options
    ) as ensemble:
        assert_equal_to_twin(
            ensemble,
            prompt,
            slow_bytes,
            paths=1 if paths == "top" else paths,
            spaced=[prompt is CHAT and m.leading_space for m in ensemble.members],
            seed=seed,
            temperature=temperature,
            tolerance=1e-6,
            **options,
        )


@pytest.mark.slow
@settings(max_examples=12)
@given(
    st.sampled_from(list(itertools.permutations(FAMILIES, 2))),
    st.sampled_from(["top", 4]),
    st.sampled_from([None, 3]),
    st.sampled_from(["mean", "power", "geometric", "unite", "core"]),
    st.sampled_from([["yes", "no", "perhaps not"], ["a\n\tb", "a\n  b", "aé🙂"], ["12345", "1.5"]]),
)
def test_equal_to_the_slow_twin_with_a_grammar(
    families: tuple[str, ...], paths: Any, seed: int | None, fusion: str, choices: list[str]
) -> None:
    sampling: dict[str, Any] = {"max_new_tokens": 24}
    if seed is not None:
        sampling |= {"temperature": 1.0, "seed": seed}
    with make(families, space="bytes", paths=paths, fusion=fusion) as ensemble:
        output = ensemble.generate("Hello", grammar=Grammar.choice(choices), **sampling)
        slow = slow_bytes(
            slow_members(ensemble),
            ensemble.prompt_ids("Hello"),
            paths=1 if paths == "top" else paths,
            max_new_tokens=24,
            seed=seed,
            fusion=fusion,
            choices=choices,
        )
    assert output.text in choices
    assert [step.unit or None for step in output.steps] == [step.unit for step in slow]


@pytest.mark.parametrize("paths", ["top", 4])
def test_a_stop_string_ends_the_answer_wherever_steps_end(paths: Any) -> None:
    with make(["byte_level", "legacy"], space="bytes", paths=paths) as ensemble:
        sampling: dict[str, Any] = {"max_new_tokens": 20, "temperature": 1.0, "seed": 2}
        whole = ensemble.generate("Hello", **sampling).text
        for start in range(3, len(whole) - 3, 3):
            stop = whole[start : start + 3]
            output = ensemble.generate("Hello", stop=[stop], **sampling)
            assert (output.text, output.stop) == (whole[: whole.index(stop)], stop)


@pytest.mark.slow
@pytest.mark.parametrize("families", [("byte_level", "chatml"), ("tiktoken", "byte_level")])
@pytest.mark.parametrize("seed", range(3))
def test_many_paths_give_the_exact_chance_of_each_step(
    families: tuple[str, ...], seed: int
) -> None:
    """Six bytes have at most 64 paths, so none is lost."""
    texts: list[list[float]] = []
    for paths in (64, "top"):
        with make(families, [seed, seed + 1], space="bytes", paths=paths) as ensemble:
            output = ensemble.generate("Hello", max_new_tokens=6, temperature=1.0, seed=seed)
            errors = []
            for m, (member, ids) in enumerate(
                zip(slow_members(ensemble), ensemble.prompt_ids("Hello"), strict=True)
            ):
                text = b""
                for step in output.steps:
                    if step.is_end or len(text + step.unit) > 6:
                        break
                    before = chance_of_text(member, ids, text)
                    text += step.unit
                    exact = chance_of_text(member, ids, text) / before
                    errors.append(abs(step.members[m].prob - exact))
            texts.append(errors)
    exact_errors, top_errors = texts
    assert max(exact_errors) < 1e-9
    assert max(top_errors) > 1e-6


def twin_of(family: str, seed: int) -> tuple[Any, Any]:
    """The same model and tokenizer, but for one more token that it never writes."""
    tokenizer = copy.deepcopy(tokenizer_of(family))
    tokenizer.add_tokens(["qzqzq"])
    model = copy.deepcopy(tiny_model(family, seed))
    rows = len(tokenizer_of(family)) + 3
    head = torch.nn.Linear(32, rows, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.zero_()
        head.bias[tokenizer.convert_tokens_to_ids("qzqzq")] = -1e4
    model.set_output_embeddings(head)
    return model, tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("family", ["byte_level", "chatml", "legacy"])
@pytest.mark.parametrize("prompt", ["Hello", CHAT], ids=["raw", "chat"])
@pytest.mark.parametrize("paths", ["top", 4])
def test_a_member_twice_is_that_member(family: str, prompt: Any, paths: Any) -> None:
    """Byte by byte too, where a token more keeps their vocabularies apart."""
    pairs = [pair(family, 3), twin_of(family, 3)]
    options: dict[str, Any] = {"names": ["a", "b"], "space": "bytes", "paths": paths}
    sampling: dict[str, Any] = {"max_new_tokens": 20, "temperature": 1.0, "seed": 4}
    with Ensemble.from_models(pairs, weights=[1, 3], **options) as ensemble:
        assert not ensemble.union.is_shared
        output = ensemble.generate(prompt, **sampling)
        member = slow_members(ensemble)[0]
        member.weight = 1.0
        slow = slow_bytes(
            [member],
            ensemble.prompt_ids(prompt)[:1],
            paths=1 if paths == "top" else paths,
            max_new_tokens=20,
            spaced=[prompt is CHAT and ensemble.members[0].leading_space],
            seed=4,
        )
    assert len(output.text) > 5
    assert_as_slow(output, [replace(step, views=()) for step in slow], 1e-6)
    for step in output.steps:
        one, other = step.members
        assert one.prob == pytest.approx(other.prob, rel=1e-9)
        assert one.top == other.top


@pytest.mark.parametrize("paths", ["top", 8])
def test_every_view_has_mass_1(paths: Any) -> None:
    with make(["legacy", "chatml", "neox"], space="bytes", paths=paths) as ensemble:
        prompts = ensemble.prompt_ids("Hello")
        for m, (member, ids) in enumerate(zip(ensemble.members, prompts, strict=True)):
            history = History(ids, member.tokenizer, reencode="always")
            state = Paths(history, member.tokenizer, 1 if paths == "top" else paths)
            # The last are impossible for the member, or half a character: it begins again.
            for byte in (b"H", b"e", b" ", b"\xf0", b"\x9f", b"x", b"\xe2", b"\x82", b"\xac"):
                while queries := state.queries():
                    scored = member.scorer.score(queries)
                    masked = [ensemble.union.mask(m, one.logits) for one in scored]
                    state.read([list(rows.softmax(-1)) for rows in masked])
                probs = state.next_bytes()
                assert probs.shape == (BYTES.size,)
                assert (probs >= 0).all()
                assert probs.sum() == pytest.approx(1, abs=1e-9)
                history.append(byte)
                state.extend(byte)
                state.catch_up()


def test_tokens_that_begin_alike_add_up() -> None:
    with byte_scripts(
        [{"Hello": 0.45, "H": 0.15, ".": 0.4}], [{"Hello": 0.3, ".": 0.7}], weights=[3, 1]
    ) as ensemble:
        step = ensemble.generate("Hello", max_new_tokens=1, logprobs=True).steps[0]
    # "H" has 0.6 and 0.3 of the mass; the path with more of it goes on to "Hello".
    assert step.unit == b"Hello"
    assert [v.top for v in step.members] == [b"Hello", b"."]
    assert [v.top_prob for v in step.members] == pytest.approx([0.45, 0.7], abs=1e-4)
    assert [v.prob for v in step.members] == pytest.approx([0.6, 0.3], abs=1e-4)
    assert math.exp(step.logprob) == pytest.approx(0.525, abs=1e-3)
    assert step.decided_by == "ensemble"
    assert [unit for unit, _ in step.top[:2]] == [b"Hello", b"."]
    assert [math.exp(log) for _, log in step.top[:2]] == pytest.approx([0.525, 0.475], abs=1e-3)


def test_members_are_asked_only_where_a_token_ends() -> None:
    first = [{"Hello": 1.0}, {"<|endoftext|>": 1.0}]
    second = [{"H": 1.0}, {"e": 1.0}, {"l": 1.0}, {"l": 1.0}, {"o": 1.0}, {"<|im_end|>": 1.0}]
    with byte_scripts(first, second) as ensemble:
        models = [m for m in map(model_of, ensemble.members) if isinstance(m, ScriptedModel)]
        for model in models:
            model.calls.clear()
        output = ensemble.generate("Hello", max_new_tokens=9)
        assert [len(model.calls) for model in models] == [2, 6]
    assert (output.text, output.finish_reason, output.usage.steps) == ("Hello", "stop", 2)


@pytest.mark.parametrize("paths", ["top", 4])
def test_a_member_that_finds_the_text_impossible_begins_again(paths: Any) -> None:
    """One wants "Hello", the other ".é": what the first had begun is over at the first byte."""
    never = -1e9
    first = scripted("byte_level", 1, [{"Hello": 1.0}])
    script = first[0].script[0]
    script[script < -1] = never
    second = scripted("chatml", 1, [{".": 1.0}, {"Ã": 1.0}, {"©": 1.0}, {"<|im_end|>": 1.0}])
    with Ensemble.from_models(
        [first, second], names=["a", "b"], weights=[1, 9], space="bytes", paths=paths
    ) as ensemble:
        output = ensemble.generate("Hello", max_new_tokens=4, temperature=0.2, seed=0)
        _, request = naively(ensemble, "Hello", max_new_tokens=4, temperature=0.2, seed=0)
    assert output.text == ".é"
    assert [history.answer for history in request.histories] == [".é".encode()] * 2
    assert all(math.isfinite(view.prob) for step in output.steps for view in step.members)


def test_a_grammar_chooses_among_the_paths() -> None:
    """The top path is "!!", of which the second may not come: "!" alone goes on."""
    first = [{"!": 0.2, "!!": 0.8}, {".": 1.0}, {"<|endoftext|>": 1.0}]
    second = [{"!": 0.2, "!!": 0.8}, {".": 1.0}, {"<|im_end|>": 1.0}]
    with byte_scripts(first, second) as ensemble:
        output = ensemble.generate("Hello", max_new_tokens=3, grammar=Grammar.choice(["!", "!."]))
    assert output.text == "!."
    assert output.steps[1].logprob == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("paths", ["top", 4])
def test_characters_of_several_bytes_are_streamed_whole(paths: Any) -> None:
    text = "é🙂👍🏽世"
    grammar = Grammar.choice([text])
    options: dict[str, Any] = {"space": "bytes", "paths": paths}
    with make(["byte_level", "legacy", "unigram"], **options) as ensemble:
        steps = list(ensemble.stream("Hello", max_new_tokens=40, grammar=grammar))
        assert "".join(step.text for step in steps) == text
        assert b"".join(step.unit for step in steps) == text.encode()
        assert all("\ufffd" not in step.text for step in steps)
        cut = list(ensemble.stream(CHAT, max_new_tokens=3, temperature=2.0, seed=1))
        whole = b"".join(step.unit for step in cut)
        assert "".join(step.text for step in cut) == whole.decode(errors="replace")


def test_the_budget_of_a_grammar_counts_bytes() -> None:
    """A step may be a byte, so that there must be steps for all bytes."""
    with make(["byte_level", "legacy"], space="bytes") as ensemble:
        grammar = Grammar.choice(["Hello world"])
        with pytest.raises(ValueError, match="takes 11 steps, but there are 10"):
            ensemble.generate("Hello", grammar=grammar, max_new_tokens=10)
        output = ensemble.generate("Hello", grammar=grammar, max_new_tokens=11)
    assert (output.text, output.finish_reason) == ("Hello world", "stop")
    assert output.usage.steps <= 11


@pytest.mark.parametrize("paths", ["top", 8])
def test_no_path_outgrows_a_context(paths: Any) -> None:
    pairs = [pair("byte_level", 1, context=24), pair("chatml", 2, context=40)]
    with Ensemble.from_models(pairs, names=["a", "b"], space="bytes", paths=paths) as ensemble:
        asked: list[int] = []
        for seed in range(8):
            sampling: dict[str, Any] = {"temperature": 1.3, "seed": seed}
            for member in ensemble.members:
                limit, score = member.scorer.context_size, member.scorer.score
                assert limit is not None

                def checked(queries: Any, keys: Any = None, *, limit=limit, score=score) -> Any:  # type: ignore[no-untyped-def]
                    asked.extend(limit - len(query.ids) for query in queries)
                    return score(queries, keys)

                member.scorer.score = checked  # type: ignore[method-assign]
            output = ensemble.generate("Hello", **sampling)
            assert output.finish_reason in ("length", "stop")
        assert min(asked) >= 0


@pytest.mark.slow
def test_the_engine_says_what_the_naive_driver_says_with_many_paths() -> None:
    with make(["legacy", "tiktoken", "neox"], space="bytes", paths=16) as ensemble:
        for prompt in ("Hello " * 20, CHAT):
            sampling: dict[str, Any] = {
                "max_new_tokens": 30,
                "temperature": 1.1,
                "repetition_penalty": 1.3,
                "seed": 5,
            }
            expected, _ = naively(ensemble, prompt, **sampling)
            for output in ensemble.batch([prompt, prompt], **sampling):
                assert_same(output, expected)


def test_what_it_does_not_take_is_refused() -> None:
    for method, option in (("safe", {"weighting": "posterior"}), ("every_step", {"paths": 65})):
        with pytest.raises(ValueError, match=rf"{next(iter(option))}"):
            EnsembleConfig.model_validate(
                {"members": ["a"], "method": method, "space": "bytes", **option}
            )
