"""The engine under load, cancellation, failure and abuse."""

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from gac_core import (
    ConfigError,
    ContextOverflowError,
    EngineClosedError,
    Ensemble,
    MemberError,
    NonFiniteLogitsError,
    PromptError,
    SamplingParams,
)
from gac_core.chat.messages import Message
from gac_core.members.local import LocalScorer
from gac_core.testing import assert_same
from tests.fakes import (
    assert_rests,
    forwards_of,
    make,
    model_of,
    pair,
    scripted,
    tiny_model,
    tokenizer_of,
)

# As with a GPU per member: each lives in a place of its own.
OWN_PLACE = property(lambda scorer: scorer.name, lambda _scorer, _place: None)
CHAT: list[Message] = [{"role": "user", "content": "Hello"}]
LONG: dict[str, Any] = {"max_new_tokens": 400}


# ---------------------------------------------------------------- its end


def test_closing_frees_the_models() -> None:
    ensemble = Ensemble.from_models([pair("chatml")])
    ensemble.generate("Hello", max_new_tokens=1)
    scorer = weakref.ref(ensemble.members[0].scorer)
    ensemble.close()
    gc.collect()
    assert scorer() is None


def test_an_ensemble_may_be_collected_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector runs anywhere; it must not wait for the thread it runs in."""
    monkeypatch.setattr(LocalScorer, "place", OWN_PLACE, raising=False)
    ensemble = make(["byte_level", "legacy"])
    ensemble.generate("Hello", max_new_tokens=2)
    model = model_of(ensemble.members[1])
    forward = model.forward

    def collecting(*args: Any, **kwargs: Any) -> Any:
        gc.collect()
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", collecting)
    mail: list[Any] = []
    done = threading.Event()
    runtime = ensemble.runtime
    request = runtime.request("Hello", SamplingParams(seed=0))
    runtime.engine.submit(runtime.method, request, mail.append, lambda _error: done.set())
    cycle: list[Any] = [ensemble]
    cycle.append(cycle)
    del ensemble, cycle, runtime
    assert done.wait(20)


async def test_async_context_manager() -> None:
    async with make(["byte_level"]) as ensemble:
        assert (await ensemble.agenerate("Hello", max_new_tokens=1)).usage.steps == 1
    with pytest.raises(EngineClosedError):
        ensemble.generate("Hello")


@pytest.mark.slow
def test_leaving_the_interpreter_in_the_middle_of_an_answer_is_quiet() -> None:
    code = (
        "from gac_core.members.local import LocalScorer\n"
        "from tests.fakes import make\n"
        "LocalScorer.place = property(lambda scorer: scorer.name, lambda *_: None)\n"
        "s = make(['byte_level', 'legacy']).stream('Hello', max_new_tokens=400)\n"
        "next(s)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


# ---------------------------------------------------------------- many at once


def test_requests_share_forward_passes(ensemble: Ensemble) -> None:
    one = ensemble.generate("Hello", max_new_tokens=20)
    alone = forwards_of(ensemble)
    outputs = ensemble.batch(["Hello"] * 16, max_new_tokens=20)
    together = forwards_of(ensemble) - alone
    assert together < 3 * alone
    for output in outputs:
        assert [s.unit for s in output.steps] == [s.unit for s in one.steps]


@pytest.mark.slow
async def test_fifty_tasks_and_two_threads(ensemble: Ensemble) -> None:
    prompts = [f"{n} Hello" for n in range(50)]
    expected = [ensemble.generate(p, max_new_tokens=8) for p in prompts]
    found: dict[int, Any] = {}

    def work(half: int) -> None:
        for n in range(half, 20, 2):
            found[n] = ensemble.generate(prompts[n], max_new_tokens=8)

    threads = [threading.Thread(target=work, args=(half,)) for half in (0, 1)]
    for thread in threads:
        thread.start()
    outputs = await asyncio.gather(*(ensemble.agenerate(p, max_new_tokens=8) for p in prompts))
    for thread in threads:
        await asyncio.to_thread(thread.join)
    for n, (output, want) in enumerate(zip(outputs, expected, strict=True)):
        assert_same(output, want)
        if n in found:
            assert found[n].text == want.text
    assert_rests(ensemble)


async def test_async_twins_give_the_same(ensemble: Ensemble) -> None:
    sampling: dict[str, Any] = {"max_new_tokens": 10, "temperature": 1.0, "seed": 4}
    expected = ensemble.generate(CHAT, **sampling)
    assert await ensemble.agenerate(CHAT, **sampling) == expected
    steps = [step async for step in ensemble.astream(CHAT, **sampling)]
    assert tuple(steps) == expected.steps == tuple(ensemble.stream(CHAT, **sampling))
    for output in [*await ensemble.abatch([CHAT] * 2, **sampling),
                   *ensemble.batch([CHAT] * 2, **sampling)]:  # fmt: skip
        assert_same(output, expected)
    assert await ensemble.abatch([]) == ensemble.batch([]) == []


def test_the_loop_is_not_held_up(ensemble: Ensemble) -> None:
    async def ticks_while_generating() -> int:
        task = asyncio.create_task(ensemble.agenerate("Hello", max_new_tokens=20))
        ticks = 0
        while not task.done():
            await asyncio.sleep(0)
            ticks += 1
        await task
        return ticks

    assert asyncio.run(ticks_while_generating()) > 20


def test_more_requests_than_places_wait_their_turn() -> None:
    with make(["byte_level"], max_batch=2) as ensemble:
        streams = [ensemble.stream(f"{n}", max_new_tokens=5) for n in range(7)]
        streams[4].close()  # while it waits
        finished = [list(s) for n, s in enumerate(streams) if n != 4]
        assert all(steps[-1].outcome for steps in finished)
        assert list(streams[4]) == []


def test_devices_of_their_own_have_threads_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a GPU per member: workers compute at the same time, results are the same."""
    with make(["byte_level", "legacy", "chatml"]) as ensemble:
        expected = ensemble.batch(["Hello", "a", "b c"], max_new_tokens=12)
    monkeypatch.setattr(LocalScorer, "place", OWN_PLACE, raising=False)
    with make(["byte_level", "legacy", "chatml"]) as ensemble:
        assert len(ensemble.runtime.engine._workers) == 3
        for got, want in zip(
            ensemble.batch(["Hello", "a", "b c"], max_new_tokens=12), expected, strict=True
        ):
            assert_same(got, want)
        with ensemble.stream("Hello", **LONG) as stream:
            next(stream)
        assert_rests(ensemble)


