"""uvicorn's HTTP protocol with bounds on the size and the duration of a request in every state of a connection.

    state                                                  limit                               then
    no request yet                                         HEAD_S                              closed
    the head is arriving                                   HEAD_S                              408
    the body is arriving                                   BODY_IDLE_S, and BODY_S in all,     408
                                                           in a stream BODY_S for each line
    the body is arriving, but the service does not read    none
    or owes answers to a stream
    the rest of a body arrives after an early answer       BODY_IDLE_S, and DISCARD_S in all   closed
    the answer is being made                               the service's own deadlines
    the answer is not taken                                TAKE_S for each answer,             aborted
                                                           in a stream each time it stops
    idle after an answer                                   uvicorn's timeout_keep_alive        closed

`MAX_HEAD_BYTES` bounds a head and everything between two pieces of a body (chunk sizes, extensions, trailers),
`MAX_FIELDS` the header and trailer fields, `MAX_PIPELINED` the requests that wait for their turn. Trailers are dropped;
uvicorn would add them to the headers. A Host or a version that RFC 9112 forbids counts as broken, too; the parser lets
it pass. A request that breaks a bound gets one error of the service's shape if it is its turn to be answered. If not,
the connection closes after the answers that are due before it.

uvicorn itself bounds only the last of these states. It answers input that is not HTTP in plain text, possibly in the
middle of another answer.

Three ASGI extensions (`service.http.bodies`) tell what ASGI does not: a stream tells whether it owes answers, because
its caller may then be silent, and gets an event that is set when the connection breaks; the first request on a
connection is marked.
"""

import asyncio
import math
import re
import sys
import uuid
from functools import partial
from typing import Any, Literal

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.errors import ServiceError, error_document
from service.http.bodies import GONE, NEW, OWING, is_stream
from service.telemetry import REQUEST_ID_HEADER, log

MAX_HEAD_BYTES = 32_768
MAX_FIELDS = 100
MAX_PIPELINED = 32

HEAD_S = 10.0
BODY_IDLE_S = 20.0
BODY_S = 60.0
DISCARD_S = 30.0
TAKE_S = 60.0

HOST = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]*", re.ASCII)
"""The form of a Host field: RFC 3986, section 3.2, without user information."""

