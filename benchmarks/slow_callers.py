"""What callers who send slowly or nothing do to the others, and how fast /ping answers while the model is saturated.

    python -m benchmarks.slow_callers --slow 1000 --rate 20 --seconds 10

1. In rounds, short texts at /predict in an open loop: alone, beside slow callers of a server that does nothing else
   than to cut them off after the same times, and beside slow callers of the service. A third of them sends nothing, a
   third one byte of its head every second, a third one byte of its body. Whoever is cut off comes back at once. After
   the last round nobody comes back, and the service must have its descriptors again. The other server shows what the
   slow callers' own use of the processors does to a service on the same machine.
2. /ping at 50 calls/s while closed loops saturate /predict.

Slow callers and saturating clients run in a process of their own, so that they do not delay the clock of what is
measured.
"""

import asyncio
import multiprocessing
import resource
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.artifacts import resolve
from benchmarks.errors import BenchmarkError
from benchmarks.figures import percentile, poisson_schedule
from benchmarks.load import Load, Request, closed_loop, open_loop
from benchmarks.machine import command, describe
from benchmarks.options import parser, run, save, say
from benchmarks.processes import ROOT
from benchmarks.servers import Server, Up, ours, up
from benchmarks.tables import number, table
from service.http.protocol import BODY_S, HEAD_S

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

HOST = "127.0.0.1"
TEXT = "The striker scored twice in the second half and the visitors won the cup tie."
HEAD = b"POST /predict HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\nX-Slow: " + b"y" * 1000
BODY_HEAD = HEAD + b"\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
KINDS: dict[str, tuple[bytes, bytes, float]] = {
    "nothing": (b"", b"", HEAD_S),
    "head": (b"", HEAD, HEAD_S),
    "body": (BODY_HEAD, b"y" * 1000, BODY_S),
}
"""What is sent at once, what byte by byte, and the seconds that the service allows."""

LATE_S = 5.0
"""Beyond its time a slow caller counts as not ended in time."""

RAMP_S = 5.0
"""Over which slow callers arrive, so that they are not cut off all in one moment either."""

PINGS_PER_S = 50.0
SATURATING_CLIENTS = 32


class Other(NamedTuple):
    """The server that does nothing but cut slow callers off."""

    port: int
    pid: int


