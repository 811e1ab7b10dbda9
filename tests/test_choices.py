"""Choosing among labels: as the slow twin does, whatever the labels, prompts and tokenizers."""

import asyncio
import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from gac_core import (
    Choice,
    ConfigError,
    ContextOverflowError,
    EngineClosedError,
    Ensemble,
    MethodError,
    NonFiniteLogitsError,
    PromptError,
    Views,
    register_fusion,
)
from gac_core.chat.prompt import Prompt
from tests.cases import matrix
from tests.fakes import assert_rests, forwards_of, make, random_gate, scripted
from tests.reference_choices import POOLS, SlowPrompt, logprob, pooled, shares
from tests.twins import WEIGHTS, slow_members

# A prompt long enough for its keys and values to be taken over by the labels.
LONG = "Hello world, how are you today? I am fine, thank you. The capital of France is"
CHAT = [{"role": "user", "content": LONG}]
NEUTRAL: list[Prompt] = [[{"role": "user", "content": text}] for text in ("N/A", "[MASK]", "")]
OPENS_WITH_SPACE = ("legacy", "byte_level", "metaspace", "unigram", "neox", "characters")
READS_TRANSCRIPTS = ("byte_level", "metaspace", "unigram", "neox", "characters")
LABELS = {
    "plain": ["yes", "no", "Hello world"],
    "spaced": [" yes", " no", "no"],
    "prefixes": ["yes", "yes, but", "yes, but not today", "ye"],
    "foreign": ["déjà", "Привет", "世界", "🙂", "Bäcker"],
    "blanks": ["\n", "a\n\nb", "  two", "\t"],
}


def slow_prompts(ensemble: Ensemble, prompt: Prompt) -> list[SlowPrompt]:
    """A prompt as the members of families read it."""
    families = [member.name.rpartition("-")[0] for member in ensemble.members]
    is_chat = not isinstance(prompt, str)
    return [
        SlowPrompt(
            ids,
            b" " if is_chat and family in OPENS_WITH_SPACE else b"",
            is_chat and family in READS_TRANSCRIPTS,
        )
        for ids, family in zip(ensemble.prompt_ids(prompt), families, strict=True)
    ]


def assert_as_twin(
    ensemble: Ensemble,
    prompt: Prompt,
    labels: Sequence[str],
    *,
    has_end: bool,
    fusion: str = "mean",
    neutral: Sequence[Prompt] = (),
    per_byte: bool = False,
    temperatures: Sequence[float] = (1.0, 1.0, 1.0),
    **options: Any,
) -> Choice:
    """Ensemble and twin hold all labels equally probable."""
    choice = ensemble.choose(prompt, labels, **options)
    members, asked = slow_members(ensemble), slow_prompts(ensemble, prompt)
    unasked = [slow_prompts(ensemble, other) for other in neutral]
    all_shares = []
    for n, (member, own) in enumerate(zip(members, choice.members, strict=True)):
        logs = [logprob(member, asked[n], label, end=has_end) for label in labels]
        assert own.logprobs == pytest.approx(logs, rel=1e-6)
        its = shares(
            member,
            asked[n],
            [prompts[n] for prompts in unasked],
            labels,
            end=has_end,
            per_byte=per_byte,
            temperature=temperatures[n],
        )
        assert own.probs == pytest.approx(its, rel=1e-6)
        all_shares.append(its)
    weights = [member.weight for member in ensemble.members]
    assert [own.weight for own in choice.members] == pytest.approx(weights)
    want = pooled(POOLS[fusion], weights, all_shares)
    assert choice.probs == pytest.approx(want, rel=1e-6)
    assert sum(choice.probs) == pytest.approx(1.0)
    assert all(sum(own.probs) == pytest.approx(1.0) for own in choice.members)
    assert choice.labels == tuple(labels)
    assert choice.label == labels[want.index(max(want))]
    return choice


