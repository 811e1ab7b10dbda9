"""Members that are servers: what is asked and answered, what goes wrong, and law 16."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gac_core import (
    ConfigError,
    Ensemble,
    EnsembleConfig,
    Grammar,
    LoadError,
    MemberError,
    ModelChangedError,
    Query,
    UnreachableError,
)
from gac_core.decoding.proof import Bounds, unknown
from gac_core.members.local import LocalScorer
from gac_core.members.remote import RemoteScorer
from gac_core.testing import (
    FakeLlamaCpp,
    FakeServer,
    FakeSGLang,
    FakeVLLM,
    Speaker,
    check_scorer,
    scripted,
    thinking_tokenizer,
    tiny_model,
    tokenizer_of,
)
from tests.cases import matrix
from tests.test_docs import ROOT, blocks

ENGINES = ("sglang", "vllm", "llamacpp")
FAMILIES = ("chatml", "legacy", "tiktoken")
CHAT = [{"role": "user", "content": "Hello"}]
PROBE = "The quick brown fox"


def fake(engine: str, family: str, seed: int = 0, **model: Any) -> FakeServer:
    """A server of a tiny model that gives all probabilities."""
    scorer = LocalScorer(tiny_model(family, seed, **model), f"{family}-{seed}")
    if engine == "sglang":
        return FakeSGLang(scorer)
    return FakeVLLM(scorer, max_logprobs=-1) if engine == "vllm" else FakeLlamaCpp(scorer)


def asking(server: FakeServer, family: str, **options: Any) -> RemoteScorer:
    tokenizer = tokenizer_of(family)
    return RemoteScorer(
        server.url,
        server.engine,
        server.engine,
        **{
            "probe": tokenizer(PROBE, add_special_tokens=False).input_ids,
            "vocab_size": server.scorer.vocab_size,
            "end_ids": [tokenizer.eos_token_id],
            "timeout": 5.0,
            **options,
        },
    )


@contextmanager
def served(engine: str, family: str = "chatml", **options: Any) -> Iterator[Any]:
    """A server, and a scorer that asks it."""
    with fake(engine, family) as server:
        scorer = asking(server, family, **options)
        yield server, scorer
        scorer.clear()


@contextmanager
def all_served(options: dict[str, Any], top_k: Any = "all", **model: Any) -> Iterator[Ensemble]:
    """An ensemble of three servers of different kinds."""
    with ExitStack() as stack:
        pairs = []
        for seed, (engine, family) in enumerate(zip(ENGINES, FAMILIES, strict=True)):
            server = stack.enter_context(fake(engine, family, seed, **model))
            pairs.append((asking(server, family, top_k=top_k), tokenizer_of(family)))
        yield stack.enter_context(Ensemble.from_models(pairs, names=FAMILIES, **options))


def all_local(options: dict[str, Any], **model: Any) -> Ensemble:
    """The same ensemble without servers."""
    pairs = [
        (tiny_model(family, seed, **model), tokenizer_of(family))
        for seed, family in enumerate(FAMILIES)
    ]
    return Ensemble.from_models(pairs, names=FAMILIES, **options)


def some_prompts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    words = "Hello world the cat sat on code def été 12 Paris is my  two .".split(" ")
    return [" ".join(["a", *rng.choices(words, k=rng.randint(0, 5))]) for _ in range(count)]


# ------------------------------------------------ what is asked and answered


@pytest.mark.parametrize("engine", ENGINES)
def test_logits_are_those_of_the_model(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gac_core.members.remote._MOST_VALUES", 64 * 423)
    ids = list(range(5, 90))
    queries = [Query(ids[:3], 3), Query(ids, 70), Query(ids[:1]), Query(ids[5:40], 2)]
    with served(engine) as (server, scorer):
        before = len(server.calls)
        got = scorer.score(queries, list("abcd"))
        assert len(server.calls) - before == 2  # 76 positions, 64 a call of 423 values each
        for query, one, want in zip(queries, got, server.scorer.score(queries), strict=True):
            assert one.known is None
            assert one.logits.shape == (query.last, scorer.vocab_size)
            expected = want.logits.log_softmax(-1).float()
            torch.testing.assert_close(one.logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_not_known_is_spread_and_marked(engine: str) -> None:
    with served(engine, top_k=7) as (server, scorer):
        query = Query([5, 6, 7, 8], 2)
        (got,) = scorer.score([query])
        assert got.known.sum(-1).tolist() == [7, 7]
        probs = got.logits.double().exp()
        torch.testing.assert_close(probs.sum(-1), torch.ones(2, dtype=torch.float64))
        (want,) = server.scorer.score([query])
        for row, true in zip(range(2), want.logits.log_softmax(-1), strict=True):
            known = got.known[row]
            assert known.nonzero().flatten().tolist() == sorted(true.topk(7).indices.tolist())
            torch.testing.assert_close(got.logits[row][known], true[known].float())
            assert len(got.logits[row][~known].unique()) == 1
        asks = scorer.stats.second_asks
        (whole,) = scorer.score([Query(query.ids, 2, whole=True)])
        assert (whole.known, scorer.stats.second_asks) == (None, asks + 1)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_servers_keep_the_laws_of_scorers(engine: str) -> None:
    with served(engine) as (_, scorer):
        check_scorer(scorer, tokenizer_of("chatml"), tolerance=1e-5)


def test_sglang_may_answer_in_lists() -> None:
    with FakeSGLang(LocalScorer(tiny_model("chatml"), "tiny"), binary=False) as server:
        scorer = asking(server, "chatml")
        query = Query([5, 6, 7], 2)
        (got,) = scorer.score([query])
        (want,) = server.scorer.score([query])
        expected = want.logits.log_softmax(-1).float()
        torch.testing.assert_close(got.logits, expected, rtol=0, atol=1e-5)
        scorer.clear()


def test_llamacpp_answers_where_the_likeliest_token_is_half_a_character() -> None:
    scorer = LocalScorer(tiny_model("chatml"), "tiny")
    whole = tokenizer_of("chatml")(PROBE).input_ids[-1]
    partial = set(range(scorer.vocab_size)) - {whole}
    with FakeLlamaCpp(scorer, partial_ids=sorted(partial)) as server:
        remote = asking(server, "chatml")
        (got,) = remote.score([Query([5, 6, 7])])
        assert got.known is None
        remote.clear()


# ------------------------------------------------ law 16


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"method": "every_step"}, {"method": "cascade", "threshold": 0.4}],
    ids=["every_step", "cascade"],
)
def test_law_16_the_likeliest_tokens_decide_as_all_do(options: dict[str, Any]) -> None:
    """Over 200 prompts, of flat and of peaked models, with few and with many tokens."""
    options = {**options, "space": "tokens"}
    prompts = some_prompts(50)
    for spread, top_k in ((0.25, 40), (0.6, 5), (0.6, 40), (1.0, 20)):
        with all_local(options, spread=spread) as ensemble:
            want = ensemble.batch(prompts, max_new_tokens=8)
        with all_served(options, top_k, spread=spread) as ensemble:
            got = ensemble.batch(prompts, max_new_tokens=8)
            stats = [member.scorer.stats for member in ensemble.members]
        for mine, its in zip(got, want, strict=True):
            assert (mine.text, mine.usage) == (its.text, its.usage)
            for a, b in zip(mine.steps, its.steps, strict=True):
                assert (a.unit, a.decided_by) == (b.unit, b.decided_by)
        second = [one.second_asks / (one.queries - one.second_asks) for one in stats]
        assert all(0 < share <= 1 for share in second)
        if spread == 1.0:  # most steps are decided by what is known
            assert max(second) < 0.5


@matrix(
    options=[
        {"method": "every_step", "space": "tokens"},
        {"method": "cascade", "threshold": 0.4, "space": "tokens"},
        {"method": "safe", "space": "tokens"},
        {"method": "every_step", "space": "scored"},
        {"method": "every_step", "space": "bytes"},
        {"method": "unite"},
        {"method": "packllm"},
        {"method": "every_step", "draft": "ngrams"},
    ],
    temperature=[0.0, 1.0],
)
def test_law_16_all_tokens_are_whole_distributions(
    options: dict[str, Any], temperature: float
) -> None:
    """With any method, rule, space and sampling."""
    sampling: dict[str, Any] = {"max_new_tokens": 8, "temperature": temperature, "seed": 5}
    prompts: list[Any] = [*some_prompts(3), CHAT]
    with all_local(options, spread=0.6) as ensemble:
        want = ensemble.batch(prompts, **sampling)
    with all_served(options, spread=0.6) as ensemble:
        got = ensemble.batch(prompts, **sampling)
    assert [output.text for output in got] == [output.text for output in want]


def test_a_chat_begins_as_with_whole_distributions() -> None:
    """Members of which only some write a space before an answer."""
    options = {"method": "every_step", "space": "tokens"}
    with all_local(options, spread=1.0) as ensemble:
        want = ensemble.generate(CHAT, max_new_tokens=6)
    with all_served(options, 20, spread=1.0) as ensemble:
        assert ensemble.generate(CHAT, max_new_tokens=6).text == want.text


def test_one_member_that_gives_few_tokens_is_itself() -> None:
    with all_local({}) as three:
        model = three.members[0].scorer
        assert isinstance(model, LocalScorer)
        with Ensemble.from_models([(model.model, tokenizer_of("chatml"))]) as alone:
            want = [alone.generate(prompt, max_new_tokens=8).text for prompt in some_prompts(5)]
    with served("sglang", top_k=4) as (_, scorer):
        pairs = [(scorer, tokenizer_of("chatml"))]
        with Ensemble.from_models(pairs) as remote:
            got = [remote.generate(prompt, max_new_tokens=8).text for prompt in some_prompts(5)]
    assert got == want


@contextmanager
def half_scripted(
    first: list[dict[str, float]], second: list[dict[str, float]], top_k: Any, **options: Any
) -> Iterator[Ensemble]:
    """Two scripted members after "Hello", the first of which is a server."""
    a, b = scripted("chatml", 1, first), scripted("byte_level", 1, second)
    with FakeSGLang(LocalScorer(a[0], "a")) as server:
        there = asking(server, "chatml", top_k=top_k)
        pairs: list[Any] = [(there, a[1]), b]
        with Ensemble.from_models(pairs, names=["a", "b"], space="tokens", **options) as ensemble:
            yield ensemble


def test_a_member_may_be_sure_of_a_control_token() -> None:
    """Which it can not write; of the rest it gave nothing."""
    first = [{"<|im_start|>": 1.0}, {"<|im_start|>": 1.0}]
    second = [{"H": 1.0}, {"<|endoftext|>": 1.0}]
    for top_k in (1, "all"):
        with half_scripted(first, second, top_k) as ensemble:
            assert ensemble.generate("Hello").text == "H"


@pytest.mark.parametrize("masked", [0.05, 0.2])
def test_whether_a_gate_opens_may_depend_on_what_is_not_known(masked: float) -> None:
    """Control tokens take no part: without them, "a" may have more than the threshold."""
    rest = {"<|im_start|>": masked, "<|endoftext|>": masked, "c": 0.2 - masked, "d": 0.2 - masked}
    first = [{"a": 0.35, "b": 0.25, **rest}, {"<|im_end|>": 1.0}]
    second = [{"b": 1.0}, {"<|endoftext|>": 1.0}]
    options = {"method": "cascade", "threshold": 0.45}
    for top_k in (2, "all"):
        with half_scripted(first, second, top_k, **options) as ensemble:
            assert ensemble.generate("Hello").text == ("a" if masked == 0.2 else "b")
            asked = ensemble.members[0].scorer.stats.second_asks
    assert asked == 0


def test_a_history_depends_on_what_its_member_would_have_written() -> None:
    """What a member chose itself stays as it is, and what others chose is encoded anew."""
    first = [
        {"<|im_start|>": 0.5, "H": 0.3, "x": 0.2},
        {"<|im_start|>": 0.5, "e": 0.3, "x": 0.2},
        {"<|im_end|>": 1.0},
    ]
    second = [{"H": 1.0}, {"e": 1.0}, {"<|endoftext|>": 1.0}]
    used = []
    for top_k in (1, "all"):
        with half_scripted(first, second, top_k, weights=[0.2, 0.8]) as ensemble:
            output = ensemble.generate("Hello", max_new_tokens=2)
            assert output.text == "He"
            used.append(output.usage.members)
    assert used[0] == used[1]
    assert used[0][0].completion_tokens == 2  # not one, "He"


def test_thoughts_and_decisions_ask_for_all_they_need() -> None:
    """Whether members think is asked of all their tokens, and so is what labels are worth."""
    tokenizer = thinking_tokenizer("hybrid")
    begin = "<|im_start|>assistant\n"
    texts = ("<think>\nHm\n</think>\n\nYes", "<think>\n\n</think>\n\nYes")
    probe = tokenizer(f"{begin}<think>\nHm", add_special_tokens=False).input_ids
    speaker = Speaker(tokenizer, *texts, sureness=0.6)
    with Ensemble.from_models([(speaker, tokenizer)]) as ensemble:
        want = ensemble.generate(CHAT, max_new_tokens=20)
        decided = ensemble.choose(CHAT, ["Yes", "No"]).probs
    assert (want.thought, want.text) == ("Hm", "Yes")
    with FakeSGLang(speaker) as server:
        scorer = asking(server, "chatml", probe=probe, top_k=2, end_ids=[tokenizer.eos_token_id])
        with Ensemble.from_models([(scorer, tokenizer)]) as ensemble:
            got = ensemble.generate(CHAT, max_new_tokens=20)
            assert (got.thought, got.text) == (want.thought, want.text)
            assert scorer.stats.second_asks < len(got.steps)
            assert ensemble.choose(CHAT, ["Yes", "No"]).probs == pytest.approx(decided, abs=1e-5)


def test_bounds_hold_and_prove_what_is_so() -> None:
    """Against the whole distributions, some rows of which are masked."""
    rng = torch.Generator().manual_seed(0)
    proven = 0
    for _ in range(300):
        logits = torch.randn(12, generator=rng) * 3
        masked = torch.rand(12, generator=rng) < 0.3
        masked[0] = False
        logprobs = logits.log_softmax(-1)
        known = torch.zeros(12, dtype=torch.bool)
        known[logprobs.topk(4).indices] = True
        most, rest = unknown(logprobs, known)
        low = most.masked_fill(~known | masked, -torch.inf).exp()
        bounds = Bounds.of(low, most.masked_fill(masked, -torch.inf).exp(), rest)
        true = logits.masked_fill(masked, -torch.inf).softmax(-1).double()
        assert bool((bounds.low <= true + 1e-6).all())
        assert bool((true <= bounds.high + 1e-6).all())
        best = int(true.argmax())
        proven += bounds.proves(best)
        for row in range(12):
            assert not bounds.proves(row) or row == best
            assert not bounds.refutes(row) or row != best
        for threshold in (0.3, 0.6, 0.9):
            if bounds.tells(threshold):
                least = float(bounds.low.max()) > threshold
                assert least == (float(true.max()) > threshold)
    assert 100 < proven < 300


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"method": "safe", "space": "tokens"}, "method safe needs all probabilities of chatml"),
        ({"method": "twist"}, "method twist needs all"),
        ({"space": "scored"}, "space scored needs all"),
        ({"space": "bytes"}, "space bytes needs all"),
        ({"space": "tokens", "fusion": "geometric"}, "fusion geometric needs all"),
        ({"space": "tokens", "weighting": "entropy"}, "weighting entropy needs all"),
        ({"space": "tokens", "draft": "ngrams"}, "draft needs all"),
    ],
)
def test_what_few_tokens_can_not_prove_is_refused(options: dict[str, Any], complaint: str) -> None:
    with (
        pytest.raises(ConfigError, match=f"{complaint}.*set top_k_logprobs: all"),
        all_served(options, 20),
    ):
        pass


def test_sampling_that_few_tokens_do_not_allow_is_refused() -> None:
    with all_served({"space": "tokens"}, 20) as ensemble:
        for sampling, complaint in (
            ({"temperature": 0.5}, "temperature above 0 needs all"),
            ({"grammar": Grammar.choice(["a", "b"])}, "a grammar needs all"),
            ({"logprobs": True}, "logprobs=True needs all"),
        ):
            with pytest.raises(ConfigError, match=complaint):
                ensemble.generate("Hello", **sampling)


def test_a_penalty_on_logits_is_refused() -> None:
    with (
        all_served({}) as ensemble,
        pytest.raises(ConfigError, match="repetition_penalty is defined on logits, and chatml is"),
    ):
        ensemble.generate("Hello", repetition_penalty=1.2)


# ------------------------------------------------ members here and there


@pytest.mark.parametrize("engine", ENGINES)
def test_members_here_and_there_answer_together(engine: str) -> None:
    here, there = ("legacy", 1), ("chatml", 0)
    pairs: list[Any] = [(tiny_model(*one), tokenizer_of(one[0])) for one in (there, here)]
    with Ensemble.from_models(pairs, names=["there", "here"]) as ensemble:
        want = ensemble.batch(["Hello", CHAT], max_new_tokens=10)
    with served(engine) as (_, scorer):
        pairs[0] = (scorer, tokenizer_of("chatml"))
        with Ensemble.from_models(pairs, names=["there", "here"]) as ensemble:
            got = ensemble.batch(["Hello", CHAT], max_new_tokens=10)
    assert [output.text for output in got] == [output.text for output in want]


def test_servers_compute_at_the_same_time() -> None:
    """Each answer waits for that of the other server."""
    meet = threading.Barrier(2)

    def together(answer: Any) -> Any:
        meet.wait(timeout=20)
        return answer

    with fake("sglang", "chatml") as one, fake("vllm", "legacy") as other:
        pairs = [
            (asking(one, "chatml"), tokenizer_of("chatml")),
            (asking(other, "legacy"), tokenizer_of("legacy")),
        ]
        with Ensemble.from_models(pairs, space="tokens") as ensemble:
            one.spoil = other.spoil = together
            assert len(ensemble.generate("Hello", max_new_tokens=3).steps) == 3
            one.spoil = other.spoil = None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a member's `model` has to name: a tokenizer, and what the model says of itself."""
    tokenizer_of("chatml").save_pretrained(tmp_path)
    tiny_model("chatml").config.save_pretrained(tmp_path)
    own = {"temperature": 0.5, "do_sample": True, "eos_token_id": [0, 1]}
    (tmp_path / "generation_config.json").write_text(json.dumps(own))
    return tmp_path


