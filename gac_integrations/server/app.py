"""The endpoints."""

from collections.abc import Callable
from functools import partial
from importlib.resources import files
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response

from gac_core import Ensemble
from gac_integrations.server.answering import Answering
from gac_integrations.server.decisions import Decided, DecisionBody
from gac_integrations.server.errors import api_error
from gac_integrations.server.formats import ChatFormat, CompletionFormat
from gac_integrations.server.middleware import Gate
from gac_integrations.server.options import ServerOptions
from gac_integrations.server.requests import chat_wanted, completion_wanted
from gac_integrations.server.schemas import ChatBody, CompletionBody
from gac_integrations.server.service import Service

# The page needs nothing from elsewhere, and can not be made to ask for it.
_PAGE_POLICY: Final = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def create_app(ensemble: Ensemble, options: ServerOptions | None = None) -> FastAPI:
    """An ASGI app that answers with an ensemble in the forms of OpenAI's API.

    Args:
        ensemble: that answers; a lazy one is loaded in the background when the app starts. It is
            the caller's to close.
        options: of the server.

    Example:
        >>> from fastapi.testclient import TestClient
        >>> from gac_core import Ensemble
        >>> from gac_integrations.server import create_app
        >>> chat = {"messages": [{"role": "user", "content": "What is 17 + 25?"}]}
        >>> with Ensemble.pocket() as ensemble:
        ...     client = TestClient(create_app(ensemble))
        ...     answer = client.post("/v1/chat/completions", json=chat).json()
        >>> answer["choices"][0]["message"]["content"]
        '17 + 25 = 42'

    """
    service = Service(ensemble, options or ServerOptions())
    app = FastAPI(title="gac", docs_url=None, redoc_url=None, lifespan=service.loading)
    app.state.service = service
    app.add_middleware(Gate, service=service)
    for kind in (RequestValidationError, HTTPException):  # all others reach the gate
        app.add_exception_handler(kind, _respond)
    _add_answers(app, service)
    _add_others(app, service)
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    options = service.options

    @app.post("/v1/chat/completions")
    async def chat(body: ChatBody) -> Response:
        return answering(body, ChatFormat, partial(chat_wanted, body, options))

    @app.post("/v1/completions")
    async def completion(body: CompletionBody) -> Response:
        return answering(body, CompletionFormat, partial(completion_wanted, body, options))

    @app.post("/v1/decisions")
    async def decision(body: DecisionBody) -> Response:
        service.check_model(body.model)
        return Decided(service, body)

    def answering(
        body: ChatBody | CompletionBody,
        kind: type[ChatFormat | CompletionFormat],
        make_wanted: Callable[[], Any],
    ) -> Response:
        service.check_model(body.model)
        shape = kind(options.name, service.fingerprint, has_usage=body.shows_usage)
        return Answering(service, make_wanted, shape, is_stream=bool(body.stream))


def _add_others(app: FastAPI, service: Service) -> None:
    page = files("gac_integrations.server").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [service.model]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return service.model

    @app.get("/health")
    async def health() -> Response:
        state = service.state
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def chat_page() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY})


async def _respond(_request: Request, error: Exception) -> Response:
    return api_error(error).response
