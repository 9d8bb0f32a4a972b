"""Texts out and answers in over one HTTP/1.1 request, at the same time.

httpx sends a request's whole body before it reads the answer. The service answers `/batch` over lines while they come
in, and stops reading while nobody takes its answers: over httpx a long stream would stand still for ever. So this sends
and reads h11's events, which httpx uses too, over asyncio's streams.

Memory does not grow: the sender waits while the service does not read, and the service does not read while the caller
takes no answers. The connection goes directly to the service, never through a proxy.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

import h11

from client.errors import ClientError, ConnectionFailed, StreamCut, TimedOut
from client.models import Line, Outcome
from client.transport.http import CONNECT_S, HttpTransport, cut, refused, unconnected
from client.transport.messages import LINES, Reply, encode, failure, read

READ_BYTES = 65_536
ALIVE_S = 10.0  # without a text for so long, a blank line goes out: the service hangs up on bodies that rest for 20 s
MAX_LINE_BYTES = 16 * 2**20  # of one answer


class TwoWayStream:
    """One exchange of texts, each with the same options, and answers with the service that a transport reaches.

    `timeout_s` is the longest wait for the next answer while a text is without one.
    """

    def __init__(self, transport: HttpTransport, options: Mapping[str, Any], timeout_s: float) -> None:
        self._transport, self._options, self._timeout_s = transport, options, timeout_s
        self._where = transport.where
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=READ_BYTES)
        self._texts = self._answers = 0  # sent and received so far
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._blank_line: asyncio.TimerHandle | None = None
        self._source_error: BaseException | None = None

    async def outcomes(self, texts: AsyncIterator[str]) -> AsyncGenerator[Outcome]:
        """Yield one outcome a text, in order, while texts are still being sent.

        Raises:
            ClientError: the service refused the stream, or does not answer.
            StreamCut: it ended before all texts had their answer.
        """
        await self._connect()
        sender = asyncio.create_task(self._send_all(texts), name="send texts")
        sender.add_done_callback(self._stop_reading)
        try:
            async for line in self._lines():
                self._answers += 1
                yield read(Line, line, self._where).root
            if self._answers != self._texts or self._http.our_state in (h11.IDLE, h11.SEND_BODY):
                raise self._cut("the service ended it")
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            self._rest()
            self._writer.close()

    async def _connect(self) -> None:
        base = self._transport.base
        tls = self._transport.tls if base.scheme == "https" else None
        port = base.port or (443 if tls else 80)
        try:
            async with asyncio.timeout(CONNECT_S):
                self._reader, self._writer = await asyncio.open_connection(base.host, port, ssl=tls)
        except TimeoutError:
            raise unconnected(self._where) from None
        except OSError as exc:
            raise refused(self._where, exc) from exc
        head = {"Host": base.netloc.decode("ascii"), "Transfer-Encoding": "chunked", "Content-Type": LINES}
        path = f"{base.raw_path.decode('ascii').rstrip('/')}/batch"
        headers = list((head | self._transport.headers | {"Accept": LINES}).items())
        self._write(h11.Request(method="POST", target=path, headers=headers))

    async def _send_all(self, texts: AsyncIterator[str]) -> None:
        async for text in texts:
            self._texts += 1
            line = encode({"text": text, **self._options} if self._options else text) + b"\n"
            if not await self._sent(h11.Data(data=line)):
                return
        await self._sent(h11.EndOfMessage())

    async def _sent(self, event: h11.Data | h11.EndOfMessage) -> bool:
        """Send, and wait while the service does not read. False: the connection broke, which the reader reports."""
        self._write(event)
        try:
            await self._writer.drain()
        except ConnectionError:
            return False
        return True

    def _write(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        self._rest()
        self._writer.write(self._http.send(event) or b"")
        if self._http.our_state is h11.SEND_BODY:
            self._blank_line = asyncio.get_running_loop().call_later(ALIVE_S, self._write, h11.Data(data=b"\n"))

    def _rest(self) -> None:
        if self._blank_line is not None:
            self._blank_line.cancel()

    def _stop_reading(self, sender: "asyncio.Task[None]") -> None:
        """Let the reader raise the error that the caller's texts ended in."""
        if not sender.cancelled() and (error := sender.exception()):
            self._source_error = error
            self._reader.set_exception(error)  # type: ignore[arg-type]

    async def _lines(self) -> AsyncIterator[bytes]:
        """Yield the lines of an answer of status 200 as they come."""
        rest = b""
        while not isinstance(event := await self._event(), h11.EndOfMessage):
            if isinstance(event, h11.Response) and event.status_code != 200:
                raise failure(await self._whole(event), self._where)
            if isinstance(event, h11.Data):
                *complete, rest = (rest + event.data).split(b"\n")
                for line in filter(bytes.strip, complete):
                    yield line
                if len(rest) > MAX_LINE_BYTES:
                    raise self._cut(f"a line of more than {MAX_LINE_BYTES} bytes")

    async def _whole(self, response: h11.Response) -> Reply:
        """Read an error's body, or what comes of it."""
        body = b""
        with suppress(ClientError):
            while isinstance(event := await self._event(), h11.Data) and len(body) < READ_BYTES:
                body += event.data
        return Reply(response.status_code, body, {k.decode(): v.decode("latin-1") for k, v in response.headers})

    async def _event(self) -> object:
        """Return the next event of the answer."""
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as exc:
                raise self._cut(exc) from exc
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._read())
            elif not isinstance(event, h11.InformationalResponse):
                return event

    async def _read(self) -> bytes:
        while True:
            try:
                async with asyncio.timeout(self._timeout_s) as limit:
                    return await self._reader.read(READ_BYTES)
            except TimeoutError:
                if not limit.expired():
                    raise  # the error of the caller's texts
            except ConnectionError as exc:
                if exc is self._source_error:
                    raise
                raise self._cut(exc) from exc
            if self._texts > self._answers or self._http.our_state is not h11.SEND_BODY:
                raise TimedOut(f"{self._where}: no answer to the next text within {self._timeout_s:g} s")

    def _cut(self, reason: object) -> ConnectionFailed:
        first = str(cut(self._where, reason))
        if self._answers:
            first += f"; {self._answers} texts were answered, send the others again"
        return StreamCut(first, self._answers)
