"""The real service as a process of its own, its log, and calls to it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.processes import free_port, wait_for_status
from tests.support import ROOT

START_S = 120.0
TEXT = "the striker said that the team will win the cup final"
FAST_START = {
    "SERVICE_PRECISION": "float32",
    "SERVICE_MAX_BATCH_TOKENS": "256",
    "SERVICE_LANES": "1",
    "SERVICE_THREADS": "1",
    "SERVICE_AUTOTUNE_DIR": "",
}
"""One precision, one batch size, one lane and one thread: measuring which are best takes seconds."""

PATIENT = {"SERVICE_DEFAULT_TIMEOUT_MS": "300000", "SERVICE_MAX_TIMEOUT_MS": "300000"}
"""Deadlines that a busy machine meets, too."""


class ServiceProcess:
    """A process that serves, or was meant to.

    Args:
        model_dir: The artifact to serve.
        hold: Run `benchmarks.faulty_service`, whose model fails where a text asks for it, and may hang while this file
            exists.
        log: Takes the log; without it the lines are in `lines`.
        port: A port instead of any free one.
        settings: Environment variables, which win over `FAST_START`.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        hold: Path | None = None,
        log: Path | None = None,
        port: int | None = None,
        **settings: str,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.hold = hold
        self.lines: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        module = ["benchmarks.faulty_service", "--hold", str(hold)] if hold else ["service"]
        environment = os.environ | FAST_START | {"SERVICE_PORT": str(self.port), "SERVICE_MODEL_DIR": str(model_dir)}
        errors = log.open("wb") if log else subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-m", *module], cwd=ROOT, env=environment | settings, stderr=errors
        )
        if not isinstance(errors, int):
            errors.close()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self.process.stderr or open(os.devnull, "rb") as log:
            for line in map(bytes.decode, log):
                with self._changed:
                    self.lines.append(json.loads(line) if line.startswith("{") else {"message": line})
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_until_ready(self) -> None:
        wait_for_status(self.process, self.port, "/readyz", limit_s=START_S, every_s=0.02)

    def wait_for_log(self, words: str) -> dict[str, Any]:
        """Return the first log line that begins with these words; fail if none comes."""
        deadline = time.monotonic() + START_S
        with self._changed:
            while True:
                for line in self.lines:
                    if line["message"].startswith(words):
                        return line
                left = deadline - time.monotonic()
                if left <= 0 or not self._reader.is_alive():
                    raise AssertionError(f"no log line {words!r}; exit code {self.process.poll()}: {self.lines}")
                self._changed.wait(left)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def predict(self, text: str = TEXT, **options: object) -> httpx.Response:
        with self.client() as client:
            return client.post("/predict", json={"text": text, **options})

    def scores(self, text: str = TEXT) -> dict[str, float]:
        """Return the scores of an answer that must be one."""
        response = self.predict(text)
        assert response.status_code == 200, response.text
        return {one["label"]: one["score"] for one in response.json()["scores"]}

    def readiness(self) -> tuple[int, str]:
        return self._status("/readyz")

    def liveness(self) -> tuple[int, str]:
        return self._status("/livez")

    def _status(self, path: str) -> tuple[int, str]:
        with self.client() as client:
            response = client.get(path)
        return response.status_code, response.json()["status"]

    def metric(self, name: str) -> float:
        """Return the value of a metric without labels."""
        with self.client() as client:
            [value] = re.findall(rf"^{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        return float(value)

    def stop(self, sig: int = signal.SIGTERM, timeout_s: float = 30) -> int:
        """Send the signal and return the exit code."""
        self.process.send_signal(sig)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 60) -> int:
        """Return the exit code once the process has ended and its log has been read."""
        code = self.process.wait(timeout_s)
        self._reader.join(10)
        return code


@contextmanager
def started_process(model_dir: Path, **options: Any) -> Iterator[ServiceProcess]:
    """A process that was only started: it may load, or refuse to."""
    service = ServiceProcess(model_dir, **options)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.process.kill()
        service.wait()


@contextmanager
def service_process(model_dir: Path, **options: Any) -> Iterator[ServiceProcess]:
    """A process that is ready; for the options see `ServiceProcess`."""
    with started_process(model_dir, **options) as service:
        service.wait_until_ready()
        try:
            yield service
        finally:
            if service.hold:
                service.hold.unlink(missing_ok=True)