# ---------------------------------------------------------------- failures


def test_nan_logits_fail_their_request_only() -> None:
    model, tokenizer = scripted("byte_level", 1, [{".": 1.0}, {".": 1.0}])
    model.script[1] = torch.full((len(tokenizer),), float("nan"))
    good = pair("chatml")
    with Ensemble.from_models([(model, tokenizer), good], names=["bad", "good"]) as ensemble:
        neighbour = ensemble.stream("Hello Hello Hello", max_new_tokens=20)
        with pytest.raises(NonFiniteLogitsError, match=r"bad gave logits that are NaN.*step 1"):
            ensemble.generate("Hello", max_new_tokens=5)
        assert len(list(neighbour)) == 20
        assert_rests(ensemble)


@pytest.mark.parametrize("bad", [float("inf"), -float("inf")])
def test_infinite_logits_fail(bad: float) -> None:
    model, tokenizer = scripted("byte_level", 1, [])
    model.script[0] = torch.full((len(tokenizer),), bad)
    with (
        Ensemble.from_models([(model, tokenizer)]) as ensemble,
        pytest.raises(NonFiniteLogitsError),
    ):
        ensemble.generate("Hello")


def test_a_crashing_forward_is_a_typed_error_and_the_engine_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with make(["byte_level", "legacy"]) as ensemble:
        model = model_of(ensemble.members[1])
        forward = model.forward

        def crash(*args: Any, **kwargs: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(model, "forward", crash)
        with pytest.raises(MemberError, match="legacy-1 failed: CUDA out of memory"):
            ensemble.generate("Hello")
        monkeypatch.setattr(model, "forward", forward)
        assert ensemble.generate("Hello", max_new_tokens=3).usage.steps == 3
        assert_rests(ensemble)


def test_one_bad_request_does_not_take_its_neighbours_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with make(["byte_level", "legacy"]) as ensemble:
        scorer = ensemble.members[0].scorer
        score = type(scorer).score
        poison = ensemble.prompt_ids("poison")[0]

        def fragile(self: Any, queries: Any, keys: Any = None) -> Any:
            if self is scorer and any(list(q.ids[: len(poison)]) == poison for q in queries):
                raise MemberError("poisoned")
            return score(self, queries, keys)

        monkeypatch.setattr(type(scorer), "score", fragile)
        streams = [ensemble.stream(p, max_new_tokens=6) for p in ("Hello", "poison", "The")]
        assert len(list(streams[0])) == 6
        with pytest.raises(MemberError, match="poisoned"):
            list(streams[1])
        assert len(list(streams[2])) == 6


def test_closing_fails_what_is_under_way() -> None:
    ensemble = make(["byte_level", "legacy"])
    stream = ensemble.stream("Hello", **LONG)
    next(stream)
    ensemble.close()
    with pytest.raises(EngineClosedError):
        list(stream)
    with pytest.raises(EngineClosedError, match="load it again"):
        ensemble.generate("Hello")
    ensemble.close()  # twice is fine


def test_a_forgotten_ensemble_ends_its_thread() -> None:
    before = threading.active_count()
    ensemble = make(["byte_level"])
    ensemble.generate("Hello", max_new_tokens=2)
    assert threading.active_count() == before + 1
    del ensemble
    gc.collect()
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_inference_mode_does_not_leak(ensemble: Ensemble) -> None:
    stream = ensemble.stream("Hello", max_new_tokens=5)
    next(stream)
    assert not torch.is_inference_mode_enabled()
    list(stream)
    assert not torch.is_inference_mode_enabled()


# ---------------------------------------------------------------- abuse


def test_empty_prompts(ensemble: Ensemble) -> None:
    with pytest.raises(PromptError, match="no token for byte_level-0"):
        ensemble.generate("")
    with make(["legacy"]) as with_bos:
        assert with_bos.generate("", max_new_tokens=2).usage.prompt_tokens == 1
    assert ensemble.batch([]) == []
    with pytest.raises(PromptError, match="empty"):
        ensemble.generate([])
    empty: list[Message] = [{"role": "user", "content": ""}]
    assert ensemble.generate(empty, max_new_tokens=2).usage.steps == 2


def test_a_prompt_beyond_the_context_is_refused_before_any_forward(ensemble: Ensemble) -> None:
    with pytest.raises(ContextOverflowError, match=r"has \d+ tokens for byte_level-0.*holds 512"):
        ensemble.generate("x" * 100_000)
    with pytest.raises(ContextOverflowError, match="lower max_new_tokens"):
        ensemble.generate("Hello", max_new_tokens=512)
    assert forwards_of(ensemble) == 0
    assert ensemble.generate("Hello", max_new_tokens=3).usage.steps == 3


def test_a_length_not_asked_for_gives_way_to_the_context() -> None:
    model, tokenizer = tiny_model("byte_level", context=40), tokenizer_of("byte_level")
    with Ensemble.from_models([(model, tokenizer)]) as ensemble:
        output = ensemble.generate("Hello Hello Hello")
        assert output.finish_reason == "length"
        assert output.usage.total_tokens == 40
        assert len(ensemble.prompt_ids("Hello Hello Hello")[0]) == output.usage.prompt_tokens


def test_a_member_whose_context_fills_up_ends_the_answer() -> None:
    """Units that cost a member several tokens can fill its context before the others'."""
    small, tokenizer = tiny_model("legacy", 1, context=24), tokenizer_of("legacy")
    with Ensemble.from_models(
        [pair("chatml"), (small, tokenizer)], space="tokens", history="append", weights=[9, 1]
    ) as ensemble:
        output = ensemble.generate("Hello", max_new_tokens=20)
        assert output.finish_reason == "length"
        assert output.usage.steps < 20


@pytest.mark.parametrize("prompt", ["a\ud800b", [{"role": "user", "content": "\udfff"}]])
def test_lone_surrogates(ensemble: Ensemble, prompt: Any) -> None:
    with pytest.raises(PromptError, match="lone surrogate"):
        ensemble.generate(prompt)


@pytest.mark.parametrize("prompt", [None, 3, b"bytes", {"role": "user"}])
def test_prompts_of_other_types(ensemble: Ensemble, prompt: Any) -> None:
    with pytest.raises(PromptError):
        ensemble.generate(prompt)
    with pytest.raises(PromptError, match="list of prompts"):
        ensemble.batch("Hello")


def test_unknown_options_are_errors(ensemble: Ensemble) -> None:
    with pytest.raises(ConfigError, match="params must be SamplingParams, not dict"):
        ensemble.generate("Hello", {"max_new_tokens": 3})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="weights must be a list"):
        make(["byte_level"], weights=0.5)
    with pytest.raises(ConfigError, match="name: "):
        Ensemble.from_models([pair("chatml")], names=[1])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="max_tokens: unknown option"):
        ensemble.generate("Hello", max_tokens=3)
    with pytest.raises(ConfigError, match="treshold: unknown option"):
        make(["byte_level"], treshold=0.3)


