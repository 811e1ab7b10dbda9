"""`gac run`: one question, one answer."""

import time
from typing import Annotated

import typer

from gac_core.cli.option_groups import flatten_groups
from gac_core.cli.options import (
    EnsembleOptions,
    GrammarOptions,
    Question,
    Raw,
    SamplingOptions,
    System,
    prompt_of,
)
from gac_core.cli.terminal import Explanation, Words, summary


@flatten_groups
def run(
    question: Question = None,
    *,
    ensemble_options: EnsembleOptions,
    sampling_options: SamplingOptions,
    system: System = None,
    grammar_options: GrammarOptions,
    raw: Raw = False,
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
    prompt = prompt_of(question, system, raw=raw, example='gac run "What is 17 + 25?"')
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
