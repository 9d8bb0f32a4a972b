"""A load generator for HTTP/1.1, cheap enough to share two cores with what it measures.

Closed loop: N clients, each asks again as soon as it has its answer. Open loop: requests leave at scheduled times,
whatever the server does, and latency counts from the scheduled time, so that a stalled server is not spared the
requests that it made wait (no coordinated omission). Connections are kept alive and reused.

    load = asyncio.run(closed_loop("127.0.0.1", 8080, requests, clients=8, seconds=10))
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from benchmarks.figures import percentile

GIVE_UP_S = 120.0
"""Seconds after which an answer is not waited for."""

FAILED = 0
"""Stands for the status of a request that got no answer: connection refused or cut, or time up."""

UNSENT = -1
"""Stands for the status of a request that was not sent: too many were in flight."""


@dataclass(frozen=True)
class Request:
    """A POST; without a body, a GET."""

    path: str
    body: bytes = b""
    content_type: str = "application/json"
    accept: str = ""

    def wire(self, host: str) -> bytes:
        if not self.body:
            return f"GET {self.path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        accept = f"Accept: {self.accept}\r\n" if self.accept else ""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {self.content_type}\r\n{accept}"
            f"Content-Length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


@dataclass(frozen=True)
class Outcome:
    """What became of one request."""

    status: int
    latency_s: float
    """From the scheduled time (open loop) or from sending (closed loop) to the last byte of the answer."""
    retry_after: str | None = None


@dataclass
class Load:
    """The outcomes of one run and how long it took, from the first request to the last answer."""

    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Latencies in milliseconds of answers with status 200, their throughput, and counts of all.

        The time for the answers still on their way when sending ends counts, and so do these answers: with batches of
        seconds, cutting at a fixed time would be off by a whole batch.
        """
        latencies_ms = [1000 * o.latency_s for o in self.outcomes if o.status == 200]
        limited = [o for o in self.outcomes if o.status == 429]
        return {
            "requests": len(self.outcomes),
            "seconds": self.seconds,
            "throughput_per_s": len(latencies_ms) / self.seconds if self.seconds else 0.0,
            "mean_ms": sum(latencies_ms) / len(latencies_ms) if latencies_ms else float("nan"),
            **{f"p{q}_ms": percentile(latencies_ms, q) for q in (50, 95, 99)},
            "max_ms": max(latencies_ms, default=float("nan")),
            "statuses": {_word(status): n for status, n in sorted(Counter(o.status for o in self.outcomes).items())},
            "without_retry_after": sum(o.retry_after is None for o in limited),
        }


def _word(status: int) -> str:
    return {FAILED: "failed", UNSENT: "unsent"}.get(status, str(status))


class Pool:
    """Connections to one server, opened when none is idle, kept until `close`."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: Request, give_up_s: float = GIVE_UP_S) -> Response:
        """Send and read the answer.

        Raises:
            OSError: refused or cut; also TimeoutError.
            ValueError: what came is not HTTP.
        """
        reused = bool(self._idle)
        reader, writer = self._idle.pop() if reused else await asyncio.open_connection(self._host, self._port)
        try:
            async with asyncio.timeout(give_up_s):
                writer.write(request.wire(self._host))
                response = await read_response(reader)
        except (asyncio.IncompleteReadError, ConnectionResetError) as exc:
            writer.close()
            if reused and not getattr(exc, "partial", b""):  # the server had closed it for being idle, as it may
                while self._idle:
                    self._idle.pop()[1].close()
                return await self.ask(request, give_up_s)
            raise ConnectionResetError("the server closed the connection before its answer was complete") from exc
        except BaseException:
            writer.close()
            raise
        if response.headers.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return response

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
        for _, writer in self._idle:
            with suppress(OSError):  # the server was first
                await writer.wait_closed()
        self._idle.clear()


async def read_response(reader: asyncio.StreamReader) -> Response:
    """One answer with a Content-Length or in chunks.

    Raises:
        asyncio.IncompleteReadError: the connection ended before the answer did.
        ValueError: what came is not HTTP.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"not an HTTP answer: {first[:80]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Response(int(rest[:3]), headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        parts.append((await reader.readexactly(size + 2))[:-2])  # a chunk ends with \r\n
        if size == 0:
            return b"".join(parts)


async def closed_loop(
    host: str,
    port: int,
    requests: Sequence[Request],
    *,
    clients: int,
    seconds: float = float("inf"),
    count: int | None = None,
) -> Load:
    """Clients that ask one request after the other, all taking turns at the same list.

    Args:
        host: of the server.
        port: of the server.
        requests: asked in order, from the start again when all were asked.
        clients: how many ask at the same time.
        seconds: after these no further request leaves; those under way are waited for.
        count: at most so many requests leave.
    """
    if seconds == float("inf") and count is None:
        raise ValueError("a closed loop needs an end: seconds or a count")
    stream = itertools.cycle(requests) if count is None else itertools.islice(itertools.cycle(requests), count)
    pool, load = Pool(host, port), Load()
    started = time.perf_counter()

    async def client() -> None:
        while time.perf_counter() - started < seconds:
            request = next(stream, None)
            if request is None:
                return
            outcome = await _outcome(pool, request, time.perf_counter())
            load.outcomes.append(outcome)
            if outcome.status == FAILED:  # a dead server would be asked as fast as refusing goes
                await asyncio.sleep(0.05)

    try:
        await asyncio.gather(*(client() for _ in range(clients)))
        load.seconds = time.perf_counter() - started
    finally:
        await pool.close()
    return load


async def open_loop(
    host: str,
    port: int,
    requests: Sequence[Request],
    schedule: Sequence[float],
    *,
    max_in_flight: int = 1024,
) -> Load:
    """Requests that leave at scheduled times.

    Args:
        host: of the server.
        port: of the server.
        requests: asked in order, from the start again when all were asked.
        schedule: seconds from the start, ascending.
        max_in_flight: further requests are not sent, and counted as `UNSENT`.
    """
    pool, load = Pool(host, port), Load()
    under_way: set[asyncio.Task[None]] = set()
    started = time.perf_counter()

    async def ask(request: Request, due: float) -> None:
        load.outcomes.append(await _outcome(pool, request, due))

    try:
        for at, request in zip(schedule, itertools.cycle(requests), strict=False):
            due = started + at
            delay = due - time.perf_counter()
            await asyncio.sleep(max(delay, 0))  # also when late: answers must be read meanwhile
            if len(under_way) >= max_in_flight:
                load.outcomes.append(Outcome(UNSENT, 0.0))
                continue
            task = asyncio.create_task(ask(request, due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
        load.seconds = time.perf_counter() - started
    finally:
        for task in under_way:
            task.cancel()
        await pool.close()
    return load


async def _outcome(pool: Pool, request: Request, since: float) -> Outcome:
    try:
        response = await pool.ask(request)
    except (OSError, ValueError):
        return Outcome(FAILED, time.perf_counter() - since)
    return Outcome(response.status, time.perf_counter() - since, response.headers.get("retry-after"))
