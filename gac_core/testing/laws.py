"""The laws of methods, weightings, rules and scorers, as functions of a configuration.

Each raises `AssertionError` where a law is broken. A configuration is what `Ensemble.from_models`
takes: ``{"method": "cascade", "threshold": 0.4}``.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from transformers import PreTrainedTokenizerBase

from gac_core.chat.prompt import TURN_MARKS, Prompt
from gac_core.ensemble import Ensemble
from gac_core.errors import ConfigError, PromptError
from gac_core.grammar.grammar import Grammar
from gac_core.members.base import Query, Scorer
from gac_core.method_specs import PRESETS, MethodSpec
from gac_core.outputs import Output
from gac_core.registry import METHODS
from gac_core.sampling_params import SamplingParams
from gac_core.testing.comparison import assert_nothing_held, assert_same, naively
from gac_core.testing.models import LACKING, make_ensemble, pair as tiny_pair, random_gate
from gac_core.testing.space_laws import (
    law_13_what_all_agree_on_is_written,
    law_15_steps_are_tokens_of_the_primary,
)
from gac_core.testing.writers import AGREED_TEXTS, CUTS
from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.vocabulary import TokenKind

Configuration = Mapping[str, Any]
Make = Callable[..., Ensemble]

CHAT: Final[Prompt] = [{"role": "user", "content": "Hello, how are you? 🙂"}]
# Options that name a file, and what makes such a file.
_RESOURCES: Final[dict[str, Callable[[], str]]] = {"gate": random_gate}


# ------------------------------------------------ configurations


def configurations(spec: MethodSpec) -> list[dict[str, Any]]:
    """The configurations with which a method is held to the laws: its spec's examples."""
    return [{"method": spec.name, **_files(spec), **example} for example in spec.examples]


def _files(spec: MethodSpec) -> dict[str, str]:
    """The files that options of a method name, made for tiny models."""
    return {name: make() for name, make in _RESOURCES.items() if name in spec.options.model_fields}


def can_draw(configuration: Configuration) -> bool:
    """Whether a method chooses step by step, so that it can draw and be held to a grammar."""
    name = str(configuration.get("method", "every_step"))
    check = None if name in PRESETS else METHODS.get(name).check
    if check is None:
        return True
    with make_ensemble(["chatml"], **configuration) as ensemble:
        try:
            check(ensemble.config, SamplingParams(temperature=1.0))
        except ConfigError:
            return False
    return True


# ------------------------------------------------ laws


def law_1_one_member_is_generate(
    family: str, configuration: Configuration, prompt: str, *, pair: Any = tiny_pair
) -> None:
    """One member, any method: greedy text equals `model.generate`, token for token."""
    model, tokenizer = pair(family, 5)
    with Ensemble.from_models([(model, tokenizer)], **configuration) as ensemble:
        (prompt_ids,) = ensemble.prompt_ids(prompt)
        vocabulary = ensemble.members[0].tokenizer.vocabulary
        masked = [
            i
            for i, kind in enumerate(vocabulary.kinds)
            if kind not in (TokenKind.TEXT, TokenKind.END)
        ]
        ids = torch.tensor([prompt_ids])
        generated = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            pad_token_id=0,
            eos_token_id=sorted(vocabulary.end_ids),
            do_sample=False,
            max_new_tokens=40,
            suppress_tokens=masked or None,
        )[0, len(prompt_ids) :].tolist()
        output, request = naively(ensemble, prompt, max_new_tokens=40)
        text_ids = [i for i in generated if i not in vocabulary.end_ids]
        own = request.histories[0].ids[len(prompt_ids) :]
        assert own == text_ids, f"one member writes {own}, generate writes {text_ids}"
        assert_same(ensemble.generate(prompt, max_new_tokens=40, seed=0), output)


def law_2_a_member_twice_is_that_member(
    family: str,
    configuration: Configuration,
    prompt: Prompt,
    *,
    make: Make = make_ensemble,
    **sampling: Any,
) -> None:
    """A member twice, or weights (1, 0, 0): the same text as that member alone."""
    with make([family], [3], **configuration) as alone:
        expected = alone.generate(prompt, **sampling).text
    with make([family, family], [3, 3], **configuration) as twice:
        assert twice.generate(prompt, **sampling).text == expected, "a member twice differs"
    others = [family, "byte_level", "legacy"]
    with make(others, [3, 4, 5], weights=[1, 0, 0], **configuration) as weighted:
        assert weighted.generate(prompt, **sampling).text == expected, "weights (1, 0, 0) differ"


