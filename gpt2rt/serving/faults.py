"""Every error that a client is told, in OpenAI's form, and the status it has.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

A handler raises what the library raises, or a `Fault`; `fault_of` knows the status of both.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from gpt2rt.errors import (
    BadText,
    Gpt2rtError,
    InvalidSetting,
    MissingExtra,
    OutOfMemory,
    PromptTooLong,
    QueueFull,
    StepFailed,
    UnknownModel,
)
from gpt2rt.serving.ascii_json import ascii_json
from gpt2rt.serving.service import service_of

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

    def body(self) -> ErrorReply:
        """The error in OpenAI's form."""
        kind = TYPES.get(self.status, "invalid_request_error")
        message = str(self).encode("utf-8", "backslashreplace").decode()  # half surrogate pairs
        return {"error": Told(message=message, type=kind, param=self.param, code=self.code)}

    def response(self) -> Response:
        """The answer to the client."""
        return Response(ascii_json(self.body()), self.status, self.headers, "application/json")


class Told(TypedDict):
    """An error as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(TypedDict):
    """The answer to a request that failed."""

    error: Told


# What any path may answer, for the OpenAPI description.
ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": description}
    for status, description in {
        400: "The request means nothing, or the model cannot do this.",
        401: "The key is missing or wrong.",
        404: "There is no such model or path.",
        408: "The request took too long to arrive.",
        413: "The body is too large.",
        415: "The body is not JSON by its Content-Type.",
        422: "A field is of the wrong kind; `param` names it.",
        429: "Too many texts wait; `Retry-After` says when to come again.",
        503: "The server is loading, ending or out of memory; `Retry-After` says when to come.",
    }.items()
}

# The library's errors; the first that fits counts.
KNOWN: tuple[tuple[type[Exception], int, str], ...] = (
    (UnknownModel, 404, "model_not_found"),
    (PromptTooLong, 400, "context_length_exceeded"),
    (BadText, 400, "bad_text"),
    (MissingExtra, 400, "missing_extra"),
    (InvalidSetting, 400, "invalid_value"),
    (OutOfMemory, 503, "no_memory"),
    (QueueFull, 429, "queue_full"),
    (StepFailed, 503, "step_failed"),
)
# The library's name of a setting -> the field of a request, where they differ.
FIELDS = {
    "min_length": "min_tokens",
    "length": "max_tokens",
    "strings": "stop",
    "tokens": "stop_token_ids",
    "constraint": "response_format",
}
# Path -> the field with the text that is too long or cannot be read.
TEXTS = {
    "/v1/completions": "prompt",
    "/v1/chat/completions": "messages",
    "/v1/embeddings": "input",
    "/tokenize": "text",
    "/detokenize": "tokens",
}
KINDS = {"str", "int", "float", "bool", "none", "dict", "list", "tuple"}
log = logging.getLogger("gpt2rt.serve")


def fault_of(error: Exception, place: str = "") -> Fault:
    """What a client is told of an error.

    What the server's owner has to look after is logged, and the client is told `place`: where.
    """
    if isinstance(error, Fault):
        return error
    if isinstance(error, TimeoutError):
        return Fault(503, "the request took too long", code="timeout", retry_after=AGAIN)
    for kind, status, code in KNOWN:
        if isinstance(error, kind):
            again = AGAIN if status in (429, 503) else None
            return Fault(status, str(error), param=_field(error), code=code, retry_after=again)
    more = f"the server's log has more{place and f' at {place}'}"
    if isinstance(error, Gpt2rtError):  # it may name files, which are no business of clients
        log.error("%s %s", place, error)
        return Fault(503, f"the model failed; {more}", code="model_failed", retry_after=AGAIN)
    return Fault(500, f"an error of the server; {more}", code="internal_error")


def _field(error: Exception) -> str | None:
    """The field that an error of the library is about, as far as it is known."""
    if isinstance(error, UnknownModel):
        return "model"
    if isinstance(error, MissingExtra):
        return "response_format"
    if isinstance(error, InvalidSetting) and error.setting is not None:
        return FIELDS.get(error.setting, error.setting)
    return None


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
    fault = fault_of(error, request.state.id)
    if isinstance(error, PromptTooLong | BadText):
        fault.param = TEXTS.get(request.url.path)
    if isinstance(error, QueueFull):
        fault.headers["Retry-After"] = str((await service_of(request)).wait())
    return fault.response()


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    """A body that is no JSON (400), or of the wrong shape (422): its first wrong field."""
    first = _nearest(error.errors())
    place = ".".join(map(str, filter(_names_a_field, first["loc"][1:]))) or None
    if first["type"] == "json_invalid":
        why = f"the body is no JSON ({first['ctx']['error']}, character {place})"
        return Fault(400, why, code="invalid_json").response()
    message = f"{place}: {first['msg']}" if place else first["msg"]
    return Fault(422, message, param=place, code=first["type"]).response()


def _nearest(errors: Sequence[Any]) -> Any:
    """The error of the first wrong field that is nearest to what was meant.

    A field of several kinds has one of each; the kind that was meant is wrong in its value, or
    deepest inside.
    """
    same = [error for error in errors if error["loc"][:2] == errors[0]["loc"][:2]]
    return max(same, key=lambda one: (not one["type"].endswith("_type"), len(one["loc"])))


def _names_a_field(part: str | int) -> bool:
    """Whether a part of a place is in the body; pydantic adds which kind of a union it tried."""
    return isinstance(part, int) or (part.isidentifier() and part.islower() and part not in KINDS)


async def _http(request: Request, error: HTTPException) -> Response:
    messages = {
        400: "the body cannot be read as JSON",  # too deep, or no UTF-8
        404: f"no such path: {request.url.path}",
        405: f"{request.url.path} is not for {request.method}",
    }
    codes = {400: "invalid_json", 404: "no_such_path", 405: "wrong_method"}
    status = error.status_code
    message = messages.get(status, str(error.detail))
    return Fault(status, message, code=codes.get(status), headers=error.headers).response()
