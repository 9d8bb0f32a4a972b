"""The service answers and stops on request although nobody takes its log."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from classifier.artifact import Artifact
from tests.support.service_process import ServiceProcess, service_process

REQUESTS = 100


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk(artifact: Artifact) -> None:
    with service_process(artifact.directory, log=Path("/dev/full")) as service:
        check_that_it_answers(service)
        assert service.stop() == 0


def test_reader_of_a_pipe_is_gone_and_the_next_one_sleeps(artifact: Artifact, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with service_process(artifact.directory, log=pipe) as service:
        os.close(reader)
        check_that_it_answers(service)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        fill(pipe)
        check_that_it_answers(service)
        assert service.stop() == 0
    os.close(reader)


def check_that_it_answers(service: ServiceProcess) -> None:
    with service.client() as client:
        statuses = {client.post("/predict", json={"text": f"goal {i}"}).status_code for i in range(REQUESTS)}
    assert statuses == {200} and service.readiness() == (200, "ready")


def fill(pipe: Path) -> None:
    """Leave no room in the pipe: every writer waits until it is read."""
    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    for size in (4096, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(size))
    os.close(writer)