@pytest.mark.parametrize("engine", ENGINES)
def test_a_configuration_names_a_server(folder: Path, engine: str) -> None:
    with fake(engine, "chatml") as server:
        member = {"model": str(folder), "url": server.url + "/", "engine": engine}
        config = EnsembleConfig.of({"members": [member], "sampling": "model"})
        assert EnsembleConfig.of(config.model_dump()) == config
        with Ensemble.from_config(config, progress=False) as ensemble:
            scorer = ensemble.members[0].scorer
            assert isinstance(scorer, RemoteScorer)
            assert (scorer.vocab_size, scorer.context_size) == (server.scorer.vocab_size, 510)
            assert scorer.end_ids == {0, 1}
            assert ensemble.runtime.sampling["temperature"] == 0.5
            assert len(ensemble.generate("Hello", max_new_tokens=500, stop="é").text) > 0


def test_a_key_comes_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake("vllm", "chatml") as server:
        server.api_key = "secret"
        member = {"model": str(folder), "url": server.url, "engine": "vllm"}
        with pytest.raises(MemberError, match="401"):
            Ensemble.from_config({"members": [member]}, progress=False)
        member["api_key_env"] = "GAC_TEST_KEY"
        with pytest.raises(LoadError, match=r"variable GAC_TEST_KEY, which .* is not set"):
            Ensemble.from_config({"members": [member]}, progress=False)
        monkeypatch.setenv("GAC_TEST_KEY", "secret")
        with Ensemble.from_config({"members": [member]}, progress=False) as ensemble:
            assert len(ensemble.generate("Hello", max_new_tokens=2).steps) == 2


