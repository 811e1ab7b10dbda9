"""Bits per byte: of members by hand, of methods by their laws, and how sure they are."""

import json
import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from gac_core import (
    ConfigError,
    Ensemble,
    EnsembleConfig,
    GacError,
    MethodError,
    Request,
    register_method,
)
from gac_core.cli.app import main
from gac_core.decoding.request import Decoder
from gac_core.evaluation.reading import evaluate_texts
from gac_core.evaluation.results import Result
from gac_core.evaluation.systems import EvalOptions
from gac_core.evaluation.text_files import Text, read_texts
from gac_core.evaluation.text_results import TextResult, best_reader, texts_as_json
from gac_core.evaluation.texts import ALONE, Piece, bits, pieces_of, predict, window_for
from gac_core.member_config import MemberConfig
from gac_core.members.loading import Loaded
from gac_core.registry import METHODS
from gac_core.testing import make_ensemble
from gac_core.testing.models import FAMILIES, pair
from tests.fakes import byte_tokenizer_of, two_scripts

TEXT = " two  spaces\n\n Bäcker 你好 🙂 def add(a, b):\n    return a" * 3
PIECE = Piece("Hello world", TEXT)


def bits_of(ensemble: Ensemble, piece: Piece = PIECE) -> float:
    (steps,) = predict(ensemble, [piece])
    return bits(steps)


def alone(family: str) -> Ensemble:
    """A member as it is measured alone."""
    model, tokenizer = pair(family)
    loaded = [Loaded("one", model, tokenizer)]
    return Ensemble(EnsembleConfig.of({"members": ["one"]}), lambda: loaded, spec=ALONE)


def cross_entropy(family: str, piece: Piece) -> float:
    """By one plain forward pass over the member's own ids, in bits."""
    model, tokenizer = pair(family)[0], byte_tokenizer_of(family)
    prompt, ids = tokenizer.encode_prompt(piece.context), tokenizer.encode(piece.text.encode())
    vocabulary = tokenizer.vocabulary
    allowed = [*vocabulary.text_ids, *vocabulary.end_ids]
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *ids]])).logits[0].double()
    probs = torch.zeros_like(logits)
    probs[:, allowed] = logits[:, allowed].softmax(-1)
    return -sum(math.log2(probs[len(prompt) - 1 + n, i]) for n, i in enumerate(ids))


# ------------------------------------------------ members


@pytest.mark.parametrize("family", FAMILIES)
def test_a_member_alone_has_its_exact_cross_entropy(family: str) -> None:
    with alone(family) as ensemble:
        assert bits_of(ensemble) == pytest.approx(cross_entropy(family, PIECE), rel=1e-6)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 128])
def test_chunks_do_not_matter(length: int) -> None:
    tokenizer = byte_tokenizer_of("byte_level")
    tokens = tokenizer.vocabulary.token_bytes
    ids = tokenizer.encode(TEXT.encode())[:length]
    text = b"".join(tokens[i] for i in ids).decode(errors="ignore")
    piece = Piece("Hello", text)
    with alone("byte_level") as ensemble:
        assert bits_of(ensemble, piece) == pytest.approx(cross_entropy("byte_level", piece))


def test_several_pieces_at_once_are_those_pieces() -> None:
    pieces = [Piece("Hello", TEXT), Piece("The", " capital"), Piece("a", TEXT[5:])]
    with alone("chatml") as ensemble:
        together = [bits(steps) for steps in predict(ensemble, pieces)]
    assert together == pytest.approx([cross_entropy("chatml", piece) for piece in pieces])


# ------------------------------------------------ methods


@pytest.mark.parametrize("options", [{}, {"method": "cascade"}, {"method": "safe"}])
@pytest.mark.parametrize("families", [["chatml"], ["legacy"], ["legacy", "legacy"]])
def test_a_member_twice_is_that_member(families: list[str], options: dict[str, Any]) -> None:
    with make_ensemble(families, [0] * len(families), **options) as ensemble:
        expected = cross_entropy(families[0], PIECE)
        assert bits_of(ensemble) == pytest.approx(expected, rel=1e-6)


