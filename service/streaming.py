"""`/batch` over newline-delimited JSON: any number of texts in one call, answered in order while they come in.

    lines in --> chunks --> at most IN_FLIGHT of them in the batcher --> lines out
       ^                                                                   |
       +---------- not read while the answers are not taken ---------------+

Memory does not grow with the call: what was read and not yet answered is bounded by `IN_FLIGHT` chunks of at most
`CHUNK_CHARS` characters (or one line, if that is longer). A line is a string, or an object with the fields of
`/predict`; each gets one line, a result or an error object, and a bad line never ends the stream. Whoever sends much
must read at the same time: a caller who reads nothing is not read from either. When the caller hangs up, what waits is
dropped, and only the batch that is in the model goes on.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service.errors import ServiceError, error_body, invalid
from service.formats import LINES
from service.runtime import Outcome, Runtime, Timing, Work
from service.schemas import PredictRequest

IN_FLIGHT = 4
"""Chunks in the batcher, so that it never waits for the next one."""

CHUNK_LINES = 64
CHUNK_CHARS = 50_000

PATIENCE_S = 0.05
"""Between tries while the queue is full of other callers' texts: a stream waits instead of failing."""

Pending = asyncio.Queue[asyncio.Task[bytes] | None]
"""Chunks in their order; None after the last."""

Render = Callable[[Outcome, PredictRequest], bytes]


@dataclass(frozen=True)
class _Line:
    """One line: what it asks for, or what is wrong with it."""

    request: PredictRequest | None
    error: ServiceError | None = None


class Gone(Exception):
    """The caller hung up."""


async def _lines(receive: Receive, limit: int) -> AsyncIterator[list[bytes | ServiceError]]:
    """The complete lines of each piece of the body as it comes; a line above `limit` bytes is an error in its place.

    Ends with the body. Raises `Gone` if the connection breaks before.
    """
    rest, skipping = b"", False
    more = True
    while more:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        more = message.get("more_body", False)
        *complete, rest = (rest + message.get("body", b"")).split(b"\n")
        found: list[bytes | ServiceError] = []
        for line in complete:
            if skipping:
                skipping = False  # the rest of a line that was refused
            elif len(line) > limit:
                found.append(_too_long(limit))
            elif line.strip():
                found.append(line)
        if len(rest) > limit:
            if not skipping:
                found.append(_too_long(limit))
            rest, skipping = b"", True
        if not more and rest.strip() and not skipping:
            found.append(rest)
        if found:
            yield found


def _too_long(limit: int) -> ServiceError:
    return ServiceError("body_too_large", f"a line has more than {limit} bytes")


_LINE = TypeAdapter(PredictRequest)


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


def _chunks(lines: list[_Line], most: int) -> list[list[_Line]]:
    """Stretches that one request can hold: of bounded size, and of one way to be classified."""
    chunks: list[list[_Line]] = []
    size, way = 0, None
    for line in lines:
        request = line.request
        asked = None if request is None else _work(request)
        length = 0 if request is None else len(request.text)
        full = not chunks or len(chunks[-1]) >= most or size + length > CHUNK_CHARS
        if full or (asked is not None and way is not None and asked != way):
            chunks.append([])
            size, way = 0, None
        chunks[-1].append(line)
        size += length
        way = asked or way
    return chunks


def _work(request: PredictRequest) -> Work:
    return Work(request.on_long, request.timeout_ms, request.spans, lane="bulk")


class LinesResponse(Response):
    """An ASGI answer that reads the body of its own request; see the module.

    Args:
        runtime: the service.
        render: one outcome as a line, without the line break.
        limit: bytes of one line.
    """

    def __init__(self, runtime: Runtime, render: Render, limit: int) -> None:
        super().__init__(media_type=LINES[1])
        self._runtime = runtime
        self._render = render
        self._limit = limit
        self._owed = 0
        self._owing: Callable[[bool], None] = lambda _: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._owing = scope.get("extensions", {}).get("service.owing", self._owing)
        pending: Pending = asyncio.Queue(IN_FLIGHT)
        started: set[asyncio.Task[bytes]] = set()
        reader = asyncio.create_task(self._read(receive, pending, started))
        writer = asyncio.create_task(self._write(send, pending))
        departure: asyncio.Future[Message] | None = None
        self._runtime.in_flight += 1
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and reader.exception() is None and not writer.done():
                departure = asyncio.ensure_future(receive())  # after the body, the only message left
                await asyncio.wait({departure, writer}, return_when=asyncio.FIRST_COMPLETED)
            for worker in (reader, writer):
                error = worker.exception() if worker.done() else None
                if error is not None and not isinstance(error, Gone | OSError):
                    raise error
        finally:
            self._runtime.in_flight -= 1
            left: list[asyncio.Future[Any]] = [reader, writer, *started, *([departure] if departure else [])]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _read(
        self,
        receive: Receive,
        pending: "asyncio.Queue[asyncio.Task[bytes] | None]",
        started: "set[asyncio.Task[bytes]]",
    ) -> None:
        most = min(CHUNK_LINES, self._runtime.settings.max_texts)
        async for raw in _lines(receive, self._limit):
            for chunk in _chunks([_parse(line) for line in raw], most):
                task = asyncio.create_task(self._answer(chunk))
                started.add(task)
                task.add_done_callback(started.discard)
                self._owe(1)
                await pending.put(task)  # waits while as many as allowed are under way
        await pending.put(None)

    async def _write(self, send: Send, pending: "Pending") -> None:
        headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while (task := await pending.get()) is not None:
            await send({"type": "http.response.body", "body": await task, "more_body": True})
            self._owe(-1)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _owe(self, chunks: int) -> None:
        """Tell the server whether the caller waits for us, or we for the caller."""
        self._owed += chunks
        self._owing(self._owed > 0)

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

    async def _classify(self, requests: list[PredictRequest]) -> list[Outcome]:
        texts, work = [request.text for request in requests], _work(requests[0])
        while True:
            try:
                return await self._runtime.classify(texts, work, Timing())
            except ServiceError as exc:
                if exc.kind != "overloaded":
                    return [exc] * len(texts)
            await asyncio.sleep(PATIENCE_S)
