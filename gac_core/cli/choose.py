"""`gac choose`: which of some answers is the right one."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from gac_core.cli.option_groups import flatten_groups
from gac_core.cli.options import EnsembleOptions, Json, Question, Raw, System, prompt_of
from gac_core.cli.terminal import out, printable, table

if TYPE_CHECKING:
    from gac_core.outputs import Choice


@flatten_groups
def choose(
    question: Question = None,
    *,
    label: Annotated[list[str], typer.Option(help="An answer to choose from; repeat it.")],
    ensemble_options: EnsembleOptions,
    system: System = None,
    raw: Raw = False,
    prior: Annotated[
        bool, typer.Option("--prior", help="Take off what members like to answer to any question.")
    ] = False,
    length: Annotated[
        str, typer.Option(help="sum: of a label's log-probability; bytes: its mean over bytes.")
    ] = "sum",
    temperature: Annotated[
        float, typer.Option(help="Above 1 members count as less sure than they say.")
    ] = 1.0,
    as_json: Json = False,
) -> None:
    """Ask which of some answers is the right one, and how probable each is.

    Nothing is written: each member scores every label as a whole, and the ensemble's fusion rule
    pools what they say. After a raw text, labels mostly begin with a space.

    Example: gac choose "What is 17 + 25?" --label "17 + 25 = 42" --label "17 + 25 = 43"
    """
    example = 'gac choose "Is water wet?" --label yes --label no'
    prompt = prompt_of(question, system, raw=raw, example=example)
    options: dict[str, Any] = {"prior": prior, "length": length, "temperature": temperature}
    with ensemble_options.load() as ensemble:
        choice = ensemble.choose(prompt, label, **options)
    if as_json:
        out().print_json(json.dumps({"label": choice.label, **asdict(choice)}))
    else:
        _show(choice)


def _show(choice: "Choice") -> None:
    """A line per label, the most probable first, and a column per member."""
    shown = table()
    names = ["together", *(member.name for member in choice.members)]
    for name in names if len(choice.members) > 1 else names[1:]:
        shown.add_column(Text(printable(name)), justify="right")
    own = [member.probs for member in choice.members]
    columns = [choice.probs, *own] if len(own) > 1 else own
    for place in sorted(range(len(choice.labels)), key=lambda n: -choice.probs[n]):
        cells = [f"{probs[place]:.3f}" for probs in columns]
        shown.add_row(Text(printable(choice.labels[place])), *cells)
    out().print(shown)
