"""SIGKILL in the middle of the work, and a service that comes back on the same port."""

import threading
import time

import httpx
import pytest

from benchmarks.processes import free_port
from classifier.artifact import Artifact
from tests.support.service_process import START_S, service_process
from tests.support.texts import news_rows

TEXTS = [row["text"] for row in news_rows(32)]


class RetryingCaller(threading.Thread):
    """A caller who sends all texts in turn until it is told to stop, and sends one again if no answer came."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.answers: list[tuple[str, int, dict[str, float]]] = []
        self.cut = 0
        self.enough = threading.Event()
        self._url = f"http://127.0.0.1:{port}"

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30, trust_env=False) as client:
            while not self.enough.is_set():
                text = TEXTS[len(self.answers) % len(TEXTS)]
                try:
                    response = client.post("/predict", json={"text": text})
                except httpx.TransportError:  # the connection was cut, or nobody listens
                    response = None
                if response is None or response.status_code == 503:  # 503: the new process is loading
                    self.cut += 1
                    self.enough.wait(0.02)
                    continue
                scores = {one["label"]: one["score"] for one in response.json()["scores"]}
                self.answers.append((text, response.status_code, scores))

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + START_S
        while len(self.answers) < count and time.monotonic() < deadline and self.is_alive():
            self.enough.wait(0.01)
        assert len(self.answers) >= count


def test_sigkill_and_restart_behind_retrying_callers_gives_no_wrong_answer(artifact: Artifact) -> None:
    port = free_port()
    callers = [RetryingCaller(port) for _ in range(4)]
    try:
        with service_process(artifact.directory, port=port) as first:
            alone = {text: first.scores(text) for text in TEXTS}
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.wait_for(5)
            first.process.kill()
            assert first.process.wait() == -9
        answered = [len(caller.answers) for caller in callers]
        with service_process(artifact.directory, port=port) as second:
            for caller, before in zip(callers, answered, strict=True):
                caller.wait_for(before + 5)
            finish(callers)
            assert second.stop() == 0
    finally:
        finish(callers)
    assert all(caller.cut for caller in callers)
    for caller in callers:
        for text, status, scores in caller.answers:
            assert status == 200
            assert scores == pytest.approx(alone[text], abs=1e-4)


def finish(callers: list[RetryingCaller]) -> None:
    for caller in callers:
        caller.enough.set()
    for caller in callers:
        if caller.is_alive():
            caller.join(60)
