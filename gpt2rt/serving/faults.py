"""Every error that a client is told, in OpenAI's form, and the status it has.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

A handler raises what the library raises, or a `Fault`; `fault_of` knows the status of both.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from gpt2rt.bundles.paths import path_text
from gpt2rt.errors import (
    BadText,
    Gpt2rtError,
    InvalidSetting,
    MissingExtra,
    PromptTooLong,
    UnknownModel,
)

AGAIN = 1  # seconds after which a client may try again, where nothing better is known
# Status -> `type` of the error, as OpenAI's clients know them.
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class Fault(Gpt2rtError):
    """An error with its HTTP status.

    `param` is the field of the request that is wrong, `code` what programs can ask for,
    `retry_after` the seconds after which the client may try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's form."""
        kind = TYPES.get(self.status, "invalid_request_error")
        told = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": told}

    def response(self) -> Response:
        """The answer to the client."""
        return Response(ascii_json(self.body()), self.status, self.headers, "application/json")


def ascii_json(value: Any) -> bytes:
    """JSON in ASCII, so that half a surrogate pair that a client sent can be sent back."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


# The library's errors; the first that fits counts.
KNOWN: tuple[tuple[type[Exception], int, str], ...] = (
    (UnknownModel, 404, "model_not_found"),
    (PromptTooLong, 400, "context_length_exceeded"),
    (BadText, 400, "bad_text"),
    (MissingExtra, 400, "missing_extra"),
    (InvalidSetting, 400, "invalid_value"),
    (TimeoutError, 503, "timeout"),
    (Gpt2rtError, 503, "model_failed"),
)


def fault_of(error: Exception) -> Fault:
    """What a client is told of an error; of a bug (status 500) nothing but that it is one."""
    if isinstance(error, Fault):
        return error
    for kind, status, code in KNOWN:
        if isinstance(error, kind):
            message = path_text(str(error)) or "the request took too long"
            return Fault(status, message, code=code, retry_after=AGAIN if status == 503 else None)
    return Fault(500, "an error of the server; its log has more", code="internal_error")


def add_handlers(app: FastAPI) -> None:
    """Let all errors of `app` be told in OpenAI's form."""
    handlers: dict[type[Exception], Callable[[Request, Any], Awaitable[Response]]] = {
        Gpt2rtError: _known,
        TimeoutError: _known,
        RequestValidationError: _invalid,
        HTTPException: _http,
        Exception: _known,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _known(request: Request, error: Exception) -> Response:
    return fault_of(error).response()


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    """A body that is no JSON (400), or of the wrong shape (422): its first wrong field."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"][1:])) or None
    if first["type"] == "json_invalid":
        why = f"the body is no JSON ({first['ctx']['error']}, character {place})"
        return Fault(400, why, code="invalid_json").response()
    message = f"{place}: {first['msg']}" if place else first["msg"]
    return Fault(422, message, param=place, code=first["type"]).response()


async def _http(request: Request, error: HTTPException) -> Response:
    messages = {404: f"no such path: {request.url.path}", 405: f"not with {request.method}"}
    message = messages.get(error.status_code, str(error.detail))
    return Fault(error.status_code, message, headers=error.headers).response()
