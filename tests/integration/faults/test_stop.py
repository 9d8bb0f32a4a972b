"""SIGTERM while the model does not come back: waiting callers are told, and the process ends all the same."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.faulty_service import HANG, STALL_ENCODING
from classifier.artifact import Artifact
from tests.support.service_process import TEXT, service_process


def test_sigterm_ends_a_service_whose_model_hangs_and_answers_its_callers(artifact: Artifact, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    with service_process(artifact.directory, hold=hold, SERVICE_STUCK_S="0.3", SERVICE_DRAIN_S="1") as hung:
        hold.touch()
        with ThreadPoolExecutor(3) as callers:
            waiting = [callers.submit(hung.predict, f"{TEXT} {HANG} {i}", timeout_ms=20_000) for i in range(3)]
            while hung.readiness()[0] == 200:
                pass
            started = time.monotonic()
            assert hung.stop() == 0
            assert time.monotonic() - started < 10  # of the 30 s that orchestrators give
            for call in waiting:
                response = call.result()
                assert (response.status_code, response.json()["kind"]) == (503, "draining")


def test_sigterm_ends_a_service_whose_tokenizer_hangs(artifact: Artifact, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    with service_process(artifact.directory, hold=hold, SERVICE_DRAIN_S="1") as hung:
        hold.touch()
        assert hung.predict(f"{TEXT} {STALL_ENCODING}", timeout_ms=300).status_code == 504
        started = time.monotonic()
        assert hung.stop() == 0
        assert time.monotonic() - started < 10