# ------------------------------------------------ what goes wrong


@pytest.mark.parametrize("engine", ENGINES)
def test_what_passes_is_tried_again(engine: str) -> None:
    with served(engine) as (server, scorer):
        (want,) = scorer.score([Query([5, 6])])
        for trouble in ({"drops": 3}, {"failures": 3}, {"failures": 5, "status": 503}):
            vars(server).update(trouble)
            (got,) = scorer.score([Query([5, 6])])
            torch.testing.assert_close(got.logits, want.logits)
            assert (server.drops, server.failures) == (0, 0)


@pytest.mark.parametrize(
    ("status", "kind", "tries"),
    [(500, MemberError, 4), (400, MemberError, 1), (404, MemberError, 1)],
)
def test_what_does_not_pass_is_an_error_at_once(status: int, kind: type, tries: int) -> None:
    with served("vllm") as (server, scorer):
        server.status, server.failures = status, 100
        before = len(server.calls)
        with pytest.raises(kind, match=rf"vllm at {server.url}/v1/completions refused.*{status}"):
            scorer.score([Query([5, 6])])
        assert len(server.calls) - before == tries


def test_a_slow_server_is_waited_for_until_the_timeout() -> None:
    with served("sglang", timeout=0.5) as (server, scorer):
        server.delay = 3.0
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=r"did not answer within 0.5 s .*raise timeout"):
            scorer.score([Query([5, 6])])
        assert time.monotonic() - began < 2.5
        server.delay = 0.0
        assert scorer.score([Query([5, 6])])[0].known is None


