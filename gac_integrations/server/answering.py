"""A response that is computed while the client listens, and not longer."""

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, Final, TypeVar

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gac_core import Step
from gac_integrations.server.answers import Answer, steps_of, usage_of
from gac_integrations.server.errors import ApiError, api_error, timed_out
from gac_integrations.server.formats import Format
from gac_integrations.server.metrics import Record
from gac_integrations.server.requests import Wanted
from gac_integrations.server.service import Service

_STREAM_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # or nginx would hold the events back
)
_SECONDS_TO_HEAR: Final = 5.0  # why a stream ends
_Result = TypeVar("_Result")


class ClientGoneError(Exception):
    """The client has hung up."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Do the work, and cancel it when the client hangs up.

    Raises:
        ClientGoneError: the client did.

    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_hung_up(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Computed(Response, ABC):
    """A response that takes a turn and time.

    Args:
        service: whose ensemble computes it.

    Attributes:
        prompt_field: the field of the request that holds the prompt.

    """

    prompt_field = "messages"

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Compute it, as long as the client listens."""
        await unless_gone(receive, self._respond(scope, receive, send))

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        seconds = self._service.options.timeout
        try:
            async with asyncio.timeout(seconds):
                await self._compute(scope, receive, send)
        except TimeoutError as error:
            raise timed_out(seconds) from error
        except Exception as error:
            raise api_error(error, self.prompt_field) from error

    @abstractmethod
    async def _compute(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Answering(Computed):
    """The answers of a request, whole or as a stream of events.

    Args:
        service: whose ensemble answers.
        make_wanted: makes what is wanted of the request; called in a thread, since schemas take
            long to compile.
        shape: of the response.
        is_stream: whether it is a stream.

    """

    def __init__(
        self,
        service: Service,
        make_wanted: Callable[[], Wanted],
        shape: Format,
        *,
        is_stream: bool,
    ) -> None:
        super().__init__(service)
        self._make_wanted = make_wanted
        self._shape = shape
        self.prompt_field = shape.prompt_field
        self._is_stream = is_stream
        self._has_begun = False

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super()._respond(scope, receive, send)
        except ApiError as error:
            if not self._has_begun:
                raise
            record: Record = scope["gac.record"]
            record.about["error"] = error.code or error.kind
            with suppress(TimeoutError):  # a client that reads nothing is left
                async with asyncio.timeout(_SECONDS_TO_HEAR):
                    await self._send_end(send, error)

    async def _compute(self, scope: Scope, receive: Receive, send: Send) -> None:
        record: Record = scope["gac.record"]
        wanted = await asyncio.to_thread(self._make_wanted)
        if self._service.options.log_text:
            record.about["prompts"] = wanted.prompts[:: wanted.per_prompt]
        has_tokens = wanted.params[0].logprobs
        answers = [Answer(i, wanted.form, has_tokens=has_tokens) for i in range(len(wanted))]
        writing = steps_of(self._service.ensemble, wanted, self._service.turns)
        async with aclosing(writing) as steps:
            async for index, step in steps:
                if record.first_seconds is None:
                    record.first_seconds = time.monotonic() - scope["gac.began"]
                answer = answers[index]
                chunks = self._chunks(answer, step)
                if answer.end is not None:
                    is_shared = index % wanted.per_prompt  # the prompt, with an answer before
                    record.add(answer.usage, has_prompt=not is_shared)
                if self._is_stream and chunks:
                    await self._send_events(send, chunks)
        usage = usage_of(answers, wanted.per_prompt)
        reasons = [answer.end.finish_reason for answer in answers if answer.end]
        record.about |= {"finish_reasons": reasons}
        if self._is_stream:
            await self._send_events(send, self._shape.last(usage))
            await self._send_end(send)
        else:
            await JSONResponse(self._shape.whole(answers, usage))(scope, receive, send)

    def _chunks(self, answer: Answer, step: Step) -> list[dict[str, Any]]:
        is_first = not answer.has_begun
        deltas = answer.push(step)
        if not self._is_stream:
            return []
        first = self._shape.first(answer) if is_first else []
        return [*first, *(self._shape.chunk(answer, delta) for delta in deltas)]

    async def _send_events(self, send: Send, objects: list[dict[str, Any]]) -> None:
        if not self._has_begun:
            self._has_begun = True
            start = {"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS}
            await send(start)
        body = b"".join(_event(json.dumps(o, separators=(",", ":"))) for o in objects)
        await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _send_end(self, send: Send, error: ApiError | None = None) -> None:
        """The end of a stream, after the error that ended it."""
        body = b"" if error is None else _event(json.dumps(error.body))
        await send({"type": "http.response.body", "body": body + _event("[DONE]")})


def _event(data: str) -> bytes:
    return b"data: %b\n\n" % data.encode()
