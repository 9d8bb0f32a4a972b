"""`/batch` over newline-delimited JSON: any number of texts in one call, answered in order while they come in.

    lines in --> chunks --> at most IN_FLIGHT of them under way --> lines out
       ^                                                                   |
       +---------- not read while the answers are not taken ---------------+

Memory does not grow with the call: what was read and not yet answered is bounded by `IN_FLIGHT` chunks of at most
`CHUNK_CHARS` characters (or one line, if that is longer). A line is a string, or an object with the fields of
`/predict` but `explain`; each gets one line, a result or an error object, and a bad line never ends the stream. Whoever
sends much must read at the same time: a caller who reads nothing is not read from either. When the caller hangs up,
what waits is dropped, and only the batch that is in the model goes on.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service.api.schemas import LineRequest
from service.errors import ServiceError, error_body, invalid
from service.http.bodies import LINES
from service.inference.pipeline import AnswerOrError, RequestOptions, Timing
from service.model.lifecycle import ModelLifecycle

IN_FLIGHT = 4
"""Chunks that were read and whose answers are not sent, so that the batcher never waits for the next one."""

CHUNK_LINES = 64
CHUNK_CHARS = 50_000

GONE = "service.gone"
"""ASGI extension of this service's own server: an asyncio.Event that is set when the connection breaks. ASGI itself
says so only in the order of the body's pieces, and those are not read while there is enough to do."""

OWING = "service.owing"
"""Another: a function that is told whether lines are without an answer, so that their caller is not called slow."""

Render = Callable[[AnswerOrError, LineRequest], bytes]


@dataclass(frozen=True)
class _Line:
    """One line: what it asks for, or what is wrong with it."""

    request: LineRequest | None
    error: ServiceError | None = None


_Pending = asyncio.Queue[asyncio.Task[bytes] | None]
"""Answers to chunks, in their order; None after the last."""


class Gone(Exception):
    """The caller hung up."""


async def _lines(receive: Receive, limit: int) -> AsyncIterator[list[bytes | ServiceError]]:
    """The complete lines of each piece of the body as it comes; a line above `limit` bytes is an error in its place.

    Ends with the body. Raises `Gone` if the connection breaks before.
    """
    begun: list[bytes] = []  # pieces of a line whose end has not come
    size = 0
    more = True
    while more:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        more = message.get("more_body", False)
        *complete, rest = message.get("body", b"").split(b"\n")
        found: list[bytes | ServiceError] = []
        for line in complete:
            found += _line([*begun, line], size + len(line), limit)
            begun, size = [], 0
        size += len(rest)
        if size <= limit:
            begun.append(rest)
        else:
            begun.clear()  # of a line that is too long only its length is kept
        if not more:
            found += _line(begun, size, limit)
        if found:
            yield found


def _line(pieces: Sequence[bytes], size: int, limit: int) -> list[bytes | ServiceError]:
    """One line, or nothing if it is blank."""
    if size > limit:
        return [_too_long(limit)]
    line = b"".join(pieces)
    return [line] if line.strip() else []


def _too_long(limit: int) -> ServiceError:
    return ServiceError("body_too_large", f"a line has more than {limit} bytes")


_LINE = TypeAdapter(LineRequest)


def _parse(raw: bytes | ServiceError) -> _Line:
    if isinstance(raw, ServiceError):
        return _Line(None, raw)
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        return _Line(None, ServiceError("invalid_json", f"the line is not JSON: {exc}"))
    try:
        return _Line(_LINE.validate_python({"text": value} if isinstance(value, str) else value))
    except ValidationError as exc:
        return _Line(None, invalid(exc.errors()))


def _chunks(lines: Iterable[bytes | ServiceError], most: int) -> Iterator[list[_Line]]:
    """Stretches that one request can hold: of bounded size, and of one way to be classified. Parsed one by one."""
    chunk: list[_Line] = []
    size, way = 0, None
    for raw in lines:
        line = _parse(raw)
        asked = None if line.request is None else _work(line.request)
        length = 0 if line.request is None else len(line.request.text)
        other = asked is not None and way is not None and asked != way
        if chunk and (len(chunk) >= most or size + length > CHUNK_CHARS or other):
            yield chunk
            chunk, size, way = [], 0, None
        chunk.append(line)
        size += length
        way = asked or way
    if chunk:
        yield chunk


