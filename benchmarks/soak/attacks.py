"""Attacks by one caller on a service on 127.0.0.1, while another caller asks `/predict` 20 times a second.

The own attacks send what is allowed, but large, slow or not read. Debian's `slowhttptest`, where it is installed, opens
1,000 connections in each of its modes, on the service and on a control (`benchmarks.soak.control_server`): the same
model behind plain uvicorn, so that the control's latencies show the load that the tool itself is to the machine.
"""

import asyncio
import shutil
import socket
import sys
from argparse import Namespace
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from benchmarks.processes import free_port, peak_rss_mib, running, wait_for_status
from benchmarks.soak.tally import Promise
from benchmarks.soak.texts import make_texts
from benchmarks.soak.watched_service import START_S, watched_service
from benchmarks.tools.command_line import say
from benchmarks.tools.http1 import chunk, open_post, post_json
from benchmarks.tools.load import HOST, allow_connections, closed_loop, open_loop
from benchmarks.tools.machine import describe

PER_S = 20
"""Requests of the other caller in a second."""

CONNECTIONS = 1_100
"""Connections that send nothing of use; more than `SERVICE_MAX_REQUESTS`."""

UPLOADS, READERS = 64, 64
"""Connections that send the largest body up to its last byte, and that do not read large answers."""

ALIVE_S = 2.0
"""Seconds between two signs of life on a slow connection."""

SETTLE_S = 3.0
"""Seconds between an attack and the next one."""

TOOL = ("slowhttptest", "-c", "1000", "-r", "300", "-l")
TOOL_MODES: Mapping[str, tuple[str, ...]] = {
    "slowhttptest -H": ("-H", "-u", "/predict"),
    "slowhttptest -B": ("-B", "-f", "application/json", "-u", "/predict"),
    "slowhttptest -B, refused": ("-B", "-u", "/predict"),
    "slowhttptest -X": ("-X", "-k", "3", "-u", "/openapi.json"),
    "slowhttptest -R": ("-R", "-u", "/openapi.json"),
}
MOST_OF_CONTROL = 1.3
"""Largest p99 beside the tool, as a multiple of the control's."""

Attack = Callable[[int], Coroutine[Any, Any, None]]
"""Attacks the service on a port until it is cancelled."""

RARE = "".join(chr(0x1F300 + i % 500) for i in range(200_000))
"""The longest text, of characters that have several tokens each."""


