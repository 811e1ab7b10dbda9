import inspect
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import yaml

from gac_core import Ensemble, EnsembleConfig, MemberError
from gac_core.cli.app import main
from gac_core.cli.option_groups import Without, flatten_groups
from gac_core.cli.options import EnsembleOptions
from gac_core.cli.terminal import printable, replace_what_can_not_be_shown
from gac_core.config_template import commented_yaml
from gac_core.evaluation.results import Result
from gac_core.evaluation.systems import EvalOptions, OnSkip
from gac_core.registry import METHODS
from gac_core.testing import Speaker, thinking_tokenizer
from tests.fakes import tokenizer_of


def gac(*arguments: str) -> int:
    """The exit code of a command."""
    try:
        main(arguments)
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def models(folders: tuple[str, str]) -> list[str]:
    return ["-m", folders[0], "-m", folders[1]]


def test_run_in_a_pipe_is_plain_text(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert gac("run", *models(folders), "--raw", "Hello", "--max-new-tokens", "7") == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out
    assert "7 steps, 7 decided together" in err
    assert "cut at the length limit" in err
    assert gac("run", *models(folders), "--raw", "Hello", "--max-new-tokens", "7", "-q") == 0
    again, err = capsys.readouterr()
    assert (again, err) == (out, "")


@pytest.mark.parametrize("thought", ["I add.\nYes.", ""])
def test_thoughts_are_dim_on_a_terminal_and_left_out_in_a_pipe(
    thought: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = thinking_tokenizer("hybrid")
    before = f"<think>\n{thought}"

    def load(_options: EnsembleOptions) -> Ensemble:
        speaker = Speaker(
            tokenizer, f"{before}\n</think>\n\nIt is 5.", f"{before}</think>\n\nIt is 5."
        )
        return Ensemble.from_models([(speaker, tokenizer)])

    monkeypatch.setattr(EnsembleOptions, "load", load)
    arguments = ("run", "2 + 3?", "-q", "--thinking", "on")
    assert gac(*arguments) == 0
    assert capsys.readouterr().out == "It is 5.\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert gac(*arguments) == 0
    shown = capsys.readouterr().out
    assert re.sub(r"\x1b\[\d*m", "", shown) == f"{thought}\n\nIt is 5.\n".lstrip()
    assert ("\x1b[2m" in shown) == bool(thought)


def test_run_reads_standard_input(
    folders: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert gac("run", *models(folders), "Hello", "--max-new-tokens", "5", "-q") == 0
    expected = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello"))
    assert gac("run", *models(folders), "--max-new-tokens", "5", "-q") == 0
    assert capsys.readouterr().out == expected


def test_explain_shows_every_members_view(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*models(folders), "--raw", "Hello", "--max-new-tokens", "4", "--explain"]
    assert gac("run", *arguments, "--method", "cascade", "--threshold", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["step", "chosen", "prob", "by", "chatml", "legacy"]
    assert [line.split()[0] for line in lines[1:5]] == ["1", "2", "3", "4"]
    assert all("ensemble" in line for line in lines[1:5])
    assert gac("run", *arguments, "--method", "cascade", "--threshold", "0") == 0
    lines = capsys.readouterr().out.splitlines()
    assert all("primary" in line and "not asked" in line for line in lines[1:5])


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["run", "-m", "./nowhere", "Hello"], 3, "there is no folder ./nowhere"),
        (["run", "-c", "nowhere.yaml", "Hello"], 2, "`gac config` writes one"),
        (["run", "--temperature", "-1", "Hello"], 2, "temperature"),
        (["run", "--method", "magic", "Hello"], 2, "no method 'magic'"),
        (["run", "--weights", "a,b", "Hello"], 2, "must be numbers with commas"),
        (["run", "--weights", "1", "Hello"], 2, "3 models and 1 weights"),
        (["run", "-c", "x.yaml", "-m", "y", "Hello"], 2, "leave --model, --weights out"),
        (["run", "--raw", "--system", "x", "Hello"], 2, "--system needs a chat prompt"),
        (["run", "--device", "cuda:7", "Hello"], 2, "name models with --model"),
        (["run", "--threshold", "0.5", "Hello"], 2, "threshold needs method cascade"),
        (["run", "--set", "paths=4", "Hello"], 2, "paths needs space bytes"),
        (["run", "--set", "paths", "Hello"], 2, "--set takes NAME=VALUE, not 'paths'"),
        (["run", "--set", "magic=1", "Hello"], 2, "magic: unknown option"),
        (["run", "--set", "draft=[", "Hello"], 2, "is no value as YAML has it"),
        (["run", "  "], 2, "give a question"),
        (["run", "--weights", "0,1,1", "--primary", "0", "Hello"], 2, "choose another primary"),
        (["run", "--primary", "3", "Hello"], 2, "primary is 3, but there are 3 members"),
        (["run", "--tempurature", "1", "Hello"], 2, "No such option"),
        (["eval", "--method", "magic"], 2, "no method or control 'magic'"),
        (["eval", "--all", "--threshold", "0.5"], 2, "--threshold is for the cascades"),
        (["eval", "--task", "cooking"], 2, "no task 'cooking'"),
        (["choose", "--label", "yes", "--label", "no", " "], 2, "give a question: gac choose"),
        (["choose", "--label", "yes", "Hello"], 2, "two labels or more to choose from, not 1"),
        (["choose", "--label", "a", "--label", "b", "--length", "c", "d"], 2, "'sum' or 'bytes'"),
        (["choose", "Hello"], 2, "Missing option '--label'"),
        (["serve", "nowhere.yaml"], 2, "`gac config` writes one"),
        (["serve", "org/model"], 2, "neither pocket nor a YAML file"),
        (["serve", "--api-key", " "], 2, "--api-key must not be empty"),
        (["vocab", "./nowhere"], 3, "there is no folder"),
        (["vocab", "--words", "/nowhere"], 2, "--words: /nowhere can not be read"),
    ],
)
def test_errors_are_one_line_and_a_code(
    arguments: list[str], code: int, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gac(*arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    if not err.startswith("Usage"):
        assert err.startswith("gac: ")
        assert err.count("\n") == 1


def test_a_server_says_what_is_not_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("gac_integrations.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert gac("serve") == 2
    assert "fastapi is missing, which a server needs: pip install" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["fit-gate", "--help"], 0),
        (["run", "--tempurature", "1", "Hello"], 2),
        (["run", "--set", "paths", "Hello"], 2),
        (["run", "--device", "cuda:7", "Hello"], 2),
        (["run", "-c", "nowhere.yaml", "Hello"], 2),
        (["eval", "--all", "--threshold", "0.5"], 2),
        (["choose", "--label", "yes", "--label", "no", "--raw", "--system", "a", "Hello"], 2),
        (["fit-gate", "--out", "/nowhere/gate.safetensors"], 2),
    ],
)
def test_help_and_mistakes_answer_before_torch_is_imported(arguments: list[str], code: int) -> None:
    program = (
        "import sys; from gac_core.cli.app import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True)
    assert (done.returncode, b"Traceback" in done.stderr) == (code, False)


@pytest.mark.slow
def test_the_module_is_the_command() -> None:
    program = [sys.executable, "-m", "gac_core.cli"]
    shown = subprocess.run([*program, "run", "--help"], capture_output=True, text=True)
    assert shown.stdout.startswith("Usage: gac run [OPTIONS] [question]")
    failed = subprocess.run([*program, "run", "--weights", "a"], input=b"Hi", capture_output=True)
    assert failed.returncode == 2


@dataclass(frozen=True)
class Pair:
    a: int = 1
    b: int = 2


def test_groups_become_options_where_they_stand() -> None:
    seen: list[tuple[Any, ...]] = []

    @flatten_groups
    def command(
        x: int = 0, *, pair: Pair, y: int = 0, other: Annotated[Pair | None, "no group"] = None
    ) -> None:
        seen.append((x, pair, y, other))

    assert list(inspect.signature(command).parameters) == ["x", "a", "b", "y", "other"]
    command(x=5, a=6, b=7, y=8, other=None)
    assert seen == [(5, Pair(6, 7), 8, None)]


def test_groups_without_some_options_keep_their_defaults() -> None:
    seen: list[Pair] = []

    @flatten_groups
    def command(*, pair: Annotated[Pair, Without("a")]) -> None:
        seen.append(pair)

    assert list(inspect.signature(command).parameters) == ["b"]
    command(b=7)
    assert seen == [Pair(1, 7)]


def test_two_options_of_one_name_are_refused() -> None:
    def command(*, pair: Pair, a: int = 0) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name: 'a'"):
        flatten_groups(command)


def test_eval_compares_methods_and_controls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(
        config: EnsembleConfig, settings: EvalOptions, *, on_skip: OnSkip, **_: Any
    ) -> Iterator[Result]:
        assert settings.everything
        assert "gate" in settings.defaults["co_llm"]
        yield Result("ada", "member", {"x": np.array([True, False])})
        on_skip("twist", MemberError("no way"))
        yield Result("rerank", "control", {"x": np.array([True, True])})
        raise KeyboardInterrupt

    monkeypatch.setattr("gac_core.evaluation.evaluate.evaluate", measured)
    assert gac("eval", "--all") == 130
    out, err = capsys.readouterr()
    assert re.search(r"^ada +member +50.0% ", out, re.MULTILINE)
    assert re.search(r"^rerank +control +100.0% ±.* \+100.0 ", out, re.MULTILINE)
    assert err.splitlines() == [
        "twist is left out: no way",
        "Interrupted; what was complete is above.",
    ]
    assert gac("eval", "--method", "rerank", "--json") == 130
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["name"] for row in rows] == ["ada", "rerank"]


def test_a_member_that_fails(
    folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("boom")

    monkeypatch.setattr("gac_core.members.kv_cache.KVCache.forward", crash)
    monkeypatch.setattr("gac_core.members.local.why_not", lambda _model: None)
    assert gac("run", *models(folders), "Hello") == 1
    assert "failed: boom" in capsys.readouterr().err


def test_chat_remembers_and_obeys_commands(
    folders: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    from gac_core import Ensemble

    stream = Ensemble.stream

    def spy(self: Ensemble, prompt: Any, *args: Any, **options: Any) -> Any:
        asked.append(prompt)
        return stream(self, prompt, *args, **options)

    monkeypatch.setattr(Ensemble, "stream", spy)
    lines = "Hello\n\nAgain\n/what\n" + "x" * 3000 + "\n/reset\nAnew\n/quit\nnever\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    assert gac("chat", *models(folders), "--system", "Be kind", "--max-new-tokens", "5") == 0
    out, err = capsys.readouterr()
    assert [len(prompt) for prompt in asked] == [2, 4, 6, 2]
    assert asked[1][2]["role"] == "assistant"
    assert asked[1][2]["content"].strip() in out
    assert "There are /reset and /quit" in err
    assert "shorten the prompt" in err
    assert "begins anew" in err


def test_the_pocket_chat_remembers_the_conversation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (
        "Hello",
        "What is 17 + 25?",
        "The code of Mila is 4711. Mila lives in Rome. What is the code of Mila?",
        "Where does Mila live?",
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    assert gac("chat") == 0
    assert capsys.readouterr().out.splitlines() == [
        "Hello! How can I help you?",
        "17 + 25 = 42",
        "The code of Mila is 4711.",
        "Mila lives in Rome.",
    ]


def test_run_holds_the_answer_to_a_grammar(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ("-q", "--max-new-tokens", "40", "Hello")
    assert gac("run", *models(folders), "--choice", "yes", "--choice", "no", *options) == 0
    assert capsys.readouterr().out in ("yes\n", "no\n")
    assert gac("run", *models(folders), "--regex", "[ab]{3}", *options) == 0
    assert re.fullmatch("[ab]{3}\n", capsys.readouterr().out)
    schema = tmp_path / "schema.json"
    schema.write_text(
        '{"type": "object", "required": ["a"], "properties": {"a": {"type": "null"}}}'
    )
    assert gac("run", *models(folders), "--schema", str(schema), *options) == 0
    assert json.loads(capsys.readouterr().out)["a"] is None
    assert gac("run", *models(folders), "--schema", str(schema), "--regex", "a", *options) == 2
    assert "exclude each other" in capsys.readouterr().err
    assert gac("run", *models(folders), "--schema", str(tmp_path / "none"), *options) == 2
    assert "can not be read" in capsys.readouterr().err
    schema.write_text('{"not": {}}')
    assert gac("run", *models(folders), "--schema", str(schema), *options) == 2
    assert "Unimplemented keys" in capsys.readouterr().err


def test_choose_shows_every_members_view(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ("--label", "yes", "--label", "no [red]\x1b", "--label", "yes, but")
    options = (*models(folders), "--prior", "--length", "bytes", "--temperature", "9")
    assert gac("choose", *options, *labels, "--json", "Hello") == 0
    found = json.loads(capsys.readouterr().out)
    with Ensemble.from_pretrained(list(folders), progress=False) as ensemble:
        chat = [{"role": "user", "content": "Hello"}]
        choice = ensemble.choose(chat, labels[1::2], prior=True, length="bytes", temperature=9.0)
    assert found["label"] == choice.label
    assert found["labels"] == list(choice.labels)
    assert found["probs"] == pytest.approx(choice.probs)
    assert [own["name"] for own in found["members"]] == ["chatml", "legacy"]
    assert gac("choose", *options, *labels, "Hello") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["together", "chatml", "legacy"]
    shown = {label: cells for label, *cells in (re.split("  +| (?=[01]\\.)", x) for x in lines)}
    assert set(shown) == {"yes", "no [red]\ufffd", "yes, but"}
    for n, label in enumerate(choice.labels):
        probs = [own.probs[n] for own in choice.members]
        cells = [f"{prob:.3f}" for prob in (choice.probs[n], *probs)]
        assert shown[label.replace("\x1b", "\ufffd")] == cells
    assert [float(cells[0]) for cells in shown.values()] == sorted(
        (float(cells[0]) for cells in shown.values()), reverse=True
    )
    alone = ("-m", folders[0], "--raw", "--label", " a", "--label", " b", "Hello")
    assert gac("choose", *alone) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["chatml"]


def test_choose_prints_what_the_docs_show(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs/decisions.md").read_text()
    block = re.compile(r"^```console\n\$ gac (choose .*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    (shown,) = block.findall(page)
    assert gac(*shlex.split(shown[0])) == 0
    assert capsys.readouterr().out == shown[1]


def test_a_device_that_is_not_there(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert gac("run", "-m", folders[0], "--device", "foo", "Hello") == 2
    assert "there is no device 'foo' here; use cpu" in capsys.readouterr().err


def test_vocab_compares(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("Hello\nworld\ncapital\n")
    assert gac("vocab", *folders, "--words", str(words)) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if "chatml - legacy" in line).split()
    a, b = (set(v) for v in (units(f) for f in ("chatml", "legacy")))
    assert row[3:5] == [f"{len(a | b):,}", f"{len(a & b):,}"]
    assert row[-1].endswith("%")


def units(family: str) -> Any:
    from gac_core.tokens.vocabulary import Vocabulary

    return Vocabulary.of(tokenizer_of(family)).ids_by_bytes


def test_config_writes_yaml_that_loads(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "ensemble.yaml"
    assert gac("config", *folders, "-o", str(path)) == 0
    assert [m.model for m in EnsembleConfig.from_yaml(path).members] == list(folders)
    assert gac("config", *folders, "-o", str(path)) == 2
    assert "--force" in capsys.readouterr().err
    assert gac("config", *folders, "-o", str(path), "--force") == 0
    assert gac("run", "-c", str(path), "Hello", "--max-new-tokens", "2", "-q") == 0


def test_every_option_in_the_commented_yaml_is_valid_at_its_default() -> None:
    text, *of_methods = commented_yaml(["a", "b"]).split("\n# Of method ")
    values = uncommented(text.splitlines()[1:])
    plain = {"members": [{"model": "a"}, {"model": "b"}]}
    assert EnsembleConfig.of(values) == EnsembleConfig.of(plain)
    assert set(values) == set(EnsembleConfig.model_fields) - {"options"}
    for section in of_methods:
        title, *lines = section.splitlines()
        method = title.removesuffix(" only:")
        options = uncommented(lines)
        assert options.keys() == METHODS.get(method).options.model_fields.keys()
        if method != "co_llm":  # which needs a gate
            named = EnsembleConfig.of({**plain, "method": method})
            assert EnsembleConfig.of({**plain, "method": method, **options}) == named
    assert len(of_methods) == sum(bool(METHODS.get(n).options.model_fields) for n in METHODS.names)
    lines = [*text.splitlines()[1:], *(line for s in of_methods for line in s.splitlines()[1:])]
    assert all("  # " in line for line in lines if ": " in line and "model:" not in line)


def uncommented(lines: list[str]) -> dict[str, Any]:
    return dict(yaml.safe_load("\n".join(line.replace("# ", "", 1) for line in lines)) or {})


def test_model_text_can_not_command_the_terminal() -> None:
    assert printable("a\x1b[2Jb\n\tc\x07") == "a\ufffd[2Jb\n\tc\ufffd"


def test_a_method_of_the_command_line_beside_that_of_a_file(
    tmp_path: Path, folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ensemble.yaml"
    models = "\n".join(f"- {folder}" for folder in folders)
    file.write_text(f"members:\n{models}\nmethod: cascade\n")
    for method in ("every_step", "safe", "cascade"):
        options = ["--method", method, "--max-new-tokens", "2", "-q"]
        assert gac("run", "-c", str(file), *options, "Hello") == 0
    capsys.readouterr()
    assert gac("run", "--set", "options=x", "Hello") == 2
    assert "options: unknown option" in capsys.readouterr().err


# ---------------------------------------------------------------- streams as services have them


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("options", [[], ["--explain"]])
def test_letters_that_the_output_can_not_show_are_replaced(
    encoding: str, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written, text = io.BytesIO(), "Zürich 😀"
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    assert gac("run", "-q", *options, "--choice", text, "Where?") == 0
    assert written.getvalue().splitlines()[-1] == text.encode(encoding, errors="replace")


def test_a_way_to_write_other_letters_that_was_chosen_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for errors, kept in (("strict", "replace"), ("backslashreplace", "backslashreplace")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=errors)
        monkeypatch.setattr(sys, "stdout", stream)
        replace_what_can_not_be_shown()
        assert stream.errors == kept


@pytest.mark.parametrize(("command", "code"), [("run", 2), ("chat", 0), ("run Hello", 0)])
def test_without_standard_streams(
    command: str,
    code: int,
    folders: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As services and pythonw have it."""
    monkeypatch.setattr(sys, "stdin", None)
    verb, *rest = command.split()
    arguments = [verb, *models(folders), "--max-new-tokens", "3", *rest]
    assert gac(*arguments) == code
    assert "give a question" in capsys.readouterr().err or code == 0
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert gac(*arguments) == code


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", [["run", "Hello", "--max-new-tokens", "3"], ["chat"]])
def test_output_that_can_not_be_written_is_one_line(
    arguments: list[str],
    folders: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for is_said in (True, False):
        monkeypatch.setattr(sys, "stdin", io.StringIO("Hello"))
        with FULL.open("w") as out, FULL.open("wb", buffering=0) as err:
            monkeypatch.setattr(sys, "stdout", out)
            if not is_said:
                monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, write_through=True))
            assert gac(*arguments, *models(folders)) == 1
            out.close()  # nothing is left that could not be written
        if is_said:
            last = capsys.readouterr().err.splitlines()[-1]
            assert last.startswith("gac: the output can not be written: [Errno 28] No space left")


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
def test_nothing_is_said_at_exit_of_output_that_can_not_be_written() -> None:
    with FULL.open("wb") as full:
        command = [sys.executable, "-m", "gac_core.cli", "config"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch("gac: the output can not be written: .*\n", done.stderr)


def test_a_byte_order_mark_is_no_part_of_what_is_read(
    folders: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Tools of Windows write one."""
    file = tmp_path / "schema.json"
    file.write_text('{"enum": [12]}', encoding="utf-8-sig")
    assert gac("run", *models(folders), "--schema", str(file), "Hello", "-q") == 0
    assert capsys.readouterr().out == "12\n"
    file.write_text('{"enum": [12]}', encoding="utf-16")
    assert gac("run", *models(folders), "--schema", str(file), "Hello", "-q") == 2
    assert "save it as UTF-8" in capsys.readouterr().err
    answers = []
    for mark in ("", "\ufeff"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{mark}Hello"))
        assert gac("run", *models(folders), "--max-new-tokens", "5", "-q") == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("command", ["run", "chat"])
def test_input_in_another_encoding(
    command: str,
    folders: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Z\xfcrich\n"), "utf-8"))
    assert gac(command, *models(folders)) == 2
    assert "standard input is no text in utf-8: invalid" in capsys.readouterr().err
