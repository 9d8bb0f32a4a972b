"""The real service when it has no file descriptor left."""

import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from classifier.artifact import Artifact
from tests.support.service_process import ServiceProcess, client_of, service_process

SPARE = 30
"""Descriptors that are left to the service."""
CALLERS = 100
PATIENCE_S = 60.0


def descriptors(service: ServiceProcess) -> int:
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"


def predicts(client: httpx.Client) -> bool:
    return client.post("/predict", json={"text": "The striker scored twice."}).status_code == 200


def answers_a_new_caller(service: ServiceProcess) -> bool:
    try:
        with client_of(service) as client:
            return predicts(client)
    except httpx.TransportError:
        return False


def test_the_service_outlives_the_end_of_its_descriptors(artifact: Artifact) -> None:
    with service_process(artifact.directory) as service, client_of(service) as connected:
        service.wait_for_log("ready")
        assert predicts(connected)
        before = descriptors(service)
        limit = before + SPARE
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        crowd = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(CALLERS)]
        try:
            wait_until(lambda: descriptors(service) >= limit - 1)
            for _ in range(5):
                assert predicts(connected)
            assert service.process.poll() is None
        finally:
            for caller in crowd:
                caller.close()
        wait_until(lambda: descriptors(service) <= before + 2)
        wait_until(lambda: answers_a_new_caller(service))
        assert predicts(connected)
        assert service.stop() == 0
