"""The real service as a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import ROOT

START_S = 120


class ServiceProcess:
    """`python -m service` on a free port, its log lines, and a client."""

    def __init__(self, model_dir: Path, **settings: str) -> None:
        self.port = free_port()
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SERVICE_", "SAGEMAKER_"))}
        environment |= {"SERVICE_PORT": str(self.port), "SERVICE_MODEL_DIR": str(model_dir), **settings}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = f"http://127.0.0.1:{self.port}"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(json.loads(line) if line.startswith("{") else {"message": line})
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for_log(self, message: str, starts: bool = False) -> dict[str, Any]:
        """The first log line with this message, or that starts so; fails if the process ends or takes too long."""
        deadline = time.monotonic() + START_S
        with self._changed:
            while True:
                for line in self.lines:
                    if line["message"] == message or (starts and line["message"].startswith(message)):
                        return line
                left = deadline - time.monotonic()
                if left <= 0 or not self._reader.is_alive():
                    raise AssertionError(f"no log line {message!r}; exit code {self.process.poll()}, log: {self.lines}")
                self._changed.wait(left)

    def stop(self, sig: int = signal.SIGTERM, timeout_s: float = 30) -> int:
        """Send the signal and return the exit code."""
        self.process.send_signal(sig)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 60) -> int:
        code = self.process.wait(timeout_s)
        self._reader.join(10)
        return code


@contextmanager
def service_process(model_dir: Path, **settings: str) -> Iterator[ServiceProcess]:
    service = ServiceProcess(model_dir, **settings)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.process.kill()
        service.wait()
        assert service.process.stderr is not None
        service.process.stderr.close()


def client_of(service: ServiceProcess) -> httpx.Client:
    return httpx.Client(base_url=service.url, timeout=60, trust_env=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
