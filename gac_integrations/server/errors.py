"""Errors as OpenAI's API answers them."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from gac_core import (
    AnswerCutError,
    ConfigError,
    ContextOverflowError,
    EngineClosedError,
    GacError,
    ModelChangedError,
    PromptError,
    UnreachableError,
)

_log = logging.getLogger("gac.server")

INVALID: Final = "invalid_request_error"
_INTERNAL: Final = "server_error"


class ApiError(Exception):
    """What a client is told.

    Args:
        status: of the response.
        message: what was wrong, and the cure.
        kind: the ``type`` of OpenAI's errors.
        code: by which programs know it.
        param: the field of the request that is wrong.
        headers: of the response.

    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.code, self.param, self.headers = code, param, headers

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response."""
        about = {"type": self.kind, "param": self.param, "code": self.code}
        return {"error": {"message": self.message, **about}}

    @property
    def response(self) -> JSONResponse:
        """The response."""
        return JSONResponse(self.body, self.status, headers=self.headers)


def unavailable(message: str, code: str) -> ApiError:
    """The server can not answer now; a client may try again soon."""
    return ApiError(503, message, kind=_INTERNAL, code=code, headers={"Retry-After": "2"})


def timed_out(seconds: float) -> ApiError:
    """The answer was not complete in time; trying again would take as long."""
    return ApiError(
        504,
        f"the answer was not complete within {seconds:g} seconds; ask for fewer tokens",
        kind=_INTERNAL,
        code="timeout",
        headers={"x-should-retry": "false"},  # which OpenAI's clients heed
    )


def api_error(error: Exception, prompt_field: str = "messages") -> ApiError:
    """Any error as one of the API; what nobody foresaw is logged and not shown.

    Args:
        error: that was raised.
        prompt_field: the field of the request that holds the prompt.

    """
    if isinstance(error, ApiError):
        return error
    # Clients know this option by another name.
    message = str(error).replace("max_new_tokens", "max_tokens")
    match error:
        case RequestValidationError():
            return _invalid_body(error.errors())
        case HTTPException():
            return ApiError(error.status_code, str(error.detail), headers=error.headers)
        case ContextOverflowError():
            return ApiError(400, message, code="context_length_exceeded", param=prompt_field)
        case AnswerCutError():
            return ApiError(400, message, code="answer_cut", param="max_tokens")
        case PromptError():
            return ApiError(400, message, param=prompt_field)
        case ConfigError():
            return ApiError(400, message)
        case EngineClosedError():
            return unavailable("the server is stopping", "stopping")
        case UnreachableError() | ModelChangedError():
            _log.error("answer failed", exc_info=error)
            return unavailable(  # where it is, is not for clients to know
                "a server on which a member runs can not be used; this server's log has more",
                "member_unreachable",
            )
        case GacError():
            _log.error("answer failed", exc_info=error)
            return ApiError(500, message, kind=_INTERNAL)
    _log.error("unexpected error", exc_info=error)
    return ApiError(500, "an unexpected error; the server's log has more", kind=_INTERNAL)


def _invalid_body(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first of the errors that pydantic found."""
    first = errors[0]
    field = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is no JSON: {first.get('ctx', {}).get('error', '')}")
    if not field:
        return ApiError(400, f"the body must be a JSON object: {first['msg']}")
    return ApiError(400, f"{field}: {first['msg']}", param=field)