@matrix(
    families=[
        ("byte_level", "legacy"),
        ("chatml", "unigram", "tiktoken"),
        ("metaspace", "neox"),
        ("legacy",),
        ("chatml", "chatml"),
    ],
    prompt=[LONG, CHAT],
    labels=list(LABELS),
    fusion=list(POOLS),
)
def test_choose_is_its_twin(
    families: tuple[str, ...], prompt: Prompt, labels: str, fusion: str
) -> None:
    weights = [w / sum(WEIGHTS[: len(families)]) for w in WEIGHTS[: len(families)]]
    with make(families, weights=weights, fusion=fusion) as ensemble:
        has_end = labels == "prefixes"
        assert_as_twin(ensemble, prompt, LABELS[labels], has_end=has_end, fusion=fusion)


@matrix(
    strength=1,
    prompt=[LONG, CHAT],
    end=[True, False],
    length=["sum", "bytes"],
    prior=["none", "one", "several", "text"],
    temperature=["one", "all", "some"],
)
def test_choose_with_options_is_its_twin(
    prompt: Prompt, end: bool, length: str, prior: str, temperature: str
) -> None:
    neutral: dict[str, list[Prompt]] = {
        "none": [],
        "one": NEUTRAL[:1],
        "several": NEUTRAL,
        "text": ["The answer is:"],
    }
    given: dict[str, Any] = {"one": 1.0, "all": 2.5, "some": {"tiktoken-1": 0.5}}
    options: dict[str, Any] = {"end": end, "length": length, "temperature": given[temperature]}
    if neutral[prior]:
        options["prior"] = NEUTRAL if prior == "several" else neutral[prior][0]
    with make(["byte_level", "tiktoken"], fusion="mean") as ensemble:
        assert_as_twin(
            ensemble,
            prompt,
            ["yes", "no", "yes, Paris"],
            has_end=end,
            neutral=neutral[prior],
            per_byte=length == "bytes",
            temperatures={"one": (1.0, 1.0), "all": (2.5, 2.5), "some": (1.0, 0.5)}[temperature],
            **options,
        )


def test_without_its_question_a_chat_keeps_everything_else() -> None:
    """Contextual calibration, as published: the mean over three texts without content."""
    before = [
        {"role": "user", "content": "Where is Berlin?"},
        {"role": "assistant", "content": "Germany"},
    ]
    chat = [*before, {"role": "user", "content": "Where is Paris?"}]
    neutral = [[*before, *text] for text in NEUTRAL]
    with make(["chatml", "legacy"]) as ensemble:
        labels = ["France", "Germany"]
        mine = ensemble.choose(chat, labels, prior=True)
        assert mine == ensemble.choose(chat, labels, prior=neutral)
        plain = ensemble.choose(chat, labels)
        assert mine.members[0].logprobs == pytest.approx(plain.members[0].logprobs)
        assert mine.probs != pytest.approx(plain.probs)
        flat = ensemble.choose(NEUTRAL[0], labels, prior=NEUTRAL[0])
    assert flat.probs == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("prompt", [LONG, CHAT], ids=["raw", "chat"])
@pytest.mark.parametrize("fusion", ["power", "unite", "core", "geometric"])
def test_the_order_of_labels_does_not_matter(prompt: Prompt, fusion: str) -> None:
    labels = ["yes", "yes, but", "no"]
    with make(["byte_level", "legacy"], fusion=fusion) as ensemble:
        want = ensemble.choose(prompt, labels)
        for order in permutations(labels):
            found = ensemble.choose(prompt, order)
            assert found.by_label == pytest.approx(want.by_label)
            assert found.label == want.label


def test_the_order_of_members_does_not_matter_and_a_member_twice_is_that_member() -> None:
    families, seeds = ["byte_level", "legacy", "chatml"], [0, 1, 2]
    for prompt in (LONG, CHAT):
        with make(families, seeds, weights=list(WEIGHTS)) as ensemble:
            want = ensemble.choose(prompt, LABELS["foreign"])
        with make(families[::-1], seeds[::-1], weights=list(WEIGHTS)[::-1]) as ensemble:
            found = ensemble.choose(prompt, LABELS["foreign"])
        assert found.probs == pytest.approx(want.probs)
        assert [own.name for own in found.members] == [own.name for own in want.members][::-1]
        with make(["legacy", "legacy"], [1, 1], fusion="power") as ensemble:
            twice = ensemble.choose(prompt, LABELS["foreign"])
        assert twice.probs == pytest.approx(want.members[1].probs)