def law_3_order_is_nothing(
    families: Sequence[str],
    configuration: Configuration,
    prompt: Prompt,
    *,
    make: Make = make_ensemble,
    **sampling: Any,
) -> None:
    """The order of members changes nothing but the primary's role."""
    count = len(families)
    weights = [1.0 + 0.5 * i for i in range(count)]
    with make(families, range(count), weights=weights, **configuration) as ensemble:
        expected = ensemble.generate(prompt, **sampling).text
    order = list(range(count))[::-1]
    with make(
        [families[i] for i in order],
        order,
        weights=[weights[i] for i in order],
        primary=order.index(0),
        **configuration,
    ) as ensemble:
        assert ensemble.generate(prompt, **sampling).text == expected, "another order, another text"


def law_5_scores_are_uncached(
    scorer: Scorer, *, rounds: int = 12, longest: int = 40, tolerance: float = 1e-6, seed: int = 0
) -> None:
    """`score(ids)` equals an uncached pass over `ids`, after any history of calls.

    So do hidden states, if the scorer has any. Sequences are extended, rolled back, branched and
    dropped at random, many in one call.

    Args:
        scorer: what is checked.
        rounds: the number of calls.
        longest: the number of ids of a sequence at most.
        tolerance: the largest difference of logits that is allowed.
        seed: of the schedule.

    """
    rng = random.Random(seed)
    longest = min(longest, scorer.context_size or longest)
    known: dict[str, list[int]] = {}
    for _ in range(rounds):
        queries, keys = [], []
        for key in rng.sample("abcd", rng.randint(1, 4)):
            ids = known.get(key) or known.get(rng.choice("abcd")) or []
            ids = ids[: rng.randint(0, len(ids))]
            ids = [*ids, *(rng.randrange(scorer.vocab_size) for _ in range(rng.randint(1, 6)))]
            known[key] = ids = ids[-longest:]
            last = rng.randint(1, min(3, len(ids)))
            wants_hidden = scorer.hidden_size > 0 and rng.random() < 0.3
            queries.append(Query(ids, last, hidden=wants_hidden))
            keys.append(key)
        cached, plain = scorer.score(queries, keys), scorer.score(queries)
        for query, got, want in zip(queries, cached, plain, strict=True):
            shape = (query.last, scorer.vocab_size)
            assert tuple(got.logits.shape) == shape, f"{tuple(got.logits.shape)}, not {shape}"
            error = float((got.logits - want.logits).abs().max())
            assert error <= tolerance, f"cached and plain logits differ by {error:.2g}"
            if query.hidden:
                shape = (query.last, scorer.hidden_size)
                assert got.hidden is not None, "the hidden state is missing"
                assert want.hidden is not None, "the hidden state is missing"
                assert tuple(got.hidden.shape) == shape, f"{tuple(got.hidden.shape)}, not {shape}"
                error = float((got.hidden - want.hidden).abs().max())
                assert error <= tolerance, f"cached and plain hidden states differ by {error:.2g}"
        if rng.random() < 0.3:
            dropped = rng.choice(keys)
            scorer.drop([dropped])
            known.pop(dropped)
    scorer.clear()


def laws_6_and_9_the_driver_is_nothing(
    families: Sequence[str],
    configuration: Configuration,
    jobs: Sequence[tuple[Prompt, Mapping[str, Any]]],
    *,
    make: Make = make_ensemble,
) -> None:
    """Alone, with others, or on the naive driver: the same steps; afterwards nothing is held.

    Args:
        families: of the members.
        configuration: what is checked.
        jobs: prompts, and fields of `SamplingParams`.
        make: makes the ensemble.

    """
    with make(families, **configuration, max_batch=6) as ensemble:
        together = [ensemble.stream(prompt, **sampling) for prompt, sampling in jobs]
        abandoned = ensemble.stream("A long answer that is not read", max_new_tokens=200)
        next(abandoned)
        abandoned.close()
        for stream, (prompt, sampling) in zip(together, jobs, strict=True):
            output, _ = naively(ensemble, prompt, **sampling)
            assert_same(Output.of(list(stream)), output)
        for prompt, sampling in jobs[:2]:
            alone = ensemble.generate(prompt, **sampling)
            assert_same(alone, naively(ensemble, prompt, **sampling)[0])
        assert_nothing_held(ensemble)


