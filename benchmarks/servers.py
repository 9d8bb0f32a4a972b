"""The HTTP services that are compared, all over the same artifact: how each is started, asked and read."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

from benchmarks.environments import environment
from benchmarks.errors import Unavailable
from benchmarks.load import Request
from benchmarks.processes import free_port, last_line, running, wait_for_status
from service.model.host import available_cpus

READY_S = 300.0
POLL_S = 0.01

OURS, ARTICLE, LITSERVE, BENTOML = "ours", "article's handler", "LitServe", "BentoML"


@dataclass(frozen=True)
class Server:
    """One service."""

    name: str
    command: Callable[[int], list[str | Path]]
    """For a port."""
    ready_path: str
    path: str = "/predict"
    body: Callable[[str], Mapping[str, Any]] = lambda text: {"text": text}
    label: Callable[[Any], str] = lambda answer: answer["label"]
    environment: Mapping[str, str] = field(default_factory=dict)

    def request(self, text: str) -> Request:
        return Request(self.path, json.dumps(self.body(text), ensure_ascii=False).encode())


@dataclass(frozen=True)
class Up:
    """A service that answers."""

    server: Server
    port: int
    process: "Popen[bytes]"
    ready_s: float
    """From the start of its process to the first answer of its readiness path with status 200."""


def ours(artifact: Path, **settings: str) -> Server:
    """This project's service; settings by their names without SERVICE_, in lower case."""
    variables = {f"SERVICE_{name.upper()}": value for name, value in settings.items()}

    def command(port: int) -> list[str | Path]:
        # the port goes through env(1): it is known only when the command is made
        return ["env", f"SERVICE_PORT={port}", sys.executable, "-m", "service"]

    return Server(
        OURS,
        command,
        "/readyz",
        environment={"SERVICE_MODEL_DIR": str(artifact), "SERVICE_LOG_LEVEL": "warning", **variables},
    )


def article(artifact: Path, tokens: int) -> Server:
    """The article's way, in the project's environment."""

    def command(port: int) -> list[str | Path]:
        return [sys.executable, "-m", "benchmarks.peers.article", *_flags(artifact, tokens, port)]

    return Server(ARTICLE, command, "/health")


def litserve(artifact: Path, tokens: int, work: Path) -> Server:
    """Raises Unavailable if it cannot be installed."""
    python = environment(work, "litserve")

    def command(port: int) -> list[str | Path]:
        return [python, "-m", "benchmarks.peers.litserve_app", *_flags(artifact, tokens, port)]

    return Server(LITSERVE, command, "/health")


def bentoml(artifact: Path, tokens: int, work: Path) -> Server:
    """Raises Unavailable if it cannot be installed."""
    python = environment(work, "bentoml")

    def command(port: int) -> list[str | Path]:
        target = "benchmarks.peers.bentoml_app:Classifier"
        return [python, "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(port)]

    return Server(
        BENTOML,
        command,
        "/readyz",
        body=lambda text: {"texts": [text]},
        label=lambda answer: answer[0]["label"],
        environment={
            "BENCH_ARTIFACT": str(artifact),
            "BENCH_TOKENS": str(tokens),
            "BENCH_THREADS": str(available_cpus()),
            "BENTOML_HOME": str((work / "bentoml").absolute()),
            "BENTOML_DO_NOT_TRACK": "True",
        },
    )


@contextmanager
def up(server: Server, work: Path) -> Iterator[Up]:
    """Start a service on a free port, wait until it is ready, and end it afterwards.

    Raises:
        Unavailable: it ends by itself or is not ready in time; the message has its last line.
    """
    port = free_port()
    log = work / "logs" / f"server-{''.join(c for c in server.name.lower() if c.isalnum())}.log"
    with running(server.command(port), log=log, environment=server.environment) as process:
        try:
            ready_s = wait_for_status(process, port, server.ready_path, limit_s=READY_S, every_s=POLL_S)
        except Unavailable as exc:
            raise Unavailable(f"{exc}; {last_line(log)}") from exc
        yield Up(server, port, process, ready_s)


def _flags(artifact: Path, tokens: int, port: int) -> list[str | Path]:
    values = {"--artifact": artifact, "--tokens": tokens, "--port": port, "--threads": available_cpus()}
    return [str(part) for pair in values.items() for part in pair]
