"""A load generator for HTTP/1.1, cheap enough to share two cores with the server that it measures.

Closed loop: a number of clients, each of which sends its next request when it has its answer. Open loop: requests leave
at scheduled times, whatever the server does, and latency counts from the scheduled time, so that a stalled server is
also charged for the requests that it made wait (no coordinated omission). Connections are kept alive and reused.

    load = asyncio.run(closed_loop(8080, requests, clients=8, seconds=10))
"""

import asyncio
import itertools
import re
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.tools.errors import BenchmarkError
from benchmarks.tools.http1 import Connection, Lost, Response, get
from benchmarks.tools.statistics import percentile

HOST = "127.0.0.1"
FAILED = 0
"""Status of a request that got no answer: the connection was refused or cut, or the client gave up."""

UNSENT = -1
"""Status of a request that was not sent because too many were in flight."""

STATUS_NAMES = {FAILED: "failed", UNSENT: "unsent"}
SPARE_FILES = 1024
"""Open files that a process needs beside its connections."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one request."""

    status: int
    latency_s: float
    """Seconds to the last byte of the answer, from the scheduled time (open loop) or from sending (closed loop)."""
    retry_after: str | None = None


@dataclass
class Load:
    """The outcomes of one run."""

    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    """Time from the first request to the last answer. Answers that come after sending ended count, and so does the time
    until then: with batches of seconds, cutting at a fixed time would be off by a whole batch."""

    def summary(self) -> dict[str, Any]:
        """Return latencies in milliseconds and throughput of answers with status 200, and counts of all outcomes."""
        latencies_ms = [1000 * o.latency_s for o in self.outcomes if o.status == 200]
        counts = Counter(o.status for o in self.outcomes)
        return {
            "requests": len(self.outcomes),
            "seconds": self.seconds,
            "throughput_per_s": len(latencies_ms) / self.seconds if self.seconds else 0.0,
            **{f"p{q}_ms": percentile(latencies_ms, q) for q in (50, 95, 99)},
            "max_ms": max(latencies_ms, default=float("nan")),
            "statuses": {STATUS_NAMES.get(status, str(status)): n for status, n in sorted(counts.items())},
            "without_retry_after": sum(o.status == 429 and o.retry_after is None for o in self.outcomes),
        }


class Pool:
    """Connections to one server; a new one is opened when none is idle."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []

    async def ask(self, request: bytes) -> Response:
        """Send a request and read the answer; once more over a new connection if the server had closed an idle one.

        Raises:
            Lost: No complete answer came.
        """
        reused = bool(self._idle)
        connection = self._idle.pop() if reused else Connection(HOST, self._port)
        try:
            response = await connection.ask(request)
        except Lost as exc:
            if not (reused and exc.unanswered):
                raise
            self.close()
            return await self.ask(request)
        if connection.is_open:
            self._idle.append(connection)
        return response

    async def outcome(self, request: bytes, since: float) -> Outcome:
        """Send a request and return how it ended; latency counts from `since`, a value of `time.perf_counter`."""
        try:
            response = await self.ask(request)
        except Lost:
            return Outcome(FAILED, time.perf_counter() - since)
        return Outcome(response.status, time.perf_counter() - since, response.headers.get("retry-after"))

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop().drop()


async def closed_loop(
    port: int, requests: Sequence[bytes], *, clients: int, seconds: float = float("inf"), count: int | None = None
) -> Load:
    """Run clients that send one request after the other, all drawing from the same list.

    Args:
        port: The server's port.
        requests: Sent in order, again from the start when the list ends.
        clients: Number of requests in flight.
        seconds: No further request leaves after this time; those in flight are waited for.
        count: Number of requests at most.
    """
    if seconds == float("inf") and count is None:
        raise ValueError("a closed loop needs an end: seconds or a count")
    stream = itertools.cycle(requests) if count is None else itertools.islice(itertools.cycle(requests), count)
    pool, load = Pool(port), Load()
    started = time.perf_counter()

    async def client() -> None:
        while time.perf_counter() - started < seconds:
            request = next(stream, None)
            if request is None:
                return
            outcome = await pool.outcome(request, time.perf_counter())
            load.outcomes.append(outcome)
            if outcome.status == FAILED:  # else a dead server would be asked without a pause
                await asyncio.sleep(0.05)

    try:
        await asyncio.gather(*(client() for _ in range(clients)))
        load.seconds = time.perf_counter() - started
    finally:
        pool.close()
    return load


async def open_loop(
    port: int, requests: Sequence[bytes], schedule: Sequence[float], *, max_in_flight: int = 1024
) -> Load:
    """Send requests at scheduled times.

    Args:
        port: The server's port.
        requests: Sent in order, again from the start when the list ends.
        schedule: Ascending times in seconds from the start.
        max_in_flight: Further requests are not sent and count as `UNSENT`.
    """
    pool, load = Pool(port), Load()
    in_flight: set[asyncio.Task[None]] = set()
    started = time.perf_counter()

    async def ask(request: bytes, due: float) -> None:
        load.outcomes.append(await pool.outcome(request, due))

    try:
        for at, request in zip(schedule, itertools.cycle(requests), strict=False):
            due = started + at
            await asyncio.sleep(max(due - time.perf_counter(), 0))  # even if late, so that answers are read
            if len(in_flight) >= max_in_flight:
                load.outcomes.append(Outcome(UNSENT, 0.0))
                continue
            task = asyncio.create_task(ask(request, due))
            in_flight.add(task)
            task.add_done_callback(in_flight.discard)
        await asyncio.gather(*in_flight)
        load.seconds = time.perf_counter() - started
    finally:
        for task in in_flight:
            task.cancel()
        pool.close()
    return load


async def metrics(port: int, *names: str) -> tuple[float, ...]:
    """Return values of the service's /metrics; names without the prefix `classifier_`. NaN if there is no such line."""
    page = (await Connection(HOST, port).ask(get("/metrics"), last=True)).body.decode()
    found = (re.search(rf"^classifier_{name} (\S+)$", page, re.MULTILINE) for name in names)
    return tuple(float(value[1]) if value else float("nan") for value in found)


def allow_connections(count: int) -> None:
    """Raise the limit of open files for this number of connections, here and in the service, which inherits it.

    Raises:
        BenchmarkError: The system's hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise BenchmarkError(f"{count} connections need {wanted} open files, the limit is {hard} (ulimit -n)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