def test_a_server_that_is_away_fails_all_requests_at_once_and_may_come_back() -> None:
    with fake("sglang", "chatml") as server:
        pairs = [(asking(server, "chatml", timeout=0.6), tokenizer_of("chatml"))]
        with Ensemble.from_models(pairs) as ensemble:
            want = ensemble.generate("Hello", max_new_tokens=3).text
            server.stop()
            began = time.monotonic()
            streams = [ensemble.stream("Hello", max_new_tokens=3) for _ in range(8)]
            for stream in streams:
                with pytest.raises(UnreachableError, match="sglang at http"):
                    list(stream)
            assert time.monotonic() - began < 8 * 0.6
            server.start()
            assert ensemble.generate("Hello", max_new_tokens=3).text == want


def test_a_server_that_is_not_there_is_said_at_loading(folder: Path) -> None:
    member = {"model": str(folder), "url": "http://127.0.0.1:9", "engine": "vllm", "timeout": 0.3}
    with pytest.raises(UnreachableError, match=r"at http://127.0.0.1:9/v1/models did not answer"):
        Ensemble.from_config({"members": [member]}, progress=False)
    member["model"] = str(folder / "config.json")
    with pytest.raises(LoadError, match="could not be loaded"):
        Ensemble.from_config({"members": [member]}, progress=False)