def test_a_batch_with_a_bad_prompt_leaves_nothing_running(ensemble: Ensemble) -> None:
    with pytest.raises(PromptError):
        ensemble.batch(["Hello", ""], **LONG)
    with pytest.raises(PromptError):
        asyncio.run(ensemble.abatch(["Hello", ""], **LONG))
    assert_rests(ensemble)
    assert forwards_of(ensemble) < 4 * 400


def test_options_go_over_params(ensemble: Ensemble) -> None:
    params = SamplingParams(max_new_tokens=5, temperature=1.0, seed=1)
    assert ensemble.generate("Hello", params).usage.steps == 5
    assert ensemble.generate("Hello", params, max_new_tokens=2).usage.steps == 2
    assert ensemble.generate("Hello", params, max_new_tokens=2).seed == 1


def test_stop_strings_end_the_answer_and_are_reported(ensemble: Ensemble) -> None:
    whole = ensemble.generate("Hello", max_new_tokens=30).text
    stop = whole[len(whole) // 2 :][:2]
    output = ensemble.generate("Hello", max_new_tokens=30, stop=[stop])
    assert output.text == whole[: whole.index(stop)]
    assert (output.finish_reason, output.stop) == ("stop", stop)
    assert output.usage.steps < 30


def test_logprobs_name_the_best_units(ensemble: Ensemble) -> None:
    output = ensemble.generate("Hello", max_new_tokens=4, logprobs=True, top_logprobs=3)
    for step in output.steps:
        values = [logprob for _, logprob in step.top]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert step.top[0][0] == step.unit
        assert step.top[0][1] == pytest.approx(step.logprob)
    assert ensemble.generate("Hello", max_new_tokens=1).steps[0].top == ()


def test_usage_counts_each_members_own_tokens(ensemble: Ensemble) -> None:
    output = ensemble.generate(CHAT, max_new_tokens=9)
    ids = ensemble.prompt_ids(CHAT)
    assert [m.prompt_tokens for m in output.usage.members] == [len(i) for i in ids]
    assert output.usage.prompt_tokens == len(ids[0])
    assert output.usage.steps == output.usage.fused_steps == 9
    for member, usage in zip(ensemble.members, output.usage.members, strict=True):
        own = member.tokenizer.encode(b"".join(s.unit for s in output.steps))
        assert usage.completion_tokens >= len(own)


def test_repetition_penalty_is_each_members_own(ensemble: Ensemble) -> None:
    plain = ensemble.generate("Hello", max_new_tokens=40)
    spread = ensemble.generate("Hello", max_new_tokens=40, repetition_penalty=5.0)
    assert len({s.unit for s in spread.steps}) > len({s.unit for s in plain.steps})
