"""`gac eval`: members, ensemble and controls on the same questions and texts."""

import sys
from dataclasses import dataclass, field
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from gac_core import pocket
from gac_core.cli.evaluation_tables import (
    comparison_table,
    evaluation_tables,
    question_tables,
    text_tables,
)
from gac_core.cli.option_groups import flatten_groups
from gac_core.cli.options import Json, ModelOptions, QuestionSeed, use_one_thread
from gac_core.cli.terminal import Bars, err, is_terminal, out
from gac_core.config import EnsembleConfig
from gac_core.errors import ConfigError, GacError, one_line
from gac_core.evaluation.results import Result, as_json, verdict
from gac_core.evaluation.text_files import Text as OwnText
from gac_core.evaluation.text_results import TextResult, texts_as_json

if TYPE_CHECKING:
    from gac_core.evaluation.systems import EvalOptions


@dataclass(frozen=True)
class AskedOptions:
    """What is asked: the pocket tasks, or questions and texts of the user's own."""

    questions: Annotated[
        list[Path] | None,
        typer.Option(help="JSONL file of questions, instead of the pocket tasks; repeat it."),
    ] = None
    text: Annotated[
        list[Path] | None,
        typer.Option(help="Text file, over which bits per byte are measured; repeat it."),
    ] = None
    size: Annotated[
        int, typer.Option("--bytes", min=1, help="Taken of each text, from its beginning.")
    ] = 20_000
    items: Annotated[
        int | None, typer.Option(help="Questions per task or set. Default: 300; all of a file.")
    ] = None
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this task; may be repeated. Default: all but report, which has long answers."
        ),
    ] = None
    seed: QuestionSeed = 0

    @property
    def is_own(self) -> bool:
        """Whether questions or texts are the user's own."""
        return bool(self.questions or self.text)

    def build(self) -> dict[str, Any]:
        """What is asked, as options of `EvalOptions`.

        Raises:
            ConfigError: a file can not be used, or options exclude each other.

        """
        from gac_core.evaluation.question_files import read_questions
        from gac_core.evaluation.text_files import read_texts
        from gac_core.pocket.questions import HELDOUT

        if self.is_own and self.task:
            raise ConfigError("--task names pocket tasks; leave it out with --questions and --text")
        task_set, most = HELDOUT, 300
        if self.is_own:
            task_set, most = read_questions(self.questions or ()), sys.maxsize
        return {
            "task_set": task_set,
            "texts": read_texts(self.text or (), self.size),
            "items": most if self.items is None else self.items,
            "tasks": tuple(self.task or ()),
            "seed": self.seed,
        }


@flatten_groups
def evaluate(
    *,
    ensemble_options: ModelOptions,
    asked: AskedOptions,
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
    json: Json = False,
) -> None:
    """Measure each member alone, and the ensemble, on the same questions and texts.

    With --questions and --text they are yours, and the ensemble is as configured;
    docs/evaluation.md tells what a line of questions holds, and what bits per byte are. Else a
    program makes the questions, held out from the pocket members' training: finding a fact in a
    text, arithmetic, word problems, tool calls and what is said of their results, and extraction
    into JSON. An answer counts if it is exactly the right one.

    The controls of --all spend what an ensemble spends, without fusing: self_consistency (the best
    member, sampled as often as there are members, and a majority vote), routing (the best member
    for each task) and rerank (of all members' answers the one that all find most likely). The best
    are chosen on questions of another seed; of a file, on the same.

    Examples: gac eval --items 50 --task retrieval --threshold 0.9;
    gac eval -c ensemble.yaml --questions mine.jsonl --text prose.txt --all
    """
    everything = everything or bool(method)
    if everything and threshold:
        raise ConfigError(
            "--threshold is for the cascades measured without --all and --method; for theirs, put "
            "threshold into a --config file"
        )
    from gac_core.evaluation.systems import THRESHOLDS, EvalOptions

    has_pocket_gate = ensemble_options.is_pocket and not ensemble_options.primary
    options = EvalOptions(
        **asked.build(),
        thresholds=tuple(threshold or (() if asked.is_own else THRESHOLDS)),
        configured=asked.is_own,
        everything=everything,
        only=tuple(method or ()),
        defaults={"co_llm": {"gate": str(pocket.GATE)}} if has_pocket_gate else {},
    )
    config = ensemble_options.load(lazy=True).config
    if ensemble_options.is_pocket:
        use_one_thread()
    found = _measure(config, options)
    if json:
        found.print_json()
    else:
        found.print_tables(options)
    if found.ended is not None:
        if isinstance(found.ended, KeyboardInterrupt):
            err().print("Interrupted; what was complete is above.", style="dim")
        raise found.ended


@dataclass
class _Found:
    """What was measured before the end, or before an error or Ctrl-C, which is `ended`."""

    rows: list[Result] = field(default_factory=list)
    texts: list[TextResult] = field(default_factory=list)
    ended: BaseException | None = None

    def print_json(self) -> None:
        told = as_json(self.rows) if self.rows else {}
        if self.texts:
            told["texts"] = texts_as_json(self.texts)
        if told:
            typer.echo(dumps(told, indent=1))

    def print_tables(self, options: "EvalOptions") -> None:
        if not self.rows:
            tables = []
        elif options.configured:
            tables = question_tables(self.rows)
        else:
            everything = options.everything
            tables = [comparison_table(self.rows)] if everything else evaluation_tables(self.rows)
        for shown in [*tables, *(text_tables(self.texts) if self.texts else ())]:
            out().print(shown)
            out().print()
        sentences = ["" if options.configured else verdict(self.rows)]
        for sentence in filter(None, (*sentences, *map(_impossible, self.texts))):
            out().print(sentence, markup=False)


def _measure(config: EnsembleConfig, options: "EvalOptions") -> _Found:
    """All rows, with a bar for each."""
    from gac_core.evaluation import evaluate as evaluation
    from gac_core.evaluation.reading import evaluate_texts
    from gac_core.evaluation.running import load_used
    from gac_core.evaluation.systems import members_alone

    members_alone(config)  # refuses what nothing can be compared with, before models are loaded
    for text in options.texts:
        _tell_size(text)
    found = _Found()
    loaded = load_used(config, progress=is_terminal(sys.stderr))
    with Bars() as bars:
        try:
            shared: dict[str, Any] = {
                "loaded": loaded,
                "on_system": bars.begin,
                "on_skip": _left_out,
            }
            if options.task_set.names:
                for row in evaluation.evaluate(config, options, on_answer=bars.advance, **shared):
                    found.rows.append(row)
            if options.texts:
                for read in evaluate_texts(config, options, on_piece=bars.advance, **shared):
                    found.texts.append(read)
        except (KeyboardInterrupt, GacError) as ended:
            found.ended = ended
    return found


def _tell_size(text: OwnText) -> None:
    """Report on standard error that a text is measured in part."""
    taken = len(text.data.encode())
    if taken < text.size:
        err().print(
            f"{text.name}: the first {taken:,} of {text.size:,} bytes; --bytes takes more.",
            style="dim",
            markup=False,
        )


def _impossible(read: TextResult) -> str:
    """A sentence about steps that were given no probability; empty if there are none."""
    if not (count := sum(read.impossible.values())):
        return ""
    return (
        f"{read.name} gave {count:,} of {read.steps:,} steps no probability, so its bits per byte "
        "are infinite."
    )


def _left_out(name: str, error: GacError) -> None:
    """Report on standard error that a row is missing, and why."""
    err().print(Text(f"{name} is left out: {one_line(error)}", style="yellow"))
