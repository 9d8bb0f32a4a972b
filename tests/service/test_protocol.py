"""Bounds on what comes in over a real socket, in this process."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from service import protocol
from service.errors import STATUS
from service.protocol import MAX_HEAD_BYTES, BoundedProtocol

pytestmark = pytest.mark.anyio


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body's length."""
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = str(length).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def server() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server of the protocol."""
    config = uvicorn.Config(echo, http=BoundedProtocol, lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(
        lambda: BoundedProtocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    port = listening.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        listening.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        await asyncio.gather(*state.tasks, return_exceptions=True)


async def refused(reader: asyncio.StreamReader, kind: str) -> None:
    """The rest of the connection is one error of this kind, and then it ends."""
    answer = await asyncio.wait_for(reader.read(), 30)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {STATUS[kind]} ".encode()) and b"connection: close" in head.lower()
    assert json.loads(body)["kind"] == kind


async def answered(reader: asyncio.StreamReader) -> int:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    assert head.startswith(b"HTTP/1.1 200 ")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return int(await reader.readexactly(length))


def post(body: bytes, content_type: str = "application/json") -> bytes:
    head = f"Host: x\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return b"POST /batch HTTP/1.1\r\n" + head.encode()


async def test_ordinary_requests_pass_one_after_the_other() -> None:
    async with server() as (reader, writer):
        for size in (0, 5, 500_000):
            writer.write(post(b"x" * size) + b"x" * size)
            assert await answered(reader) == size


async def test_pipelined_requests_pass() -> None:
    async with server() as (reader, writer):
        writer.write((post(b"xx") + b"xx") * 3)
        assert [await answered(reader) for _ in range(3)] == [2, 2, 2]


@pytest.mark.parametrize("piece", [b"X-A: " + b"y" * 1000 + b"\r\n", b"y" * 5000])
async def test_a_head_that_never_ends_is_refused(piece: bytes) -> None:
    async with server() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ")
        sent = 0
        while sent <= MAX_HEAD_BYTES:
            writer.write(piece)
            sent += len(piece)
            await asyncio.sleep(0)
        await refused(reader, "headers_too_large")


async def test_large_bodies_do_not_count_as_heads() -> None:
    async with server() as (reader, writer):
        for _ in range(3):
            size = 2 * MAX_HEAD_BYTES
            writer.write(post(b"x" * size))
            for _ in range(2):
                writer.write(b"x" * MAX_HEAD_BYTES)
                await writer.drain()
            assert await answered(reader) == size


async def test_a_slow_head_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.05)
    async with server() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHos")
        await refused(reader, "request_timeout")


async def test_a_body_that_stops_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "BODY_IDLE_S", 0.05)
    async with server() as (reader, writer):
        writer.write(post(b"x" * 10) + b"xx")
        await refused(reader, "request_timeout")


async def test_a_body_that_trickles_is_cut_but_a_stream_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "BODY_S", 0.0)
    async with server() as (reader, writer):
        writer.write(post(b"x" * 10) + b"xx")
        await refused(reader, "request_timeout")
    async with server() as (reader, writer):
        writer.write(post(b"x" * 4, "application/x-ndjson; charset=utf-8") + b"xx")
        await asyncio.sleep(0)
        writer.write(b"xx")
        assert await answered(reader) == 4


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00", b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n"]
)
async def test_what_is_not_http_gets_the_one_error_shape(garbage: bytes) -> None:
    async with server() as (reader, writer):
        writer.write(garbage)
        await refused(reader, "bad_request")
