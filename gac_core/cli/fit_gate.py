"""`gac fit-gate`: the gate of method co_llm, fitted to recorded answers."""

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from gac_core.cli.option_groups import flatten_groups
from gac_core.cli.options import (
    Force,
    Json,
    MaxNewTokens,
    ModelOptions,
    QuestionSeed,
    SamplingOptions,
    check_overwriting,
    read_text,
    use_one_thread,
)
from gac_core.cli.terminal import Bars, out, table
from gac_core.errors import ConfigError

if TYPE_CHECKING:
    from gac_core.chat.prompt import Prompt
    from gac_core.evaluation.gate_fitting import Quality
    from gac_core.methods.co_llm import GateHead


@flatten_groups
def fit_gate(
    *,
    ensemble_options: ModelOptions,
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
    seed: QuestionSeed = 0,
    output: Annotated[Path, typer.Option("--out", "-o", help="Write the gate here.")] = Path(
        "gate.safetensors"
    ),
    force: Force = False,
    json: Json = False,
) -> None:
    """Fit the gate of method co_llm: where is it worth asking the others?

    All models are asked at every step of the answers to the prompts. The gate, a linear head over
    the first model's last hidden state, learns at which steps their fusion is surer of what it
    chose than that model alone. It is judged on a fifth of the prompts that it did not see. A
    gate belongs to its first model and the others it was fitted with.

    Example: gac fit-gate -m org/a -m org/b --prompts questions.txt;
    then method: co_llm and gate: gate.safetensors in an ensemble.yaml
    """
    check_overwriting(output, force=force)
    if not output.parent.is_dir():  # checked before the minutes that fitting takes
        raise ConfigError(f"{output} can not be written: there is no folder {output.parent}")
    from gac_core.evaluation import gate_fitting
    from gac_core.pocket.questions import training_prompts

    config = gate_fitting.recording_config(ensemble_options.load(lazy=True).config)
    if prompts is not None:
        asked = _read_prompts(prompts, seed)[:items]
    elif ensemble_options.is_pocket:
        use_one_thread()
        asked = training_prompts(items, seed)
    else:
        raise ConfigError("--prompts is needed with models of your own: a file, one prompt a line")
    sampling = SamplingOptions(max_new_tokens=max_new_tokens).build()
    with Bars() as bars, gate_fitting.recording_ensemble(config) as ensemble:
        bars.begin("recording", len(asked))
        known, held_out = gate_fitting.record(ensemble, asked, sampling, bars.advance)
    gate = gate_fitting.fit(known, gate_fitting.COST if cost is None else cost)
    _save(gate, output)
    found = gate_fitting.quality(gate, held_out)
    if json:
        typer.echo(dumps(found.as_json(), indent=1))
    else:
        out().print(gate_table(found))
        out().print(f"\n{output} is written: method co_llm, gate {output}", markup=False)


def _read_prompts(path: Path, seed: int) -> list["Prompt"]:
    from gac_core.evaluation.gate_fitting import parse_prompts

    lines = read_text(path, "--prompts").splitlines()
    return parse_prompts(lines, is_jsonl=path.suffix == ".jsonl", seed=seed)


def _save(gate: "GateHead", path: Path) -> None:
    from safetensors import SafetensorError

    try:
        gate.save(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} can not be written: {error}") from error


def gate_table(found: "Quality") -> Table:
    """How good a gate is."""
    quality = table()
    quality.add_column("", justify="right")
    caught = "-" if found.caught is None else f"{found.caught:.1%}"
    for name, value in (
        ("held-out steps", f"{found.steps:,}"),
        ("steps at which the first model alone would differ", f"{found.differ:.1%}"),
        ("of these, the gate asks the others at", caught),
        ("of all steps, the gate asks the others at", f"{found.deferred:.1%}"),
        ("log-likelihood of what was chosen, a step", f"{found.log_likelihood:.4f}"),
        ("if the others were never asked", f"{found.log_likelihood_never:.4f}"),
        ("if they always were", f"{found.log_likelihood_always:.4f}"),
    ):
        quality.add_row(name, value)
    return quality
