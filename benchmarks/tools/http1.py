"""HTTP/1.1 written by hand: cheap enough to share two cores with the server, and able to send what is not HTTP.

A request is the bytes that go over the wire.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

GIVE_UP_S = 120.0
"""Seconds after which a client stops waiting for an answer; longer than any deadline of the service."""

LINE_LIMIT = 1 << 22
"""Longest line in bytes that a connection reads at once."""


class Lost(Exception):
    """The client waited, and no complete answer came.

    Args:
        why: The reason.
        unanswered: Whether the connection ended before the answer's first byte.
    """

    def __init__(self, why: str, *, unanswered: bool = False) -> None:
        super().__init__(why)
        self.unanswered = unanswered


@dataclass(frozen=True)
class Response:
    """One answer."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class Connection:
    """A connection that is opened by the first request and kept until either side closes it. Nothing is sent twice."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def is_open(self) -> bool:
        """True while a further request can use this connection."""
        return self._streams is not None

    async def ask(self, request: bytes, *, last: bool = False) -> Response:
        """Send a request and read the answer.

        Args:
            request: Head and body.
            last: Close the connection after the answer.

        Raises:
            Lost: No complete answer came.
        """
        try:
            async with asyncio.timeout(GIVE_UP_S):
                reader, writer = await self._connected()
                writer.write(request)
                with suppress(ConnectionError):  # the server may answer and close before it has read everything
                    await writer.drain()
                response = await read_response(reader)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
            self.drop()
            cut = isinstance(exc, asyncio.IncompleteReadError) and not exc.partial
            raise Lost(f"{type(exc).__name__}: {exc}", unanswered=cut or isinstance(exc, ConnectionResetError)) from exc
        except BaseException:
            self.drop()
            raise
        if last or response.headers.get("connection", "").lower() == "close":
            self.drop()
        return response

    async def leave(self, request: bytes, *, after_s: float = 0.0, after_answer_began: bool = False) -> None:
        """Send a request, complete or not, and close the connection without reading the answer.

        Args:
            request: What is sent.
            after_s: Seconds between sending and closing.
            after_answer_began: Wait for the answer's first bytes before.
        """
        with suppress(OSError):
            reader, writer = await self._connected()
            writer.write(request)
            await writer.drain()
            if after_answer_began:
                async with asyncio.timeout(GIVE_UP_S):
                    await reader.read(64)
            await asyncio.sleep(after_s)
        self.drop()

    def drop(self) -> None:
        """Close the connection at once; the server gets a reset for whatever it still sends."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=LINE_LIMIT)
        return self._streams


async def read_response(reader: asyncio.StreamReader) -> Response:
    """Read one answer with a Content-Length or in chunks.

    Raises:
        asyncio.IncompleteReadError: The connection ended before the answer did.
        ValueError: The bytes are not HTTP.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"not an HTTP answer: {first[:80]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b"".join([part async for part in chunks(reader)])
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Response(int(rest[:3]), headers, body)


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the chunks of a body in chunked transfer coding as they come."""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]  # a chunk ends with \r\n
    await reader.readexactly(2)


def get(path: str) -> bytes:
    """Return a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: benchmark\r\n\r\n".encode()


def post(path: str, body: bytes, media: str = "application/json", headers: Mapping[str, str] | None = None) -> bytes:
    """Return a POST request with a Content-Length."""
    return _post_head(path, media, {**(headers or {}), "Content-Length": str(len(body))}) + body


def post_json(path: str, value: Any, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a POST request with a JSON body."""
    return post(path, json.dumps(value, ensure_ascii=False).encode(), headers=headers)


def post_chunks(path: str, parts: Sequence[bytes], media: str) -> bytes:
    """Return a POST request in chunked transfer coding."""
    return open_post(path, media) + b"".join(map(chunk, parts)) + chunk(b"")


def open_post(path: str, media: str) -> bytes:
    """Return the head of a POST request in chunked transfer coding."""
    return _post_head(path, media, {"Transfer-Encoding": "chunked"})


def chunk(data: bytes) -> bytes:
    """Return one chunk; an empty one ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _post_head(path: str, media: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: benchmark", f"Content-Type: {media}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
