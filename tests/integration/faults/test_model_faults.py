"""The model fails, panics, hangs or dies: the answers of callers, and readiness."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faulty_service import CLOCK, HANG, MEMORY, NAN, PANIC, PANIC_ENCODING, RAISE, STALL_ENCODING
from classifier.artifact import Artifact
from tests.support.service_process import TEXT, ServiceProcess, service_process

STUCK_S = 0.5


@pytest.fixture(scope="module")
def hold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model may hang while this file exists."""
    return tmp_path_factory.mktemp("faulty") / "hold"


@pytest.fixture(scope="module")
def faulty(artifact: Artifact, hold: Path) -> Iterator[ServiceProcess]:
    """One process for all faults that it survives."""
    with service_process(artifact.directory, hold=hold, SERVICE_STUCK_S=str(STUCK_S)) as started:
        yield started
        assert started.stop() == 0


@pytest.fixture
def unharmed(faulty: ServiceProcess) -> Iterator[ServiceProcess]:
    """The process, which after the test must be ready and answer as before it."""
    before = faulty.scores()
    yield faulty
    assert faulty.scores() == pytest.approx(before, abs=1e-4)
    assert faulty.readiness() == (200, "ready")


@pytest.mark.parametrize("mark", [RAISE, NAN])
def test_text_on_which_the_model_fails_is_a_500_of_its_own(unharmed: ServiceProcess, mark: str) -> None:
    response = unharmed.predict(f"{TEXT} {mark}")
    assert response.status_code == 500 and response.json()["kind"] == "inference_failed"


def test_neighbours_of_failing_texts_are_answered_as_alone(unharmed: ServiceProcess) -> None:
    texts = [f"{TEXT} {word}" for word in ("goal", RAISE, "vote", NAN, "tax", RAISE, "profit", MEMORY)]
    alone = {text: unharmed.scores(text) for text in texts if RAISE not in text and NAN not in text}
    with unharmed.client() as client:
        results = client.post("/batch", json={"texts": texts}).json()["results"]
    for text, result in zip(texts, results, strict=True):
        if text in alone:
            assert {one["label"]: one["score"] for one in result["scores"]} == pytest.approx(alone[text], abs=1e-4)
        else:
            assert result["kind"] == "inference_failed"


def test_panic_of_the_model_is_told_to_callers_and_survived(unharmed: ServiceProcess) -> None:
    response = unharmed.predict(f"{TEXT} {PANIC}")
    assert response.status_code == 500 and response.json()["kind"] == "internal"
    unharmed.wait_for_log("a lane of the model has failed; it is started again")


def test_panic_of_the_tokenizer_is_a_500_and_survived(unharmed: ServiceProcess) -> None:
    assert unharmed.predict(f"{TEXT} {PANIC_ENCODING}").status_code == 500


def test_model_that_hangs_is_not_ready_and_comes_back(unharmed: ServiceProcess, hold: Path) -> None:
    hold.touch()
    with ThreadPoolExecutor(2) as callers:
        hung = callers.submit(unharmed.predict, f"{TEXT} {HANG}", timeout_ms=3000)
        while unharmed.readiness()[0] == 200:  # until the batch has been in the model for STUCK_S
            pass
        assert unharmed.readiness() == (503, "unhealthy")
        assert unharmed.metric("classifier_ready") == 0
        assert unharmed.liveness() == (503, "needs_restart")
        behind = callers.submit(unharmed.predict, f"{TEXT} behind", timeout_ms=100)
        for call in (behind, hung):  # each is told when its own time is up, not when the model comes back
            response = call.result()
            assert (response.status_code, response.json()["kind"]) == (504, "deadline_exceeded")
    hold.unlink()
    while unharmed.readiness()[0] != 200:
        pass
    assert unharmed.metric("classifier_ready") == 1
    assert unharmed.liveness() == (200, "alive")


def test_tokenizer_that_hangs_is_not_ready_and_comes_back(unharmed: ServiceProcess, hold: Path) -> None:
    hold.touch()
    assert unharmed.predict(f"{TEXT} {STALL_ENCODING}", timeout_ms=300).status_code == 504
    while unharmed.readiness()[0] == 200:  # until the text has been in the tokenizer for STUCK_S
        pass
    assert unharmed.readiness() == (503, "unhealthy")
    assert unharmed.liveness() == (503, "needs_restart")
    hold.unlink()
    while unharmed.readiness()[0] != 200:
        pass
    assert unharmed.liveness() == (200, "alive")


def test_wall_clock_that_jumps_moves_no_deadline(unharmed: ServiceProcess) -> None:
    def ask(number: int) -> int:
        return unharmed.predict(f"{TEXT} {number} {CLOCK if number % 10 == 0 else ''}", timeout_ms=20_000).status_code

    with ThreadPoolExecutor(8) as callers:
        assert set(callers.map(ask, range(1, 80))) == {200}
        impatient: dict[str, Any] = unharmed.predict("vote " * 5000, timeout_ms=1).json()
    assert impatient["kind"] == "deadline_exceeded"


def test_model_that_stays_down_says_so_and_ends_the_process(artifact: Artifact, tmp_path: Path) -> None:
    with service_process(artifact.directory, hold=tmp_path / "hold") as broken:
        for number in range(3):
            assert broken.predict(f"{TEXT} {PANIC} {number}").json()["kind"] == "internal"
        refused = broken.predict()
        assert (refused.status_code, refused.json()["kind"]) == (503, "not_ready")
        assert "must be restarted" in refused.json()["error"]
        assert broken.readiness() == (503, "unhealthy")
        assert broken.metric("classifier_ready") == 0
        assert broken.liveness() == (503, "needs_restart")
        with broken.client() as client:
            assert client.get("/ping").status_code == 503
            assert client.get("/v2/health/live").json() == {"live": False}
        assert broken.wait() == 1, "without a signal"
    critical = [line["message"] for line in broken.lines if line.get("level") == "critical"]
    assert any("it stays down" in message for message in critical) and "the process ends" in critical[-1]