def cut_off_all(started: "Connection") -> None:
    """A server that reads and, when a caller's time is up, hangs up. Sends its port, ends with its process."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        since = time.monotonic()
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(HEAD_S):
                await reader.readuntil(b"\r\n\r\n")
            async with asyncio.timeout(BODY_S - (time.monotonic() - since)):
                await reader.read(-1)
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(serve_one, HOST, 0, backlog=2048)
        started.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def slow_callers(port: int, count: int, until: float, give_up: float) -> list[tuple[str, float, bool]]:
    """So many slow callers at a time. Runs in a process of its own.

    Args:
        port: of the service.
        count: at a time.
        until: when nobody comes back any more, by `time.time`.
        give_up: when those who were not cut off leave.

    Returns:
        Of each connection its kind, its seconds, and whether the service ended it.
    """
    allow_connections(count)
    ends: list[tuple[str, float, bool]] = []

    async def caller(place: int) -> None:
        kind = list(KINDS)[place % len(KINDS)]
        await asyncio.sleep(RAMP_S * place / count)
        while time.time() < until:
            reader, writer = await asyncio.open_connection(HOST, port)
            since = time.perf_counter()
            drip = asyncio.create_task(_drip(writer, kind))
            ended = True
            try:
                async with asyncio.timeout(give_up - time.time()):
                    await reader.read()
            except TimeoutError:
                ended = False
            except OSError:
                pass
            ends.append((kind, time.perf_counter() - since, ended))
            drip.cancel()
            writer.close()

    async def all_of_them() -> None:
        await asyncio.gather(*map(caller, range(count)))

    asyncio.run(all_of_them())
    return ends


async def _drip(writer: asyncio.StreamWriter, kind: str) -> None:
    at_once, slowly, _ = KINDS[kind]
    with suppress(OSError):
        writer.write(at_once)
        for byte in slowly:
            await asyncio.sleep(1.0)
            writer.write(bytes([byte]))


def saturate(port: int, requests: list[Request], seconds: float) -> dict[str, Any]:
    """Runs in a process of its own."""
    load = closed_loop(HOST, port, requests, clients=SATURATING_CLIENTS, seconds=seconds)
    return asyncio.run(load).summary()


def measure(options: Namespace) -> dict[str, Any]:
    """Raw figures of both parts."""
    allow_connections(options.slow)
    server = ours(resolve(options.artifact, options))
    figures: dict[str, Any] = {"artifact": options.artifact, "machine": describe(), "command": command()}
    with up(server, options.work) as running, _elsewhere() as elsewhere, _other_server() as other:
        asyncio.run(closed_loop(HOST, running.port, _different(server, 64), clients=4, count=64))  # warm
        figures["slow"] = _slow(running, elsewhere, other, options)
        say("/ping under saturation")
        seconds = options.pings / PINGS_PER_S
        saturating = elsewhere.submit(saturate, running.port, _different(server, 5_000), seconds + 3.0)
        time.sleep(2.0)
        schedule = [place / PINGS_PER_S for place in range(options.pings)]
        pings = asyncio.run(open_loop(HOST, running.port, [Request("/ping")], schedule))
        figures["ping"] = {"pings": pings.summary(), "load": saturating.result()}
    return figures


def _slow(running: Up, elsewhere: ProcessPoolExecutor, other: Other, options: Namespace) -> dict[str, Any]:
    server, pid = running.server, running.process.pid
    alone, others, beside = Load(), Load(), Load()
    before, during, after = descriptors(pid), 0, []
    ends: list[tuple[str, float, bool]] = []
    for turn in range(options.rounds):
        requests = _different(server, int(options.rate * options.seconds * 2))
        schedule = poisson_schedule(options.rate, options.seconds, options.seed + turn)
        say(f"round {turn + 1}: alone")
        alone.outcomes += asyncio.run(open_loop(HOST, running.port, requests, schedule)).outcomes
        say(f"round {turn + 1}: beside {options.slow} slow callers of another server")
        until = time.time() + 2 * RAMP_S + options.seconds
        slow = elsewhere.submit(slow_callers, other.port, options.slow, until, until)
        _wait_for_descriptors(other.pid, int(0.95 * options.slow), slow)
        others.outcomes += asyncio.run(open_loop(HOST, running.port, requests, schedule)).outcomes
        slow.result()
        say(f"round {turn + 1}: beside {options.slow} slow callers")
        until = time.time() + 2 * RAMP_S + options.seconds
        last = turn == options.rounds - 1
        give_up = until + (max(allowed for *_, allowed in KINDS.values()) + LATE_S if last else 0.0)
        slow = elsewhere.submit(slow_callers, running.port, options.slow, until, give_up)
        _wait_for_descriptors(pid, before + int(0.95 * options.slow), slow)
        beside.outcomes += asyncio.run(open_loop(HOST, running.port, requests, schedule)).outcomes
        during = max(during, descriptors(pid))
        if last:
            say("waiting until all slow callers are cut off")
        ends += slow.result()
        after.append(_left(pid, before))
    return {
        "count": options.slow,
        "rate_per_s": options.rate,
        "alone": alone.summary(),
        "others": others.summary(),
        "beside": beside.summary(),
        "p99_ratio": _p99(beside) / _p99(alone),
        "p99_ratio_others": _p99(beside) / _p99(others),
        "descriptors": {"before": before, "during": during, "after_each_round": after},
        "ends": {kind: _summary(ends, kind) for kind in KINDS},
    }


def _summary(ends: list[tuple[str, float, bool]], kind: str) -> dict[str, Any]:
    seconds = [took for each, took, ended in ends if each == kind and ended]
    allowed = KINDS[kind][2]
    still_open = [took for each, took, ended in ends if each == kind and not ended]
    return {
        "allowed_s": allowed,
        "ended": len(seconds),
        "longest_s": max(seconds, default=float("nan")),
        "late": sum(took > allowed + LATE_S for took in seconds + still_open),
        "left_by_themselves": len(still_open),
    }


def _different(server: Server, count: int) -> list[Request]:
    """The service computes equal texts in flight once."""
    return [server.request(f"{i}. {TEXT}") for i in range(count)]


def _p99(load: Load) -> float:
    wrong = Counter(outcome.status for outcome in load.outcomes if outcome.status != 200)
    if wrong:
        raise BenchmarkError(f"calls at a modest rate were not answered with 200: {dict(wrong)}")
    return percentile([outcome.latency_s for outcome in load.outcomes], 99)


def descriptors(pid: int) -> int:
    """Open files of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _wait_for_descriptors(pid: int, count: int, slow: "Future[Any]") -> None:
    deadline = time.monotonic() + 4 * RAMP_S
    while descriptors(pid) < count:
        if slow.done():
            slow.result()  # raises what went wrong
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the service has {descriptors(pid)} descriptors, not the {count} of all slow callers")
        time.sleep(0.05)


