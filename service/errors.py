"""Kinds of errors, the table from kind to status, and the shape of every error.

    ServiceError       an answer to the caller: a kind of the table, a sentence, maybe details
    EngineLoadError    the model cannot be served; the process logs one line and ends

Routes raise `ServiceError` and do not catch it. The handlers below make `{"error", "kind", "request_id", "details"?}`
of it and of what FastAPI and Starlette raise.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service.telemetry import current_request_id

_KINDS: Final[Mapping[str, tuple[int, str]]] = {
    "invalid_json": (400, "the body is not JSON"),
    "invalid_body": (400, "the body is not what its Content-Type says: not UTF-8, or not CSV"),
    "bad_request": (400, "refused by the HTTP layer for a reason that has no kind of its own"),
    "unauthorized": (401, "the service has API keys, and none of them came with the request"),
    "not_found": (404, "there is no such path"),
    "method_not_allowed": (405, "the path does not take this method"),
    "not_acceptable": (406, "the Accept header allows no form that the path answers in"),
    "request_timeout": (408, "the head or the body of the request came too slowly"),
    "body_too_large": (413, "the body has more bytes than `SERVICE_MAX_BODY_BYTES`"),
    "text_too_large": (413, "a text has more characters than `SERVICE_MAX_TEXT_CHARS`"),
    "too_many_texts": (413, "the request has more texts than `SERVICE_MAX_TEXTS`"),
    "unsupported_media_type": (415, "the path does not read this Content-Type, or the body is compressed"),
    "invalid_request": (422, "a field is missing, unknown, of the wrong type or out of range; `details` says which"),
    "empty_text": (422, "nothing is left of the text after clean-up"),
    "invalid_text": (422, "the text is not valid Unicode"),
    "text_too_long": (422, 'the text has more tokens than the model reads at once, and `on_long` is "error"'),
    "reload_refused": (422, "the new model was not accepted and the running one was kept; the sentence says why"),
    "overloaded": (429, "the queue is full, or too many requests are in flight; try again after `Retry-After` seconds"),
    "headers_too_large": (431, "the request's head is too large"),
    "inference_failed": (500, "the model failed on this text; other texts are not affected"),
    "internal": (500, "a fault of the service; its log has an entry with the request id"),
    "not_ready": (503, "the model is being loaded or is not healthy, or another reload is under way"),
    "draining": (503, "the service is stopping; another instance will answer"),
    "deadline_exceeded": (504, "the answer was not ready within the time allowed"),
}
"""Status and meaning of every kind of error. No other place in the service names the status of an error."""

STATUS: Final[Mapping[str, int]] = {kind: status for kind, (status, _) in _KINDS.items()}
MEANING: Final[Mapping[str, str]] = {kind: meaning for kind, (_, meaning) in _KINDS.items()}

UNKNOWN_FIELDS: Final = "unknown_fields"
"""Type of one validation error that stands for many unknown fields: `ctx` has their count and the first names."""

MAX_DETAILS: Final = 20
MAX_NAME_CHARS: Final = 100
"""Characters of a field's name that an error shows: an unknown field's name may be as long as the body."""


class ServiceError(Exception):
    """An error that is sent to the caller as it is.

    Args:
        kind: a key of `STATUS`.
        message: a sentence that the caller can act on. It never has a text of the caller or a stack trace in it.
        details: the problems one by one, each `{"field", "problem"}`.
        retry_after_s: seconds after which another try may succeed, for 429 and 503; 1 if not given.
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
    """The model cannot be served. The message is one line for the person who starts the process."""


def error_body(error: ServiceError) -> dict[str, Any]:
    """Return an error in its wire shape, as an answer or as one of several results."""
    body: dict[str, Any] = {"error": error.message, "kind": error.kind, "request_id": current_request_id()}
    if error.details:
        body["details"] = list(error.details)
    return body


def error_document(error: ServiceError, request_id: str) -> tuple[int, bytes]:
    """Return status and body of an error outside of the app, where no request has an id yet."""
    return error.status, json.dumps(error_body(error) | {"request_id": request_id}).encode()


def error_response(error: ServiceError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Make the response for an error."""
    sent = dict(headers or {})
    if error.status in (429, 503):
        sent["Retry-After"] = str(max(1, math.ceil(error.retry_after_s or 1)))
    if error.kind == "unauthorized":
        sent["WWW-Authenticate"] = "Bearer"
    if error.kind == "draining":
        sent["Connection"] = "close"  # so that the next request goes to an instance that is not stopping
    return JSONResponse(error_body(error), status_code=error.status, headers=sent)


def install_handlers(app: FastAPI) -> None:
    """Give the service's errors and the framework's own ones the same shape."""

    async def service_error(_: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, ServiceError)
        return error_response(exc)

    async def framework_error(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, HTTPException)
        headers = dict(exc.headers or {})
        if exc.status_code == 404:
            error = ServiceError("not_found", "there is no such path; /docs lists them")
        elif exc.status_code == 405:
            headers["Allow"] = ", ".join(_allowed_methods(request))
            error = ServiceError("method_not_allowed", f"this path takes {headers['Allow']}")
        elif exc.status_code >= 500:
            error = ServiceError("internal", "internal error")
        else:
            error = ServiceError("bad_request", str(exc.detail) or MEANING["bad_request"])
        return error_response(error, headers)

    app.add_exception_handler(ServiceError, service_error)
    app.add_exception_handler(HTTPException, framework_error)


def invalid_request(errors: Sequence[Mapping[str, Any]]) -> ServiceError:
    """Make one error of pydantic's findings. It leaves out the input, so that no text is sent back or logged."""
    details: list[dict[str, str]] = []
    count = len(errors)
    for error in errors[:MAX_DETAILS]:
        if error["type"] == UNKNOWN_FIELDS:
            names = error["ctx"]["first"]
            count += error["ctx"]["count"] - 1
            details += [{"field": _field((*error["loc"], name)), "problem": "unknown field"} for name in names]
        else:
            no_object = error["type"] in ("model_type", "model_attributes_type")  # pydantic names our class here
            problem = "must be a JSON object" if no_object else error["msg"]
            details.append({"field": _field(error["loc"]), "problem": problem})
    first = details[0]
    more = ""
    if count > 1:
        shown = f"the first {MAX_DETAILS} are in details" if count > MAX_DETAILS else "see details"
        more = f" (and {count - 1} more, {shown})"
    problem = f"{first['field']}: {first['problem']}{more}"
    return ServiceError("invalid_request", problem, details=details[:MAX_DETAILS])


def _field(location: Sequence[Any]) -> str:
    """Return the dotted name of a field: ("texts", 3) is "texts.3"."""
    shown = ".".join(map(str, location))[:MAX_NAME_CHARS] or "the body"
    return shown.encode(errors="replace").decode()  # an unpaired surrogate could not be sent


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes of the path; the framework's own error names those of one route only."""
    taken = [
        method
        for method in ("GET", "POST")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]
    return ["GET", "HEAD", *taken[1:]] if "GET" in taken else taken