def test_scripted_members_are_pooled_as_computed_by_hand() -> None:
    ends = {"a": "<|endoftext|>", "b": "<|im_end|>"}
    members = [
        scripted(family, 1, [{"a": yes, "b": 1 - yes}, {ends[name]: end, "b": 1 - end}])
        for name, family, yes, end in (("a", "byte_level", 0.6, 0.5), ("b", "chatml", 0.2, 0.9))
    ]
    options: dict[str, Any] = {"names": ["a", "b"], "fusion": "mean", "weights": [0.75, 0.25]}
    with Ensemble.from_models(members, **options) as ensemble:
        plain = ensemble.choose("Hello", ["a", "b"])
        assert plain.probs == pytest.approx([0.75 * 0.6 + 0.25 * 0.2, 0.75 * 0.4 + 0.25 * 0.8])
        assert [own.probs[0] for own in plain.members] == pytest.approx([0.6, 0.2])
        assert plain.label == "a"
        assert [plain.label_of(own) for own in plain.members] == ["a", "b"]
        # What follows "ab" is uniform, over all text and the end.
        begun = ensemble.choose("Hello", ["a", "ab"])
        for own, (yes, end) in zip(begun.members, [(0.6, 0.5), (0.2, 0.9)], strict=True):
            assert own.logprobs[0] == pytest.approx(math.log(yes * end), rel=1e-5)
        assert ensemble.choose("Hello", ["a", "ab"], end=False).members[0].logprobs == (
            pytest.approx([math.log(0.6), math.log(0.6 * 0.5)], rel=1e-5)
        )


def test_what_is_generated_is_the_likeliest_label_where_one_is_sure() -> None:
    with Ensemble.pocket() as ensemble:
        asked = [{"role": "user", "content": "What is 77 - 49?"}]
        choice = ensemble.choose(asked, ["77 - 49 = 38", "77 - 49 = 28", "77 - 49 = 2"])
        assert choice.label == ensemble.generate(asked).text == "77 - 49 = 28"
        assert choice.label_of(choice.members[2]) == "77 - 49 = 38"
        assert choice.usage.prompt_tokens > 0
        assert choice.usage.completion_tokens == 0
        assert choice.usage.steps == choice.usage.fused_steps == 1


def test_per_byte_and_in_all_are_one_for_labels_of_one_length() -> None:
    with make(["byte_level", "legacy"]) as ensemble:
        for prompt in (LONG, CHAT):
            in_all = ensemble.choose(prompt, ["yes", "noo"])
            assert ensemble.choose(prompt, ["yes", "noo"], length="bytes").probs == (
                pytest.approx(in_all.probs)
            )


@pytest.mark.parametrize(
    "options",
    [
        {"method": "cascade", "threshold": 0.5, "primary": 1},
        {"method": "co_llm", "gate": random_gate(), "space": "tokens"},
        {"method": "safe"},
        {"method": "twist"},
        {"space": "bytes"},
        {"space": "tokens", "history": "append"},
        {"draft": "ngrams"},
        {"draft": 1},
        {"weighting": "posterior"},
    ],
    ids=lambda options: "-".join(str(v) for name, v in options.items() if name != "gate"),
)
def test_methods_spaces_and_drafts_change_nothing(options: dict[str, Any]) -> None:
    families = ["byte_level", "legacy"]
    for prompt in (LONG, CHAT):
        with make(families, fusion="mean") as ensemble:
            want = ensemble.choose(prompt, ["yes", "no", "Hello world"])
        named = options if options.get("method") == "twist" else {"fusion": "mean", **options}
        with make(families, **named) as ensemble:
            found = ensemble.choose(prompt, ["yes", "no", "Hello world"])
            assert [own.probs for own in found.members] == [
                pytest.approx(own.probs) for own in want.members
            ]
            if "fusion" in named:
                assert found.probs == pytest.approx(want.probs)


