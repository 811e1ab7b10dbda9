"""The ensemble behind an app, and whether it can be asked."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from gac_core import Ensemble
from gac_integrations.server.errors import ApiError, unavailable
from gac_integrations.server.limits import Turns
from gac_integrations.server.metrics import Metrics
from gac_integrations.server.options import ServerOptions

_log = logging.getLogger("gac.server")


class Service:
    """An ensemble, its queue and its figures.

    Args:
        ensemble: which may be lazy; it is loaded when the app starts.
        options: of the server.

    Attributes:
        ensemble: that answers.
        options: of the server.
        turns: in which requests wait.
        metrics: of the app.
        fingerprint: of the ensemble's configuration.
        requests: that are being answered, or wait for it.
        is_draining: whether new requests are refused, since the server is to stop.
        failure: why the ensemble could not be loaded.

    """

    def __init__(self, ensemble: Ensemble, options: ServerOptions) -> None:
        self.ensemble = ensemble
        self.options = options
        self.turns = Turns(options.max_running or ensemble.config.max_batch, options.max_waiting)
        self.metrics = Metrics(self.turns)
        config = ensemble.config.model_dump_json()
        self.fingerprint = f"gac_{hashlib.sha256(config.encode()).hexdigest()[:12]}"
        self.requests = 0
        self.is_draining = False
        self.failure: Exception | None = None
        self._created = int(time.time())

    @asynccontextmanager
    async def loading(self, _app: Any) -> AsyncIterator[None]:
        """The lifespan of the app: load in the background, so that health can be asked."""
        task = asyncio.create_task(self._load())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def _load(self) -> None:
        began = time.monotonic()
        try:
            await self.ensemble.aload(grammars=True)
        except Exception as error:
            self.failure = error
            _log.error("the ensemble can not be loaded: %s", error)
            return
        seconds = round(time.monotonic() - began, 3)
        names = list(self.ensemble.config.names)
        _log.info("ready", extra={"fields": {"seconds": seconds, "members": names}})

    @property
    def state(self) -> str:
        """Whether requests are answered: "ok" if they are."""
        if self.failure is not None:
            return "failed"
        if self.is_draining or self.ensemble.is_closed:
            return "stopping"
        return "ok" if self.ensemble.is_loaded else "loading"

    def check_ready(self) -> None:
        """Refuse a request that can not be answered now.

        Raises:
            ApiError: the ensemble is loading, or the server is to stop.

        """
        if (state := self.state) != "ok":
            raise unavailable(f"the server does not answer now: {state}", state)

    def check_model(self, name: str | None) -> None:
        """Refuse a request for another model.

        Raises:
            ApiError: there is no such model.

        """
        if name is not None and name != self.options.name:
            raise ApiError(
                404,
                f"there is no model {name!r} here; there is {self.options.name!r}",
                code="model_not_found",
                param="model",
            )

    @property
    def model(self) -> dict[str, Any]:
        """The model as OpenAI's API describes it, and its members."""
        about = {"id": self.options.name, "object": "model", "created": self._created}
        own: dict[str, Any] = {"owned_by": "gac", "members": list(self.ensemble.config.names)}
        if self.state == "ok":
            own["max_model_len"] = self.ensemble.context_size
        return {**about, **own}
