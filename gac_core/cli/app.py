"""The `gac` command: run, chat, eval, fit-gate, vocab, config.

What takes seconds to import is imported where it is used, so that help and mistakes answer at once.
"""

import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from gac_core.cli.terminal import (
    Bars,
    Explanation,
    Words,
    comparison_table,
    err,
    evaluation_tables,
    gate_table,
    left_out,
    out,
    summary,
)
from gac_core.config import METHODS, EnsembleConfig, MemberConfig, SamplingParams
from gac_core.errors import (
    ConfigError,
    GacError,
    LoadError,
    PromptError,
    VocabularyError,
)
from gac_core.grammar.grammar import Grammar

if TYPE_CHECKING:
    from gac_core.chat.prompt import Message
    from gac_core.ensemble import Ensemble, Prompt

EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 a member failed; 2 a wrong option, file or prompt; 3 a model or "
    "tokenizer can not be used; 130 interrupted."
)
_FAILED, _WRONG, _UNUSABLE, _INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Several language models with different tokenizers write one text together.\n\n"
    "Without models, the commands use the pocket ensemble: three tiny chat models inside this "
    "package that need no GPU and no download.\n\n" + EXIT_CODES,
)

# ------------------------------------------------ options that commands share

Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="Folder or hub name; once per model. Default: pocket."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; `gac config` writes one.")
]
Weights = Annotated[
    str | None, typer.Option(help="One number per model, with commas: 0.6,0.4. Default: equal.")
]
Method = Annotated[
    str | None, typer.Option(help=f"{', '.join(METHODS)}, or a preset. Default: {METHODS[0]}.")
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="cascade: the first model decides alone above this probability; co_llm: the others "
        "are asked above this one."
    ),
]
Primary = Annotated[int | None, typer.Option(help="Which model is asked first; 0 by default.")]
Others = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other option of the configuration, such as paths=4 or draft=ngrams; repeat it.",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or float64.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Steps at most. Default: 256.")]
Temperature = Annotated[float, typer.Option(help="0 takes the most probable; 1 draws freely.")]
TopP = Annotated[float, typer.Option(help="Draw only from units up to this mass.")]
Seed = Annotated[int | None, typer.Option(help="The same seed draws the same text.")]
Stop = Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")]
System = Annotated[str | None, typer.Option(help="A system message.")]


@app.command()
def run(
    question: Annotated[
        str | None, typer.Argument(help="What to ask; read from standard input if left out.")
    ] = None,
    *,
    model: Models = None,
    config: ConfigFile = None,
    weights: Weights = None,
    method: Method = None,
    threshold: Threshold = None,
    primary: Primary = None,
    others: Others = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    stop: Stop = None,
    system: System = None,
    schema: Annotated[
        Path | None, typer.Option(help="Answer with JSON that fits the JSON schema in this file.")
    ] = None,
    regex: Annotated[
        str | None, typer.Option(help="Answer with text this regular expression matches.")
    ] = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="Answer with one of these; repeat it.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Go on with the text as it is, without chat templates.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show each member's view of every step.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the answer.")] = False,
) -> None:
    """Ask one question and watch the answer come.

    On a terminal, words are green where all members were asked and agreed, yellow where they
    disagreed and the ensemble settled it, and plain where the first decided alone (cascade). In a
    pipe the answer is plain text; the summary goes to standard error.

    Example: gac run --explain "What is 17 + 25?"
    """
    if question in (None, "-") and not sys.stdin.isatty():
        question = sys.stdin.read()
    if question is None or question.strip() in ("", "-"):
        raise ConfigError('give a question: gac run "What is 17 + 25?"')
    prompt: Prompt = (
        question if raw else _with_system([{"role": "user", "content": question}], system)
    )
    if raw and system is not None:
        raise ConfigError("--system needs a chat prompt; leave --raw or --system out")
    placed = Placement(model, config, weights, method, threshold, primary, device, dtype, others)
    grammar = _grammar(schema, regex, choice)
    sampling = _sampling(max_new_tokens, temperature, top_p, seed, stop, grammar)
    with placed.load() as ensemble:
        show = Explanation([m.name for m in ensemble.members]) if explain else Words()
        began = time.perf_counter()
        steps = []
        for step in ensemble.stream(prompt, sampling):
            show.step(step)
            steps.append(step)
        show.end()
        if not quiet:
            summary(steps, time.perf_counter() - began)


