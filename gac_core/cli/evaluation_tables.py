"""What `gac eval` shows: tables of systems, their figures and costs."""

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from gac_core.cli.terminal import table
from gac_core.evaluation.results import Estimate, Result, best_at, best_member, gain
from gac_core.evaluation.text_results import TextResult, best_reader


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


def _fused_share(row: Result | TextResult) -> str:
    return f"{row.fused_share:.1%}" if row.kind == "method" else "-"


def _heading(name: str) -> str:
    """A name on several lines, so that a row fits a terminal of 80 columns."""
    words = [
        w if len(w) < 9 else f"{w[: len(w) // 2 + 1]}-\n{w[len(w) // 2 + 1 :]}"
        for w in name.split("_")
    ]
    return "\n".join(words)


# ------------------------------------------------ your own questions and texts


def question_tables(rows: Sequence[Result]) -> list[Table]:
    """A line per system: accuracy on each set and on all; then differences and costs.

    A difference is that to the member that is best at the set, in points.
    """
    sets: list[str | None] = [*rows[0].right, None]
    accuracy, difference = table(), table()
    for name in sets:
        count = sum(map(len, rows[0].part(name).right.values()))
        heading = f"{_heading(name or 'all')}\n({count})"
        accuracy.add_column(Text(heading), justify="right")
        difference.add_column(Text(_heading(name or "all")), justify="right")
    for heading in ("fused\nsteps", "seconds"):
        difference.add_column(heading, justify="right")
    best = {name: max(row.accuracy(name).value for row in rows) for name in sets}
    for row in rows:
        figures = [row.accuracy(name) for name in sets]
        cells = [
            Text(_estimate(figure, 100, 1), style="bold" if figure.value == best[name] else "")
            for name, figure in zip(sets, figures, strict=True)
        ]
        accuracy.add_row(Text(row.name), *cells)
        over = [
            _estimate(row.difference(best_at(rows, name), name), 100, 1, sign="+")
            for name in sets
            if row.kind != "member"
        ]
        over = over or ["-"] * len(sets)
        difference.add_row(Text(row.name), *over, _fused_share(row), f"{row.seconds:.0f}")
    accuracy.title, difference.title = "right answers, %", "over the best member, points"
    return [accuracy, difference]


def text_tables(rows: Sequence[TextResult]) -> list[Table]:
    """A line per system: bits per byte of each text and of all; then differences and costs."""
    texts: list[str | None] = [*rows[0].bits]
    if len(texts) > 1:
        texts.append(None)
    figures, difference = table(), table()
    for name in texts:
        size = int(rows[0].pieces(name)[1].sum())
        figures.add_column(Text(f"{_heading(name or 'all')}\n({size:,})"), justify="right")
        difference.add_column(Text(_heading(name or "all")), justify="right")
    for heading in ("fused\nsteps", "seconds"):
        difference.add_column(heading, justify="right")
    best = {name: min(row.bits_per_byte(name).value for row in rows) for name in texts}
    for row in rows:
        own = [row.bits_per_byte(name) for name in texts]
        cells = [
            Text(_estimate(figure, 1, 3), style="bold" if figure.value == best[name] else "")
            for name, figure in zip(texts, own, strict=True)
        ]
        figures.add_row(Text(row.name), *cells)
        over = [
            _estimate(row.difference(best_reader(rows, name), name), 1, 3, sign="+")
            for name in texts
            if row.kind != "member"
        ]
        over = over or ["-"] * len(texts)
        difference.add_row(Text(row.name), *over, _fused_share(row), f"{row.seconds:.0f}")
    figures.title, difference.title = "bits per byte", "over the best member"
    return [figures, difference]


def _estimate(figure: Estimate, scale: float, digits: int, sign: str = "") -> str:
    """A figure and half its interval; "inf" for what was held to be impossible."""
    if not math.isfinite(figure.value):
        return "inf" if math.isinf(figure.value) else "-"
    low, high = figure.ci95
    return f"{scale * figure.value:{sign}.{digits}f} ±{scale * (high - low) / 2:.{digits}f}"