A = [{"a": 0.6, "b": 0.3, "an": 0.1}, {"b": 0.5, "a": 0.5}, {"c": 0.25, "a": 0.75}]
B = [{"a": 0.1, "b": 0.9}, {"b": 0.2, "a": 0.8}, {"c": 0.5, "b": 0.5}]
ABC = Piece("Hello", "abc")


def test_a_mean_is_the_mean_by_hand() -> None:
    with two_scripts(A, B, weights=[3, 1], space="tokens") as ensemble:
        (steps,) = predict(ensemble, [ABC])
    assert [step.unit for step in steps] == [b"a", b"b", b"c"]  # without the end
    by_hand = [0.75 * 0.6 + 0.25 * 0.1, 0.75 * 0.5 + 0.25 * 0.2, 0.75 * 0.25 + 0.25 * 0.5]
    assert [math.exp(s.logprob) for s in steps] == pytest.approx(by_hand, rel=1e-5)
    assert bits(steps) == pytest.approx(-sum(map(math.log2, by_hand)), rel=1e-5)
    assert {step.decided_by for step in steps} == {"ensemble"}


def test_over_bytes_it_is_the_mean_of_bytes_by_hand() -> None:
    with two_scripts(A, B, space="bytes", paths=8) as ensemble:
        (steps,) = predict(ensemble, [Piece("Hello", "a")])
    (step,) = steps
    assert step.unit == b"a"
    assert math.exp(step.logprob) == pytest.approx((0.6 + 0.1 + 0.1) / 2, rel=1e-5)


def test_a_gate_looks_at_the_primary_and_not_at_the_text() -> None:
    sure = [{"b": 0.9, "a": 0.1}, {"b": 0.4, "a": 0.6}, {"c": 1.0}]
    with two_scripts(sure, B, method="cascade", threshold=0.7, space="tokens") as ensemble:
        (steps,) = predict(ensemble, [ABC])
    assert [step.decided_by for step in steps] == ["primary", "ensemble", "primary"]
    by_hand = [0.1, (0.4 + 0.2) / 2, 1.0]
    assert [math.exp(s.logprob) for s in steps] == pytest.approx(by_hand, rel=1e-4)


def test_a_draft_is_the_methods_own() -> None:
    """SAFE drafts "b", which its verifier doubts; so both decide, though the text says "a"."""
    first = [{"b": 0.6, "a": 0.4}, {"b": 1.0}, {"c": 1.0}]
    second = [{"b": 0.1, "a": 0.9}, {"b": 1.0}, {"c": 1.0}]
    options: dict[str, Any] = {"method": "safe", "sharpen": "none", "block": 1, "space": "tokens"}
    with two_scripts(first, second, **options) as ensemble:
        (steps,) = predict(ensemble, [ABC])
    assert steps[0].decided_by == "ensemble"
    assert math.exp(steps[0].logprob) == pytest.approx((0.4 + 0.9) / 2, rel=1e-5)


def test_what_is_held_to_be_impossible_is_infinite() -> None:
    with two_scripts(A, B, fusion="unite") as ensemble:
        assert math.isinf(bits_of(ensemble, Piece("Hello", "z" * 3)))


@settings(max_examples=18)
@given(
    st.lists(st.sampled_from(FAMILIES), min_size=2, max_size=3, unique=True),
    st.sampled_from(
        [
            {"space": "tokens", "history": "append"},
            {"draft": "ngrams"},
            {"draft": 1},
            {"weighting": "posterior"},
            {"method": "cascade"},
            {"method": "safe"},
        ]
    ),
    st.sampled_from([TEXT, "\t\n  x", " ", "a\r\n", "camelCase12 été"]),
)
def test_any_text_can_be_forced(families: list[str], options: dict[str, Any], text: str) -> None:
    with make_ensemble(families, **options) as ensemble:
        (steps,) = predict(ensemble, [Piece("Hello", text)])
        tokens = byte_tokenizer_of(families[0]).encode(text.encode())
    assert b"".join(step.unit for step in steps) == text.encode()
    assert len(steps) == len(tokens)
    assert all(step.logprob <= 0 for step in steps)


