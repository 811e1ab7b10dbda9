import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from gac_core.testing import assert_same, laws, naively
from gac_core.testing.space_laws import (
    law_13_what_all_agree_on_is_written,
    law_15_steps_are_tokens_of_the_primary,
)
from gac_core.testing.writers import AGREED_TEXTS, CUTS
from tests.cases import CONFIGURATIONS, assert_only_greedy, draws, matrix
from tests.fakes import FAMILIES, REAL, REAL_FOLDER, make, pair, random_gate

TRIPLES: list[tuple[str, ...]] = [
    ("byte_level", "legacy", "chatml"),
    ("unigram", "tiktoken", "metaspace"),
    ("metaspace", "neox", "legacy"),
]
PAIRS: list[tuple[str, ...]] = [
    ("chatml", "tiktoken"),
    ("legacy", "byte_level"),
    ("neox", "unigram"),
]
CHAT = [{"role": "user", "content": "Hello, how are you? 🙂"}]
AVAILABLE_REAL = REAL if REAL_FOLDER.is_dir() else ()

real_tokenizers = pytest.mark.real_tokenizers


@matrix(family=FAMILIES, method=CONFIGURATIONS)
def test_law_1(family: str, method: dict[str, Any]) -> None:
    laws.law_1_one_member_is_generate(family, method, "Hello, the été")


@pytest.mark.slow
@real_tokenizers
@pytest.mark.parametrize("family", REAL)
def test_law_1_real(family: str) -> None:
    laws.law_1_one_member_is_generate(family, {}, "Hello, the été", pair=pair)


@matrix(
    family=("chatml", "legacy"),
    method=CONFIGURATIONS,
    prompt=("Hello", CHAT),
    sampling=({}, {"temperature": 1.0, "seed": 3}),
)
def test_law_2(family: str, method: dict[str, Any], prompt: Any, sampling: dict[str, Any]) -> None:
    if sampling and not draws(method):
        assert_only_greedy([family], method, prompt, **sampling)
        return
    laws.law_2_a_member_twice_is_that_member(family, method, prompt, max_new_tokens=30, **sampling)


@pytest.mark.slow
@matrix(1, families=TRIPLES + PAIRS, method=CONFIGURATIONS)
def test_law_3(families: tuple[str, ...], method: dict[str, Any]) -> None:
    for prompt in ("Hello", CHAT):
        laws.law_3_order_is_nothing(families, method, prompt, max_new_tokens=20)
    drawn: dict[str, Any] = {"temperature": 1.2, "seed": 1}
    if not draws(method):
        assert_only_greedy(families, method, "Hello", **drawn)
        return
    laws.law_3_order_is_nothing(families, method, "Hello", max_new_tokens=20, **drawn)


@pytest.mark.parametrize("half", [0, pytest.param(1, marks=pytest.mark.slow)])
@matrix(1, families=TRIPLES + PAIRS, method=CONFIGURATIONS)
def test_law_6_and_9(families: tuple[str, ...], method: dict[str, Any], half: int) -> None:
    """Alone, beside others, or on the naive driver: the same steps, greedy or drawn."""
    rng = random.Random(str(families))
    prompts: list[Any] = [
        "Hello",
        CHAT,
        "The capital of",
        [{"role": "system", "content": "Be kind."}, *CHAT],
        "x" * 90,
        "def add(a, b):\n    return",
    ]
    jobs: list[tuple[Any, dict[str, Any]]] = [
        (
            rng.choice(prompts),
            {
                "max_new_tokens": rng.randint(1, 24),
                "temperature": rng.choice([0.0, 0.8, 1.3]),
                "top_p": rng.choice([1.0, 0.9]),
                "repetition_penalty": rng.choice([1.0, 1.2]),
                "stop": rng.choice([[], ["e"], ["th", "an"]]),
                "seed": rng.randrange(100),
            },
        )
        for _ in range(10)
    ][half::2]
    if not draws(method):
        greedy = {"temperature": 0.0, "top_p": 1.0, "repetition_penalty": 1.0}
        jobs = [(prompt, sampling | greedy) for prompt, sampling in jobs]
    laws.laws_6_and_9_the_driver_is_nothing(families, method, jobs)


@pytest.mark.slow
@real_tokenizers
@matrix(
    1,
    families=[
        ("llama3", "qwen2_5"),
        ("phi3", "gpt2"),
        ("mistral_v3", "llama2", "gpt_neox"),
        ("starcoder2", "phi3", "llama3"),
    ],
    method=CONFIGURATIONS,
)
def test_laws_3_and_6_real(families: tuple[str, ...], method: dict[str, Any]) -> None:
    laws.law_3_order_is_nothing(families, method, CHAT, make=make, max_new_tokens=12)
    with make(families, **method) as ensemble:
        sampling: dict[str, Any] = {"max_new_tokens": 12, "seed": 2}
        if draws(method):
            sampling["temperature"] = 1.0
        prompts: list[Any] = ["Hello", CHAT]
        for prompt, output in zip(prompts, ensemble.batch(prompts, **sampling), strict=True):
            assert_same(output, naively(ensemble, prompt, **sampling)[0])


