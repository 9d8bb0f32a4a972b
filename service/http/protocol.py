"""uvicorn's HTTP protocol with bounds on what a caller may send and how slowly, in every state of a connection.

    state                                                how long                            then
    nothing asked yet                                    HEAD_S                              closed
    a head on its way                                    HEAD_S                              408
    a body on its way                                    BODY_IDLE_S, and BODY_S in all,     408
                                                         a stream: BODY_S for each line
    the same, but it is we who do not read, or who owe   as long as that lasts
    the rest of a body whose answer was sent early       BODY_IDLE_S, and DISCARD_S in all   closed
    the answer is being made                             the service's own deadlines
    the answer is not taken, or not all when closing     STUCK_S without a byte              aborted
    kept alive                                           uvicorn's timeout_keep_alive        closed

Bytes are bounded, too: `MAX_HEAD_BYTES` in a head, and between two pieces of a body or after its end (chunk sizes,
chunk extensions, trailers); `MAX_FIELDS` header and trailer fields; `MAX_PIPELINED` requests in wait. Trailers are
dropped: uvicorn would add them to the headers. What breaks a bound gets one error of the service's shape if it is
that request's turn to be answered; else the connection ends after the answers that are due before it.

uvicorn itself reads heads of any size, waits for ever in all states but the last, and answers what is not HTTP in
plain text, in the middle of another answer if it comes to that.

Two ASGI extensions for streams (`service.api.stream`): the stream says what it owes (while there are lines without an
answer the caller may be silent; once all are sent the times begin anew), and hears at once when the connection breaks.
"""

import asyncio
import sys
import uuid
from functools import partial
from typing import Any, Literal

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.errors import ServiceError, error_document
from service.http.bodies import GONE, OWING, is_stream
from service.telemetry import REQUEST_ID_HEADER, log

MAX_HEAD_BYTES = 32_768
MAX_FIELDS = 100
MAX_PIPELINED = 32

HEAD_S = 10.0
BODY_IDLE_S = 20.0
BODY_S = 60.0
DISCARD_S = 30.0
STUCK_S = 60.0

PIECE_BYTES = 8_192
"""Given to the parser at once: what is no header field is bounded to within one piece."""