@app.command()
def chat(
    *,
    model: Models = None,
    config: ConfigFile = None,
    weights: Weights = None,
    method: Method = None,
    threshold: Threshold = None,
    primary: Primary = None,
    others: Others = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    system: System = None,
) -> None:
    """Talk with an ensemble; it remembers the conversation.

    /reset begins anew, /quit or Ctrl-D leaves, Ctrl-C stops an answer.
    """
    placed = Placement(model, config, weights, method, threshold, primary, device, dtype, others)
    sampling = _sampling(max_new_tokens, temperature, top_p, seed, None)
    with placed.load() as ensemble:
        names = ", ".join(member.name for member in ensemble.members)
        err().print(
            f"{names} write together. /reset begins anew, /quit leaves.", style="dim", markup=False
        )
        messages: list[Message] = []
        while (line := _read_line()) is not None:
            if line == "/reset":
                messages = []
                err().print("The conversation begins anew.", style="dim")
                continue
            if line.startswith("/"):
                err().print("There are /reset and /quit.", style="dim")
                continue
            asked = [*messages, {"role": "user", "content": line}]
            try:
                answer = _answer(ensemble, _with_system(asked, system), sampling)
            except PromptError as error:
                err().print(f"{error}; /reset begins anew", style="red", markup=False)
                continue
            messages = [*asked, {"role": "assistant", "content": answer}]


