"""The real service over a tiny model: start, load, faults of callers, signals, exit codes."""

import hashlib
import json
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from classifier.artifact import Artifact
from service.__main__ import _load_engine, main
from service.errors import EngineLoadError
from service.settings import Settings
from tests.support import ROOT
from tests.support.service_process import FAST_START, PATIENT, ServiceProcess, service_process, started_process
from tests.support.texts import news_rows

SPARE_DESCRIPTORS = 30
CROWD = 100
PATIENCE_S = 60.0
TEXTS = [row["text"] * (1 + i % 9) for i, row in enumerate(news_rows(64))]


@pytest.fixture(scope="module")
def shared_process(artifact: Artifact) -> Iterator[ServiceProcess]:
    """One process for the tests after which it serves as before; small batches, so that texts meet many others."""
    with service_process(artifact.directory, SERVICE_MAX_BATCH_TOKENS="64", **PATIENT) as service:
        yield service
        assert service.stop() == 0


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two answers differ at most in timing and in the last bits of the probabilities."""
    close = all(
        a["label"] == b["label"] and abs(a["score"] - b["score"]) < 1e-4
        for a, b in zip(one["scores"], other["scores"], strict=True)
    )
    return close and one["tokens"] == other["tokens"] and one["windows"] == other["windows"]


def test_64_concurrent_callers_get_what_each_would_get_alone(shared_process: ServiceProcess) -> None:
    with ThreadPoolExecutor(64) as callers:
        together = [response.json() for response in callers.map(shared_process.predict, TEXTS)]
    with shared_process.client() as client:
        alone = [client.post("/predict", json={"text": text}).json() for text in TEXTS]
        batch = client.post("/batch", json={"texts": TEXTS}).json()["results"]
    assert all(map(same, together, alone))
    assert all(map(same, batch, alone))


def test_sighup_under_load_changes_the_model_and_loses_no_request(artifact: Artifact, tmp_path: Path) -> None:
    served = tmp_path / "served"
    shutil.copytree(artifact.directory, served)
    with service_process(served) as service:
        before = service.wait_for_log("ready")["version"]
        stop = threading.Event()
        answers: list[tuple[int, str]] = []

        def call_until_told(caller: int) -> None:
            with service.client() as client:
                while not stop.is_set():
                    response = client.post("/predict", json={"text": TEXTS[caller]})
                    answers.append((response.status_code, response.json().get("model", {}).get("version", "")))

        callers = [threading.Thread(target=call_until_told, args=(i,)) for i in range(8)]
        for caller in callers:
            caller.start()
        try:
            other = altered(artifact, tmp_path / "other")
            swap(other, served)
            service.process.send_signal(signal.SIGHUP)
            after = service.wait_for_log("reloaded")["version"]
            broken = tmp_path / "broken"
            shutil.copytree(served, broken)
            flip_byte(broken / "model.safetensors")
            swap(broken, served)
            service.process.send_signal(signal.SIGHUP)
            refusal = service.wait_for_log("reload refused")
        finally:
            stop.set()
            for caller in callers:
                caller.join()
        assert "was altered" in refusal["message"] and "kept" in refusal["message"]
        assert {status for status, _ in answers} == {200}, "none was lost"
        assert {version for _, version in answers} == {before, after}
        # not the last of `answers`: a caller may put down late what it was told before the change
        assert service.predict(TEXTS[0]).json()["model"]["version"] == after, "a broken artifact changes nothing"
        assert service.stop() == 0


def altered(artifact: Artifact, directory: Path) -> Path:
    """The same model under another version: one bias a little larger."""
    shutil.copytree(artifact.directory, directory)
    weights = load_file(directory / "model.safetensors")
    weights["transformer.ln_f.bias"] = weights["transformer.ln_f.bias"] * np.float32(1.0001) + np.float32(1e-6)
    save_file(weights, directory / "model.safetensors")
    manifest = json.loads((directory / "manifest.json").read_text())
    content = (directory / "model.safetensors").read_bytes()
    manifest["files"]["model.safetensors"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def swap(new: Path, served: Path) -> None:
    """`new` under the name of `served`."""
    served.rename(served.with_name(f"{served.name}-before-{new.name}"))
    new.rename(served)


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_sigterm_under_load_loses_no_accepted_request(artifact: Artifact) -> None:
    with service_process(artifact.directory) as service:
        outcomes: Counter[str] = Counter()

        def call_until_refused(caller: int) -> None:
            with service.client() as client:
                for i in range(100_000):
                    response = client.post("/predict", json={"text": TEXTS[(caller + i) % 64]})
                    outcomes[str(response.status_code)] += 1
                    if response.status_code != 200:
                        assert response.json()["kind"] == "draining" and response.headers["retry-after"]
                        return

        with ThreadPoolExecutor(32) as callers:
            running = [callers.submit(call_until_refused, i) for i in range(32)]
            with service.client() as client:
                while outcomes["200"] < 200:  # under load before the signal comes
                    client.get("/ping")
            service.process.send_signal(signal.SIGTERM)
            for call in running:
                call.result()  # raises if a connection broke: that would be a lost request
        assert service.wait() == 0
        assert outcomes["503"] == 32 and set(outcomes) == {"200", "503"}


def test_sigterm_while_loading_does_not_wait_for_the_model(artifact: Artifact) -> None:
    with started_process(artifact.directory) as service:
        with service.client() as client:
            while True:
                try:
                    client.get("/livez")
                    break
                except httpx.TransportError:
                    continue
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 10  # imports and warm-up alone take longer than that on a cold machine


def test_caller_who_leaves_takes_the_work_along(shared_process: ServiceProcess) -> None:
    with shared_process.client() as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/batch", json={"texts": ["market share " * 3000] * 60}, timeout=0.3)
        while 'code="499"' not in client.get("/metrics").text:
            pass
        metrics = client.get("/metrics").text
    departed = re.search(r'classifier_dropped_windows_total\{reason="departed"\} (\S+)', metrics)
    waiting = re.search(r"^classifier_queue_windows (\S+)", metrics, re.MULTILINE)
    assert departed and waiting and float(waiting[1]) <= 1


def test_service_without_a_trace_collector_logs_no_trace(shared_process: ServiceProcess) -> None:
    with shared_process.client() as client:
        client.post("/predict", json={"text": "a"}, headers={"x-request-id": "untraced"}).raise_for_status()
    while not (found := [line for line in shared_process.lines if line.get("request_id") == "untraced"]):
        assert shared_process.process.poll() is None
    assert [line["message"] for line in found] == ["request"] and "trace_id" not in found[0]


def test_sigint_stops_a_service_that_waits_for_the_rest_of_a_body(artifact: Artifact) -> None:
    measured = dict.fromkeys(FAST_START, "0") | {"SERVICE_PRECISION": "auto", "SERVICE_AUTOTUNE_DIR": ""}
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with (
        service_process(artifact.directory, **measured) as service,
        socket.create_connection(("127.0.0.1", service.port)) as slow,
    ):
        slow.sendall(head)
        assert service.readiness() == (200, "ready")
        started = time.monotonic()
        assert service.stop(signal.SIGINT) == 0
        assert time.monotonic() - started < 10  # of 20 that accepted work would have
    assert service.lines[-1]["message"] == "stopped"


def descriptors(service: ServiceProcess) -> int:
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"


def answers_a_new_caller(service: ServiceProcess) -> bool:
    try:
        return service.predict().status_code == 200
    except httpx.TransportError:
        return False


def test_service_outlives_the_end_of_its_file_descriptors(shared_process: ServiceProcess) -> None:
    pid = shared_process.process.pid
    with shared_process.client() as connected:
        connected.post("/predict", json={"text": "a"}).raise_for_status()
        before = descriptors(shared_process)
        limit, given = before + SPARE_DESCRIPTORS, resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, given[1]))
        crowd = [socket.create_connection(("127.0.0.1", shared_process.port)) for _ in range(CROWD)]
        try:
            wait_until(lambda: descriptors(shared_process) >= limit - 1)
            for _ in range(5):
                connected.post("/predict", json={"text": "a"}).raise_for_status()
        finally:
            for caller in crowd:
                caller.close()
        wait_until(lambda: descriptors(shared_process) <= before + 2)
        wait_until(lambda: answers_a_new_caller(shared_process))
        connected.post("/predict", json={"text": "a"}).raise_for_status()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, given)


def test_flipped_byte_is_one_clear_line_and_exit_code_1(artifact_copy: Artifact) -> None:
    weights = artifact_copy.directory / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    with started_process(artifact_copy.directory) as service:
        assert service.wait() == 1
    [line] = [line for line in service.lines if line.get("level") == "critical"]
    assert line["message"] == (
        f"cannot serve: artifact {artifact_copy.directory}: model.safetensors was altered: "
        "its SHA-256 is not the one in manifest.json"
    )
    assert "exception" not in line


def test_missing_model_is_exit_code_1(tmp_path: Path) -> None:
    with started_process(tmp_path / "none") as service:
        assert service.wait() == 1
    hint = "no such directory; SERVICE_MODEL_DIR (make serve MODEL=DIR) names"
    assert any(hint in line["message"] for line in service.lines)


def test_mistyped_model_is_noticed_without_the_imports_of_a_model(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from service.settings import Settings; "
        "from service.__main__ import serve; "
        f"code = serve(Settings(port=0, model_dir=Path({str(tmp_path)!r}))); print(code, 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["1", "False"]


@pytest.mark.parametrize(("name", "problem"), [("a" * 5000, "File name too long"), (__file__, "Not a directory")])
def test_a_model_that_cannot_be_looked_for_is_one_clear_line(name: str, problem: str) -> None:
    with pytest.raises(EngineLoadError, match=problem):
        _load_engine(Settings(model_dir=Path(name)), lambda _: None)


def test_taken_port_is_a_failure(artifact: Artifact) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with started_process(artifact.directory, SERVICE_PORT=str(port)) as service:
            assert service.wait() == 1
    messages = [line["message"] for line in service.lines]
    assert any("address already in use" in message for message in messages)
    assert any(f"port {port}; SERVICE_PORT" in message for message in messages)


def test_wrong_setting_is_exit_code_2(artifact: Artifact) -> None:
    with started_process(artifact.directory, SERVICE_MAX_TEXTS="many") as service:
        assert service.wait() == 2
    assert "SERVICE_MAX_TEXTS='many'" in service.lines[-1]["message"]


def test_unknown_argument_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    assert "usage: python -m service [serve]" in capsys.readouterr().err
