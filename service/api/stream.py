"""`/batch` over newline-delimited JSON: any number of texts in one call, answered in order while the body is read.

    lines in --> chunks --> at most IN_FLIGHT of them classified --> lines out
       ^                                                                |
       +---------- not read while the answers are not taken ------------+

Memory does not grow with the call: what was read and not yet answered is bounded by `IN_FLIGHT` chunks of at most
`CHUNK_BYTES` bytes, or one line, if that is longer; the bytes of long lines count with those of all large bodies. A
line is a string, or an object with the fields of `/predict` except `explain`. Each line is answered by one line, a
result or an error, and a bad line does not end the stream.
A caller must read while sending: the service stops reading from a caller who takes no answers. When the caller hangs
up, waiting texts are dropped, and only the batch that is in the model goes on.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.predict import LineRequest, text_result
from service.errors import ServiceError
from service.http.bodies import HOLD, LINES, OWING, parse_line
from service.http.capacity import FREE_BYTES, counted
from service.inference.pipeline import AnswerOrError, Timing
from service.model.lifecycle import ModelLifecycle

IN_FLIGHT = 4
"""Number of chunks that are read before the first of them is answered, so that the batcher does not wait for chunks."""

CHUNK_LINES = 64
CHUNK_BYTES = 50_000

Line = LineRequest | ServiceError
"""One line: its request, or what is wrong with it."""

Answers = asyncio.Queue[tuple[asyncio.Task[bytes], int] | None]
"""Answers to chunks, in their order, each with the counted bytes of its lines; None after the last."""


class LinesResponse(Response):
    """An ASGI response that reads the body of its own request while it is sent."""

    def __init__(self, lifecycle: ModelLifecycle) -> None:
        super().__init__(media_type=LINES[1])
        self._lifecycle = lifecycle
        self._unanswered_chunks = 0
        self._long_bytes = 0  # of lines that are not answered
        self._begun_bytes = 0  # of a line whose end has not come
        self._tell_owing: Callable[[bool], None] = lambda _: None
        self._hold: Callable[[int], None] = lambda _: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        extensions = scope.get("extensions") or {}
        self._tell_owing = extensions.get(OWING, self._tell_owing)
        self._hold = extensions.get(HOLD, self._hold)
        answers: Answers = asyncio.Queue(IN_FLIGHT - 2)  # the reader holds one chunk more, and so does the writer
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(receive, answers, tasks))
                await self._write(send, answers)
        except* (ClientDisconnect, OSError):
            raise ClientDisconnect from None

    async def _read(self, receive: Receive, answers: Answers, tasks: asyncio.TaskGroup) -> None:
        settings = self._lifecycle.settings
        async for lines in _lines(receive, settings.max_body_bytes, self._hold_begun):
            for chunk, size in _chunks(lines, min(CHUNK_LINES, settings.max_texts)):
                self._count_unanswered(1, size)
                await answers.put((tasks.create_task(self._answer_in_turn(chunk)), size))
        await answers.put(None)

    async def _write(self, send: Send, answers: Answers) -> None:
        headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while (next_answer := await answers.get()) is not None:
            answer, size = next_answer
            await send({"type": "http.response.body", "body": await answer, "more_body": True})
            self._count_unanswered(-1, -size)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _count_unanswered(self, chunks: int, long_bytes: int) -> None:
        self._unanswered_chunks += chunks
        self._tell_owing(self._unanswered_chunks > 0)
        self._long_bytes += long_bytes
        if chunks > 0:
            self._begun_bytes = 0  # the line that had begun is in a chunk now
        self._hold(self._long_bytes + self._begun_bytes)

    def _hold_begun(self, size: int) -> None:
        self._hold(self._long_bytes + size)
        self._begun_bytes = size

    async def _answer_in_turn(self, chunk: list[Line]) -> bytes:
        try:
            turns = self._lifecycle.current_pipeline().stream_turns
        except ServiceError:  # there is no model, which each line is told
            return await self._answer(chunk)
        async with turns:
            return await self._answer(chunk)

    async def _answer(self, chunk: list[Line]) -> bytes:
        """Return the lines that answer a chunk."""
        requests = [line for line in chunk if isinstance(line, LineRequest)]
        outcomes = iter(await self._classify(requests))
        results = [
            text_result(next(outcomes), line.top_k) if isinstance(line, LineRequest) else text_result(line, None)
            for line in chunk
        ]
        return b"".join(result.model_dump_json(exclude_none=True).encode() + b"\n" for result in results)

    async def _classify(self, requests: list[LineRequest]) -> list[AnswerOrError]:
        if not requests:
            return []
        options = requests[0].options("bulk", wait_for_room=True)
        try:
            pipeline = self._lifecycle.current_pipeline()
            return await pipeline.classify([request.text for request in requests], options, Timing())
        except ServiceError as exc:
            return [exc] * len(requests)


async def _lines(
    receive: Receive, limit: int, hold: Callable[[int], None]
) -> AsyncIterator[list[bytes | ServiceError]]:
    """Yield the complete lines of each piece of the body, without blank ones.

    An error stands in the place of a line that is longer than `limit` bytes, or for which `hold` raises one: it is told
    how many counted bytes of a long line have come.

    Raises:
        ClientDisconnect: the connection breaks before the end of the body.
    """
    begun: list[bytes] = []  # pieces of a line whose end has not come
    size = 0
    problem: ServiceError | None = None
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        found: list[bytes | ServiceError] = []
        *ended, rest = message.get("body", b"").split(b"\n")
        for piece, ends in [*((piece, True) for piece in ended), (rest, not more)]:
            size += len(piece)
            if problem is None:
                problem = _problem(size, limit, hold)
            if problem is None:
                begun.append(piece)
            else:
                begun.clear()  # only its length is kept
            if ends:
                if problem is not None:
                    found.append(problem)
                elif (line := b"".join(begun)).strip():
                    found.append(line)
                begun, size, problem = [], 0, None
        if found:
            yield found


def _problem(size: int, limit: int, hold: Callable[[int], None]) -> ServiceError | None:
    """Return what is wrong with a line of which so many bytes have come, or None."""
    if size > limit:
        return ServiceError("body_too_large", f"a line has more than {limit} bytes")
    if size > FREE_BYTES:
        try:
            hold(counted(size))
        except ServiceError as exc:
            return exc
    return None


def _chunks(lines: Iterable[bytes | ServiceError], max_lines: int) -> Iterator[tuple[list[Line], int]]:
    """Yield groups of lines that one call can classify: of bounded size, and with the same options.

    Each group comes with the counted bytes of its lines.
    """
    chunk: list[Line] = []
    size = long_bytes = 0
    options = None
    for content in lines:
        line = content if isinstance(content, ServiceError) else parse_line(content, LineRequest.model_validate)
        length = 0 if isinstance(content, ServiceError) else len(content)
        own = line.options("bulk") if isinstance(line, LineRequest) else options
        if chunk and (len(chunk) >= max_lines or size + length > CHUNK_BYTES or (options and own != options)):
            yield chunk, long_bytes
            chunk, size, long_bytes, options = [], 0, 0, None
        chunk.append(line)
        size += length
        long_bytes += counted(length)
        options = options or (own if isinstance(line, LineRequest) else None)
    if chunk:
        yield chunk, long_bytes