@app.command("eval")
def evaluate(
    *,
    model: Models = None,
    config: ConfigFile = None,
    weights: Weights = None,
    primary: Primary = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    items: Annotated[int, typer.Option(help="Questions per task.")] = 300,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this task; may be repeated. Default: all but report, which has long answers."
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every method and preset, and controls that fuse nothing.")
    ] = False,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Only this row of --all beside the members; may be repeated."),
    ] = None,
    threshold: Annotated[
        list[float] | None,
        typer.Option(help="A cascade at this threshold; may be repeated. Default: 0.5 to 0.99."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Other questions for another seed.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure each member alone, the ensemble, and cascades on the same questions.

    The questions are made by a program and held out from the pocket members' training: finding a
    fact in a text, arithmetic, word problems, tool calls and what is said of their results, and
    extraction into JSON. An answer counts if it is exactly the right one.

    The controls of --all spend what an ensemble spends, without fusing: self_consistency (the best
    member, sampled as often as there are members, and a majority vote), routing (the best member
    for each task) and rerank (of all members' answers the one that all find most likely). The best
    are chosen on questions of another seed.

    Examples: gac eval --items 50 --task retrieval --threshold 0.9;
    gac eval --method every_step --method rerank
    """
    import torch

    from gac_core import pocket
    from gac_core.evaluation import evaluate as evaluation
    from gac_core.evaluation import results, systems
    from gac_core.pocket.questions import HELDOUT

    everything = everything or bool(method)
    if everything and threshold:
        raise ConfigError(
            "--threshold is for the cascades measured without --all and --method; for theirs, put "
            "threshold into a --config file"
        )
    placed = Placement(model, config, weights, None, None, primary, device, dtype)
    asked = systems.EvalOptions(
        HELDOUT,
        items,
        seed,
        tuple(threshold or systems.THRESHOLDS),
        tuple(task or ()),
        everything,
        tuple(method or ()),
        str(pocket.GATE) if placed.is_pocket and not primary else None,
    )
    ensemble_config = placed.load(lazy=True).config
    if placed.is_pocket:
        torch.set_num_threads(1)  # more would only wait for one another on models this small
    rows: list[results.Result] = []
    interrupted = False
    with Bars() as bars:
        try:
            for row in evaluation.evaluate(
                ensemble_config,
                asked,
                on_system=bars.begin,
                on_answer=bars.advance,
                on_skip=left_out,
            ):
                rows.append(row)  # noqa: PERF402  (what was measured outlives Ctrl-C)
        except KeyboardInterrupt:
            interrupted = True
    if json and rows:
        typer.echo(dumps(results.as_json(rows), indent=1))
    elif rows:
        for table in [comparison_table(rows)] if everything else evaluation_tables(rows):
            out().print(table)
            out().print()
        if said := results.verdict(rows):
            out().print(said, markup=False)
    if interrupted:
        err().print("Interrupted; what was complete is above.", style="dim")
        raise KeyboardInterrupt


@app.command("fit-gate")
def fit_gate(
    *,
    model: Models = None,
    config: ConfigFile = None,
    weights: Weights = None,
    primary: Primary = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='One question a line; or, in a .jsonl file, one {"messages": [...]} or '
            '{"prompt": "..."} (raw text to go on with) a line. Default: pocket questions.'
        ),
    ] = None,
    items: Annotated[int, typer.Option(min=1, help="Prompts at most.")] = 1500,
    max_new_tokens: MaxNewTokens = None,
    cost: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="What asking the others costs, in nats a step; more defers less. Default: 0.02.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Other questions for another seed.")] = 0,
    output: Annotated[Path, typer.Option("--out", "-o", help="Write the gate here.")] = Path(
        "gate.safetensors"
    ),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Fit the gate of method co_llm: where is it worth asking the others?

    All models are asked at every step of the answers to the prompts. The gate, a linear head over
    the first model's last hidden state, learns at which steps their fusion is surer of what it
    chose than that model alone. It is judged on a fifth of the prompts that it did not see. A
    gate belongs to its first model and the others it was fitted with.

    Example: gac fit-gate -m org/a -m org/b --prompts questions.txt;
    then method: co_llm and gate: gate.safetensors in an ensemble.yaml
    """
    import torch
    from safetensors import SafetensorError

    from gac_core.ensemble import Ensemble
    from gac_core.evaluation import gate_fitting
    from gac_core.pocket.questions import training_prompts

    if output.exists() and not force:
        raise ConfigError(f"{output} exists; add --force to overwrite it")
    if not output.parent.is_dir():  # better known before the minutes it takes
        raise ConfigError(f"{output} can not be written: there is no folder {output.parent}")
    placed = Placement(model, config, weights, None, None, primary, device, dtype)
    recording = gate_fitting.recording_config(placed.load(lazy=True).config)
    if prompts is not None:
        lines = _read(prompts, "--prompts").splitlines()
        is_jsonl = prompts.suffix == ".jsonl"
        asked = gate_fitting.parse_prompts(lines, is_jsonl=is_jsonl, seed=seed)[:items]
    elif placed.is_pocket:
        torch.set_num_threads(1)  # more would only wait for one another on models this small
        asked = training_prompts(items, seed)
    else:
        raise ConfigError("--prompts is needed with models of your own: a file, one prompt a line")
    sampling = _sampling(max_new_tokens, 0.0, 1.0, None, None)
    with Bars() as bars, Ensemble.from_config(recording, progress=False) as ensemble:
        bars.begin("recording", len(asked))
        known, held_out = gate_fitting.record(ensemble, asked, sampling, bars.advance)
    gate = gate_fitting.fit(known, gate_fitting.COST if cost is None else cost)
    try:
        gate.save(output)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{output} can not be written: {error}") from error
    found = gate_fitting.quality(gate, held_out)
    if json:
        typer.echo(dumps(found.as_json(), indent=1))
    else:
        out().print(gate_table(found))
        out().print(f"\n{output} is written: method co_llm, gate {output}", markup=False)


@app.command()
def vocab(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Folders or hub names; only their tokenizers are loaded."),
    ] = None,
    *,
    words: Annotated[
        Path | None,
        typer.Option(help="Common words, one a line. Default: 5,000 from wordfreq, if installed."),
    ] = None,
) -> None:
    """Compare vocabularies: how much of them is common, how large their union is.

    "words alike" is the share of common words that two tokenizers write with the same pieces.
    It was above 90% for all pairs of the GaC paper; others rely on re-encoded histories, which
    are the default.
    """
    from gac_core import pocket
    from gac_core.members.loading import load_tokenizers
    from gac_core.tokens.overlap import overlap
    from gac_core.tokens.tokenizer import ByteTokenizer
    from gac_core.tokens.vocabulary import Kind, Vocabulary

    common_words = _common_words(words)
    paths = models or [str(pocket.folder(name)) for name in pocket.NAMES]
    loaded = load_tokenizers([MemberConfig(model=path) for path in paths])
    tokenizers = {name: ByteTokenizer(t, Vocabulary.of(t)) for name, t in loaded.items()}
    console = out()
    table = Table("tokenizer", "text", "control", "end", "twins", "can join", box=None)
    refusals = []
    for name, tokenizer in tokenizers.items():
        vocabulary = tokenizer.vocabulary
        twins = len(vocabulary.text_ids) - len(vocabulary.ids_by_bytes)
        try:
            tokenizer.check()
            joins = "yes"
        except VocabularyError as error:
            joins = "no"
            refusals.append(str(error))
        counts = (len(vocabulary.text_ids), vocabulary.kinds.count(Kind.CONTROL))
        cells = (*counts, len(vocabulary.end_ids), twins)
        table.add_row(Text(name), *(f"{n:,}" for n in cells), Text(joins))
    console.print(table)
    for refusal in refusals:
        console.print(Text(refusal, style="yellow"))
    if len(tokenizers) < 2:
        return
    table = Table("pair", "union", "common", "A in B", "B in A", "words alike", box=None)
    for a, b in combinations(tokenizers, 2):
        found = overlap(tokenizers[a], tokenizers[b], common_words)
        table.add_row(
            Text(f"{a} - {b}"),
            f"{found.union:,}",
            f"{found.common:,}",
            f"{found.a_in_b:.1%}",
            f"{found.b_in_a:.1%}",
            "-" if found.words_alike is None else f"{found.words_alike:.2%}",
        )
    console.print()
    console.print(table)
    everything = set().union(*(s.vocabulary.ids_by_bytes for s in tokenizers.values()))
    console.print(f"\nunion of all: {len(everything):,} units of text and the end", highlight=False)
    if not common_words:
        err().print(
            "For the share of words alike: pip install wordfreq, or --words FILE", style="dim"
        )


@app.command("config")
def write_config(
    models: Annotated[list[str] | None, typer.Argument(help="Folders or hub names.")] = None,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here, not to standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a commented YAML configuration of an ensemble, every option at its default.

    Example: gac config org/model-a org/model-b -o ensemble.yaml; gac run -c ensemble.yaml "Hello"
    """
    # The file is read relative to where it is, so folders are written whole.
    paths = [str(Path(m).absolute()) if output and Path(m).is_dir() else m for m in models or []]
    text = commented_yaml(paths or ["org/model-a", "path/to/model-b"])
    if output is None:
        typer.echo(text, nl=False)
        return
    if output.exists() and not force:
        raise ConfigError(f"{output} exists; add --force to overwrite it")
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{output} can not be written: {error.strerror}") from error


def commented_yaml(models: Sequence[str]) -> str:
    """Every option of an ensemble with its default and what it is for."""
    lines = ["# An ensemble for gac. Options left out have the values shown.", "members:"]
    for index, model in enumerate(models):
        lines.append(f"  - model: {_scalar(model)}")
        if index == 0:
            lines += _commented(MemberConfig, skip=("model",), indent="    ")
    lines.append("")
    lines += _commented(EnsembleConfig, skip=("members",), indent="")
    return "\n".join(lines) + "\n"


def _commented(kind: type[Any], *, skip: tuple[str, ...], indent: str) -> list[str]:
    lines = []
    for name, field in kind.model_fields.items():
        if name not in skip:
            what = f"  # {field.description}" if field.description else ""
            lines.append(f"{indent}# {name}: {_scalar(field.default)}{what}")
    return lines


def _scalar(value: Any) -> str:
    import yaml

    shown = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(shown, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()


# ------------------------------------------------ loading


@dataclass(frozen=True)
class Placement:
    """Which ensemble the options of a command mean."""

    models: list[str] | None
    config: Path | None
    weights: str | None
    method: str | None
    threshold: float | None
    primary: int | None
    device: str
    dtype: str
    others: list[str] | None = None

    @property
    def is_pocket(self) -> bool:
        """Whether it is the embedded ensemble."""
        return not self.models and self.config is None

    def load(self, *, lazy: bool = False) -> "Ensemble":
        """Load it; progress bars on a terminal only."""
        from gac_core.ensemble import Ensemble

        options: dict[str, Any] = dict(map(_option, self.others or ()))
        if self.method is not None:
            options["method"] = self.method
        if self.threshold is not None:
            options["threshold"] = self.threshold
        if self.primary is not None:
            options["primary"] = self.primary
        if self.config is not None:
            if self.models or self.weights:
                raise ConfigError("--config names models and weights; leave --model, --weights out")
            if (self.device, self.dtype) != ("auto", "auto"):
                raise ConfigError("--config names devices and dtypes; leave --device, --dtype out")
            config = EnsembleConfig.from_yaml(self.config)
            if options:
                config = EnsembleConfig.of({**config.model_dump(), **options})
            return Ensemble.from_config(config, lazy=lazy, progress=sys.stderr.isatty())
        if self.weights is not None:
            options["weights"] = _numbers(self.weights)
        if self.is_pocket:
            if self.device not in ("auto", "cpu") or self.dtype not in ("auto", "float32"):
                raise ConfigError(
                    "the pocket ensemble runs on the CPU in float32; for --device and --dtype "
                    "name models with --model"
                )
            return Ensemble.pocket(lazy=lazy, **options)
        return Ensemble.from_pretrained(
            self.models or [],
            device=self.device,
            dtype=self.dtype,
            lazy=lazy,
            progress=sys.stderr.isatty(),
            **options,
        )


def _option(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as YAML has it."""
    import yaml

    name, equals, value = text.partition("=")
    if name == "members":
        raise ConfigError("--set can not set members; name them with --model or in a file")
    if not equals or not name:
        raise ConfigError(f"--set takes NAME=VALUE, not {text!r}; `gac config` shows the names")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text!r} is no value as YAML has it") from error


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--weights must be numbers with commas, not {text!r}") from None


def _sampling(
    max_new_tokens: int | None,
    temperature: float,
    top_p: float,
    seed: int | None,
    stop: list[str] | None,
    grammar: Grammar | None = None,
) -> SamplingParams:
    options: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "seed": seed}
    options["stop"] = stop or []
    options["grammar"] = grammar
    if max_new_tokens is not None:
        options["max_new_tokens"] = max_new_tokens
    return SamplingParams.of(options)


def _grammar(schema: Path | None, regex: str | None, choice: list[str] | None) -> Grammar | None:
    if sum(option is not None for option in (schema, regex, choice)) > 1:
        raise ConfigError("--schema, --regex and --choice exclude each other; give one of them")
    if schema is not None:
        return Grammar.json_schema(_read(schema, "--schema"))
    if regex is not None:
        return Grammar.regex(regex)
    return Grammar.choice(choice) if choice is not None else None


def _read(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option}: {path} can not be read: {error}") from error


def _with_system(messages: Sequence["Message"], system: str | None) -> list["Message"]:
    first: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return [*first, *messages]


def _common_words(path: Path | None) -> list[str]:
    if path is not None:
        return _read(path, "--words").split()
    try:
        from wordfreq import top_n_list
    except ImportError:
        return []
    return list(top_n_list("en", 5000))


def _answer(ensemble: "Ensemble", prompt: "Prompt", sampling: SamplingParams) -> str:
    """Show an answer; Ctrl-C stops it and keeps what was written."""
    show, steps = Words(), []
    with ensemble.stream(prompt, sampling) as stream:
        try:
            for step in stream:
                show.step(step)
                steps.append(step)
        except KeyboardInterrupt:
            err().print(" [stopped]", style="dim", end="", markup=False)
    show.end()
    return "".join(step.text for step in steps)


def _read_line() -> str | None:
    """The next line that says something; None at the end."""
    while True:
        try:
            line = input("you> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            return None
        if line in ("/quit", "/exit"):
            return None
        if line:
            return line


# ------------------------------------------------ entry


def main(arguments: Iterable[str] | None = None) -> None:
    """Run the command; errors are one line with the cure, and an exit code that means something."""
    try:
        app(list(arguments) if arguments is not None else None)
    except (ConfigError, PromptError) as error:
        _exit(error, _WRONG)
    except (LoadError, VocabularyError) as error:
        _exit(error, _UNUSABLE)
    except GacError as error:
        _exit(error, _FAILED)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # The reader has left; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_FAILED)


def _exit(error: GacError, code: int) -> None:
    err().print(Text("gac: " + " ".join(str(error).split()), style="red"))
    sys.exit(code)


if __name__ == "__main__":
    main()
