"""ASGI middleware around every request: id, keys, bounds, departure of the caller, metrics, log, and HEAD."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from hmac import compare_digest

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError, error_response
from service.http.bodies import GONE, HOLD, NEW, is_stream
from service.http.capacity import FREE_BYTES, Capacity, Holding, counted
from service.model.lifecycle import ModelLifecycle
from service.telemetry import REQUEST_ID_HEADER, log, logger, start_request

QUIET = frozenset({"/livez", "/readyz", "/ping", "/health", "/metrics"})
"""Paths that are requested every few seconds; their ordinary answers are logged at level debug."""

OPEN = frozenset({"/livez", "/readyz", "/ping", "/health", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no key, because health checks have none."""

ADMIN = "/admin/"
"""Prefix of the paths that need an administrator's key."""

UNCOMPRESSED = frozenset({"", "identity"})
"""Content-Encoding of bodies that are read. A compressed body would need a second bound, on its unpacked size."""

CLIENT_LEFT = 499
"""nginx's status of a request whose caller hung up; only logs and metrics have it."""

NO_KEY = "this service needs an API key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
NO_ADMIN = "this path needs one of SERVICE_ADMIN_KEYS, as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
ADMIN_CLOSED = "this path is closed: SERVICE_ADMIN_KEYS names no key; SIGHUP reloads the model, too"


MOST_DIGITS = 18
"""Most digits of a Content-Length that is read as a number; more are above any limit."""