@matrix(
    options=(
        {"space": "tokens", "history": "append"},
        {"space": "tokens", "history": "reencode"},
        {"space": "scored"},
        {"space": "bytes"},
        {"space": "bytes", "paths": 4},
    ),
    families=TRIPLES + PAIRS,
    prompt=("Hello", CHAT),
)
def test_law_7(families: tuple[str, ...], options: dict[str, Any], prompt: Any) -> None:
    laws.law_7_thresholds(families, options, prompt)


BY_BYTES = [
    *(c for c in CONFIGURATIONS if c.get("space") in ("scored", "bytes")),
    {"method": "co_llm", "gate": random_gate(), "space": "scored"},
    {"method": "co_llm", "gate": random_gate(), "space": "bytes"},
    {"method": "cascade", "threshold": 0.8, "space": "scored"},
    {"method": "cascade", "threshold": 0.8, "space": "bytes", "paths": 4},
    {"method": "every_step", "space": "auto", "fusion": "mean"},
    {"method": "every_step", "space": "bytes", "fusion": "geometric"},
    *({"space": "scored", "fusion": fusion} for fusion in ("geometric", "unite", "core")),
    *({"space": "bytes", "fusion": fusion} for fusion in ("unite", "core")),
]


@matrix(1, method=BY_BYTES, text=AGREED_TEXTS)
@pytest.mark.parametrize("prompt", ["Hello", CHAT], ids=["raw", "chat"])
def test_law_13(method: dict[str, Any], text: str, prompt: Any) -> None:
    """Any members that differ in cuts, in any order, with any primary, and from the middle."""
    rng = random.Random(f"{method} {text}")
    for number in (2, 2, 3):
        cuts = rng.sample(CUTS, number)
        options: dict[str, Any] = {
            "primary": rng.randrange(number),
            "weights": [rng.uniform(0.3, 3) for _ in cuts],
        }
        law_13_what_all_agree_on_is_written(
            cuts,
            {**method, **options},
            text,
            prompt,
            tails=rng.choice([(), [f"{tail}." for tail in "xyz"[:number]]]),
            seed=rng.randrange(10_000),
            is_canonical=rng.random() < 0.5,
        )


@matrix(
    1,
    families=TRIPLES + PAIRS,
    method=[c for c in BY_BYTES if "gate" not in c and c.get("space") != "auto"],
    prompt=("Hello", CHAT, "a = 12\n\t"),
    sampling=({}, {"temperature": 1.3, "seed": 4}),
)
def test_law_15(
    families: tuple[str, ...], method: dict[str, Any], prompt: Any, sampling: dict[str, Any]
) -> None:
    law_15_steps_are_tokens_of_the_primary(families, method, prompt, max_new_tokens=20, **sampling)


@matrix(
    families=[
        ("chatml", "sparse"),
        ("sparse", "legacy"),
        ("characters", "tiktoken", "sparse"),
        ("byte_level", "characters"),
    ],
    method=CONFIGURATIONS,
    sampling=({}, {"temperature": 1.3, "seed": 4}),
)
def test_law_14(
    families: tuple[str, ...], method: dict[str, Any], sampling: dict[str, Any]
) -> None:
    if sampling and not draws(method):
        assert_only_greedy(families, method, "Hello", **sampling)
        return
    for prompt in ("Hello", CHAT):
        laws.law_14_nothing_that_some_member_can_not_spell(
            families, method, prompt, max_new_tokens=24, **sampling
        )


@pytest.mark.slow
@real_tokenizers
@matrix(
    1,
    families=[("falcon", "gpt2", "llama3"), ("starcoder2", "gpt_neox", "mistral_v3")],
    method=CONFIGURATIONS,
)
def test_law_14_real(families: tuple[str, ...], method: dict[str, Any]) -> None:
    """Three vocabularies each, and some member lacks bytes."""
    sampling: dict[str, Any] = {"max_new_tokens": 12, "seed": 2}
    if draws(method):
        sampling["temperature"] = 1.0
    for prompt in ("Hello", CHAT):
        laws.law_14_nothing_that_some_member_can_not_spell(
            families, method, prompt, make=make, **sampling
        )


@pytest.mark.slow
@settings(max_examples=25)
@given(
    st.sampled_from(list(itertools.permutations(FAMILIES, 2))),
    st.sampled_from(CONFIGURATIONS),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.integers(0, 1000),
    st.lists(st.text(min_size=1, max_size=3), max_size=2),
)
def test_laws_6_and_8_on_any_text(
    families: tuple[str, str], method: dict[str, Any], prompt: str, seed: int, stop: list[str]
) -> None:
    """Any prompt and stop strings: engine equals oracle, pieces join, no stop string leaks."""
    sampling: dict[str, Any] = {
        "max_new_tokens": 12,
        "temperature": 1.0 * draws(method),
        "seed": seed,
        "stop": stop,
    }
    with make(families, [1, 2], **method) as ensemble:
        output = ensemble.generate(prompt, **sampling)
        assert_same(output, naively(ensemble, prompt, **sampling)[0])
    laws.law_8_pieces_join(output, stop)
