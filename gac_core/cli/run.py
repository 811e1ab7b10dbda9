"""`gac run`: one question, one answer."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from gac_core.cli.option_groups import flatten_groups
from gac_core.cli.options import (
    EnsembleOptions,
    GrammarOptions,
    SamplingOptions,
    System,
    with_system,
)
from gac_core.cli.terminal import Explanation, Words, is_terminal, read_input, summary
from gac_core.errors import ConfigError

if TYPE_CHECKING:
    from gac_core.chat.prompt import Prompt


@flatten_groups
def run(
    question: Annotated[
        str | None, typer.Argument(help="What to ask; read from standard input if left out.")
    ] = None,
    *,
    ensemble_options: EnsembleOptions,
    sampling_options: SamplingOptions,
    system: System = None,
    grammar_options: GrammarOptions,
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
    prompt = _prompt(question, system, raw=raw)
    sampling = sampling_options.build(grammar_options.build())
    with ensemble_options.load() as ensemble:
        view = Explanation([m.name for m in ensemble.members]) if explain else Words()
        began = time.perf_counter()
        steps = []
        for step in ensemble.stream(prompt, sampling):
            view.step(step)
            steps.append(step)
        view.end()
        if not quiet:
            summary(steps, time.perf_counter() - began)


def _prompt(question: str | None, system: str | None, *, raw: bool) -> "Prompt":
    """The raw text or chat messages to answer; the question may come from standard input."""
    if question in (None, "-") and not is_terminal(sys.stdin):
        question = read_input(whole=True)
    if question is None or question.strip() in ("", "-"):
        raise ConfigError('give a question: gac run "What is 17 + 25?"')
    if not raw:
        return with_system([{"role": "user", "content": question}], system)
    if system is not None:
        raise ConfigError("--system needs a chat prompt; leave --raw or --system out")
    return question