@pytest.mark.parametrize("engine", ENGINES)
def test_another_model_is_found_after_a_new_connection(engine: str) -> None:
    with served(engine) as (server, scorer):
        own = server.scorer
        scorer.score([Query([5, 6])])
        server.scorer = LocalScorer(tiny_model("chatml", 7), own.name)
        server.stop()
        server.start()
        for _ in range(2):  # it does not get used to it
            with pytest.raises(ModelChangedError, match=r"runs another model than when it was"):
                scorer.score([Query([5, 6])])
        server.scorer = own
        scorer.score([Query([5, 6])])


def test_another_model_is_found_after_some_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gac_core.members.remote._EVERY", 10)
    with served("sglang") as (server, scorer):
        before = len(server.calls)
        for _ in range(22):
            scorer.score([Query([5, 6])])
        assert len(server.calls) - before == 24  # two fingerprints
        server.scorer = LocalScorer(tiny_model("chatml", 7), "tiny")
        for _ in range(8):
            scorer.score([Query([5, 6])])
        with pytest.raises(ModelChangedError):
            [scorer.score([Query([5, 6])]) for _ in range(3)]


def nothing(answer: Any) -> Any:
    return {}


def null(answer: Any) -> Any:
    return None


def text(answer: Any) -> Any:
    return "Hello"


