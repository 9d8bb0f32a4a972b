"""A server on a real socket that answers as a test tells it to: wrongly, too late, or not at all."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

RESULT = {
    "label": "sport",
    "score": 0.9,
    "scores": [{"label": "sport", "score": 0.9}, {"label": "politics", "score": 0.1}],
    "unsure": False,
    "tokens": 2,
    "tokens_read": 2,
    "truncated": False,
    "windows": 1,
}
LONE = RESULT | {
    "model": {"name": "fake", "version": "0123456789ab"},
    "timing": {"tokenize_ms": 0.1, "model_ms": 1.0, "total_ms": 1.1},
}
PROXY_PAGE = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1>nginx</body></html>"

Answer = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""The bytes that answer one request, after which the connection is closed; or a function that uses the connection."""


def http(status: int, body: Any, *, kind: str = "application/json", **headers: str) -> bytes:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    lines = [
        f"HTTP/1.1 {status} Status",
        f"content-type: {kind}",
        f"content-length: {len(content)}",
        "connection: close",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def page(status: int, body: str = PROXY_PAGE, **headers: str) -> bytes:
    """Return the answer of a proxy that speaks for itself."""
    return http(status, body, kind="text/html", **headers)


def error(status: int, kind: str, sentence: str = "the sentence", **headers: str) -> bytes:
    """Return an error as the service answers it."""
    return http(status, {"error": sentence, "kind": kind, "request_id": "r1"}, **headers)


INFO = http(
    200,
    {"service": "1", "model": {"name": "m", "version": "v", "labels": ["sport"], "max_tokens": 9}, "limits": {}},
)


async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Say nothing until the caller hangs up."""
    await reader.read()


def begin(content: bytes) -> Answer:
    """Return an answer that breaks off: its head announces more bytes than come."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n" + content


class Scripted:
    """A server that takes its answers from a list and repeats the last one."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = list(answers)
        self.requests: list[bytes] = []
        """First lines of the requests."""
        self.bodies: list[bytes] = []
        self.heads: list[bytes] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readexactly(1)
            if head == b"\x16":  # TLS
                writer.write(page(400))
                return
            head += await reader.readuntil(b"\r\n\r\n")
            length = [
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            ]
            body = await reader.readexactly(length[0]) if length else b""
            self.requests.append(head.split(b"\r\n")[0])
            self.heads.append(head)
            self.bodies.append(body)
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@contextmanager
def scripted(*answers: Answer) -> Iterator[Scripted]:
    """Run a server with these answers on a free port, in a thread of this process."""
    server = Scripted(answers)
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        started.set()
        await stop.wait()
        listening.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    started.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
