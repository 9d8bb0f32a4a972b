"""The real process under faults, and how it is asked."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import pytest

from benchmarks.processes import free_port, running, wait_for_status
from classifier.artifact import Artifact

START_S = 120.0
LOG_S = 30.0
TEXT = "the striker said that the team will win the cup final"

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="uses /proc or /dev/full")


@dataclass
class Service:
    """A process that is ready, or was."""

    process: Popen[bytes]
    port: int
    log: Path
    hold: Path
    """While this file exists, the model may hang."""

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False)

    def predict(self, text: str = TEXT, **options: object) -> httpx.Response:
        with self.client() as client:
            return client.post("/predict", json={"text": text, **options})

    def scores(self, text: str = TEXT) -> dict[str, float]:
        """Of an answer that has to be one."""
        response = self.predict(text)
        assert response.status_code == 200, response.text
        return {one["label"]: one["score"] for one in response.json()["scores"]}

    def readiness(self) -> tuple[int, str]:
        with self.client() as client:
            response = client.get("/readyz")
        return response.status_code, response.json()["status"]

    def logged(self, level: str) -> list[dict[str, Any]]:
        """The log's whole lines of a level, as far as they have been written."""
        whole, _, _ = self.log.read_text().rpartition("\n")
        lines = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [line for line in lines if line["level"] == level]

    def wait_for_log(self, level: str, words: str) -> None:
        """Until a line of this level has these words: lines are written by a thread of their own, perhaps later than
        the answer that they are about. Fails after `LOG_S`."""
        deadline = time.monotonic() + LOG_S
        while not any(words in line["message"] for line in self.logged(level)):
            assert time.monotonic() < deadline, f"no line of level {level} with {words!r}: {self.log.read_text()}"

    def stop(self, timeout_s: float = 30) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        return self.process.wait(timeout_s)


@contextmanager
def service(
    artifact: Artifact,
    directory: Path,
    *,
    module: str = "service",
    log: Path | None = None,
    port: int | None = None,
    **settings: str,
) -> Iterator[Service]:
    """A ready service over a tiny model; one precision and one batch size, because measuring them takes seconds."""
    port = port or free_port()
    log = log or directory / "service.log"
    hold = directory / "hold"
    environment = {
        "SERVICE_PORT": str(port),
        "SERVICE_MODEL_DIR": str(artifact.directory),
        "SERVICE_PRECISION": "float32",
        "SERVICE_MAX_BATCH_TOKENS": "256",
        **settings,
    }
    arguments: list[str | Path] = ["--hold", hold] if module != "service" else []
    with running([sys.executable, "-m", module, *arguments], log=log, environment=environment) as process:
        wait_for_status(process, port, "/readyz", limit_s=START_S, every_s=0.02)
        yield Service(process, port, log, hold)
        hold.unlink(missing_ok=True)


FAULTY = "benchmarks.faulty_service"


def replace_by_rename(path: Path, content: bytes) -> None:
    """As a careful tool does: written beside, then renamed over it."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    os.replace(beside, path)