def _left(pid: int, before: int) -> int:
    """Descriptors once those of callers who hung up are closed, which takes a moment."""
    deadline = time.monotonic() + 2.0
    while descriptors(pid) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    return descriptors(pid)


def allow_connections(count: int) -> None:
    """Each is a descriptor, here and in the service, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 1024
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise BenchmarkError(f"--slow {count} needs {wanted} open files, the limit is {hard} (ulimit -n)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def _elsewhere() -> Iterator[ProcessPoolExecutor]:
    context: SpawnContext = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(int).result()  # started and imported before anything is measured
        yield pool


@contextmanager
def _other_server() -> Iterator[Other]:
    context: SpawnContext = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=cut_off_all, args=(there,), daemon=True)
    process.start()
    try:
        if not here.poll(60):
            raise BenchmarkError("the server beside the service has not started within a minute")
        assert process.pid is not None
        yield Other(here.recv(), process.pid)
    finally:
        process.terminate()
        process.join()


def report(figures: dict[str, Any]) -> str:
    """Markdown."""
    slow, ping = figures["slow"], figures["ping"]
    counts = slow["descriptors"]
    pings, load = ping["pings"], ping["load"]
    calls = [[name, s["requests"], s["p50_ms"], s["p95_ms"], s["p99_ms"], s["max_ms"]] for name, s in _rows(slow)]
    ends = [[k, s["allowed_s"], s["longest_s"], s["ended"], s["late"]] for k, s in slow["ends"].items()]
    parts = [
        f"`{figures['artifact']}`. Short texts at {slow['rate_per_s']:g}/s, alone and beside {slow['count']} slow "
        f"callers: p99 {slow['p99_ratio']:.2f} times that of alone, and {slow['p99_ratio_others']:.2f} times that "
        "beside as many slow callers of another server.",
        "",
        table(["/predict", "requests", "p50 ms", "p95 ms", "p99 ms", "max ms"], calls),
        "",
        table(["slow with", "allowed s", "longest s", "ended by the service", "late"], ends),
        "",
        f"Descriptors of the service: {counts['before']} before, {counts['during']} during, "
        f"{counts['after_each_round'][-1]} after.",
        "",
        f"/ping at {PINGS_PER_S:g}/s beside {SATURATING_CLIENTS} clients that saturate /predict "
        f"({number(load['throughput_per_s'])} texts/s):",
        "",
        table(
            ["/ping", "calls", "p50 ms", "p99 ms", "max ms"],
            [["saturated", pings["statuses"].get("200", 0), pings["p50_ms"], pings["p99_ms"], pings["max_ms"]]],
        ),
    ]
    return "\n".join(parts)


def _rows(slow: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("alone", slow["alone"]),
        ("beside slow callers of another server", slow["others"]),
        ("beside slow callers", slow["beside"]),
    ]


def main() -> None:
    arguments = parser(__doc__, artifact=str(ROOT / "models" / "default"), rounds=3)
    arguments.add_argument("--slow", type=int, default=1000, help="slow callers at a time")
    arguments.add_argument("--rate", type=float, default=20.0, help="of ordinary calls, a second")
    arguments.add_argument("--seconds", type=float, default=10.0, help="of each half of a round")
    arguments.add_argument("--pings", type=int, default=1000)
    options = arguments.parse_args()
    if options.quick:
        options.slow, options.seconds, options.pings, options.rounds = 60, 3.0, 100, 1
    figures = measure(options)
    save(options, "slow-callers", figures)
    print(report(figures))


if __name__ == "__main__":
    run(main)
