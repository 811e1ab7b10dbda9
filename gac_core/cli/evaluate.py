"""`gac eval`: members, ensemble and controls on the same questions, in tables."""

from collections.abc import Sequence
from json import dumps
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from gac_core import pocket
from gac_core.cli.option_groups import flatten_groups
from gac_core.cli.options import Json, ModelOptions, QuestionSeed, use_one_thread
from gac_core.cli.terminal import Bars, err, out, table
from gac_core.config import EnsembleConfig
from gac_core.errors import ConfigError, GacError, one_line
from gac_core.evaluation.results import Result, as_json, best_member, gain, verdict

if TYPE_CHECKING:
    from gac_core.evaluation.systems import EvalOptions


@flatten_groups
def evaluate(
    *,
    ensemble_options: ModelOptions,
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
    seed: QuestionSeed = 0,
    json: Json = False,
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
    everything = everything or bool(method)
    if everything and threshold:
        raise ConfigError(
            "--threshold is for the cascades measured without --all and --method; for theirs, put "
            "threshold into a --config file"
        )
    from gac_core.evaluation.systems import THRESHOLDS, EvalOptions
    from gac_core.pocket.questions import HELDOUT

    has_pocket_gate = ensemble_options.is_pocket and not ensemble_options.primary
    options = EvalOptions(
        HELDOUT,
        items=items,
        seed=seed,
        thresholds=tuple(threshold or THRESHOLDS),
        tasks=tuple(task or ()),
        everything=everything,
        only=tuple(method or ()),
        defaults={"co_llm": {"gate": str(pocket.GATE)}} if has_pocket_gate else {},
    )
    config = ensemble_options.load(lazy=True).config
    if ensemble_options.is_pocket:
        use_one_thread()
    rows, interrupted = _measure(config, options)
    if json and rows:
        typer.echo(dumps(as_json(rows), indent=1))
    elif rows:
        _show(rows, everything=everything)
    if interrupted:
        err().print("Interrupted; what was complete is above.", style="dim")
        raise interrupted


def _measure(
    config: EnsembleConfig, options: "EvalOptions"
) -> tuple[list[Result], KeyboardInterrupt | None]:
    """The rows, with a bar for each; those measured outlive Ctrl-C, which is returned."""
    from gac_core.evaluation import evaluate as evaluation

    rows: list[Result] = []
    with Bars() as bars:
        try:
            for row in evaluation.evaluate(
                config, options, on_system=bars.begin, on_answer=bars.advance, on_skip=_left_out
            ):
                rows.append(row)  # noqa: PERF402  (an exception must not lose the rows before it)
        except KeyboardInterrupt as interrupted:
            return rows, interrupted
    return rows, None


def _left_out(name: str, error: GacError) -> None:
    """Report on standard error that a row is missing, and why."""
    err().print(Text(f"{name} is left out: {one_line(error)}", style="yellow"))


def _show(rows: Sequence[Result], *, everything: bool) -> None:
    for shown in [comparison_table(rows)] if everything else evaluation_tables(rows):
        out().print(shown)
        out().print()
    if sentence := verdict(rows):
        out().print(sentence, markup=False)


# ------------------------------------------------ tables


def evaluation_tables(rows: Sequence[Result]) -> list[Table]:
    """A line per system: accuracy per task and their mean; and what it cost."""
    accuracy, cost = table(), table()
    for heading in (*rows[0].right, "average"):
        accuracy.add_column(Text(_heading(heading)), justify="right")
    members = [row.name for row in rows if row.kind == "member"]
    for heading in ("fused\nsteps", "tokens\na second", *(f"forwards\nof {m}" for m in members)):
        cost.add_column(Text(heading), justify="right")
    best = max(row.average for row in rows)
    for row in rows:
        name = Text(row.name.replace("_", " "))
        accuracy.add_row(
            name,
            *(f"{right.mean():.1%}" for right in row.right.values()),
            Text(_average(row), style="bold" if row.average == best else ""),
        )
        cost.add_row(
            name,
            _fused_share(row),
            f"{row.tokens_per_second:.0f}",
            *(f"{row.forwards_per_token.get(m, 0):.2f}" for m in members),
        )
    return [accuracy, cost]


def comparison_table(rows: Sequence[Result]) -> Table:
    """A line per system, of many: how right it is, what it gained, and what it cost."""
    comparison = table()
    comparison.add_column("")
    for heading in (  # the widest rows fit a terminal, or pipe, of 80 columns
        "average",
        "gain over\nbest member, %",
        "fused\nsteps",
        "forwards\na token",
        "tokens\n/s",
    ):
        comparison.add_column(heading, justify="right")
    best = best_member(rows)
    for row in rows:
        comparison.add_row(
            Text(row.name),
            row.kind,
            _average(row),
            "-" if row.kind == "member" else _gain(row, best),
            _fused_share(row),
            f"{sum(row.forwards_per_token.values()):.2f}",
            f"{row.tokens_per_second:.0f}",
        )
    return comparison


def _average(row: Result) -> str:
    low, high = row.ci95
    return f"{row.average:.1%} ±{50 * (high - low):.1f}"


def _gain(row: Result, best: Result) -> str:
    gained = gain(row, best)
    least, most = gained.ci95
    return f"{100 * gained.relative:+.1f} ({100 * least:+.0f}, {100 * most:+.0f})"


def _fused_share(row: Result) -> str:
    return f"{row.fused_share:.1%}" if row.kind == "method" else "-"


def _heading(name: str) -> str:
    """A name on several lines, so that a row fits a terminal of 80 columns."""
    words = [
        w if len(w) < 9 else f"{w[: len(w) // 2 + 1]}-\n{w[len(w) // 2 + 1 :]}"
        for w in name.split("_")
    ]
    return "\n".join(words)