def prose(characters: int) -> str:
    """Return a text of sentences."""
    return ". ".join(make_texts(characters // 40, 0))[:characters]


def asking(path: str, body: Any, clients: int = 1) -> Attack:
    """Return an attack of clients that send one large request after the other."""

    async def attack(port: int) -> None:
        await closed_loop(port, [post_json(path, body)], clients=clients, count=10**9)

    return attack


def holding(connections: int, first: bytes, then: bytes = b"") -> Attack:
    """Return an attack of connections on which little or nothing follows the first bytes, and nothing is read."""

    async def hold(port: int) -> None:
        while True:
            with suppress(OSError), socket.socket() as one:
                one.setblocking(False)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # else the system reads for the client
                loop = asyncio.get_running_loop()
                await loop.sock_connect(one, (HOST, port))
                await loop.sock_sendall(one, first)
                while True:
                    await asyncio.sleep(ALIVE_S)
                    await loop.sock_sendall(one, then)
            await asyncio.sleep(ALIVE_S)

    async def attack(port: int) -> None:
        await asyncio.gather(*(hold(port) for _ in range(connections)))

    return attack


def attacks() -> Mapping[str, Attack]:
    """Return the own attacks by name."""
    start = post_json("/predict", {"text": prose(4_000)})[:-100]
    texts = [prose(23_000) for _ in range(250)]
    upload = post_json("/batch", {"texts": texts})[:-1]
    large = [text for text in make_texts(256, 2)]
    return {
        "explanation of 80,000 characters": asking("/predict", {"text": prose(80_000), "explain": True}),
        "explanation of 60,000 characters": asking("/predict", {"text": prose(60_000), "explain": True}),
        "text of 200,000 rare characters": asking("/predict", {"text": RARE}),
        "batch of 250 long texts": asking("/batch", {"texts": [f"{i} {text}" for i, text in enumerate(texts)]}),
        "tokens of 200,000 rare characters": asking("/tokenize", {"text": RARE}, clients=4),
        "streams of blank lines": holding(
            CONNECTIONS, open_post("/batch", "application/x-ndjson") + chunk(b"\n"), chunk(b"\n")
        ),
        "bodies that do not end": holding(CONNECTIONS, start, b"a"),
        "largest bodies that do not end": holding(UPLOADS, upload),
        "answers that are not read": holding(READERS, post_json("/tokenize", {"text": RARE}) * 8),
        "batches that are not read": holding(READERS, post_json("/batch", {"texts": large, "spans": True}) * 8),
    }


def background() -> list[Attack]:
    """Return the attacks that go on during a mixed soak, below the limits at which others are refused.

    Their requests are smaller than that soak's limit of a body.
    """
    return [
        holding(50, open_post("/batch", "application/x-ndjson") + chunk(b"\n"), chunk(b"\n")),
        holding(50, post_json("/predict", {"text": prose(4_000)})[:-100], b"a"),
        holding(8, post_json("/tokenize", {"text": RARE[:20_000]}) * 8),
        asking("/predict", {"text": prose(60_000), "explain": True}),
    ]


def soak(options: Namespace) -> tuple[dict[str, Any], list[Promise]]:
    """Run every attack for `options.seconds` seconds and return figures and promises.

    Raises:
        BenchmarkError: The service does not start.
    """
    allow_connections(2 * CONNECTIONS)
    victims = [post_json("/predict", {"text": text}) for text in make_texts(options.texts, options.seed)]
    figures: dict[str, Any] = {}
    promises: list[Promise] = []
    with watched_service(options, "soak-attacks.log", "service") as service:
        for name, attack in ({"nothing": _nothing} | dict(attacks())).items():
            figures[name] = asyncio.run(_beside(attack, service.port, victims, options.seconds))
            figures[name]["peak_mib"] = peak_rss_mib(service.process.pid)
            say(f"{name}: {_shown(figures[name])}")
            promises.append(
                Promise(f"all are answered beside: {name}", _all_answered(figures[name]), _shown(figures[name]))
            )
        with _control(options) as control:
            for name, arguments in TOOL_MODES.items() if shutil.which(TOOL[0]) else ():
                for server, port in (("control", control), ("service", service.port)):
                    found = asyncio.run(_beside(_tool(arguments, options.seconds), port, victims, options.seconds))
                    figures[f"{name}, {server}"] = found
                    say(f"{name}, {server}: {_shown(found)}")
                times = figures[f"{name}, service"]["p99_ms"] / figures[f"{name}, control"]["p99_ms"]
                kept = _all_answered(figures[f"{name}, service"]) and times <= MOST_OF_CONTROL
                promises.append(Promise(f"p99 is near the control's beside: {name}", kept, f"{times:.2f} times"))
    return {"title": "Attacks", **figures, "machine": describe()}, promises


async def _nothing(_: int) -> None:
    await asyncio.Event().wait()


def _tool(arguments: tuple[str, ...], seconds: float) -> Attack:
    async def attack(port: int) -> None:
        *mode, path = arguments
        command = [*TOOL, str(round(seconds) + 1), *mode, f"http://{HOST}:{port}{path}"]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        try:
            await process.wait()
            await asyncio.Event().wait()
        finally:
            with suppress(ProcessLookupError):
                process.kill()

    return attack


async def _beside(attack: Attack, port: int, victims: list[bytes], seconds: float) -> dict[str, Any]:
    """Return what the other caller got beside an attack."""
    attacking = asyncio.create_task(attack(port))
    load = await open_loop(port, victims, [i / PER_S for i in range(round(seconds * PER_S))])
    attacking.cancel()
    await asyncio.gather(attacking, return_exceptions=True)
    await asyncio.sleep(SETTLE_S)
    return load.summary()


def _all_answered(found: Mapping[str, Any]) -> bool:
    return set(found["statuses"]) == {"200"}


def _shown(found: Mapping[str, Any]) -> str:
    return f"p50 {found['p50_ms']:.0f} ms, p99 {found['p99_ms']:.0f} ms, {found['statuses']}"


@contextmanager
def _control(options: Namespace) -> Iterator[int]:
    """Run the control server and yield its port."""
    port, log = free_port(), options.work / "soak-control.log"
    command = [sys.executable, "-m", "benchmarks.soak.control_server", str(port), options.artifact]
    with running(command, log=log) as process:
        wait_for_status(process, port, "/", limit_s=START_S, every_s=0.1)
        yield port
