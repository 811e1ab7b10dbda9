"""What every request passes before an endpoint reads it: the record, the key, the body."""

import asyncio
import hashlib
import hmac
import logging
import re
import time
from typing import Final
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gac_integrations.server.answering import ClientGoneError
from gac_integrations.server.errors import ApiError, api_error
from gac_integrations.server.metrics import CLIENT_GONE, Record
from gac_integrations.server.service import Service
from gac_integrations.server.traces import trace_of

_log = logging.getLogger("gac.server")

OPEN: Final = ("/", "/health")  # which need no key
ENDPOINTS: Final = (
    *OPEN,
    *("/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/decisions"),
)
_ASKED_OFTEN: Final = ("/health", "/metrics")  # by machines
_PLAIN_ID: Final = re.compile(r"[\w.:-]{1,128}")
_DROPPED_BODIES: Final = 8  # a body of so many times the limit is read before it is refused


class Gate:
    """Gives each request its record, and lets through those that may be answered.

    Args:
        app: what is behind it.
        service: of the app.

    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._keys = [_digest(key.encode()) for key in service.options.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        record = scope["gac.record"] = Record(path if path in ENDPOINTS else "other")
        began = scope["gac.began"] = time.monotonic()
        request_id = _request_id(Headers(scope=scope))

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
                record.status = message["status"]
            await send(message)

        is_asking = scope["method"] == "POST"
        self._service.requests += is_asking
        try:
            with trace_of(Headers(scope=scope)):
                await self._guarded(scope, receive, send_marked)
        except ClientGoneError:
            record.status = CLIENT_GONE
        except Exception as error:
            if record.status != CLIENT_GONE:  # the response has begun
                raise
            told = api_error(error)
            record.about["error"] = told.code or told.kind
            await told.response(scope, receive, send_marked)
        finally:
            self._service.requests -= is_asking
            record.seconds = time.monotonic() - began
            self._service.metrics.count(record)
            _write_line(scope, record, request_id)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check_key(scope)
        if scope["method"] == "POST":
            self._service.check_ready()
            receive = await self._with_body(scope, receive)
        await self._app(scope, receive, send)

    def _check_key(self, scope: Scope) -> None:
        if not self._keys or scope["path"] in OPEN:
            return
        given = Headers(scope=scope).get("authorization", "")
        scheme, _, key = given.partition(" ")
        digest = _digest(key.strip().encode("latin-1"))
        # All are compared, so that the time does not tell which one it is like.
        is_known = sum(hmac.compare_digest(digest, known) for known in self._keys)
        if scheme.lower() != "bearer" or not is_known:
            raise ApiError(
                401,
                "the API key is missing or wrong; send it as `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _with_body(self, scope: Scope, receive: Receive) -> Receive:
        """Read the body, which must be JSON, and small, and come soon.

        Raises:
            ApiError: it is not.

        """
        kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(
                415, f"the body must have the Content-Type application/json, not {kind!r}"
            )
        limit, seconds = self._service.options.max_body, self._service.options.body_timeout
        try:
            async with asyncio.timeout(seconds):
                body = await _read(receive, limit)
        except TimeoutError as error:
            raise ApiError(
                408, f"the body did not come within {seconds:g} seconds", code="body_timeout"
            ) from error
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_read() -> Message:
            return first.pop() if first else await receive()

        return receive_read


async def _read(receive: Receive, limit: int) -> bytes:
    """The body; of one that is too large the rest is dropped, so that the client hears why."""
    parts, size, is_more = [], 0, True
    while is_more and size <= limit * _DROPPED_BODIES:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        size += len(part)
        if size <= limit:
            parts.append(part)
        is_more = message.get("more_body", False)
    if size > limit:
        raise ApiError(
            413, f"the body has more than {limit:,} bytes; send less", code="request_too_large"
        )
    return b"".join(parts)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _request_id(headers: Headers) -> str:
    """That of the client, if it has one that can be written anywhere."""
    given = headers.get("x-request-id", "")
    return given if _PLAIN_ID.fullmatch(given) else f"req_{uuid4().hex}"


def _write_line(scope: Scope, record: Record, request_id: str) -> None:
    fields = {
        "request_id": request_id,
        "method": scope["method"],
        "path": record.endpoint,
        "status": record.status,
        "seconds": round(record.seconds, 4),
        **record.about,
    }
    if record.first_seconds is not None:
        fields["first_token_seconds"] = round(record.first_seconds, 4)
    if record.usages:
        fields |= {
            "prompt_tokens": record.prompt_tokens,
            "completion_tokens": sum(usage.completion_tokens for usage in record.usages),
            "fused_steps": sum(usage.fused_steps for usage in record.usages),
            "steps": sum(usage.steps for usage in record.usages),
        }
    level = logging.DEBUG if record.endpoint in _ASKED_OFTEN else logging.INFO
    _log.log(level, "request", extra={"fields": fields})