def cut(answer: Any) -> Any:
    """Fewer answers than questions."""
    return {**answer, "choices": answer["choices"][:-1]} if "choices" in answer else answer[:-1]


@matrix(engine=ENGINES, spoil=[nothing, null, text, cut])
def test_answers_of_another_shape_are_said(engine: str, spoil: Callable[[Any], Any]) -> None:
    with served(engine) as (server, scorer):
        server.spoil = spoil
        with pytest.raises(MemberError, match=f"does not answer as {engine} does .*check engine"):
            scorer.score([Query([5, 6]), Query([7])])
        server.spoil = None
        assert len(scorer.score([Query([5, 6]), Query([7])])) == 2


@pytest.mark.parametrize(("engine", "there"), [("sglang", "vllm"), ("vllm", "sglang")])
def test_another_engine_is_said(engine: str, there: str) -> None:
    with fake(there, "chatml") as server:
        server.engine = engine  # type: ignore[misc]
        with pytest.raises(MemberError, match=r"404.*check that engine is what runs there"):
            asking(server, "chatml")


def test_answers_that_are_no_probabilities_are_said() -> None:
    def louder(answer: Any) -> Any:
        for choice in answer["choices"]:
            (top,) = choice["logprobs"]["top_logprobs"]
            for key in top:
                top[key] *= 0.5
        return answer

    with served("vllm") as (server, scorer):
        server.spoil = louder
        with pytest.raises(MemberError, match=r"probabilities of mass .*before temperature"):
            scorer.score([Query([5, 6])])


