"""Error kinds, the one table from kind to status, and the one shape in which every error leaves.

    ServiceError       an answer to the caller: a kind of the table, a sentence, maybe details
    EngineLoadError    the model cannot be served; the process logs one line and ends

Routes raise `ServiceError` and never catch; the handlers below turn it, and whatever FastAPI and Starlette raise,
into `{"error", "kind", "request_id", "details"?}`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service.telemetry import current_request_id

STATUS: Final[Mapping[str, int]] = {
    "invalid_json": 400,
    "unauthorized": 401,
    "invalid_body": 400,
    "bad_request": 400,
    "not_found": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "request_timeout": 408,
    "body_too_large": 413,
    "text_too_large": 413,
    "too_many_texts": 413,
    "unsupported_media_type": 415,
    "invalid_request": 422,
    "empty_text": 422,
    "invalid_text": 422,
    "text_too_long": 422,
    "reload_refused": 422,
    "overloaded": 429,
    "headers_too_large": 431,
    "inference_failed": 500,
    "internal": 500,
    "not_ready": 503,
    "draining": 503,
    "deadline_exceeded": 504,
}
"""Every kind of error and its status. Nothing else in the service names a status of an error."""

MEANING: Final[Mapping[str, str]] = {
    "invalid_json": "the body is not JSON",
    "invalid_body": "the body is not what its Content-Type says: not UTF-8, or not CSV",
    "bad_request": "refused by the web framework for a reason that has no kind of its own",
    "not_found": "there is no such path",
    "method_not_allowed": "the path does not take this method",
    "not_acceptable": "Accept allows none of the forms that the path answers in",
    "body_too_large": "the body has more bytes than `SERVICE_MAX_BODY_BYTES`",
    "text_too_large": "a text has more characters than `SERVICE_MAX_TEXT_CHARS`",
    "too_many_texts": "more texts than `SERVICE_MAX_TEXTS`",
    "unsupported_media_type": "the path does not read this Content-Type, or the body is compressed",
    "invalid_request": "a field is missing, unknown, of the wrong type or out of range; `details` says which",
    "empty_text": "nothing is left of the text after clean-up",
    "invalid_text": "the text is not valid Unicode",
    "text_too_long": 'the text has more tokens than the model reads at once, and `on_long` is "error"',
    "reload_refused": "the other model was not taken; the running one was kept, and the sentence says why",
    "unauthorized": "the service has API keys, and none of them came with the request",
    "request_timeout": "the request came too slowly",
    "headers_too_large": "the request's head is too large",
    "overloaded": "the queue is full, or too many requests are in flight; try again after `Retry-After` seconds",
    "inference_failed": "the model failed on this text; others are not touched by it",
    "internal": "a fault of the service; its log has the request id",
    "not_ready": "the model is still being loaded, or not healthy",
    "draining": "the service is stopping; another instance will answer",
    "deadline_exceeded": "the answer was not ready within the time allowed",
}

UNION_TAGS: Final = frozenset({"shape:text", "shape:inputs", "shape:instances"})
"""Names of the wire models' union branches, which no caller sent and none should see."""

UNKNOWN_FIELDS = "unknown_fields"
"""Type of one error that stands for many unknown fields: `ctx` has their count and the first names."""

MAX_DETAILS = 20
MAX_NAME_CHARS = 100
"""A field's name may be the caller's own and as long as the body."""

_KIND_OF_STATUS: Final[Mapping[int, str]] = {
    401: "unauthorized",
    404: "not_found",
    413: "body_too_large",
}
"""For errors that FastAPI or Starlette raise themselves."""


