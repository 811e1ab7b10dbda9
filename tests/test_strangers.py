"""What a stranger would write, each in one place and from the public names, held to the laws."""

import asyncio
import math
from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from pydantic import Field
from transformers import PreTrainedModel

from gac_core import (
    BYTES,
    ConfigError,
    Ensemble,
    EnsembleConfig,
    Grammar,
    MemberError,
    MethodError,
    MethodOptions,
    Query,
    RelativePath,
    Request,
    Scored,
    Scorer,
    ScorerStats,
    Views,
    Weighting,
    register_fusion,
    register_method,
    register_weighting,
)
from gac_core.registry import FUSIONS, METHODS, WEIGHTINGS
from gac_core.testing import (
    assert_same,
    check_method,
    check_scorer,
    make_ensemble,
    naively,
    scripted,
    tiny_model,
    tokenizer_of,
)

CHAT = [{"role": "user", "content": "Hello, how are you? 🙂"}]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test registers is there for that test only."""
    with METHODS.scoped(), FUSIONS.scoped(), WEIGHTINGS.scoped():
        yield


# ---------------------------------------------------------------- a weighting


class Agreeing(Weighting):
    """A member counts the more, the more often its own choice was what it then read."""

    def start(self, prompts: Sequence[Sequence[int]]) -> Generator[Any, Any, None]:
        self.hits = [1.0] * len(prompts)
        self.guesses: dict[int, int] = {}
        yield from ()

    def see(self, member: int, ids: Sequence[int], logits: torch.Tensor) -> None:
        if self.guesses.get(member) == ids[-1]:
            self.hits[member] += 1
        self.guesses[member] = int(logits[-1].argmax())

    def weigh(self, members: Sequence[int], probs: torch.Tensor) -> torch.Tensor:
        hits = torch.tensor([self.hits[m] for m in members]).to(probs)
        return self.shares(members, probs) * hits**self.temper  # the sum is not 1


@pytest.mark.slow
def test_a_weighting_with_a_state_of_its_own() -> None:
    register_weighting("agreeing", Agreeing)
    check_method("every_step", weighting="agreeing")
    check_method("cascade", weighting="agreeing", threshold=0.4, temper=2.0)
    families = ["chatml", "legacy", "byte_level"]
    with (
        make_ensemble(families, weighting="agreeing") as plain,
        make_ensemble(families, weighting="agreeing", draft="ngrams") as drafting,
        make_ensemble(families) as fixed,
    ):
        sampling: dict[str, Any] = {"max_new_tokens": 24, "temperature": 1.0, "seed": 5}
        output = plain.generate("Hello Hello Hello", **sampling)
        assert_same(output, drafting.generate("Hello Hello Hello", **sampling))
        assert output.text != fixed.generate("Hello Hello Hello", **sampling).text


@pytest.mark.parametrize("weights", [None, torch.tensor([0.0, 0.0]), torch.tensor([1.0])])
def test_a_weighting_that_gives_no_weights_is_told_so(weights: Any) -> None:
    class Wrong(Weighting):
        def weigh(self, members: Sequence[int], probs: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = weights
            return result

    register_weighting("wrong", Wrong)
    with (
        make_ensemble(["chatml", "legacy"], weighting="wrong") as ensemble,
        pytest.raises(MethodError, match="weighting wrong gave"),
    ):
        ensemble.generate("Hello", max_new_tokens=2)


def test_a_weighting_can_not_move_that_of_other_requests() -> None:
    class Greedy(Weighting):
        def weigh(self, members: Sequence[int], probs: torch.Tensor) -> torch.Tensor:
            self.weights *= torch.tensor([2.0, 1.0])
            return self.weights.float() / self.weights.sum()

    register_weighting("greedy", Greedy)
    with make_ensemble(["chatml", "legacy"], weighting="greedy") as ensemble:
        once, again = (ensemble.generate("Hello", max_new_tokens=12) for _ in range(2))
        assert_same(once, again)


def test_what_is_no_weighting_is_told_so() -> None:
    class Silent(Weighting):
        def start(self, prompts: Any) -> Any:
            return None

    for wrong in (lambda weights: weights, dict):
        with pytest.raises(ConfigError, match="must be a subclass of Weighting"):
            register_weighting("wrong", wrong)  # type: ignore[arg-type]
    register_weighting("silent", Silent)
    with (
        make_ensemble(["chatml", "legacy"], weighting="silent") as ensemble,
        pytest.raises(MethodError, match="`start` of weighting silent must be a generator"),
    ):
        ensemble.generate("Hello", max_new_tokens=2)


def test_a_weighting_is_refused_where_it_would_see_nothing() -> None:
    register_weighting("agreeing", Agreeing)
    with pytest.raises(ConfigError, match="method safe takes weighting fixed, prompt or"):
        make_ensemble(["chatml", "legacy"], method="safe", weighting="agreeing")


@pytest.mark.parametrize("weighting", ["posterior", "agreeing"])
def test_what_a_fork_reads_moves_no_weights_of_its_parent(weighting: str) -> None:
    """A method may try out what comes next on a fork: the request itself has not read it."""
    register_weighting("agreeing", Agreeing)

    def looks_ahead(request: Request) -> Any:
        while not request.finished:
            own = request.read((yield request.ask()))
            probs = torch.stack([request.mixer.to_union(m, p) for m, p in own.items()])
            before = request.mixer.weights_of(tuple(own), probs)
            fork = request.fork()
            fork.emit_fused(fork.fuse(own))
            fork.read((yield fork.ask()))  # each member's view of a text that may not be written
            assert torch.equal(request.mixer.weights_of(tuple(own), probs), before)
            yield request.emit_fused(request.fuse(own))

    register_method("looks_ahead", looks_ahead)
    with (
        make_ensemble(["chatml", "legacy"], method="looks_ahead", weighting=weighting) as ahead,
        make_ensemble(["chatml", "legacy"], space="tokens", weighting=weighting) as plain,
    ):
        for sampling in ({}, {"temperature": 1.0, "seed": 2}):
            options: dict[str, Any] = {"max_new_tokens": 20, **sampling}
            assert_same(ahead.generate(CHAT, **options), plain.generate(CHAT, **options))


# ---------------------------------------------------------------- a method with options


class PatientOptions(MethodOptions):
    """When the primary is left alone."""

    margin: float = Field(0.2, ge=0.0, le=1.0, description="between its two best tokens")
    first: int = Field(0, ge=0, description="steps that are always fused")


def patient(request: Request) -> Any:
    """The primary decides alone where its best token is well ahead of the next."""
    options: PatientOptions = request.options
    while not request.finished:
        own = request.read((yield request.ask(request.primary)))
        best, second = request.legal(own[request.primary]).topk(2).values.tolist()
        if request.position >= options.first and best - second > options.margin:
            yield request.emit_alone(own[request.primary])
            continue
        if request.others:
            own |= request.read((yield request.ask(*request.others)))
        yield request.emit_fused(request.fuse(own))


@pytest.mark.slow
def test_a_method_with_options_that_yaml_sets(tmp_path: Path) -> None:
    register_method("patient", patient, options=PatientOptions, ignores=("draft",))
    check_method("patient", margin=0.05, first=2)
    path = tmp_path / "ensemble.yaml"
    path.write_text("members: [a, b]\nmethod: patient\nmargin: 0.4\nfirst: 3\n")
    config = EnsembleConfig.from_yaml(path)
    assert config.options == PatientOptions(margin=0.4, first=3)
    assert EnsembleConfig.of(config.model_dump()) == config
    assert (
        config.with_method("every_step").model_dump()
        == EnsembleConfig.of({"members": ["a", "b"]}).model_dump()
    )
    path.write_text(config.to_yaml())
    assert EnsembleConfig.from_yaml(path) == config
    with make_ensemble(["chatml", "legacy"], method="patient", margin=0.0, first=3) as ensemble:
        steps = ensemble.generate("Hello", max_new_tokens=8).steps
        assert [step.decided_by for step in steps] == ["ensemble"] * 3 + ["primary"] * 5


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"margin": 2.0}, "margin: .*less than or equal to 1, got 2.0"),
        ({"margins": 0.1}, "margins: unknown option; EnsembleConfig has: .*margin, first"),
        ({"draft": "ngrams"}, "draft means nothing to method patient"),
        ({"threshold": 0.5}, "threshold needs method cascade or safe or co_llm, not patient"),
        ({"method": "cascade", "first": 1}, "first needs method patient, not cascade"),
    ],
)
def test_its_options_are_checked_like_ours(options: dict[str, Any], problem: str) -> None:
    register_method("patient", patient, options=PatientOptions, ignores=("draft",))
    with pytest.raises(ConfigError, match=problem):
        EnsembleConfig.of({"members": ("a", "b"), "method": "patient", **options})


def test_an_option_must_not_shadow_the_ensembles() -> None:
    class Shadowing(MethodOptions):
        history: int = 3

    register_method("shadowing", patient, options=Shadowing)
    with pytest.raises(ConfigError, match=r"options of the ensemble's names \(history\)"):
        EnsembleConfig.of({"members": ("a", "b"), "method": "shadowing"})


@pytest.mark.parametrize(
    ("about", "problem"),
    [
        ({"options": dict}, "options must be a subclass of MethodOptions"),
        ({"ignores": "draft"}, "ignores must name some of .*, not 'draft'"),
        ({"ignores": ("fusions",)}, "ignores must name some of"),
        ({"spaces": ("byte",)}, r"spaces must be some of .*'bytes'.*, not \('byte',\)"),
        ({"spaces": "bytes"}, "spaces must be some of .*, not 'bytes'"),
        ({"spaces": ()}, "spaces must name at least one"),
    ],
)
def test_a_wrong_spec_is_refused_where_it_is_made(about: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"method patient: {problem}"):
        register_method("patient", patient, **about)
    with pytest.raises(ConfigError, match="block needs method safe, not every_step"):
        EnsembleConfig.of({"members": ("a", "b"), "block": 3})  # it breaks nothing else


def test_files_of_options_are_relative_to_their_yaml(tmp_path: Path) -> None:
    class Filed(MethodOptions):
        text: Annotated[str, RelativePath] = "a.txt"
        path: Annotated[Path | None, RelativePath()] = None

    register_method("filed", patient, options=Filed)
    file = tmp_path / "ensemble.yaml"
    file.write_text("members: [a]\nmethod: filed\npath: b/c.bin\n")
    assert EnsembleConfig.from_yaml(file).options == Filed(
        text=str(tmp_path / "a.txt"), path=tmp_path / "b/c.bin"
    )


def test_null_is_a_value_where_the_type_has_it() -> None:
    class Limited(MethodOptions):
        limit: int | None = 5
        width: int = 3

    register_method("limited", patient, options=Limited)
    given = {"members": ("a",), "method": "limited", "limit": None, "width": None}
    assert EnsembleConfig.of(given).options == Limited.model_construct(limit=None, width=3)


# ---------------------------------------------------------------- a method by bytes


def boldest(views: Views) -> torch.Tensor:
    """The member that is surest of the next byte decides it."""
    return views.probs[views.probs.amax(-1).argmax()]


def widest(views: Views) -> torch.Tensor:
    """Every byte counts as much as the member thinks that believes in it most."""
    best = views.probs.amax(0)
    return best / best.sum()


def by_bytes(request: Request) -> Any:
    """All members write, by the widest rule."""
    while not request.finished:
        looks = yield from request.look()
        yield from request.write(looks, widest)


@pytest.mark.slow
def test_a_method_by_bytes() -> None:
    register_method(
        "widest_bytes", by_bytes, spaces=("tokens", "bytes"), ignores=("fusion", "weighting")
    )
    check_method("widest_bytes", space="bytes")
    a = scripted("byte_level", 1, [{"Hello": 0.6, ".": 0.4}, {"<|endoftext|>": 1.0}])
    letters = [{"H": 0.9, "a": 0.1}, *({piece: 1.0} for piece in ("e", "l", "l", "o"))]
    b = scripted("chatml", 1, [*letters, {"<|im_end|>": 1.0}])
    with Ensemble.from_models(
        [a, b], names=["a", "b"], method="widest_bytes", space="bytes"
    ) as ensemble:
        output = ensemble.generate("Hello", max_new_tokens=9)
    assert (output.text, output.finish_reason) == ("Hello", "stop")
    assert [step.unit for step in output.steps] == [b"Hello", b""]
    assert output.steps[0].members[0].prob == pytest.approx(0.6, abs=1e-4)


def test_a_rule_of_ones_own_is_one_in_every_space() -> None:
    register_fusion("boldest", boldest)
    for space in ("tokens", "scored", "bytes"):
        with make_ensemble(["chatml", "legacy"], fusion="boldest", space=space) as ensemble:
            for step in ensemble.generate("Hello", max_new_tokens=6).steps:
                assert (
                    any(
                        math.isclose(math.exp(step.logprob), view.prob, rel_tol=1e-6)
                        for view in step.members
                    )
                    or len(step.unit) > 1
                )


def test_helpers_can_write_without_the_primary() -> None:
    """In all spaces, and for as long as a token is in that of bytes."""

    def helpers_alone(request: Request) -> Any:
        while not request.finished:
            yield from request.look()
            looks = yield from request.look(*request.others)
            yield from request.write(looks)

    register_method("helpers_alone", helpers_alone, spaces=("tokens", "scored", "bytes"))
    for space in ("tokens", "scored", "bytes"):
        families = ["chatml", "legacy", "neox"]
        with make_ensemble(families, method="helpers_alone", space=space) as ensemble:
            output = ensemble.generate("Hello", max_new_tokens=12)
            assert_same(output, naively(ensemble, "Hello", max_new_tokens=12)[0])
        assert output.usage.steps == 12 or output.finish_reason == "stop"
        assert max(len(step.unit) for step in output.steps) < 20


def test_a_method_that_emits_in_other_units_than_its_grammar_is_told_so() -> None:
    def emits_bytes(request: Request) -> Any:
        while not request.finished:
            yield from request.look()
            probs = torch.ones(BYTES.size, dtype=torch.float64) / BYTES.size
            yield request.emit(probs, BYTES, {})

    register_method("emits_bytes", emits_bytes)  # spaces is forgotten
    grammar = Grammar.choice(["yes", "no"])
    with make_ensemble(["chatml", "legacy"], method="emits_bytes") as ensemble:
        assert ensemble.generate("Hello", max_new_tokens=3).usage.steps == 3
        with pytest.raises(MethodError, match="must name its spaces in its spec"):
            ensemble.generate("Hello", grammar=grammar)


# ---------------------------------------------------------------- a member that is no local model


class Recomputing:
    """A scorer that keeps nothing, as one that asks a server might; counts what it is asked."""

    def __init__(self, name: str, model: PreTrainedModel, end_ids: Iterable[int] = ()) -> None:
        self.name = name
        self.vocab_size = int(model.config.vocab_size)
        self.hidden_size = 0
        self.context_size: int | None = 512
        self.device = torch.device("cpu")
        self.place: Hashable = f"elsewhere: {name}"
        self.stats = ScorerStats()
        self.end_ids = frozenset(end_ids)
        self._model = model

    def score(
        self, queries: Sequence[Query], keys: Sequence[Hashable] | None = None
    ) -> list[Scored]:
        self.stats.queries += len(queries)
        with torch.inference_mode():
            return [
                Scored(self._model(torch.tensor([list(q.ids)])).logits[0, -q.last :])
                for q in queries
            ]

    def drop(self, keys: Iterable[Hashable]) -> None:
        pass

    def clear(self) -> None:
        pass


def elsewhere(family: str, seed: int = 0) -> Recomputing:
    return Recomputing(family, tiny_model(family, seed))


@pytest.mark.slow
def test_a_member_with_a_scorer_of_its_own() -> None:
    check_scorer(elsewhere("chatml"), tokenizer_of("chatml"))
    pairs: list[Any] = [
        (elsewhere("chatml", 0), tokenizer_of("chatml")),
        (tiny_model("legacy", 1), tokenizer_of("legacy")),
        (elsewhere("byte_level", 2), tokenizer_of("byte_level")),
    ]
    families = ["chatml", "legacy", "byte_level"]
    for options in ({}, {"method": "cascade", "threshold": 0.4}, {"method": "chared"}):
        with (
            Ensemble.from_models(pairs, names=["a", "b", "c"], **options) as mixed,
            make_ensemble(families, **options) as local,
        ):
            assert len(mixed.runtime.engine._workers) == 3  # they compute at the same time
            for prompt in ("Hello", CHAT):
                output = mixed.generate(prompt, max_new_tokens=12)
                assert output.text == local.generate(prompt, max_new_tokens=12).text
                assert_same(output, naively(mixed, prompt, max_new_tokens=12)[0])


class Faulty(Recomputing):
    """Does what no scorer may do."""

    fault = ""

    def score(
        self, queries: Sequence[Query], keys: Sequence[Hashable] | None = None
    ) -> list[Scored]:
        scored = super().score(queries, keys)
        match self.fault:
            case "connection":
                raise ConnectionError("the line is dead")
            case "cancelled":
                raise asyncio.CancelledError
            case "few":
                return scored[1:]
            case "narrow":
                return [Scored(one.logits[:, :9]) for one in scored]
        return scored

    def drop(self, keys: Iterable[Hashable]) -> None:
        raise ConnectionError("the line is dead")


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("connection", "the forward pass of chatml failed: the line is dead"),
        ("cancelled", "the forward pass of chatml failed: CancelledError"),
        ("few", "chatml gave 0 answers to 1 queries"),
        ("narrow", r"chatml gave logits of shape \(1, 9\), not \(1, "),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_what_a_scorer_does_wrong_fails_its_requests_and_no_others(
    fault: str, problem: str, alone: bool
) -> None:
    scorer = Faulty("chatml", tiny_model("chatml"))
    pairs: list[Any] = [(scorer, tokenizer_of("chatml"))]
    if not alone:  # then each has a thread of its own
        pairs.append((tiny_model("legacy"), tokenizer_of("legacy")))
    with Ensemble.from_models(pairs) as ensemble:
        expected = ensemble.generate("Hello", max_new_tokens=4).text
        scorer.fault = fault
        with pytest.raises(MemberError, match=problem):
            ensemble.generate("Hello", max_new_tokens=4)
        scorer.fault = ""
        assert ensemble.generate("Hello", max_new_tokens=4).text == expected


def test_a_scorer_in_half_precision_is_read_in_full() -> None:
    class Half(Recomputing):
        def score(
            self, queries: Sequence[Query], keys: Sequence[Hashable] | None = None
        ) -> list[Scored]:
            return [Scored(one.logits.bfloat16()) for one in super().score(queries)]

    half = Half("chatml", tiny_model("chatml"))
    with Ensemble.from_models([(half, tokenizer_of("chatml"))]) as ensemble:
        assert ensemble.generate("Hello", max_new_tokens=4).usage.steps == 4


def test_a_scorer_that_forgets_what_a_law_asks_is_found_out() -> None:
    class Stale(Recomputing):
        """Takes the sequence of a name for what it was."""

        def score(
            self, queries: Sequence[Query], keys: Sequence[Hashable] | None = None
        ) -> list[Scored]:
            scored = super().score(queries)
            if keys is None:
                return scored
            self.held = getattr(self, "held", {})
            return [self.held.setdefault((k, len(q.ids), q.last), s)
                    for k, q, s in zip(keys, queries, scored, strict=True)]  # fmt: skip

    with pytest.raises(AssertionError, match="cached and plain logits differ"):
        check_scorer(Stale("stale", tiny_model("chatml")), tokenizer_of("chatml"))
    assert isinstance(elsewhere("chatml"), Scorer)
    with pytest.raises(AssertionError, match="is no whole Scorer"):
        check_scorer(object(), tokenizer_of("chatml"))  # type: ignore[arg-type]


def test_a_method_that_breaks_a_law_is_found_out() -> None:
    def last_member(request: Request) -> Any:
        while not request.finished:
            own = request.read((yield request.ask()))
            yield request.emit_fused(request.fuse({max(own): own[max(own)]}))

    register_method("last_member", last_member)
    with pytest.raises(AssertionError, match="another order, another text"):
        check_method("last_member")