def test_ids_that_come_twice_are_said() -> None:
    def twice(answer: Any) -> Any:
        for written in answer["completion_probabilities"]:
            written["top_logprobs"][-1]["id"] = written["top_logprobs"][-2]["id"]
        return answer

    with served("llamacpp") as (server, scorer):
        server.spoil = twice
        with pytest.raises(MemberError, match="gave some ids twice"):
            scorer.score([Query([5, 6])])


def test_what_a_server_adds_is_no_bound() -> None:
    """vLLM adds the id that it wrote, if that is none of the likeliest."""

    def added(answer: Any) -> Any:
        for choice in answer["choices"]:
            choice["logprobs"]["top_logprobs"][0]["token_id:400"] = -30.0
        return answer

    with served("vllm", top_k=7) as (server, scorer):
        (want,) = scorer.score([Query([5, 6])])
        assert not want.known[0, 400]
        server.spoil = added
        (got,) = scorer.score([Query([5, 6])])
        assert torch.equal(got.known, want.known)
        assert torch.equal(got.logits, want.logits)


def test_vllm_must_be_allowed_to_give_all() -> None:
    scorer = LocalScorer(tiny_model("chatml"), "tiny")
    with FakeVLLM(scorer) as server:
        for top_k in ("all", 20):  # a step that 20 do not decide needs all
            remote = "Requested sample logprobs of 423, which is greater than max allowed: 20"
            with pytest.raises(MemberError, match=remote):
                asking(server, "chatml", top_k=top_k).score([Query([5])])


def test_a_tokenizer_of_another_model_is_said() -> None:
    with fake("sglang", "chatml") as server:
        rows = server.scorer.vocab_size
        with pytest.raises(MemberError, match=r"gave an id of \d+, but the tokenizer's model has"):
            asking(server, "chatml", vocab_size=rows - 100).score([Query([5])])
    with (
        fake("vllm", "chatml") as server,
        pytest.raises(MemberError, match=r"400 .*greater than max allowed"),
    ):
        asking(server, "chatml", vocab_size=rows + 100).score([Query([5])])


def test_llamacpp_that_speculates_is_refused() -> None:
    scorer = LocalScorer(tiny_model("chatml"), "tiny")
    with FakeLlamaCpp(scorer, speculates=True) as server:
        with pytest.raises(MemberError, match=r"speculates.*--spec-type none"):
            asking(server, "chatml")
        server.speculates = False
        asking(server, "chatml").clear()


def test_llamacpp_that_hides_its_slots_is_refused() -> None:
    scorer = LocalScorer(tiny_model("chatml"), "tiny")
    with (
        FakeLlamaCpp(scorer, shows_slots=False) as server,
        pytest.raises(MemberError, match=r"start it without --no-slots .*501"),
    ):
        asking(server, "chatml")


@pytest.mark.slow
def test_the_page_of_servers_says_what_works(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs/scaling.md"
    for code in blocks(page, "python"):
        exec(code, {})
    assert capsys.readouterr().out == "77 - 49 = 28\n"
    for text in blocks(page, "yaml"):
        EnsembleConfig.of(yaml.safe_load(text))


def test_hidden_states_are_refused() -> None:
    with served("sglang") as (_, scorer), pytest.raises(MemberError, match="no hidden states"):
        scorer.score([Query([5], hidden=True)])


def test_a_prompt_that_does_not_fit_is_refused_before_it_is_sent() -> None:
    with served("llamacpp") as (server, scorer):
        ids: Sequence[int] = [5] * scorer.context_size
        assert len(scorer.score([Query(ids, 2)])[0].logits) == 2
        server.context_size = 100
        with pytest.raises(MemberError, match="exceed the context of 100"):
            scorer.score([Query(ids)])
