"""The compared servers, all over the same artifact: how each is started, asked and read."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

from benchmarks.processes import free_port, last_line, running, wait_for_status
from benchmarks.tools.environments import environment
from benchmarks.tools.errors import Unavailable
from benchmarks.tools.http1 import post_json
from service.model.host import available_cpus

READY_S = 300.0
POLL_S = 0.01
OURS, ARTICLE, LITSERVE, BENTOML = "ours", "article's handler", "LitServe", "BentoML"
ENVIRONMENTS = ("litserve", "bentoml")


@dataclass(frozen=True)
class Server:
    """One server over one artifact."""

    name: str
    command: Callable[[int], list[str | Path]]
    """The command line that listens on a port."""
    ready_path: str
    body: Callable[[str], Mapping[str, Any]] = lambda text: {"text": text}
    label: Callable[[Any], str] = lambda answer: answer["label"]
    environment: Mapping[str, str] = field(default_factory=dict)

    def request(self, text: str) -> bytes:
        """Return the request that classifies a text."""
        return post_json("/predict", self.body(text))


@dataclass(frozen=True)
class RunningServer:
    """A server that is ready."""

    server: Server
    port: int
    process: "Popen[bytes]"
    ready_s: float
    """Seconds from the start of the process to the first answer 200 of its readiness path."""


def servers(artifact: Path, tokens: int, work: Path) -> dict[str, Callable[[], Server]]:
    """Return a maker for each server; a maker raises Unavailable if its server cannot be installed."""
    return {
        OURS: lambda: ours(artifact),
        ARTICLE: lambda: _script(ARTICLE, "article", sys.executable, artifact, tokens),
        LITSERVE: lambda: _script(LITSERVE, "litserve_app", environment(work, "litserve"), artifact, tokens),
        BENTOML: lambda: _bentoml(artifact, tokens, work),
    }


def ours(artifact: Path, **settings: str) -> Server:
    """Return this project's service; settings have their names without SERVICE_, in lower case."""
    variables = {f"SERVICE_{name.upper()}": value for name, value in settings.items()}

    def command(port: int) -> list[str | Path]:
        # env(1) sets the port, which is known only now
        return ["env", f"SERVICE_PORT={port}", sys.executable, "-m", "service"]

    variables |= {"SERVICE_MODEL_DIR": str(artifact), "SERVICE_LOG_LEVEL": "warning"}
    return Server(OURS, command, "/readyz", environment=variables)


def _script(name: str, module: str, python: str | Path, artifact: Path, tokens: int) -> Server:
    """Return a server that is a module of this package."""

    def command(port: int) -> list[str | Path]:
        flags = {"--artifact": artifact, "--tokens": tokens, "--port": port, "--threads": available_cpus()}
        return [python, "-m", f"benchmarks.servers.{module}", *(str(part) for pair in flags.items() for part in pair)]

    return Server(name, command, "/health")


def _bentoml(artifact: Path, tokens: int, work: Path) -> Server:
    python = environment(work, "bentoml")

    def command(port: int) -> list[str | Path]:
        target = "benchmarks.servers.bentoml_app:Classifier"
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
def started(server: Server, work: Path) -> Iterator[RunningServer]:
    """Start a server on a free port, wait until it is ready, and end it afterwards.

    Raises:
        Unavailable: It ends by itself or is not ready in time; the message has its last line.
    """
    port = free_port()
    log = work / "logs" / f"server-{''.join(c for c in server.name.lower() if c.isalnum())}.log"
    with running(server.command(port), log=log, environment=server.environment) as process:
        try:
            ready_s = wait_for_status(process, port, server.ready_path, limit_s=READY_S, every_s=POLL_S)
        except Unavailable as exc:
            raise Unavailable(f"{exc}; {last_line(log)}") from exc
        yield RunningServer(server, port, process, ready_s)
