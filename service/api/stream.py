"""`/batch` over newline-delimited JSON: any number of texts in one call, answered in order while the body is read.

    lines in --> chunks --> at most IN_FLIGHT of them classified --> lines out
       ^                                                                |
       +---------- not read while the answers are not taken ------------+

Memory does not grow with the call: what was read and not yet answered is bounded by `IN_FLIGHT` chunks of at most
`CHUNK_CHARS` characters (or one line, if that is longer). A line is a string, or an object with the fields of
`/predict` except `explain`. Each line is answered by one line, a result or an error, and a bad line does not end the
stream.
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
from service.http.bodies import LINES, OWING, parse_line
from service.inference.pipeline import AnswerOrError, Timing
from service.model.lifecycle import ModelLifecycle

IN_FLIGHT = 4
"""Number of chunks that are read before the first of them is answered, so that the batcher does not wait for chunks."""

CHUNK_LINES = 64
CHUNK_CHARS = 50_000

Line = LineRequest | ServiceError
"""One line: its request, or what is wrong with it."""

Answers = asyncio.Queue[asyncio.Task[bytes] | None]
"""Answers to chunks, in their order; None after the last."""


class LinesResponse(Response):
    """An ASGI response that reads the body of its own request while it is sent."""

    def __init__(self, lifecycle: ModelLifecycle) -> None:
        super().__init__(media_type=LINES[1])
        self._lifecycle = lifecycle
        self._unanswered_chunks = 0
        self._tell_owing: Callable[[bool], None] = lambda _: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._tell_owing = (scope.get("extensions") or {}).get(OWING, self._tell_owing)
        answers: Answers = asyncio.Queue(IN_FLIGHT - 2)  # the reader holds one chunk more, and so does the writer
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(receive, answers, tasks))
                await self._write(send, answers)
        except* (ClientDisconnect, OSError):
            raise ClientDisconnect from None

    async def _read(self, receive: Receive, answers: Answers, tasks: asyncio.TaskGroup) -> None:
        settings = self._lifecycle.settings
        async for lines in _lines(receive, settings.max_body_bytes):
            for chunk in _chunks(lines, min(CHUNK_LINES, settings.max_texts)):
                self._count_unanswered(1)
                await answers.put(tasks.create_task(self._answer(chunk)))
        await answers.put(None)

    async def _write(self, send: Send, answers: Answers) -> None:
        headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while (answer := await answers.get()) is not None:
            await send({"type": "http.response.body", "body": await answer, "more_body": True})
            self._count_unanswered(-1)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _count_unanswered(self, chunks: int) -> None:
        self._unanswered_chunks += chunks
        self._tell_owing(self._unanswered_chunks > 0)

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


async def _lines(receive: Receive, limit: int) -> AsyncIterator[list[bytes | ServiceError]]:
    """Yield the complete lines of each piece of the body, without blank ones; a line above `limit` bytes is an error.

    Raises:
        ClientDisconnect: the connection breaks before the end of the body.
    """
    begun: list[bytes] = []  # pieces of a line whose end has not come
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        *ended, rest = message.get("body", b"").split(b"\n")
        found: list[bytes | ServiceError] = []
        for piece in ended if more else [*ended, rest]:
            size += len(piece)
            if size > limit:
                found.append(ServiceError("body_too_large", f"a line has more than {limit} bytes"))
            elif (line := b"".join([*begun, piece])).strip():
                found.append(line)
            begun, size = [], 0
        size += len(rest)
        if size <= limit:
            begun.append(rest)
        else:
            begun.clear()  # of a line that is too long only its length is kept
        if found:
            yield found


def _chunks(lines: Iterable[bytes | ServiceError], max_lines: int) -> Iterator[list[Line]]:
    """Group lines that one call can classify: of bounded size, and with the same options."""
    chunk: list[Line] = []
    size, options = 0, None
    for content in lines:
        line = content if isinstance(content, ServiceError) else parse_line(content, LineRequest.model_validate)
        length, own = (len(line.text), line.options("bulk")) if isinstance(line, LineRequest) else (0, options)
        if chunk and (len(chunk) >= max_lines or size + length > CHUNK_CHARS or (options and own != options)):
            yield chunk
            chunk, size, options = [], 0, None
        chunk.append(line)
        size += length
        options = options or (own if isinstance(line, LineRequest) else None)
    if chunk:
        yield chunk