PIECE_BYTES = 8_192
"""Bytes that are parsed at once. `MAX_HEAD_BYTES` is checked after each piece, so it may be exceeded by one piece."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection with the bounds that the module's docstring lists."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._part: Literal["", "head", "body"] = ""
        """The part of a request that is arriving."""
        self._extra_bytes = 0
        """Bytes since the last piece of a body, or since the last request."""
        self._is_new = True
        """No request has come on this connection yet."""
        self._is_stream = False
        self._owing = False
        self._answered: RequestResponseCycle | None = None
        """The request that is being answered or was answered last; uvicorn's `cycle` is the one that was read last."""
        self._piece = b""
        self._plain_head: bytes | None = None
        """The head of a request that offers an upgrade, without the offer."""
        self._deaf = False
        """A bound was broken, so nothing more is read."""
        self._gone = asyncio.Event()
        """Set when the connection is lost."""
        self._until = 0.0
        """End of the present state, by the loop's clock."""
        self._body_until = 0.0
        self._take_until = math.inf
        """End of the time for taking the answer; infinite while the caller takes it as fast as it is made."""
        self._timer: asyncio.TimerHandle | None = None

    # --- called by the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limit_state(HEAD_S)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            if self._deaf:
                return
            self._piece = data[start : start + PIECE_BYTES]
            self._extra_bytes += len(self._piece)
            super().data_received(self._piece)
            if self._extra_bytes > MAX_HEAD_BYTES and not self._deaf:
                self._refuse(self._too_large())

    def pause_writing(self) -> None:
        super().pause_writing()
        self._limit_taking()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._answered is None or self._answered.response_complete or is_stream(self._answered.scope):
            self._take_until = math.inf
        self._begin_state()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._answered is not None and not self._answered.response_complete:
            self._disconnect(self._answered)  # uvicorn tells only the request that was read last
        super().connection_lost(exc)

    # --- called by the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._part = "head"
        self._begin_state()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            start = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
            fields = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
            self._plain_head = b"\r\n".join([start, *fields, b"", b""])
            return
        self._check_fields(self.headers)
        self._check_host_and_version()
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ServiceError("bad_request", f"more than {MAX_PIPELINED} requests wait on one connection")
        super().on_headers_complete()  # its task runs later
        self.headers = []  # for the trailers; the scope keeps the list of the headers
        self._is_stream, self._owing = is_stream(self.scope), False
        extensions: dict[str, Any] = {NEW: None} if self._is_new else {}
        self._is_new = False
        if self._is_stream:
            extensions |= {OWING: partial(self._set_owing, self.scope), GONE: self._gone}
        self.scope["extensions"] = extensions
        self._part, self._extra_bytes = "body", 0
        self._begin_state()

    def on_body(self, body: bytes) -> None:
        self._extra_bytes = 0
        self._limit_state(min(BODY_IDLE_S, self._body_until - self.loop.time()))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._plain_head is not None:
            return
        self._check_fields([*self.scope["headers"], *self.headers])
        super().on_message_complete()
        self._part, self._extra_bytes = "", 0
        self._begin_state()

    # --- called by uvicorn

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # this class has its own timer
        if self._part == "body" and self.cycle.response_complete:
            self._body_until = min(self._body_until, self.loop.time() + DISCARD_S)
        elif self._part != "head":
            self._begin_state()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not HTTP, or for which a callback of the parser raised an error."""
        fault = getattr(sys.exc_info()[1], "__context__", None)  # the parser's error has the callback's as its context
        not_http = ServiceError("bad_request", "this is not an HTTP/1.1 request")
        self._refuse(fault if isinstance(fault, ServiceError) else not_http)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        self._take_until = self.loop.time() + TAKE_S if self.flow.write_paused else math.inf
        super()._start_asgi_task(cycle, app)

    def _should_upgrade_to_ws(self) -> bool:
        return False  # no path has WebSockets

    def _unsupported_upgrade_warning(self) -> None:
        """Answer a request that offers an upgrade as if it offered none.

        Java's client offers an upgrade with its first request, even if the request has a body. The parser takes the
        bytes after such a head for data of the other protocol, so a new parser reads them.
        """
        end = sys.exc_info()[1]
        if self._plain_head is None or not isinstance(end, httptools.HttpParserUpgrade):
            return
        again, self._plain_head = self._plain_head + self._piece[end.args[0] :], None
        self.parser = httptools.HttpRequestParser(self)
        self._piece = again
        super().data_received(again)

    # --- time

    def _limit_state(self, seconds: float) -> None:
        """Let the present state end in `seconds` seconds. A timer that ends earlier is kept and then set again."""
        if self._gone.is_set():
            return
        self._until = self.loop.time() + seconds
        if self._timer is None or self._until < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_at(self._until, self._check_state)

    def _begin_state(self) -> None:
        """Start the time limit of the present state."""
        if self._part == "head":
            self._limit_state(HEAD_S)
        elif self._part == "body":
            self._body_until = self.loop.time() + BODY_S
            self._limit_state(min(BODY_IDLE_S, BODY_S))
        elif self.flow.write_paused:
            self._limit_taking()
        elif self._answering or self.transport.is_closing():
            self._limit_state(TAKE_S)
        else:
            self._limit_state(self.timeout_keep_alive)

    def _check_state(self) -> None:
        """Handle the end of the timer: refuse or close if the state's time is over and the caller is late."""
        self._timer = None
        if (left := self._until - self.loop.time()) > 0:
            self._limit_state(left)
        elif self.transport.is_closing() or self.flow.write_paused:
            self._limit_taking()
        elif self._waits_for_service:
            self._begin_state()
        elif self._part:
            self._refuse(ServiceError("request_timeout", f"the request's {self._part} did not come in time"))
        else:
            self._close()

    def _limit_taking(self) -> None:
        """Abort the connection if the caller has not taken the answer in `TAKE_S`."""
        now = self.loop.time()
        self._take_until = min(self._take_until, now + TAKE_S)
        if now < self._take_until:
            self._limit_state(self._take_until - now)
        else:
            self.transport.abort()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _waits_for_service(self) -> bool:
        """True while the caller waits for the service and so cannot be late."""
        if self._part == "body":
            return self._answering and (self._owing or self.flow.read_paused or self.cycle is not self._answered)
        return self._answering and (not self._part or self.flow.read_paused)

    def _set_owing(self, scope: Any, owing: bool) -> None:
        if scope is self.scope and self._part == "body" and owing != self._owing:
            self._owing = owing
            self._begin_state()

    # --- bounds and the end

    def _check_fields(self, fields: list[tuple[bytes, bytes]]) -> None:
        """Check a request's header and trailer fields."""
        if sum(len(name) + len(value) + 4 for name, value in fields) > MAX_HEAD_BYTES:
            raise self._too_large()
        if len(fields) > MAX_FIELDS:
            raise ServiceError("headers_too_large", f"the request has more than {MAX_FIELDS} header fields")

    def _check_host_and_version(self) -> None:
        """Check what the parser leaves to its user: RFC 9112, sections 3.2 and 6.1."""
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise ServiceError("bad_request", f"HTTP/{version} is not spoken here; use HTTP/1.1")
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or not all(map(HOST.fullmatch, hosts)) or (version == "1.1" and not hosts):
            raise ServiceError("bad_request", "the request must have one Host header with a name and perhaps a port")
        if version == "1.0" and any(name == b"transfer-encoding" for name, _ in self.headers):
            raise ServiceError("bad_request", "HTTP/1.0 has no Transfer-Encoding; send Content-Length, or use HTTP/1.1")

    def _too_large(self) -> ServiceError:
        where = "besides its body" if self._part == "body" else "in its head"
        return ServiceError("headers_too_large", f"the request has more than {MAX_HEAD_BYTES} bytes {where}")

    def _refuse(self, error: ServiceError) -> None:
        """Stop reading, answer with the error if it is this request's turn, and close after the answers still due."""
        self._deaf = True
        if self.transport.is_closing():
            return
        if self._part == "body" and self._answered is not None and self.cycle is not self._answered:
            self.pipeline.popleft()  # its turn will not come
            self.cycle = self.pipeline[0][0] if self.pipeline else self._answered
            self._part = ""
        if self._part == "body":
            if not self.cycle.response_started:
                self._write_error(error)
            self._disconnect(self.cycle)
            self._close()
        elif self._answering:
            self._part = ""
            self.cycle.keep_alive = False  # uvicorn closes after that answer
        else:
            self._write_error(error)
            self._close()

    def _write_error(self, error: ServiceError) -> None:
        request_id = uuid.uuid4().hex
        status, body = error_document(error, request_id)
        log("request refused", status=status, kind=error.kind, request_id=request_id)
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
        head += f"{REQUEST_ID_HEADER.lower()}: {request_id}\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + body)

    def _close(self) -> None:
        self.transport.close()
        self._limit_taking()

    @staticmethod
    def _disconnect(cycle: RequestResponseCycle) -> None:
        """Tell the app that the caller has left. From then on, nothing that the app sends is written."""
        cycle.disconnected = True
        cycle.message_event.set()