@pytest.mark.parametrize("weighting", ["prompt", "entropy"])
def test_weightings_weigh_what_they_see(weighting: str) -> None:
    with make(["byte_level", "legacy"], weighting=weighting, fusion="mean") as ensemble:
        choice = ensemble.choose(LONG, ["yes", "no", "Hello world"])
    weights = [own.weight for own in choice.members]
    assert weights != pytest.approx([0.5, 0.5])
    assert sum(weights) == pytest.approx(1.0)
    probs = [own.probs for own in choice.members]
    assert choice.probs == pytest.approx(pooled(POOLS["mean"], weights, probs))
    if weighting == "entropy":
        spread = [-sum(p * math.log(p) for p in own) for own in probs]
        assert weights[0] / weights[1] == pytest.approx(spread[1] / spread[0])


def test_unite_pools_the_ten_best_of_each_member() -> None:
    labels = [chr(ord("a") + n) for n in range(14)]
    with make(["byte_level", "chatml"], fusion="unite") as ensemble:
        choice = ensemble.choose(LONG, labels)
    kept = {
        label
        for own in choice.members
        for label in sorted(labels, key=lambda label, own=own: -own.probs[labels.index(label)])[:10]  # type: ignore[misc]
    }
    assert {label for label, prob in choice.by_label.items() if prob > 0} == kept