def _work(request: LineRequest) -> RequestOptions:
    return RequestOptions(request.on_long, request.timeout_ms, request.spans, lane="bulk", patient=True)


class LinesResponse(Response):
    """An ASGI answer that reads the body of its own request; see the module.

    Args:
        lifecycle: the service.
        render: one outcome as a line, without the line break.
        limit: bytes of one line.
    """

    def __init__(self, lifecycle: ModelLifecycle, render: Render, limit: int) -> None:
        super().__init__(media_type=LINES[1])
        self._lifecycle = lifecycle
        self._render = render
        self._limit = limit
        self._owed = 0
        self._tell_owing: Callable[[bool], None] = lambda _: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        extensions = scope.get("extensions") or {}
        gone = extensions.get(GONE) or asyncio.Event()
        self._tell_owing = extensions.get(OWING, self._tell_owing)
        pending: _Pending = asyncio.Queue()
        room = asyncio.Semaphore(IN_FLIGHT)
        reader = asyncio.create_task(self._read(receive, gone, pending, room))
        writer = asyncio.create_task(self._write(send, pending, room))
        departure: asyncio.Task[Any] | None = None
        self._lifecycle.in_flight += 1
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and reader.exception() is None and not writer.done():
                departure = asyncio.create_task(gone.wait())
                await asyncio.wait({departure, writer}, return_when=asyncio.FIRST_COMPLETED)
            for worker in (reader, writer):
                error = worker.exception() if worker.done() else None
                if error is not None and not isinstance(error, Gone | OSError):
                    raise error
        finally:
            self._lifecycle.in_flight -= 1
            left: list[asyncio.Future[Any]] = [reader, writer, *([departure] if departure else [])]
            while not pending.empty():
                if (answer := pending.get_nowait()) is not None:
                    left.append(answer)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _read(self, receive: Receive, gone: asyncio.Event, pending: "_Pending", room: asyncio.Semaphore) -> None:
        most = min(CHUNK_LINES, self._lifecycle.settings.max_texts)
        async for lines in _lines(receive, self._limit):
            for chunk in _chunks(lines, most):
                await _acquire(room, gone)  # until the answers to an earlier chunk are sent
                self._owe(1)
                pending.put_nowait(asyncio.create_task(self._answer(chunk)))
        pending.put_nowait(None)

    async def _write(self, send: Send, pending: "_Pending", room: asyncio.Semaphore) -> None:
        headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while (answer := await pending.get()) is not None:
            try:
                body = await answer
            finally:
                answer.cancel()  # if it is the writer that ends
            await send({"type": "http.response.body", "body": body, "more_body": True})
            room.release()
            self._owe(-1)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _owe(self, chunks: int) -> None:
        self._owed += chunks
        self._tell_owing(self._owed > 0)

    async def _answer(self, chunk: list[_Line]) -> bytes:
        wanted = [line.request for line in chunk if line.request is not None]
        outcomes = iter(await self._classify(wanted) if wanted else [])
        lines = []
        for line in chunk:
            if line.request is None:
                assert line.error is not None
                lines.append(json.dumps(error_body(line.error)).encode())
            else:
                lines.append(self._render(next(outcomes), line.request))
        return b"\n".join(lines) + b"\n"

    async def _classify(self, requests: list[LineRequest]) -> list[AnswerOrError]:
        texts = [request.text for request in requests]
        try:
            return await self._lifecycle.current_pipeline().classify(texts, _work(requests[0]), Timing())
        except ServiceError as exc:
            return [exc] * len(texts)


async def _acquire(room: asyncio.Semaphore, gone: asyncio.Event) -> None:
    """Raises `Gone` if the caller hangs up before there is room."""
    acquired, left = asyncio.ensure_future(room.acquire()), asyncio.ensure_future(gone.wait())
    try:
        await asyncio.wait({acquired, left}, return_when=asyncio.FIRST_COMPLETED)
        if gone.is_set():
            raise Gone
    finally:
        acquired.cancel()
        left.cancel()
