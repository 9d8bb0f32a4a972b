"""Nobody takes the log any more: the service goes on answering, and still stops on request."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from classifier.artifact import Artifact
from tests.integration.faults.conftest import needs_linux, service

pytestmark = needs_linux
REQUESTS = 100


@pytest.mark.parametrize("fault", ["full disk", "reader gone", "reader asleep"])
def test_service_answers_when_its_log_cannot_be_written(artifact: Artifact, tmp_path: Path, fault: str) -> None:
    log, reader = Path("/dev/full"), None
    if fault != "full disk":
        log = tmp_path / "pipe"
        os.mkfifo(log)
        reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    with service(artifact, tmp_path, log=log) as unheard:
        if fault == "reader gone":
            assert reader is not None
            os.close(reader)
        elif reader is not None:
            fill(log)
        with unheard.client() as client:
            statuses = {client.post("/predict", json={"text": f"goal {i}"}).status_code for i in range(REQUESTS)}
            assert statuses == {200}
        assert unheard.readiness() == (200, "ready")
        assert unheard.stop() == 0


def fill(pipe: Path) -> None:
    """Leave no room in it: whoever writes to it now waits until it is read."""
    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(1))
    os.close(writer)
