"""How answers look on a terminal and in a pipe."""

import io
import math
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gac_core.errors import ConfigError
from gac_core.outputs import MemberView, Step

# The styles of words: the primary decided alone, all agreed, or the fusion settled it.
ALONE: Final = ""
AGREED: Final = "green"
SETTLED: Final = "bold yellow"
THOUGHT: Final = "dim"


def out() -> Console:
    """Standard output."""
    return Console(highlight=False, soft_wrap=True)


def err() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def replace_what_can_not_be_shown() -> None:
    """Write "?" for a letter that is not in the encoding of the output, instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a standard stream is a terminal; a service may have no such stream."""
    return stream is not None and stream.isatty()


def read_input(*, whole: bool) -> str:
    """What standard input holds, or its next line; "" at the end, and where there is none.

    Raises:
        ConfigError: it is in another encoding.

    """
    if sys.stdin is None:
        return ""
    try:
        text = sys.stdin.read() if whole else sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"standard input is no text in {error.encoding}: {error.reason} at byte {error.start}; "
            "convert it, or name its encoding in the environment variable PYTHONIOENCODING"
        ) from error
    return text.removeprefix("\ufeff")  # a byte order mark


def style_of(step: Step) -> str:
    """The style of a step's words: who decided them, and whether all members agreed."""
    if step.decided_by == "primary" or len(step.members) < 2:
        return ALONE
    return AGREED if len({view.top for view in step.members}) == 1 else SETTLED


def printable(text: str) -> str:
    """Text without the control characters a terminal would obey."""
    return "".join(c if c >= " " or c in "\n\t" else "\ufffd" for c in text.replace("\x7f", ""))


class Words:
    """The answer word by word; on a terminal after the thought, which is dim."""

    def __init__(self) -> None:
        self._console = out()
        self._has_thought = False  # on the current line

    def step(self, step: Step) -> None:
        """Show what became certain with this step."""
        if self._console.is_terminal:
            if self._has_thought and not step.is_thought:
                self._console.print("\n")
            self._has_thought = step.is_thought and (self._has_thought or bool(step.thought))
            style = THOUGHT if step.is_thought else style_of(step)
            text = step.text if step.thought is None else step.thought
            self._console.print(Text(printable(text), style=style), end="")
        else:
            self._console.file.write(step.text)
        self._console.file.flush()

    def end(self) -> None:
        """End the last line."""
        self._console.file.write("\n")
        self._console.file.flush()


class Explanation:
    """A line per step: the unit, its probability, who decided, and each member's view."""

    def __init__(self, names: Sequence[str]) -> None:
        self._console = out()
        self._names = list(names)
        head = ["step", "chosen", "prob", "by", *self._names]
        self._line([f"{cell:<{w}}" for cell, w in zip(head, self._widths(), strict=True)], "bold")
        self._count = 0
        self._answer = ""

    def step(self, step: Step) -> None:
        """Show one step."""
        self._count += 1
        self._answer += step.text
        views = {view.name: view for view in step.members}
        is_over = step.is_thought and step.is_end
        chosen = "<thought ends>" if is_over else _quoted(step.unit, is_end=step.is_end)
        cells = [
            f"{self._count}",
            chosen,
            f"{math.exp(step.logprob):.3f}",
            step.decided_by,
        ]
        cells += [_seen(views.get(name), step) for name in self._names]
        padded = [f"{cell:<{width}}" for cell, width in zip(cells, self._widths(), strict=True)]
        self._line(padded, style_of(step))

    def end(self) -> None:
        """Show the whole answer."""
        self._line([""], "")
        self._line([printable(self._answer)], "")

    def _widths(self) -> list[int]:
        return [4, 16, 5, 8, *(26 for _ in self._names)]

    def _line(self, cells: Sequence[str], style: str) -> None:
        self._console.print(Text("  ".join(cells).rstrip(), style=style))


def _seen(view: MemberView | None, step: Step) -> str:
    """A member's top unit and, where it is another one, what it gave the chosen unit."""
    if view is None:
        return "not asked"
    top = f"{_quoted(view.top, is_end=not view.top)} {view.top_prob:.3f}"
    return top if view.top == step.unit else f"{top} ({view.prob:.3f})"


def _quoted(unit: bytes, *, is_end: bool) -> str:
    if is_end:
        return "<end>"
    text = unit.decode(errors="backslashreplace")
    return '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text) + '"'


def summary(steps: Sequence[Step], seconds: float) -> None:
    """Print on standard error what an answer took.

    Args:
        steps: all of the answer.
        seconds: of wall time.

    """
    outcome = steps[-1].outcome
    assert outcome is not None
    usage = outcome.usage
    disagreed = sum(style_of(step) == SETTLED for step in steps)
    thoughts = sum(step.is_thought for step in steps)
    shares = [f"{usage.steps} steps"] + [f"{thoughts} of thought"] * (thoughts > 0)
    if len(usage.members) > 1:
        shares.append(f"{usage.fused_steps} decided together")
        shares.append(f"{disagreed} in disagreement")
    shares.append(f"{usage.steps / seconds:.0f} steps/s")
    if outcome.finish_reason == "length":
        shares.append("cut at the length limit")
    err().print("[" + ", ".join(shares) + "]", style="dim", markup=False)


class Bars:
    """A progress bar per system that is evaluated, on a terminal only."""

    def __init__(self) -> None:
        console = err()
        self._progress = Progress(
            "{task.description:<18}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._current: TaskID | None = None

    def begin(self, name: str, total: int) -> None:
        """Start the bar of the next system."""
        self._current = self._progress.add_task(name, total=total)

    def advance(self) -> None:
        """One question was answered."""
        assert self._current is not None
        self._progress.advance(self._current)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


def table() -> Table:
    """A table without rules, whose first column is named by its rows."""
    plain = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    plain.add_column("")
    return plain