def test_the_docs_show_it() -> None:
    page = (Path(__file__).parents[1] / "docs/decisions.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    shown: list[Any] = []
    exec(code, {"print": lambda *parts: shown.append(parts)})
    assert shown[0][0] == "77 - 49 = 28"
    assert [name for name, *_ in shown[1:]] == ["ada", "bo", "cy"]


# ---------------------------------------------------------------- passes, concurrency


def test_labels_share_passes() -> None:
    with make(["byte_level", "chatml"]) as ensemble:
        letters = ["a", "b", "c"]
        ensemble.choose(LONG, letters)
        assert [m.scorer.stats.forwards for m in ensemble.members] == [1, 1]
        ensemble.choose(LONG, letters, end=True)
        assert [m.scorer.stats.forwards for m in ensemble.members] == [3, 3]
        before = [m.scorer.stats.positions for m in ensemble.members]
        ensemble.choose(LONG, ["yes", "no", "Hello"], end=True)
        for member, positions, ids in zip(
            ensemble.members, before, ensemble.prompt_ids(LONG), strict=True
        ):
            written = sum(len(member.tokenizer.encode(x)) for x in (b"yes", b"no", b"Hello"))
            assert member.scorer.stats.positions - positions == len(ids) + written
        assert_rests(ensemble)


def test_more_labels_than_are_asked_about_at_once() -> None:
    labels = [f"{n}" for n in range(100, 170)]
    with make(["byte_level", "legacy"]) as ensemble:
        all_of_them = ensemble.choose(LONG, labels)
        few = ensemble.choose(LONG, labels[60:])
        part = all_of_them.members[1].probs[60:]
        assert few.members[1].probs == pytest.approx([p / sum(part) for p in part])
        assert sum(all_of_them.probs) == pytest.approx(1.0)


def test_a_scorer_without_a_cache_decides_alike() -> None:
    with make(["byte_level", "legacy"]) as ensemble:
        want = ensemble.choose(CHAT, LABELS["foreign"], prior=True)
        for member in ensemble.members:
            member.scorer.has_cache = False  # type: ignore[attr-defined]
        found = ensemble.choose(CHAT, LABELS["foreign"], prior=True)
        assert found.probs == pytest.approx(want.probs)


QUESTIONS: list[Prompt] = [
    LONG,
    CHAT,
    "Hello",
    [{"role": "user", "content": "Where is Paris?"}],
    [{"role": "user", "content": "Привет"}],
    LONG + " not",
]


def test_threads_share_passes_and_change_nothing() -> None:
    with make(["byte_level", "legacy"]) as ensemble:
        alone = [ensemble.choose(prompt, LABELS["plain"]) for prompt in QUESTIONS]
        used = forwards_of(ensemble)
        with ThreadPoolExecutor(len(QUESTIONS)) as pool:
            writing = pool.submit(ensemble.generate, "Hello", max_new_tokens=20)
            together = list(pool.map(lambda p: ensemble.choose(p, LABELS["plain"]), QUESTIONS))
            assert writing.result().usage.steps == 20
        for mine, its in zip(together, alone, strict=True):
            assert mine.probs == pytest.approx(its.probs)
        assert used > 0


async def test_tasks_share_passes_and_change_nothing() -> None:
    with make(["byte_level", "legacy"]) as ensemble:
        alone = [ensemble.choose(prompt, LABELS["plain"]) for prompt in QUESTIONS]
        used = forwards_of(ensemble)
        together = await asyncio.gather(
            *(ensemble.achoose(prompt, LABELS["plain"], end=None) for prompt in QUESTIONS)
        )
        assert forwards_of(ensemble) - used < used
        for mine, its in zip(together, alone, strict=True):
            assert mine.probs == pytest.approx(its.probs)
        assert_rests(ensemble)


async def test_a_cancelled_choice_computes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with make(["byte_level", "legacy"]) as ensemble:
        labels = [f"{n}" for n in range(1000)]
        task = asyncio.create_task(ensemble.achoose(LONG, labels, end=True))
        while not forwards_of(ensemble):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_rests(ensemble)
        assert forwards_of(ensemble) < 2 * (1 + 1000 // 64)


async def test_a_lazy_ensemble_is_loaded_by_a_choice() -> None:
    with Ensemble.pocket(lazy=True) as ensemble:
        choice = await ensemble.achoose("1 + 1 =", [" 2", " 3"], length="bytes")
    assert set(choice.by_label) == {" 2", " 3"}


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "two labels or more to choose from, not 0"),
        (["yes"], "two labels or more to choose from, not 1"),
        (["yes", "no", "yes"], "label 'yes' is given twice"),
        (["yes", ""], "label 1 is empty"),
        ("yes", "must be a list of texts, not str"),
        (None, "must be a list of texts, not NoneType"),
        (["yes", 1], "label 1 must be a text, not int"),
        (["yes", b"no"], "label 1 must be a text, not bytes"),
    ],
)
def test_labels_that_are_none_are_refused(ensemble: Ensemble, labels: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ensemble.choose(LONG, labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": "tokens"}, "length: Input should be 'sum' or 'bytes'"),
        ({"end": "maybe"}, "end: Input should be a valid boolean"),
        ({"temperature": 0}, "temperature.*greater than 0"),
        ({"temperature": float("nan")}, "temperature.*finite"),
        ({"temperature": {"nobody": 1.0}}, r"temperature names \['nobody'\]; the members are"),
        ({"temperature": {"legacy-1": -1.0}}, "temperature.*greater than 0"),
        ({"prior": True}, "a raw text has no question"),
        ({"prior": []}, "prior must be True, False, a prompt or prompts"),
        ({"prior": 3}, "prior must be True, False, a prompt or prompts"),
        ({"prior": [3]}, "must be a list of dicts, not int"),
    ],
)
def test_options_that_are_wrong_are_refused(
    ensemble: Ensemble, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, PromptError), match=message):
        ensemble.choose(LONG, ["yes", "no"], **options)


async def test_an_unknown_option_is_refused(ensemble: Ensemble) -> None:
    with pytest.raises(ConfigError, match="lenght: unknown option"):
        await ensemble.achoose(LONG, ["yes", "no"], lenght="sum")


def test_a_label_that_a_member_can_not_write_is_refused_by_name() -> None:
    with make(["byte_level", "characters"]) as ensemble:
        with pytest.raises(PromptError, match=r"label '龍' can not be scored: .*U\+9F8D"):
            ensemble.choose(LONG, ["no", "龍"])
        assert ensemble.choose(LONG, ["no", "é"]).labels == ("no", "é")
        with pytest.raises(PromptError, match="label 1 holds the lone surrogate"):
            ensemble.choose(LONG, ["no", "\ud800"])


