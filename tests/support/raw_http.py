"""One connection to the protocol without a socket: what comes in and goes out is bytes in memory, and time is the
loop's, so that a virtual one makes hours of silence free and exact."""

import asyncio
from collections.abc import Awaitable, Callable
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
class Answer:
    """One that was written whole, or what there is of it."""

    status: int = 0
    body: bytes = b""
    closes: bool = False
    whole: bool = False


class Wire(asyncio.Transport):
    """A caller's end. `taking` False: the caller reads nothing of what is written."""

    def __init__(self, app: App) -> None:
        super().__init__()
        config = uvicorn.Config(
            app, http=BoundedProtocol, lifespan="off", log_config=None, timeout_keep_alive=KEEP_ALIVE_S
        )
        config.load()
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
        """And let everything happen that follows at once."""
        assert not self._closing, "the service has hung up"
        self.protocol.data_received(data)
        await settled()

    def take(self, count: int) -> None:
        """Read so many bytes."""
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
    def answers(self) -> list[Answer]:
        reader = _Answers()
        reader.parser = httptools.HttpResponseParser(reader)
        reader.parser.feed_data(bytes(self._taken))
        return reader.answers

    async def ended(self) -> float:
        """When the connection was gone, by the loop's clock."""
        return await self.drip(b"", 0.5)

    async def drip(self, data: bytes, every_s: float) -> float:
        """Send the same again and again until the connection is gone; returns when that was."""
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
    """A parser's callbacks."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.parser: httptools.HttpResponseParser

    def on_message_begin(self) -> None:
        self.answers.append(Answer())

    def on_header(self, name: bytes, value: bytes) -> None:
        self.answers[-1].closes |= (name.lower(), value.lower()) == (b"connection", b"close")

    def on_status(self, _: bytes) -> None: ...

    def on_body(self, body: bytes) -> None:
        self.answers[-1].body += body

    def on_headers_complete(self) -> None:
        self.answers[-1].status = self.parser.get_status_code()

    def on_message_complete(self) -> None:
        self.answers[-1].whole = True


async def settled() -> None:
    """Everything that can happen without waiting has happened."""
    for _ in range(50):
        await asyncio.sleep(0)