class RequestContext:
    """Middleware that does what every request needs: request id, keys, limits, metrics and the log line.

    It is plain ASGI, so bodies and answers pass through without being buffered.
    """

    def __init__(self, app: ASGIApp, lifecycle: ModelLifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._keys = lifecycle.settings.keys
        self._admin_keys = lifecycle.settings.keys_of_admins
        self._capacity = Capacity(lifecycle)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        self._lifecycle.last_arrival = time.monotonic()
        headers = Headers(scope=scope)
        request_id = start_request(headers.get(REQUEST_ID_HEADER), headers.get("traceparent"))

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        stream = is_stream(scope)
        holding = Holding(self._capacity, stream)
        try:
            if NEW in (scope.get("extensions") or {}):
                await self._capacity.turn()
            limit = math.inf if stream else self._lifecycle.settings.max_body_bytes
            if refusal := self._refusal(scope, headers, limit, holding):
                await error_response(refusal)(scope, receive, send_with_id)
            elif scope["method"] == "POST":  # other methods read the state, which must work even if the service is full
                await self._run_while_connected(scope, receive, send_with_id, limit, holding)
            else:
                await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = CLIENT_LEFT
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # a panic of an extension in Rust is no Exception
            logger.error("unhandled error", exc_info=exc)
            if status:  # the answer has begun: the server must cut the connection instead of ending the answer
                raise
            fault = ServiceError("internal", "internal error; the service's log has this request's id")
            await error_response(fault)(scope, receive, send_with_id)
        finally:
            holding.release()
            self._record(scope, status, time.perf_counter() - started)

    def _refusal(self, scope: Scope, headers: Headers, limit: float, holding: Holding) -> ServiceError | None:
        """Return the error by which the request is refused before its body is read, or None."""
        path, declared = scope["path"], headers.get("content-length", "")
        coding = headers.get("content-encoding", "").strip().lower()
        admin = path.startswith(ADMIN)
        keys = self._admin_keys if admin else self._keys
        if admin and not keys:
            return ServiceError("unauthorized", ADMIN_CLOSED)
        if keys and path not in OPEN and not _has_key(keys, headers):
            return ServiceError("unauthorized", NO_ADMIN if admin else NO_KEY)
        # int() refuses thousands of digits, also zeros
        if declared.isdecimal() and (len(size := declared.lstrip("0")) > MOST_DIGITS or int(size or "0") > limit):
            return _too_large(limit)
        if scope["method"] != "POST":
            return None
        if coding not in UNCOMPRESSED:
            message = f"Content-Encoding is {coding[:100]!r}; send the body as it is, without compression"
            return ServiceError("unsupported_media_type", message)
        if limit == math.inf:
            try:
                holding.take_place()
            except ServiceError as exc:
                return exc
        return None

    async def _run_while_connected(
        self, scope: Scope, receive: Receive, send: Send, limit: float, holding: Holding
    ) -> None:
        """Run the app, and cancel it if the caller hangs up, which Starlette does not do.

        Raises:
            ClientDisconnect: the caller hung up.
        """
        extensions = scope.get("extensions") or {}
        gone: asyncio.Event | None = extensions.get(GONE) if limit == math.inf else None
        if limit == math.inf:
            scope["extensions"] = {**extensions, HOLD: holding.hold}
        body_read = asyncio.Event()
        size = 0

        async def bounded_receive() -> Message:
            nonlocal size
            message = await receive()
            if limit == math.inf:
                return message
            size += len(message.get("body", b""))
            if size > limit:
                raise _too_large(limit)
            holding.hold(counted(size))
            if message["type"] == "http.request" and not message.get("more_body", False):
                holding.take_place()
                body_read.set()
                if counted(size):
                    await self._capacity.turn()
            return message

        async def run_app() -> None:
            bounded = send if limit == math.inf else _sending_in_pieces(send, scope, receive, holding, lambda: size)
            await self._app(scope, bounded_receive, bounded)

        async def departure() -> None:
            if gone is not None:
                await gone.wait()
            else:
                await body_read.wait()
                await receive()  # after the body, the only message left is the disconnect

        work = asyncio.create_task(run_app())
        watch = asyncio.create_task(departure())
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientDisconnect
            await work
        finally:
            for task in (work, watch):
                task.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        """Add the request to metrics and log."""
        # Metrics have the route's path, not the caller's, because a scanner would make a time series of every path.
        endpoint = getattr(scope.get("route"), "path", None) or "other"
        self._lifecycle.metrics.requests.labels(endpoint, str(status)).inc()
        self._lifecycle.metrics.request_seconds.labels(endpoint).observe(seconds)
        log(
            "request",
            level=logging.DEBUG if scope["path"] in QUIET and status in (200, 503) else logging.INFO,
            method=scope["method"],
            path=scope["path"][:200],
            status=status,
            ms=round(seconds * 1000, 2),
        )


class HeadAsGet:
    """Middleware that answers HEAD like GET but without a body, on every path that takes GET (RFC 9110, section 9.3.2).

    Load balancers send HEAD, and FastAPI's routes, unlike Starlette's, do not take it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        as_get = {**scope, "method": "GET"}  # a copy: the server must still know that no body may follow
        await self._app(as_get, receive, send_head)
        scope["route"] = as_get.get("route")  # metrics are by route


def _has_key(keys: Sequence[bytes], headers: Headers) -> bool:
    """Return whether the request has one of the keys. Every key is compared, in constant time."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    offered = [headers.get("x-api-key", ""), token.strip() if scheme.lower() == "bearer" else ""]
    matches = [compare_digest(key, one.encode()) for key in keys for one in offered]
    return any(matches)


def _sending_in_pieces(
    send: Send, scope: Scope, receive: Receive, holding: Holding, body_size: Callable[[], int]
) -> Send:
    """Return a `send` for an answer that is made as a whole: it gives the place back and holds the answer's bytes.

    A large answer is sent in pieces, each when the caller has taken those before. If there is no room for its bytes,
    429 is sent instead.
    """
    start: Message | None = None
    refused = False

    async def send_in_pieces(message: Message) -> None:
        nonlocal start, refused
        if message["type"] == "http.response.start":
            start = message
            return
        body = message.get("body", b"")
        if start is not None:
            holding.give_place()
            begin, start = start, None
            try:
                holding.hold(counted(body_size()) + counted(len(body)))
            except ServiceError as exc:
                refused = True
                await error_response(exc)(scope, receive, send)
            else:
                await send(begin)
        if refused:
            return
        for end in range(FREE_BYTES, len(body), FREE_BYTES):
            await send({**message, "body": body[end - FREE_BYTES : end], "more_body": True})
        await send({**message, "body": body[(len(body) - 1) // FREE_BYTES * FREE_BYTES :] if body else b""})

    return send_in_pieces


def _too_large(limit: float) -> ServiceError:
    return ServiceError("body_too_large", f"the body has more than {limit} bytes; send fewer texts at once")