def test_a_method_that_searches_is_refused() -> None:
    with two_scripts(A, B, method="twist") as ensemble, pytest.raises(MethodError, match="twist"):
        bits_of(ensemble, ABC)


def test_a_method_that_chooses_by_itself_is_refused() -> None:
    def own_choice(request: Request) -> Decoder:
        while not request.finished:
            own = request.read((yield request.ask(request.primary)))[request.primary]
            yield request.emit_alone(own, int(own.argmin()))

    with METHODS.scoped():
        register_method("own_choice", own_choice)
        refused = pytest.raises(MethodError, match="no text can be forced on it")
        with two_scripts(A, B, method="own_choice") as ensemble, refused:
            bits_of(ensemble, ABC)


# ------------------------------------------------ pieces


@given(
    st.text(st.sampled_from("ab é你🙂\n\t  "), min_size=1000, max_size=3000),
    st.sampled_from([64, 100, 496, 2048]),
)
def test_pieces_are_the_text_each_after_what_stands_before(text: str, window: int) -> None:
    pieces = pieces_of(text, window)
    predicted = "".join(piece.text for piece in pieces)
    assert text.endswith(predicted)
    at = len(text) - len(predicted)
    assert 0 < len(text[:at].encode()) <= 64
    for piece in pieces:
        assert piece.context
        assert text[:at].endswith(piece.context)
        assert 0 < len(piece.text.encode()) <= window // 4
        assert len((piece.context + piece.text).encode()) <= window
        at += len(piece.text)


def test_pieces_begin_where_blanks_begin() -> None:
    pieces = pieces_of("The capital of France is Paris,\n  is it not? " * 100, 512)
    assert len(pieces) > 30
    for piece, following in pairwise(pieces):
        assert not piece.text[-1].isspace()
        assert following.text[0].isspace()
        assert len(following.context) > 64


def test_the_window_fits_the_context() -> None:
    assert window_for(None) == window_for(100_000) == 2048
    assert window_for(512) < 512
    with pytest.raises(ConfigError, match="a context of 70 tokens is too small"):
        window_for(70)


# ------------------------------------------------ files


def test_the_beginning_of_a_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.md").write_text("é" * 1000, encoding="utf-8")
    (whole,) = read_texts([tmp_path / "a/text.md"])
    assert (whole.name, whole.data, whole.size) == ("text.md", "é" * 1000, 2000)
    part, other = read_texts([tmp_path / "a/text.md", tmp_path / "b/text.md"], 1501)
    assert (part.name, part.data, part.size) == (str(tmp_path / "a/text.md"), "é" * 750, 2000)
    assert other.name == str(tmp_path / "b/text.md")
    (tmp_path / "marked.txt").write_text("é" * 1000, encoding="utf-8-sig")
    (marked,) = read_texts([tmp_path / "marked.txt"])
    assert (marked.data, marked.size) == (whole.data, whole.size)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"short", "has 5 bytes, of which 20,000 are taken; .* takes 1,000 or more"),
        (("x" * 2000).encode("utf-16"), "mark of UTF-16; save it as UTF-8"),
        (b"a\n\xff" + b"x" * 2000, "line 2: byte 2 of the file is no UTF-8"),
    ],
)
def test_wrong_texts(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "text.md"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=problem):
        read_texts([path])
    with pytest.raises(ConfigError, match="named twice"):
        read_texts([path, path])


# ------------------------------------------------ results


def result(name: str, own: Iterable[float], kind: Any = "member") -> TextResult:
    bits = np.array([*own], dtype=float)
    return TextResult(name, kind, {"x": bits}, {"x": np.full(len(bits), 100.0)}, steps=10)


