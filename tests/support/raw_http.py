"""Connections to the service's HTTP protocol for callers who send bytes of their own.

`Wire` is a connection without a socket: bytes stay in memory and time is the loop's, so that hours of silence cost
nothing and are exact in virtual time. `connection` is one over a socket, whose transport is asyncio's.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httptools
import uvicorn
from uvicorn.server import ServerState

from service.http.protocol import BoundedProtocol

App = Callable[[Any, Any, Any], Awaitable[None]]

HIGH_WATER = 65_536
KEEP_ALIVE_S = 75
FOR_EVER_S = 10_000.0


@dataclass
class WrittenAnswer:
    """An answer, or the part of it that was written."""

    status: int = 0
    body: bytes = b""
    closes: bool = False
    whole: bool = False


class Wire(asyncio.Transport):
    """The caller's end of a connection. While `taking` is false, the caller reads nothing of what is written."""

    def __init__(self, app: App) -> None:
        super().__init__()
        config = _config(app)
        self._loop = asyncio.get_running_loop()
        self.protocol = BoundedProtocol(config=config, server_state=ServerState(), app_state={})
        self.taking = True
        self.ended_at: float | None = None
        self.aborted = False
        self._taken = bytearray()
        self._unsent = bytearray()
        self._closing = self._paused = False
        self.protocol.connection_made(self)

    # --- the caller

    async def send(self, data: bytes) -> None:
        """Send the bytes and let everything happen that follows at once."""
        assert not self._closing, "the service has hung up"
        self.protocol.data_received(data)
        await settled()

    def take(self, count: int) -> None:
        """Read so many bytes of what was written."""
        self._taken += self._unsent[:count]
        del self._unsent[:count]
        if self._paused and len(self._unsent) < HIGH_WATER // 4:
            self._paused = False
            self.protocol.resume_writing()
        if self._closing and not self._unsent:
            self._end()

    async def leave(self) -> None:
        self._closing = True
        self._end()
        await settled()

    @property
    def answers(self) -> list[WrittenAnswer]:
        reader = _Answers()
        reader.parser = httptools.HttpResponseParser(reader)
        reader.parser.feed_data(bytes(self._taken))
        return reader.answers

    async def ended(self) -> float:
        """Wait until the connection is gone; return when that was, by the loop's clock."""
        return await self.drip(b"", 0.5)

    async def drip(self, data: bytes, every_s: float) -> float:
        """Send the same bytes every `every_s` seconds until the connection is gone; return when that was."""
        while self.ended_at is None:
            assert self._loop.time() < FOR_EVER_S, "the connection never ends"
            if data and not self.protocol.flow.read_paused:
                await self.send(data)
            await asyncio.sleep(every_s)
        return self.ended_at

    # --- asyncio.Transport

    def write(self, data: Any) -> None:
        assert not self._closing, "written after the end"
        if self.taking:
            self._taken += data
            return
        self._unsent += data
        if len(self._unsent) > HIGH_WATER and not self._paused:
            self._paused = True
            self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._unsent:
                self._loop.call_soon(self._end)

    def abort(self) -> None:
        self._closing = self.aborted = True
        self._loop.call_soon(self._end)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def _end(self) -> None:
        if self.ended_at is None:
            self.ended_at = self._loop.time()
            self.protocol.connection_lost(None)


class _Answers:
    """The callbacks of a parser of answers."""

    def __init__(self) -> None:
        self.answers: list[WrittenAnswer] = []
        self.parser: httptools.HttpResponseParser

    def on_message_begin(self) -> None:
        self.answers.append(WrittenAnswer())

    def on_header(self, name: bytes, value: bytes) -> None:
        self.answers[-1].closes |= (name.lower(), value.lower()) == (b"connection", b"close")

    def on_status(self, _: bytes) -> None: ...

    def on_body(self, body: bytes) -> None:
        self.answers[-1].body += body

    def on_headers_complete(self) -> None:
        self.answers[-1].status = self.parser.get_status_code()

    def on_message_complete(self) -> None:
        self.answers[-1].whole = True


def _config(app: App) -> uvicorn.Config:
    config = uvicorn.Config(app, http=BoundedProtocol, lifespan="off", log_config=None, timeout_keep_alive=KEEP_ALIVE_S)
    config.load()
    return config


@asynccontextmanager
async def connection(app: App) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server of the app on a free port."""
    config, state = _config(app), ServerState()
    listening = await asyncio.get_running_loop().create_server(
        lambda: BoundedProtocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        listening.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        await asyncio.gather(*state.tasks, return_exceptions=True)


async def settled() -> None:
    """Let everything happen that can happen without waiting."""
    for _ in range(50):
        await asyncio.sleep(0)
