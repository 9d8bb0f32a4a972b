"""uvicorn's HTTP protocol with bounds on what a caller may send and how slowly, before there is any request to refuse.

uvicorn itself reads headers of any size, waits for ever for the end of a head or body, and answers what is not HTTP
in plain text. Here a head has `MAX_HEAD_BYTES` and `HEAD_S` seconds; a body must go on within `BODY_IDLE_S`, and be
whole within `BODY_S` unless it is a stream; what breaks a bound gets one error of the service's shape, and the
connection ends.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import ServiceError, error_document
from service.formats import LINES

MAX_HEAD_BYTES = 32_768
HEAD_S = 10.0
BODY_IDLE_S = 20.0
BODY_S = 60.0


class BoundedProtocol(HttpToolsProtocol):
    """See the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._header_bytes = 0
        self._in_head = False
        self._body_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        if self._in_head or not self._receiving:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._end("headers_too_large", f"the request's head has more than {MAX_HEAD_BYTES} bytes")

    @property
    def _receiving(self) -> bool:
        """In the middle of a body."""
        return self._timer is not None and not self._in_head

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._header_bytes = 0
        self._set_timer(HEAD_S)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEAD_BYTES:  # a head that came in one piece is whole before `data_received` can see
            raise ValueError("the head is too large")  # the parser stops, and uvicorn calls send_400_response
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        streams = self.url.partition(b"?")[0] == b"/batch" and any(
            name == b"content-type" and value.partition(b";")[0].strip().lower().decode("latin-1") in LINES
            for name, value in self.headers
        )
        self._body_until = float("inf") if streams else self.loop.time() + BODY_S
        self._set_timer(BODY_IDLE_S)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._set_timer(min(BODY_IDLE_S, max(0.0, self._body_until - self.loop.time())))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._set_timer(None)
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is not HTTP."""
        if self._header_bytes > MAX_HEAD_BYTES:
            self._end("headers_too_large", f"the request's head has more than {MAX_HEAD_BYTES} bytes")
        else:
            self._end("bad_request", "this is not an HTTP/1.1 request")

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        if self.flow is not None and self.flow.read_paused:  # it is we who do not read
            self._set_timer(BODY_IDLE_S)
            return
        part = "head" if self._in_head else "body"
        self._end("request_timeout", f"the request's {part} did not come in time")

    def _end(self, kind: str, message: str) -> None:
        """Answer with an error unless an answer has begun, and hang up."""
        self._set_timer(None)
        self._in_head, self._head_bytes = False, 0
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            status, body = error_document(ServiceError(kind, message))
            head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()