def test_the_figures_of_texts() -> None:
    both = TextResult(
        "a",
        "member",
        {"x": np.array([100.0, 300.0]), "y": np.array([50.0])},
        {"x": np.array([100.0, 100.0]), "y": np.array([200.0])},
    )
    assert both.bits_per_byte("x").value == pytest.approx(2.0)
    assert both.bits_per_byte("y").value == pytest.approx(0.25)
    assert both.bits_per_byte().value == pytest.approx(450 / 400)
    low, high = both.bits_per_byte("x").ci95
    assert (low, high) == (1.0, 3.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = result("a", rng.gamma(4.0, 25.0, size=60)).bits_per_byte().ci95
        covered += low <= 1.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_differences_are_paired() -> None:
    hard = np.random.default_rng(0).gamma(4.0, 25.0, size=60)
    first, second = result("a", hard), result("b", hard - 1.0)
    difference = second.difference(first)
    assert difference.value == pytest.approx(-0.01)
    assert difference.ci95 == pytest.approx((-0.01, -0.01))
    assert second.bits_per_byte().ci95[1] > first.bits_per_byte().value  # unpaired, nothing is sure
    assert best_reader([first, second, result("m", hard - 50, "method")]) is second


def test_json_has_no_infinity() -> None:
    rows = [result("a", [80.0, 90.0]), result("m", [math.inf, 1.0], "method")]
    told = json.loads(json.dumps(texts_as_json(rows), allow_nan=False))
    assert told["best_member"] == "a"
    member, method = told["rows"]
    assert member["all"]["bits_per_byte"]["value"] == pytest.approx(0.85)
    assert "over_best_member" not in member["all"]
    assert method["texts"]["x"]["bits_per_byte"] == {"value": None, "ci95": [None, None]}
    assert method["all"]["over_best_member"] == {"member": "a", "value": None, "ci95": [None, None]}


def test_accuracies_and_differences() -> None:
    def row(name: str, kind: Any, **right: list[int]) -> Result:
        own = {task: np.array(answers, dtype=bool) for task, answers in right.items()}
        return Result(name, kind, own)

    a = row("a", "member", x=[1, 0, 0, 0], y=[1] * 8)
    m = row("m", "method", x=[1, 1, 0, 0], y=[1] * 7 + [0])
    assert a.accuracy("x").value == 0.25
    assert a.accuracy().value == pytest.approx(9 / 12)
    low, high = a.accuracy().ci95
    assert 0 < low < 9 / 12 < high < 1
    assert m.difference(a, "x").value == 0.25
    assert m.difference(a).value == 0
    low, high = m.difference(a).ci95
    assert low == pytest.approx(-high, abs=0.05)
    assert low < 0 < high


# ------------------------------------------------ from models to rows


def tiny(**options: Any) -> tuple[EnsembleConfig, dict[int, Loaded]]:
    families = ("byte_level", "legacy")
    members = [MemberConfig(model=family) for family in families]
    loaded = {n: Loaded(family, *pair(family)) for n, family in enumerate(families)}
    return EnsembleConfig.of({"members": members, **options}), loaded


TEXTS = (Text.of("prose", TEXT * 8, 1200), Text.of("code", "def f(a):\n  return a\n" * 60, 1200))


def test_members_and_the_configured_method() -> None:
    config, loaded = tiny(method="cascade", threshold=0.2)
    options = EvalOptions(texts=TEXTS, configured=True, thresholds=())
    begun: list[tuple[str, int]] = []
    done: list[int] = []
    rows = list(
        evaluate_texts(
            config,
            options,
            loaded=loaded,
            on_system=lambda *system: begun.append(system),
            on_piece=lambda: done.append(1),
        )
    )
    assert [(row.name, row.kind) for row in rows] == [
        ("byte_level", "member"),
        ("legacy", "member"),
        ("cascade", "method"),
    ]
    count = sum(len(own) for own in rows[0].bits.values())
    assert begun == [(row.name, count) for row in rows]
    assert len(done) == 3 * count
    assert 0 < rows[2].fused_share < 1
    window = window_for(512)
    for family, row in zip(("byte_level", "legacy"), rows, strict=False):
        for text in TEXTS:
            pieces = pieces_of(text.data, window)
            expected = [cross_entropy(family, piece) for piece in pieces]
            assert row.bits[text.name] == pytest.approx(expected, rel=1e-6)
            assert row.sizes[text.name].tolist() == [len(p.text.encode()) for p in pieces]


def test_what_no_text_can_be_forced_on_is_left_out() -> None:
    config, loaded = tiny()
    options = EvalOptions(texts=TEXTS[1:], everything=True, only=("twist", "unite", "rerank"))
    told: list[str] = []
    rows = evaluate_texts(
        config, options, loaded=loaded, on_skip=lambda name, why: told.append(f"{name}: {why}")
    )
    assert [row.name for row in rows] == ["byte_level", "legacy", "unite"]
    assert told == [
        "twist: method twist searches for a text of its own, so no text can be forced on it"
    ]
    searching, _ = tiny(method="twist")
    plain = EvalOptions(texts=TEXTS[1:], configured=True)
    with pytest.raises(GacError, match="twist"):
        list(evaluate_texts(searching, plain, loaded=loaded))


def test_no_text_is_nothing_to_measure() -> None:
    with pytest.raises(ConfigError, match="no text"):
        next(evaluate_texts(tiny()[0], EvalOptions()))


# ------------------------------------------------ the command


def gac(*arguments: str) -> int:
    try:
        main(arguments)
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    """A file of questions and a text, as arguments."""
    questions, text = tmp_path / "mine.jsonl", tmp_path / "prose.txt"
    lines: list[dict[str, Any]] = [
        {"question": "What is 77 - 49?", "answers": "28", "max_new_tokens": 20},
        {"question": "What is 17 + 25?", "pattern": "42$", "set": "other", "max_new_tokens": 20},
    ]
    questions.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    text.write_text(TEXT * 8, encoding="utf-8")
    return ["--questions", str(questions), "--text", str(text), "--bytes", "1000"]


def test_the_command_measures_what_is_yours(
    own: list[str], folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["-m", folders[0], "-m", folders[1]]
    assert gac("eval", *models, *own, "--json") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    names = ["chatml", "legacy", "every_step"]
    assert [row["name"] for row in found["rows"]] == names
    assert [row["name"] for row in found["texts"]["rows"]] == names
    for row in found["rows"]:
        assert {name: task["total"] for name, task in row["tasks"].items()} == {
            "mine": 1,
            "other": 1,
        }
        assert row["all"]["total"] == 2
    assert found["rows"][2]["all"]["over_best_member"]["member"] in names[:2]
    assert found["texts"]["rows"][0]["texts"]["prose.txt"]["pieces"] > 5
    assert "prose.txt: the first 1,000 of" in err
    assert gac("eval", *models, *own) == 0
    out, _ = capsys.readouterr()
    for said in ("right answers, %", "over the best member", "bits per byte", "every_step"):
        assert said in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_what_was_measured_before_an_error_is_shown(
    own: list[str],
    folders: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "ensemble.yaml"
    config.write_text(f"members: [{folders[0]}, {folders[1]}]\nmethod: twist\n")
    assert gac("eval", "-c", str(config), *own[2:]) == 1
    out, err = capsys.readouterr()
    assert "chatml" in out
    assert "no text can be forced" in err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--questions", "none.jsonl"], "none.jsonl can not be read"),
        (["--text", "none.txt"], "none.txt can not be read"),
        (["--text", "none.txt", "--task", "retrieval"], "--task names pocket tasks"),
    ],
)
def test_wrong_files_and_options(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gac("eval", *arguments) == 2
    assert problem in capsys.readouterr().err
