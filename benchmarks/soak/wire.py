"""One client's connection to the service: HTTP/1.1 by hand, because some of what is sent here is not HTTP at all.

Nothing is sent twice: a connection that breaks while an answer is awaited is a lost answer, not a reason to retry.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from benchmarks.load import Response, read_response

GIVE_UP_S = 90.0
"""Longer than any deadline of the service."""


class Lost(Exception):
    """The client stayed, and no whole answer came."""


class Connection:
    """Opened when something is sent, kept until it is closed by either side."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, wire: bytes, *, last: bool = False) -> Response:
        """Send and read the answer.

        Args:
            wire: the request, head and body.
            last: close the connection after the answer.

        Raises:
            Lost: no whole answer.
        """
        try:
            async with asyncio.timeout(GIVE_UP_S):
                reader, writer = await self._connected()
                writer.write(wire)
                with suppress(ConnectionError):  # it may answer, and hang up, before it has read all
                    await writer.drain()
                response = await read_response(reader)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
            self.drop()
            raise Lost(f"{type(exc).__name__}: {exc}") from exc
        if last or response.headers.get("connection", "").lower() == "close":
            self.drop()
        return response

    async def leave(self, wire: bytes, *, after_s: float = 0.0, after_answer_began: bool = False) -> None:
        """Send and hang up without an answer.

        Args:
            wire: what is sent; may be half a request.
            after_s: seconds between sending and hanging up.
            after_answer_began: wait for the answer's first bytes.
        """
        with suppress(OSError):
            reader, writer = await self._connected()
            writer.write(wire)
            await writer.drain()
            if after_answer_began:
                async with asyncio.timeout(GIVE_UP_S):
                    await reader.read(64)
            await asyncio.sleep(after_s)
        self.drop()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._open is None:
            self._open = await asyncio.open_connection(self._host, self._port, limit=1 << 22)
        return self._open

    def drop(self) -> None:
        """Close at once; what the other side still sends is answered by a reset."""
        if self._open is not None:
            self._open[1].transport.abort()
            self._open = None


def post(path: str, body: bytes, media: str = "application/json", headers: Mapping[str, str] | None = None) -> bytes:
    """A POST as it goes over the wire."""
    extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = f"POST {path} HTTP/1.1\r\nHost: soak\r\nContent-Type: {media}\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


def post_json(path: str, value: Any, headers: Mapping[str, str] | None = None) -> bytes:
    return post(path, json.dumps(value).encode(), headers=headers)


def post_chunks(path: str, chunks: Sequence[bytes], media: str) -> bytes:
    """A POST of unknown length."""
    head = f"POST {path} HTTP/1.1\r\nHost: soak\r\nContent-Type: {media}\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + b"".join(map(chunk, chunks)) + b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One piece of a body of unknown length."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: soak\r\n\r\n".encode()