class ServiceError(Exception):
    """An error that goes to the caller as it is.

    Args:
        kind: a key of `STATUS`.
        message: a sentence that the caller can act on; never a text that was sent, never a stack trace.
        details: more of the same, one object a problem.
        retry_after_s: seconds after which another try may succeed; for 429 and 503, 1 if not given.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        details: Sequence[Mapping[str, Any]] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = STATUS[kind]
        self.message = message
        self.details = details
        self.retry_after_s = retry_after_s


class EngineLoadError(Exception):
    """The model cannot be served. The message is one line for whoever starts the process."""


def error_body(error: ServiceError) -> dict[str, Any]:
    """The wire shape of an error, also inside `/batch` results."""
    body: dict[str, Any] = {"error": error.message, "kind": error.kind, "request_id": current_request_id()}
    if error.details:
        body["details"] = list(error.details)
    return body


def error_document(error: ServiceError, request_id: str) -> tuple[int, bytes]:
    """Status and body, for where there is no framework and no request that has an id."""
    return error.status, json.dumps(error_body(error) | {"request_id": request_id}).encode()


def error_response(error: ServiceError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A whole response for an error."""
    sent = dict(headers or {})
    if error.status in (429, 503):
        sent["Retry-After"] = str(max(1, math.ceil(error.retry_after_s or 1)))
    if error.kind == "unauthorized":
        sent["WWW-Authenticate"] = "Bearer"
    if error.kind == "draining":
        sent["Connection"] = "close"  # so that a pooled connection moves to an instance that stays
    return JSONResponse(error_body(error), status_code=error.status, headers=sent)


def install_handlers(app: FastAPI) -> None:
    """One wire shape for our errors, FastAPI's and Starlette's."""

    async def service_error(_: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, ServiceError)
        return error_response(exc)

    async def validation_error(_: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, RequestValidationError)
        return error_response(from_validation(exc))

    async def http_exception(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, HTTPException)
        if exc.status_code == 400:  # FastAPI's answer if the body cannot even be decoded
            message = "the body is not valid JSON: not UTF-8, nested too deeply, or a number of too many digits"
            return error_response(ServiceError("invalid_json", message))
        if exc.status_code == 405:
            allowed = ", ".join(_methods(request))
            error = ServiceError("method_not_allowed", f"this path takes {allowed}")
            return error_response(error, {"Allow": allowed})
        kind = _KIND_OF_STATUS.get(exc.status_code, "internal" if exc.status_code >= 500 else "bad_request")
        return error_response(ServiceError(kind, _sentence(kind, exc)), exc.headers)

    app.add_exception_handler(ServiceError, service_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_exception)


def from_validation(exc: RequestValidationError) -> ServiceError:
    """Pydantic's findings without the input that caused them: texts do not travel back or into logs."""
    errors = exc.errors()
    if any(error["type"] == "json_invalid" for error in errors):
        error = errors[0]
        reason = error.get("ctx", {}).get("error", "not JSON")
        return ServiceError("invalid_json", f"the body is not valid JSON: {reason} at character {error['loc'][-1]}")
    return invalid([{**error, "loc": error["loc"][1:]} for error in errors])  # without "body"


def invalid(errors: Sequence[Mapping[str, Any]]) -> ServiceError:
    """The same for findings of a model's own validation, whose places begin inside the body."""
    details: list[dict[str, str]] = []
    count = len(errors)
    for error in errors[:MAX_DETAILS]:
        if error["type"] == UNKNOWN_FIELDS:
            names = error["ctx"]["first"]
            count += error["ctx"]["count"] - 1
            details += [{"field": _field((*error["loc"], name)), "problem": "unknown field"} for name in names]
        else:
            details.append({"field": _field(error["loc"]), "problem": error["msg"]})
    first = details[0]
    more = ""
    if count > 1:
        shown = f"the first {MAX_DETAILS} are in details" if count > MAX_DETAILS else "see details"
        more = f" (and {count - 1} more, {shown})"
    problem = f"{first['field']}: {first['problem']}{more}"
    return ServiceError("invalid_request", problem, details=details[:MAX_DETAILS])


def _field(location: Sequence[Any]) -> str:
    """("texts", 3) -> "texts.3"; the names of union branches, which the caller never sent, stay out."""
    parts = [str(part) for part in location if part not in UNION_TAGS]
    shown = ".".join(parts)[:MAX_NAME_CHARS] or "the body"
    return shown.encode(errors="replace").decode()  # an unpaired surrogate could not be sent


def _methods(request: Request) -> list[str]:
    """What the path takes, for `Allow`: the framework's own names those of one route only."""
    taken = [
        method
        for method in ("GET", "POST")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]
    return ["GET", "HEAD", *taken[1:]] if "GET" in taken else taken


def _sentence(kind: str, exc: HTTPException) -> str:
    if kind == "not_found":
        return "there is no such path; /docs lists them"
    if kind == "internal":
        return "internal error"
    return str(exc.detail) or MEANING[kind]
