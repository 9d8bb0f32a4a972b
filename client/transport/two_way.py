"""Texts out and answers in over one HTTP/1.1 request, at the same time.

httpx sends a request's whole body before it reads the answer, in its sync and in its async client. `/batch` over lines
is answered while it comes in, and not read from while its answers are not taken: a long stream over httpx would stand
still for ever. So this speaks HTTP/1.1 over asyncio's streams by itself, by h11, which is what httpx does that by too.

    source --> writer task --> socket --> service
    caller <-- reader      <-- socket <--

Memory does not grow: the writer waits while the service does not read, and the service does not read while the caller
takes no answers. Connects directly, not by a proxy.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import h11
import httpx

from client.errors import ClientError, ConnectionFailed, NoAnswer, StreamCut, TimedOut
from client.models import Outcome, Prediction, TextError
from client.transport.http import CONNECT_S, cut, refused
from client.transport.wire import LINES, Options, Reply, encode, failure, read

READ_BYTES = 65_536

ALIVE_S = 10.0
"""After so long without a text a blank line goes out: the service hangs up on bodies that stand still for 20 s."""

MAX_LINE_BYTES = 16 * 2**20
"""Of one answer."""


@dataclass(frozen=True)
class Target:
    """Where to, and how."""

    base: httpx.URL
    where: str
    headers: Mapping[str, str]
    tls: ssl.SSLContext | None
    timeout_s: float
    """Longest wait for the next answer while a text is without one."""


def line_of(text: str, options: Options) -> bytes:
    """One text as a line of the request."""
    fields = options.fields()
    return encode({"text": text, **fields} if fields else text) + b"\n"


async def exchange(target: Target, texts: AsyncIterator[str], options: Options) -> AsyncGenerator[Outcome]:
    """One outcome a text, in order, while texts are still being sent.

    Raises:
        ClientError: the service refused the stream, or nobody answered.
        StreamCut: it ended before all texts had their answer.
    """
    exchange = _Exchange(target, options)
    async with exchange.connected():
        writer = asyncio.create_task(exchange.write(texts), name="send texts")
        try:
            async for line in exchange.lines(writer):
                exchange.answered += 1
                yield _outcome(line, target.where)
            exchange.finished()
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)


def _outcome(line: bytes, where: str) -> Outcome:
    if b'"error"' in line and b'"kind"' in line:
        with suppress(ClientError):
            return read(TextError, line, where)
    return read(Prediction, line, where)


class _Exchange:
    def __init__(self, target: Target, options: Options) -> None:
        self._target = target
        self._options = options
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=READ_BYTES)
        self.sent = 0
        self.answered = 0
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        base, where = self._target.base, self._target.where
        secure = base.scheme == "https"
        tls = (self._target.tls or ssl.create_default_context()) if secure else None
        try:
            async with asyncio.timeout(CONNECT_S):
                self._reader, self._writer = await asyncio.open_connection(
                    base.host, base.port or (443 if secure else 80), ssl=tls
                )
        except TimeoutError:
            raise TimedOut(f"{where}: no connection within {CONNECT_S:g} s", connected=False) from None
        except OSError as exc:
            raise refused(where, exc) from exc
        try:
            yield
        finally:
            self._writer.close()

    async def write(self, texts: AsyncIterator[str]) -> None:
        """The whole request; a connection that breaks is the reader's to report."""
        base = self._target.base
        head = {"Host": base.netloc.decode("ascii"), "Transfer-Encoding": "chunked", "Content-Type": LINES}
        request = h11.Request(
            method="POST",
            target=f"{base.raw_path.decode('ascii').rstrip('/')}/batch",
            headers=list((head | dict(self._target.headers) | {"Accept": LINES}).items()),
        )
        with suppress(ConnectionError):
            await self._send(request)
            async for line in _alive(texts):
                if line is None:
                    await self._send(h11.Data(data=b"\n"))
                else:
                    self.sent += 1
                    await self._send(h11.Data(data=line_of(line, self._options)))
            await self._send(h11.EndOfMessage())

    async def _send(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()

    async def lines(self, writer: "asyncio.Task[None]") -> AsyncIterator[bytes]:
        """The lines of an answer of status 200, as they come."""
        rest = b""
        while True:
            event = await self._event(writer)
            if isinstance(event, h11.Response) and event.status_code != 200:
                raise failure(await self._whole(event, writer), self._target.where)
            if isinstance(event, h11.Data):
                *complete, rest = (rest + bytes(event.data)).split(b"\n")
                for line in complete:
                    if line.strip():
                        yield line
                if len(rest) > MAX_LINE_BYTES:
                    raise self._cut(f"a line of more than {MAX_LINE_BYTES} bytes")
            if isinstance(event, h11.EndOfMessage):
                return

    async def _whole(self, response: h11.Response, writer: "asyncio.Task[None]") -> Reply:
        body = b""
        with suppress(NoAnswer):  # what has come will do
            while isinstance(event := await self._event(writer), h11.Data) and len(body) < READ_BYTES:
                body += bytes(event.data)
        return Reply(response.status_code, body, {k.decode(): v.decode("latin-1") for k, v in response.headers})

    async def _event(self, writer: "asyncio.Task[None]") -> object:
        """The next event of the answer."""
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as exc:
                raise self._cut(exc) from exc
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._read(writer))
            elif not isinstance(event, h11.InformationalResponse):
                return event

    async def _read(self, writer: "asyncio.Task[None]") -> bytes:
        """More of the answer. Raises the caller's own error if his texts end in one."""
        while True:
            if writer.done():
                writer.result()
            reading = asyncio.ensure_future(self._reader.read(READ_BYTES))
            running = set() if writer.done() else {writer}
            try:
                done, _ = await asyncio.wait(
                    {reading} | running, timeout=self._target.timeout_s, return_when=asyncio.FIRST_COMPLETED
                )
                if reading in done:
                    return reading.result()
            except ConnectionError as exc:
                raise self._cut(exc) from exc
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            if not done and (self.sent > self.answered or writer.done()):
                raise TimedOut(f"{self._target.where}: no answer to the next text within {self._target.timeout_s:g} s")

    def finished(self) -> None:
        """The answer is whole; so must be what was asked."""
        whole = self._http.our_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)
        if not whole or self.answered != self.sent:
            raise self._cut("the service ended it")

    def _cut(self, reason: object) -> ConnectionFailed:
        first = str(cut(self._target.where, reason))
        if not self.answered:
            return StreamCut(first, 0)
        return StreamCut(f"{first}; {self.answered} texts were answered, send the others again", self.answered)


async def _alive(texts: AsyncIterator[str]) -> AsyncGenerator[str | None]:
    """The texts, and None whenever none has come for `ALIVE_S`."""
    step: asyncio.Task[str] | None = None
    try:
        while True:
            step = asyncio.ensure_future(_next(texts))
            while not (await asyncio.wait({step}, timeout=ALIVE_S))[0]:
                yield None
            try:
                text = step.result()
            except StopAsyncIteration:
                return
            yield text
    finally:
        if step is not None and not step.done():
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)


async def _next(texts: AsyncIterator[str]) -> str:
    return await anext(texts)