class BoundedProtocol(HttpToolsProtocol):
    """See the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._part: Literal["", "head", "body"] = ""
        """What of a request is on its way."""
        self._extra_bytes = 0
        """Came since the last piece of a body, or since the last request."""
        self._fields = 0
        self._field_bytes = 0
        self._streams = False
        self._owing = False
        self._answered: RequestResponseCycle | None = None
        """The request whose answer is under way, or was the last; `cycle` is the one that was read last."""
        self._fault: ServiceError | None = None
        self._piece = b""
        """What the parser has."""
        self._head_again: bytes | None = None
        """Of a request that offers an upgrade: its head without the offer."""
        self._deaf = False
        """A bound was broken: nothing is read any more."""
        self._lost = False
        self._gone = asyncio.Event()
        self._until = 0.0
        """When the present state has lasted too long, by the loop's clock."""
        self._body_until = 0.0
        self._unsent: int | None = None
        """Bytes that the caller has not taken, the fewest that were seen."""
        self._stuck_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # --- what the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._allow(HEAD_S)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            if self._deaf:
                return
            piece = data[start : start + PIECE_BYTES]
            self._extra_bytes += len(piece)
            self._parse(piece)
            if self._extra_bytes > MAX_HEAD_BYTES and not self._deaf:
                where = "besides its body" if self._part == "body" else "in its head"
                self._refuse("headers_too_large", f"the request has more than {MAX_HEAD_BYTES} bytes {where}")

    def _parse(self, piece: bytes) -> None:
        self._piece = piece
        super().data_received(piece)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_unsent()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unsent = None
        self._begin_state()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._gone.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._answered is not None and not self._answered.response_complete:
            self._tell_departure(self._answered)  # uvicorn tells only the request that was read last
        super().connection_lost(exc)

    # --- what the parser calls

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._part, self._fields, self._field_bytes = "head", 0, 0
        self._allow(HEAD_S)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._field_bytes += len(name) + len(value) + 4
        if self._field_bytes > MAX_HEAD_BYTES:
            where = "in its head" if self._part == "head" else "besides its body"
            self._fault = ServiceError("headers_too_large", f"the request has more than {MAX_HEAD_BYTES} bytes {where}")
            raise self._fault
        if self._fields > MAX_FIELDS:
            self._fault = ServiceError("headers_too_large", f"the request has more than {MAX_FIELDS} header fields")
            raise self._fault
        if self._part == "head":
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._head_again = self._without_upgrade()
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            self._fault = ServiceError("bad_request", f"more than {MAX_PIPELINED} requests wait on one connection")
            raise self._fault
        self._owing = False
        super().on_headers_complete()  # its task runs later
        self._streams = is_stream(self.scope)
        if self._streams:
            owing = partial(self._set_owing, self.scope)
            self.scope["extensions"] = {OWING: owing, GONE: self._gone}  # type: ignore[dict-item]  # any value is right
        self._part, self._extra_bytes = "body", 0
        self._begin_state()

    def on_body(self, body: bytes) -> None:
        self._extra_bytes = 0
        now = self.loop.time()
        if self._streams and b"\n" in body and not self.cycle.response_complete:
            self._body_until = now + BODY_S
        self._allow(min(BODY_IDLE_S, self._body_until - now))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._head_again is not None:
            return
        super().on_message_complete()
        self._part, self._extra_bytes = "", 0
        self._begin_state()

    # --- what uvicorn calls

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # ours takes its place
        if self._part == "body" and self.cycle.response_complete:
            self._body_until = min(self._body_until, self.loop.time() + DISCARD_S)
        elif self._part != "head":
            self._begin_state()

    def send_400_response(self, msg: str) -> None:
        """For what is not HTTP, and what a callback of the parser refused."""
        fault = self._fault or ServiceError("bad_request", "this is not an HTTP/1.1 request")
        self._refuse(fault.kind, fault.message)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _should_upgrade_to_ws(self) -> bool:
        return False  # no path speaks it

    def _unsupported_upgrade_warning(self) -> None:
        """Some clients offer an upgrade with each first request, Java's with a body behind it; it is answered as if
        they had not. The parser takes all that follows such a head for the other protocol: another one reads it."""
        end = sys.exc_info()[1]
        if self._head_again is None or not isinstance(end, httptools.HttpParserUpgrade):
            return
        again, self._head_again = self._head_again + self._piece[end.args[0] :], None
        self.parser = httptools.HttpRequestParser(self)
        self._parse(again)

    def _without_upgrade(self) -> bytes:
        """The head that has been read, but for its field Upgrade."""
        start = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        fields = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([start, *fields, b"", b""])

    # --- time

    def _allow(self, seconds: float) -> None:
        """The present state may last so long from now. The timer is only set anew if it would come too late."""
        if self._lost:
            return
        self._until = self.loop.time() + seconds
        if self._timer is None or self._until < self._timer_at:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._until
        self._timer = self.loop.call_at(self._until, self._look)

    def _begin_state(self) -> None:
        """Give the state its whole time."""
        if self._part == "head":
            self._allow(HEAD_S)
        elif self._part == "body":
            self._body_until = self.loop.time() + BODY_S
            self._allow(min(BODY_IDLE_S, BODY_S))
        elif self._answering or self.transport.is_closing():
            self._allow(STUCK_S)
        else:
            self._allow(self.timeout_keep_alive)

    def _look(self) -> None:
        """The timer's end: is it the caller who took too long?"""
        self._timer = None
        if self.loop.time() < self._until:
            self._set_timer()
        elif self.transport.is_closing() or self.flow.write_paused:
            self._watch_unsent()
        elif self._waits_for_us:
            self._begin_state()
        elif self._part:
            self._refuse("request_timeout", f"the request's {self._part} did not come in time")
        else:
            self._close()

    def _watch_unsent(self) -> None:
        """Some of the answer must be taken every `STUCK_S`."""
        now, unsent = self.loop.time(), self.transport.get_write_buffer_size()
        if self._unsent is None or unsent < self._unsent:
            self._unsent, self._stuck_at = unsent, now + STUCK_S
        if now < self._stuck_at:
            self._allow(self._stuck_at - now)
        else:
            self.transport.abort()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _waits_for_us(self) -> bool:
        """The caller can do nothing, or need not."""
        if self._part == "body":
            return self._answering and (self._owing or self.flow.read_paused or self.cycle is not self._answered)
        return self._answering and (not self._part or self.flow.read_paused)

    def _set_owing(self, scope: Any, owing: bool) -> None:
        if scope is self.scope and self._part == "body" and owing != self._owing:
            self._owing = owing
            self._begin_state()

    # --- the end

    def _refuse(self, kind: str, message: str) -> None:
        """Read nothing more, answer with an error if it is this request's turn, and hang up when that is right."""
        self._deaf = True
        if self.transport.is_closing():
            return
        if self._part == "body" and self._answered is not None and self.cycle is not self._answered:
            self.pipeline.popleft()  # its turn will not come
            self.cycle = self.pipeline[0][0] if self.pipeline else self._answered
            self._part = ""
        if self._part == "body":
            if not self.cycle.response_started:
                self._write_error(kind, message)
            self._tell_departure(self.cycle)
            self._close()
        elif self._answering:
            self._part = ""
            self.cycle.keep_alive = False  # uvicorn closes after that answer
        else:
            self._write_error(kind, message)
            self._close()

    def _write_error(self, kind: str, message: str) -> None:
        request_id = uuid.uuid4().hex
        status, body = error_document(ServiceError(kind, message), request_id)
        log("request refused", status=status, kind=kind, request_id=request_id)
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
        head += f"{REQUEST_ID_HEADER.lower()}: {request_id}\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + body)

    def _close(self) -> None:
        self.transport.close()
        self._watch_unsent()

    @staticmethod
    def _tell_departure(cycle: RequestResponseCycle) -> None:
        """The application may send no more, and hears why."""
        cycle.disconnected = True
        cycle.message_event.set()
