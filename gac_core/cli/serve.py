"""`gac serve`: an HTTP server that speaks OpenAI's API."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from gac_core.cli.options import use_one_thread
from gac_core.errors import ConfigError

_POCKET = "pocket"


def serve(
    model: Annotated[str, typer.Argument(help="pocket, or a YAML file.")] = _POCKET,
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 is any that is free.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="Of the model in requests. Default: that of the file.")
    ] = None,
    api_keys: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            help="That clients must send; repeat it, or name some with commas in GAC_API_KEYS.",
        ),
    ] = None,
    max_running: Annotated[
        int | None, typer.Option(min=1, help="Answers at the same time. Default: max_batch.")
    ] = None,
    max_waiting: Annotated[
        int, typer.Option(min=0, help="Requests that wait; others are refused with 429.")
    ] = 64,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of an answer. Default: what the context holds.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds of a request.")] = 600.0,
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds for running requests when it is stopped.")
    ] = 30.0,
    log_text: Annotated[
        bool, typer.Option("--log-text", help="Write prompts into the log, too.")
    ] = False,
) -> None:
    """Serve an ensemble over HTTP, in the forms of OpenAI's API; / is a page to chat with.

    Example: gac serve ensemble.yaml --port 8000 --api-key "$KEY"
    """
    others = [key.strip() for key in os.environ.get("GAC_API_KEYS", "").split(",")]
    keys = [*(api_keys or ()), *(key for key in others if key)]
    if any(not key.strip() for key in keys):
        raise ConfigError("--api-key must not be empty")
    options: dict[str, Any] = {
        "name": name or Path(model).stem,
        "api_keys": tuple(keys),
        "max_running": max_running,
        "max_waiting": max_waiting,
        "max_tokens": max_tokens,
        "timeout": timeout,
        "drain": drain,
        "log_text": log_text,
    }
    # Above this layer: the command is the one place from which the core starts an integration.
    try:
        from gac_integrations.server import run
        from gac_integrations.server.options import ServerOptions
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is missing, which a server needs: pip install 'gac[server]'"
        ) from error
    from gac_integrations.shared.model_cache import config_named

    config = config_named(model)
    if model == _POCKET:
        use_one_thread()
    run.serve(config, ServerOptions(**options), host, port)
