"""`gac config`: a commented YAML file to begin with."""

from pathlib import Path
from typing import Annotated

import typer

from gac_core.cli.options import Force, check_overwriting
from gac_core.config_template import commented_yaml
from gac_core.errors import ConfigError


def write_config(
    models: Annotated[
        list[str] | None, typer.Argument(help="Folders, GGUF files or hub names.")
    ] = None,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here, not to standard output.")
    ] = None,
    force: Force = False,
) -> None:
    """Write a commented YAML configuration of an ensemble, every option at its default.

    Example: gac config org/model-a org/model-b -o ensemble.yaml; gac run -c ensemble.yaml "Hello"
    """
    # The file is read relative to where it is, so paths are written whole.
    paths = [str(Path(m).absolute()) if output and Path(m).exists() else m for m in models or []]
    text = commented_yaml(paths or ["org/model-a", "path/to/model-b"])
    if output is None:
        typer.echo(text, nl=False)
        return
    check_overwriting(output, force=force)
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{output} can not be written: {error.strerror}") from error
