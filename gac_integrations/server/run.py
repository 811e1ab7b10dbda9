"""A process that serves an ensemble, and stops without cutting answers off."""

import logging
import socket
import time
from types import FrameType
from typing import Final

import uvicorn

from gac_core import ConfigError, Ensemble, EnsembleConfig
from gac_integrations.server.app import create_app
from gac_integrations.server.logs import log_json
from gac_integrations.server.options import ServerOptions
from gac_integrations.server.service import Service

_LAST_PORT: Final = 65535
_log = logging.getLogger("gac.server")


def serve(config: EnsembleConfig, options: ServerOptions, host: str, port: int) -> None:
    """Serve until the process is told to stop, by SIGTERM or SIGINT.

    The first such signal lets running requests end, and refuses others; the second stops at once.

    Args:
        config: of the ensemble, which is loaded in the background.
        options: of the server.
        host: the address to listen on.
        port: to listen on; 0 for any that is free, which the log names.

    Raises:
        ConfigError: the address can not be listened on.
        LoadError: a model can not be loaded.
        VocabularyError: a tokenizer can not take part.

    """
    log_json()
    listener = listen(host, port)
    with listener, Ensemble.from_config(config, lazy=True, progress=False) as ensemble:
        app = create_app(ensemble, options)
        service: Service = app.state.service
        server = DrainingServer(app, service)
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        _log.info("listening on %s", url, extra={"fields": {"url": url, "model": options.name}})
        server.run(sockets=[listener])
    if service.failure is not None:
        raise service.failure


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: the address can not be had.

    """
    if not 0 <= port <= _LAST_PORT:
        raise ConfigError(f"port must be 0 to {_LAST_PORT}, not {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(f"{host}:{port} can not be listened on: {error}") from error


class DrainingServer(uvicorn.Server):
    """Uvicorn, but that it drains before it stops.

    Args:
        app: of `create_app`.
        service: of the app.

    """

    def __init__(self, app: object, service: Service) -> None:
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            ws="none",
            timeout_graceful_shutdown=5,  # for what is left when the ensemble is closed
        )
        super().__init__(config)
        self._service = service
        self._stop_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; for the second time, stop."""
        if self._service.is_draining:
            super().handle_exit(sig, frame)
            return
        self._service.is_draining = True
        self._stop_at = time.monotonic() + self._service.options.drain

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop; called ten times a second."""
        if self._service.failure is not None:
            return True
        if self._stop_at is not None:
            if not self._service.requests:
                return True
            if time.monotonic() > self._stop_at:
                _log.warning("stopped before %d requests were complete", self._service.requests)
                await self._service.ensemble.aclose()  # they end with an error that says so
                return True
        return await super().on_tick(counter)
