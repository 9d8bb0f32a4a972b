"""The real service over a tiny model: start, load, signals, exit codes."""

import hashlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from classifier.artifact import Artifact
from service.__main__ import _load_engine, main
from service.errors import EngineLoadError
from service.settings import Settings
from tests.conftest import ROOT
from tests.support.service_process import ServiceProcess, client_of, service_process
from tests.support.texts import news_rows

TEXTS = [row["text"] * (1 + i % 9) for i, row in enumerate(news_rows(64))]


def predict(service: ServiceProcess, text: str) -> httpx.Response:
    with client_of(service) as client:
        return client.post("/predict", json={"text": text})


def same(one: dict[str, object], other: dict[str, object]) -> bool:
    """Equal but for timing and the last bits of the probabilities."""
    close = all(
        a["label"] == b["label"] and abs(a["score"] - b["score"]) < 1e-4
        for a, b in zip(one["scores"], other["scores"], strict=True)  # type: ignore[call-overload]
    )
    return close and one["tokens"] == other["tokens"] and one["windows"] == other["windows"]


def test_64_concurrent_callers_get_what_each_would_get_alone(artifact: Artifact) -> None:
    patient = {"SERVICE_DEFAULT_TIMEOUT_MS": "300000", "SERVICE_MAX_TIMEOUT_MS": "300000"}  # on a busy machine, too
    with service_process(artifact.directory, SERVICE_MAX_BATCH_TOKENS="256", **patient) as service:
        service.wait_for_log("ready")
        with ThreadPoolExecutor(64) as callers:
            together = [r.json() for r in callers.map(lambda text: predict(service, text), TEXTS)]
        alone = [predict(service, text).json() for text in TEXTS]
        assert all(map(same, together, alone))
        with client_of(service) as client:
            batch = client.post("/batch", json={"texts": TEXTS}).json()["results"]
        assert all(map(same, batch, alone))
        assert service.stop() == 0


def test_sighup_under_load_changes_the_model_and_loses_no_request(artifact: Artifact, tmp_path: Path) -> None:
    served = tmp_path / "served"
    shutil.copytree(artifact.directory, served)
    with service_process(served) as service:
        before = service.wait_for_log("ready")["version"]
        stop = threading.Event()
        answers: list[tuple[int, str]] = []

        def call_until_told(caller: int) -> None:
            with client_of(service) as client:
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
            refusal = service.wait_for_log("reload refused", starts=True)
        finally:
            stop.set()
            for caller in callers:
                caller.join()
        assert "was altered" in refusal["message"] and "kept" in refusal["message"]
        assert {status for status, _ in answers} == {200}, "none was lost"
        assert {version for _, version in answers} == {before, after}
        # not the last of `answers`: a caller may put down late what it was told before the change
        assert predict(service, TEXTS[0]).json()["model"]["version"] == after, "a broken artifact changes nothing"
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
        service.wait_for_log("ready")
        outcomes: Counter[str] = Counter()

        def call_until_refused(caller: int) -> None:
            with client_of(service) as client:
                for i in range(100_000):
                    response = client.post("/predict", json={"text": TEXTS[(caller + i) % 64]})
                    outcomes[str(response.status_code)] += 1
                    if response.status_code != 200:
                        assert response.json()["kind"] == "draining" and response.headers["retry-after"]
                        return

        with ThreadPoolExecutor(32) as callers:
            running = [callers.submit(call_until_refused, i) for i in range(32)]
            with client_of(service) as client:
                while outcomes["200"] < 200:  # under load before the signal comes
                    client.get("/ping")
            service.process.send_signal(signal.SIGTERM)
            for call in running:
                call.result()  # raises if a connection broke: that would be a lost request
        assert service.wait() == 0
        assert outcomes["503"] == 32 and set(outcomes) == {"200", "503"}


def test_sigint_stops_cleanly_too(artifact: Artifact) -> None:
    with service_process(artifact.directory) as service:
        service.wait_for_log("ready")
        assert service.stop(signal.SIGINT) == 0
        assert service.lines[-1]["message"] == "stopped"


def test_sigterm_while_loading_does_not_wait_for_the_model(artifact: Artifact) -> None:
    with service_process(artifact.directory) as service:
        with client_of(service) as client:
            while True:
                try:
                    client.get("/livez")
                    break
                except httpx.TransportError:
                    continue
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 10  # imports and warm-up alone take longer than that on a cold machine


def test_caller_who_leaves_takes_the_work_along(artifact: Artifact) -> None:
    with service_process(artifact.directory, SERVICE_MAX_BATCH_TOKENS="64") as service:
        service.wait_for_log("ready")
        with client_of(service) as client:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/batch", json={"texts": ["market share " * 3000] * 60}, timeout=0.3)
            while 'code="499"' not in client.get("/metrics").text:
                pass
            metrics = client.get("/metrics").text
            departed = re.search(r'classifier_dropped_windows_total\{reason="departed"\} (\S+)', metrics)
            waiting = re.search(r"^classifier_queue_windows (\S+)", metrics, re.MULTILINE)
        assert departed and waiting and float(waiting[1]) <= 1
        assert service.stop() == 0


def test_unfinished_body_does_not_hold_up_the_stop(artifact: Artifact) -> None:
    with service_process(artifact.directory) as service:
        service.wait_for_log("ready")
        with socket.create_connection(("127.0.0.1", service.port)) as slow:
            slow.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
            )
            with client_of(service) as client:
                client.get("/livez")
            started = time.monotonic()
            assert service.stop() == 0
            assert time.monotonic() - started < 10  # of 20 that accepted work would have


def test_flipped_byte_is_one_clear_line_and_exit_code_1(artifact_copy: Artifact) -> None:
    weights = artifact_copy.directory / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    with service_process(artifact_copy.directory) as service:
        assert service.wait() == 1
    [line] = [line for line in service.lines if line.get("level") == "critical"]
    assert line["message"] == (
        f"cannot serve: artifact {artifact_copy.directory}: model.safetensors was altered: "
        "its SHA-256 is not the one in manifest.json"
    )
    assert "exception" not in line


def test_missing_model_is_exit_code_1(tmp_path: Path) -> None:
    with service_process(tmp_path / "none") as service:
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
        with service_process(artifact.directory, SERVICE_PORT=str(port)) as service:
            assert service.wait() == 1
    messages = [line["message"] for line in service.lines]
    assert any("address already in use" in message for message in messages)
    assert any(f"port {port}; SERVICE_PORT" in message for message in messages)


def test_wrong_setting_is_exit_code_2(artifact: Artifact) -> None:
    with service_process(artifact.directory, SERVICE_MAX_TEXTS="many") as service:
        assert service.wait() == 2
    assert "SERVICE_MAX_TEXTS='many'" in service.lines[-1]["message"]


def test_unknown_argument_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    assert "usage: python -m service [serve]" in capsys.readouterr().err