def law_7_thresholds(
    families: Sequence[str], options: Configuration, prompt: Prompt, *, make: Make = make_ensemble
) -> None:
    """A cascade's threshold 0 is the primary alone; one above 1 fuses every step."""
    with make(families, method="cascade", threshold=0, **options) as ensemble:
        never = ensemble.generate(prompt, max_new_tokens=30)
    with make(families[:1], [0]) as alone:
        assert never.text == alone.generate(prompt, max_new_tokens=30).text
    assert never.usage.fused_steps == 0
    with make(families, method="cascade", threshold=1.1, **options) as ensemble:
        always = ensemble.generate(prompt, max_new_tokens=30)
    with make(families, method="every_step", **options) as ensemble:
        assert_same(always, ensemble.generate(prompt, max_new_tokens=30))


def law_8_pieces_join(output: Output, stop: Sequence[str] = ()) -> None:
    """Streamed pieces joined equal the final text; no stop string leaks."""
    whole = b"".join(step.unit for step in output.steps).decode(errors="replace")
    assert "".join(step.text for step in output.steps) == output.text
    assert all(text not in output.text for text in stop), f"{stop} in {output.text!r}"
    expected = output.text if output.stop is None else output.text + output.stop
    assert whole.startswith(expected), f"{whole!r} does not begin with {expected!r}"
    if output.stop is None:
        rest = whole.removeprefix(output.text)
        is_turn = rest[:1] in ("\r", "\n") and rest.lstrip().startswith(TURN_MARKS)
        assert not rest or is_turn, f"{rest!r} is lost"


def law_12_grammars_hold(
    families: Sequence[str],
    configuration: Configuration,
    prompt: Prompt,
    *,
    make: Make = make_ensemble,
    **sampling: Any,
) -> None:
    """With a grammar, the finished text is in the language, whatever the weights."""
    choices = ["yes", "no", "perhaps not"]
    for weights in itertools.islice(itertools.permutations([4.0, 1.0, 0.5], len(families)), 2):
        with make(families, weights=weights, **configuration) as ensemble:
            grammar = Grammar.choice(choices)
            output = ensemble.generate(prompt, grammar=grammar, max_new_tokens=24, **sampling)
            assert output.text in choices, f"{output.text!r} is none of {choices}"


def law_14_nothing_that_some_member_can_not_spell(
    families: Sequence[str],
    configuration: Configuration,
    prompt: Prompt,
    *,
    make: Make = make_ensemble,
    **sampling: Any,
) -> None:
    """What some member can not spell is never written, and refused in a prompt.

    Args:
        families: of the members, one of which at least lacks bytes.
        configuration: what is checked.
        prompt: a text to continue, or chat messages.
        make: makes the ensemble.
        sampling: fields of `SamplingParams`.

    """
    with make(families, **configuration) as ensemble:
        output, request = naively(ensemble, prompt, **sampling)
        assert_same(ensemble.generate(prompt, **{"seed": 0, **sampling}), output)
        written = b"".join(step.unit for step in output.steps)
        for member, history in zip(ensemble.members, request.histories, strict=True):
            vocabulary = member.tokenizer.vocabulary
            assert vocabulary.cover(written)[1] == len(written), f"{member.name} lacks {written!r}"
            own = b"".join(vocabulary.token_bytes[i] for i in history.ids[history.prompt_length :])
            assert own in (written, b" " + written), f"{member.name} read {own!r}, not {written!r}"
        lacked = [(m.name, c) for m in ensemble.members if (c := _lacked_by(m.tokenizer))]
        assert lacked, f"none of {families} lacks anything"
        for name, char in lacked:
            for refused in (f"a{char}", [{"role": "user", "content": f"a{char}"}]):
                complaint = _refusal(ensemble, refused)
                assert complaint, f"{name} was given {char!r}, which it lacks"
                assert f"U+{ord(char):04X}" in complaint, f"{complaint} does not name {char!r}"
                assert any(other in complaint for other, _ in lacked), f"no member in {complaint}"


def _refusal(ensemble: Ensemble, prompt: Prompt) -> str:
    """Why a prompt is refused; empty if it is not."""
    try:
        ensemble.prompt_ids(prompt)
    except PromptError as error:
        return str(error)
    return ""


def _lacked_by(tokenizer: ByteTokenizer) -> str | None:
    """A character that a tokenizer has no tokens for, or None."""
    rare = (*map(chr, range(0x20)), "\u4e00", "\u0e01", "\U00050000")
    return next((char for char in rare if tokenizer.lost_character(char)), None)


# ------------------------------------------------ all at once