def test_prompts_that_are_wrong_are_refused(ensemble: Ensemble) -> None:
    with pytest.raises(PromptError, match="list of messages is empty"):
        ensemble.choose([], ["yes", "no"])
    with pytest.raises(PromptError, match="unknown fields"):
        ensemble.choose([{"role": "user", "content": "a", "b": "c"}], ["yes", "no"])
    with pytest.raises(ConfigError, match="no user message to leave out"):
        ensemble.choose([{"role": "system", "content": "a"}], ["yes", "no"], prior=True)


def test_a_label_that_does_not_fit_the_context_is_refused() -> None:
    with make(["byte_level", "chatml"]) as ensemble:
        limit = ensemble.context_size
        assert limit is not None
        left = limit - len(ensemble.prompt_ids("Hello")[0])
        fits = "é" * (left // len(ensemble.members[0].tokenizer.encode("é".encode())))
        for label in (fits, fits + "é"):
            count = len(ensemble.members[0].tokenizer.encode(label.encode()))
            if count <= left:
                ensemble.choose("Hello", ["no", label], end=True)
        with pytest.raises(ContextOverflowError, match=r"the longest label .* context holds 512"):
            ensemble.choose("Hello", ["no", "xq" * limit])
        with pytest.raises(ContextOverflowError):
            ensemble.choose("xq" * limit, ["no", "yes"])


def test_a_closed_ensemble_decides_nothing(ensemble: Ensemble) -> None:
    ensemble.close()
    with pytest.raises(EngineClosedError):
        ensemble.choose(LONG, ["yes", "no"])


def test_logits_that_are_no_numbers_are_named() -> None:
    model, tokenizer = scripted("byte_level", 1, [{"a": 1.0}, {"b": 1.0}])
    model.script[1] = torch.full((len(tokenizer),), float("nan"))
    with Ensemble.from_models([(model, tokenizer)], names=["bad"]) as ensemble:
        assert ensemble.choose("Hello", ["a", "b"]).label == "a"
        with pytest.raises(NonFiniteLogitsError, match="bad gave logits that are NaN"):
            ensemble.choose("Hello", ["ab", "a."])


def test_a_member_that_holds_all_labels_impossible_is_named() -> None:
    model, tokenizer = scripted("byte_level", 1, [{"a": 1.0}])
    model.script[0][tokenizer.convert_tokens_to_ids(["b", "c"])] = -float("inf")
    with Ensemble.from_models([(model, tokenizer)], names=["sure"]) as ensemble:
        assert ensemble.choose("Hello", ["a", "b"]).probs == (1.0, 0.0)
        with pytest.raises(NonFiniteLogitsError, match="sure gives none of the labels"):
            ensemble.choose("Hello", ["b", "c"])


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("half_of_it", lambda v: v.probs[0] / 2),
        ("no_number", lambda v: v.probs[0] * math.nan),
        ("too_few", lambda v: v.probs[0][:2]),
        ("nothing_at_all", lambda v: None),  # noqa: ARG005
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_rule_that_pools_no_distribution_is_told_so(name: str, rule: Any) -> None:
    register_fusion(name, rule)
    with (
        make(["chatml", "legacy"], fusion=name) as ensemble,
        pytest.raises(MethodError, match=f"fusion {name} gave .* for 3 labels"),
    ):
        ensemble.choose(LONG, ["yes", "no", "maybe"])


def test_a_rule_of_ones_own_sees_the_labels_as_units() -> None:
    seen: list[list[bytes]] = []

    def boldest(views: Views) -> torch.Tensor:
        seen.append([views.union.unit(row) for row in range(views.union.size)])
        assert views.union.is_end(views.union.size - 1)
        best = int(views.probs.amax(-1).argmax())
        return views.probs[best]

    register_fusion("boldest_label", boldest)
    with make(["chatml", "legacy"], fusion="boldest_label") as ensemble:
        choice = ensemble.choose(LONG, ["yes", "nö"])
    assert seen == [[b"yes", "nö".encode(), b""]]
    assert choice.prob == pytest.approx(max(max(own.probs) for own in choice.members))
