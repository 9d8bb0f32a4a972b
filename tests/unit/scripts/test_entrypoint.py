"""The image's entry point as a process: its verbs, its signals, what it refuses."""

import http.server
import importlib.util
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.processes import free_port
from tests.support import ROOT

PATH = ROOT / "scripts" / "entrypoint.py"


def load() -> ModuleType:
    specification = importlib.util.spec_from_file_location("entrypoint", PATH)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


entrypoint = load()


@pytest.fixture(scope="module")
def status_server() -> Iterator[tuple[int, list[int]]]:
    """A port that answers /readyz with the last status of a list."""
    statuses: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses[-1] if self.path == "/readyz" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, statuses
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
@pytest.mark.parametrize("variable", ["SAGEMAKER_BIND_TO_PORT", "SERVICE_PORT"])
def test_health_is_the_services_readiness(
    status_server: tuple[int, list[int]], status: int, code: int, variable: str
) -> None:
    port, statuses = status_server
    statuses.append(status)
    assert entrypoint.health({variable: str(port)}) == code


def test_sagemakers_port_wins_as_it_does_in_the_service(status_server: tuple[int, list[int]]) -> None:
    port, statuses = status_server
    statuses.append(200)
    assert entrypoint.health({"SAGEMAKER_BIND_TO_PORT": str(port), "SERVICE_PORT": "1"}) == 0


def test_health_without_a_service_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    assert entrypoint.health({"SERVICE_PORT": str(port)}) == 1
    assert f"no answer on port {port}" in capsys.readouterr().err


def test_unknown_word_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert entrypoint.main(["sreve"]) == 2
    assert "serve | train | health" in capsys.readouterr().err


def test_directory_that_holds_no_artifact_is_refused(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    assert "holds artifact but no manifest.json" in entrypoint.wrong_model(tmp_path, {})


def test_what_may_be_mounted_as_a_model(tmp_path: Path) -> None:
    assert entrypoint.wrong_model(tmp_path / "none", {}) == ""
    (tmp_path / "lost+found").mkdir()
    assert entrypoint.wrong_model(tmp_path, {}) == ""  # an empty volume: the image's own model
    (tmp_path / "other").touch()
    assert entrypoint.wrong_model(tmp_path, {"SERVICE_MODEL_DIR": "/elsewhere"}) == ""
    (tmp_path / "manifest.json").touch()
    assert entrypoint.wrong_model(tmp_path, {}) == ""


def test_failure_is_cut_to_what_sagemaker_shows(tmp_path: Path) -> None:
    entrypoint.write_failure(tmp_path, "x" * 2000)
    assert (tmp_path / "failure").read_text(encoding="utf-8") == "x" * 1024
    entrypoint.write_failure(tmp_path / "none", "x")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("code", [0, entrypoint.STOPPED_UNTRAINED])
def test_sigterm_before_the_imports_ends_the_process(code: int) -> None:
    """The handler is set before anything heavy is imported, so a container that is stopped at once does not hang."""
    program = (
        f"import sys; sys.path.insert(0, {str(PATH.parent)!r}); import entrypoint;"
        f"entrypoint.exit_on_sigterm({code}); print('set', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == code


def test_image_without_training_says_which_one_has_it(tmp_path: Path) -> None:
    """In the serving image the entry point stands beside service/ and without training/."""
    alone = tmp_path / "entrypoint.py"
    alone.write_bytes(PATH.read_bytes())
    ran = subprocess.run(
        [sys.executable, "-P", "-I", str(alone), "train"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2 and "--target train" in ran.stderr


def test_train_runs_the_container_module(tmp_path: Path) -> None:
    """With an empty /opt/ml, the module reports the missing channel and exits with its own code."""
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(PATH.parent)!r}]; import entrypoint;"
        f"entrypoint.APP = {str(ROOT)!r}; sys.exit(entrypoint.main(['train']))"
    )
    environment = {"SAGEMAKER_BASE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode not in (0, 143)
    assert "channel" in ran.stderr + ran.stdout