def check_method(
    name: str,
    *,
    families: Sequence[str] = ("chatml", "legacy", "tiktoken"),
    **options: Any,
) -> None:
    """Hold a registered method, with these options, to the laws on tiny models.

    The same for a fusion rule or a weighting: ``check_method("every_step", weighting="mine")``.

    Args:
        name: of the method.
        families: of the members' tokenizers; see `FAMILIES`.
        options: of the method, and of `EnsembleConfig` but for those of the members (`primary`,
            `weights`, `draft` by a member) and `max_batch`, which the laws set themselves.

    Raises:
        AssertionError: a law is broken; the message names it.

    Example:
        >>> from gac_core.testing import check_method
        >>> check_method("cascade", families=("chatml", "legacy"), threshold=0.4)

    """
    files = _files(METHODS.get(name)) if name not in PRESETS else {}
    with _one_thread():
        _check_method({"method": name, **files, **options}, families)


def _check_method(configuration: Configuration, families: Sequence[str]) -> None:
    sampled: list[dict[str, Any]] = [{"max_new_tokens": 16}]
    if can_draw(configuration):
        sampled.append({"max_new_tokens": 16, "temperature": 1.0, "seed": 3})
    for family in families:
        law_1_one_member_is_generate(family, configuration, "Hello, the été")
    for sampling, prompt in itertools.product(sampled, ("Hello", CHAT)):
        law_2_a_member_twice_is_that_member(families[0], configuration, prompt, **sampling)
        law_3_order_is_nothing(families, configuration, prompt, **sampling)
    jobs: list[tuple[Prompt, Mapping[str, Any]]] = [
        (prompt, {**sampling, "stop": stop})
        for prompt, sampling in itertools.product(("Hello", CHAT, "x" * 60), sampled)
        for stop in ((), ("e",))
    ]
    laws_6_and_9_the_driver_is_nothing(families, configuration, jobs)
    with make_ensemble(families, **configuration) as ensemble:
        for prompt, sampling in jobs:
            law_8_pieces_join(ensemble.generate(prompt, **sampling), sampling["stop"])
    if can_draw(configuration):
        law_12_grammars_hold(families, configuration, CHAT, temperature=1.0, seed=5)
    if configuration.get("space") in ("scored", "bytes"):
        _check_space(configuration, families, sampled)
    for lacking, sampling in itertools.product(LACKING, sampled):
        law_14_nothing_that_some_member_can_not_spell(
            (families[0], lacking), configuration, CHAT, **sampling
        )


def _check_space(
    configuration: Configuration, families: Sequence[str], sampled: Sequence[Mapping[str, Any]]
) -> None:
    for seed, text in enumerate(AGREED_TEXTS):
        law_13_what_all_agree_on_is_written(CUTS[:2], configuration, text, "Hello", seed=seed)
        law_13_what_all_agree_on_is_written(families, configuration, text, CHAT, seed=seed)
    for sampling, prompt in itertools.product(sampled, ("Hello", CHAT)):
        law_15_steps_are_tokens_of_the_primary(families, configuration, prompt, **sampling)


def check_scorer(
    scorer: Scorer, tokenizer: PreTrainedTokenizerBase, *, tolerance: float = 1e-6
) -> None:
    """Hold a scorer to the laws, by itself and as a member of an ensemble with a tiny model.

    Args:
        scorer: what is checked; it is cleared afterwards.
        tokenizer: of its model.
        tolerance: the largest difference of logits that is allowed.

    Raises:
        AssertionError: a law is broken; the message names it.

    """
    assert isinstance(scorer, Scorer), f"{type(scorer).__name__} is no whole Scorer"
    with _one_thread():
        _check_scorer(scorer, tokenizer, tolerance)


def _check_scorer(scorer: Scorer, tokenizer: PreTrainedTokenizerBase, tolerance: float) -> None:
    law_5_scores_are_uncached(scorer, tolerance=tolerance)
    pairs: list[tuple[Any, PreTrainedTokenizerBase]] = [
        (scorer, tokenizer),
        tiny_pair("byte_level"),
    ]
    with Ensemble.from_models(pairs, names=["own", "tiny"]) as ensemble:
        prompts: list[Prompt] = ["Hello", CHAT]
        for prompt, temperature in itertools.product(prompts, (0.0, 1.0)):
            sampling: dict[str, Any] = {"max_new_tokens": 12, "temperature": temperature, "seed": 1}
            expected, _ = naively(ensemble, prompt, **sampling)
            assert_same(ensemble.generate(prompt, **sampling), expected)
        assert_nothing_held(ensemble)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have torch compute in one thread, which is fastest for tiny models."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
