"""Around every request: its id, its size limit, its metrics, its one log line, and an answer whatever happens."""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from hmac import compare_digest

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError, error_response
from service.http.bodies import LINES, media_type
from service.model.lifecycle import ModelLifecycle
from service.telemetry import REQUEST_ID_HEADER, log, logger, start_request

QUIET = frozenset({"/livez", "/readyz", "/ping", "/health", "/metrics"})
"""Paths that are called every few seconds; what they say in good and bad times is logged at level debug."""

OPEN = frozenset({"/livez", "/readyz", "/ping", "/health", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no key: whoever checks health has none."""

ADMIN = "/admin/"
"""Paths that need an administrator's key."""

PLAIN = frozenset({"", "identity"})
"""Content-Encoding of a body that is sent as it is. A compressed one would have to be bounded after unpacking, too."""

NO_KEY = "this service needs an API key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
NO_ADMIN = "this path needs one of SERVICE_ADMIN_KEYS, as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
ADMIN_CLOSED = "this path is closed: SERVICE_ADMIN_KEYS names no key; SIGHUP reloads the model, too"


class RequestContext:
    """Pure ASGI, so that nothing is buffered and streaming stays streaming."""

    def __init__(self, app: ASGIApp, lifecycle: ModelLifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._keys = lifecycle.settings.keys
        self._keys_of_admins = lifecycle.settings.keys_of_admins
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = start_request(headers.get(REQUEST_ID_HEADER), headers.get("traceparent"))
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        # a stream is bounded line by line, where it is read
        limit = math.inf if streams(scope["path"], headers) else self._lifecycle.settings.max_body_bytes
        read = 0

        async def receive_within_limit() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:  # an HTTPException, because FastAPI turns any other error while reading into a 400
                raise HTTPException(413, _too_large(limit))
            return message

        self._lifecycle.last_arrival = time.monotonic()
        counts = scope["method"] == "POST"  # who only looks must see, also now
        self._in_flight += counts
        try:
            declared = headers.get("content-length", "")
            if refusal := self._refusal(scope["path"], headers):
                await error_response(ServiceError("unauthorized", refusal))(scope, receive, send_with_id)
            elif declared.isdecimal() and int(declared) > limit:
                await error_response(ServiceError("body_too_large", _too_large(limit)))(scope, receive, send_with_id)
            elif counts and (coding := headers.get("content-encoding", "identity").strip().lower()) not in PLAIN:
                await error_response(_compressed(coding))(scope, receive, send_with_id)
            elif counts and self._in_flight > self._lifecycle.settings.max_requests:
                await error_response(self._too_many())(scope, receive, send_with_id)
            else:
                await self._app(scope, receive_within_limit, send_with_id)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # what extensions in Rust raise when they panic is no Exception
            logger.error("unhandled error", exc_info=exc)
            if status == 0:
                fault = ServiceError("internal", "internal error; the service's log has this request's id")
                await error_response(fault)(scope, receive, send_with_id)
            else:  # the answer had begun: the server must cut the connection, not end it as if all were well
                raise
        finally:
            self._in_flight -= counts
            self._finish(scope, status, time.perf_counter() - started)

    def _refusal(self, path: str, headers: Headers) -> str | None:
        """Why a request may not go on: which key it lacks."""
        if path.startswith(ADMIN):
            if not self._keys_of_admins:
                return ADMIN_CLOSED
            return None if _has_one(self._keys_of_admins, headers) else NO_ADMIN
        if self._keys and path not in OPEN and not _has_one(self._keys, headers):
            return NO_KEY
        return None

    def _too_many(self) -> ServiceError:
        limit = self._lifecycle.settings.max_requests
        message = f"{limit} requests are in flight, SERVICE_MAX_REQUESTS allows no more"
        return ServiceError("overloaded", message, retry_after_s=self._lifecycle.retry_after_s())

    def _finish(self, scope: Scope, status: int, seconds: float) -> None:
        # The route's path, not the caller's: a scanner must not make a time series of each path it tries.
        route = scope.get("route")
        endpoint = getattr(route, "path", None) or "other"
        metrics = self._lifecycle.metrics
        metrics.requests.labels(endpoint, str(status)).inc()
        metrics.request_seconds.labels(endpoint).observe(seconds)
        level = logging.DEBUG if scope["path"] in QUIET and status in (200, 503) else logging.INFO
        log(
            "request",
            level=level,
            method=scope["method"],
            path=scope["path"][:200],
            status=status,
            ms=round(seconds * 1000, 2),
        )


def _has_one(keys: Sequence[bytes], headers: Headers) -> bool:
    """The request has one of the keys. Every key is compared, in constant time."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    offered = [headers.get("x-api-key", ""), token.strip() if scheme.lower() == "bearer" else ""]
    matches = [compare_digest(key, one.encode()) for key in keys for one in offered]
    return any(matches)


def streams(path: str, headers: Headers) -> bool:
    """A body of any length, of which only some lines are in memory at a time."""
    return path == "/batch" and media_type(headers) in LINES


def _compressed(coding: str) -> ServiceError:
    return ServiceError(
        "unsupported_media_type", f"Content-Encoding is {coding[:100]!r}; send the body as it is, without compression"
    )


def _too_large(limit: float) -> str:
    return f"the body has more than {limit} bytes; send fewer texts at once"
