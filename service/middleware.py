"""Around every request: its id, its size limit, its metrics, its one log line, and an answer whatever happens."""

import logging
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError, error_response
from service.runtime import Runtime
from service.telemetry import REQUEST_ID_HEADER, log, logger, start_request

QUIET = frozenset({"/livez", "/readyz", "/ping", "/metrics"})
"""Paths that are called every few seconds; what they say in good and bad times is logged at level debug."""


class RequestContext:
    """Pure ASGI, so that nothing is buffered and streaming stays streaming."""

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self._app = app
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = start_request(headers.get(REQUEST_ID_HEADER))
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        limit = self._runtime.settings.max_body_bytes
        read = 0

        async def receive_within_limit() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:  # an HTTPException, because FastAPI turns any other error while reading into a 400
                raise HTTPException(413, _too_large(limit))
            return message

        self._runtime.last_arrival = time.monotonic()
        try:
            declared = headers.get("content-length", "")
            if declared.isdecimal() and int(declared) > limit:
                await error_response(ServiceError("body_too_large", _too_large(limit)))(scope, receive, send_with_id)
            else:
                await self._app(scope, receive_within_limit, send_with_id)
        except Exception as exc:
            logger.error("unhandled error", exc_info=exc)
            if status == 0:
                fault = ServiceError("internal", "internal error; the service's log has this request's id")
                await error_response(fault)(scope, receive, send_with_id)
            else:  # the answer had begun: the server must cut the connection, not end it as if all were well
                raise
        finally:
            self._finish(scope, status, time.perf_counter() - started)

    def _finish(self, scope: Scope, status: int, seconds: float) -> None:
        # The route's path, not the caller's: a scanner must not make a time series of each path it tries.
        route = scope.get("route")
        endpoint = getattr(route, "path", None) or "other"
        metrics = self._runtime.metrics
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


def _too_large(limit: int) -> str:
    return f"the body has more than {limit} bytes; send fewer texts at once"
