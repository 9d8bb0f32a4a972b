"""Build the images, run them as SageMaker, EC2 and Kubernetes do, and print the results as Markdown.

    python scripts/image_test.py [--work build/image] [--torch-index URL] [--skip-train] [--skip-page]

Needs Docker, or root and buildah, mmdebstrap and runc (scripts/image_engines.py). Exit status 0 if everything held.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from image_engines import ROOT, Buildah, Container, Engine, EngineError, Start, choose, stop

START_S = 120.0
STOP_S = 30.0
UNPRIVILEGED = 10001
MEMORY_MB = 1024
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))
NOT_IN_SERVE = (
    "pip",
    "setuptools",
    "training",
    "client",
    "sklearn",
    "scipy",
    "matplotlib",
    "pyarrow",
    "streamlit",
    "boto3",
)
TEXT = "The striker scored twice in the cup final."
ASK_THE_PAGE = f"""
from streamlit.testing.v1 import AppTest
page = AppTest.from_file("client/page/app.py", default_timeout=60).run()
page.text_area(key="text").set_value({TEXT!r})
next(button for button in page.button if button.label == "Classify").click()
page.run()
assert not page.exception, page.exception
assert not page.sidebar.text_input, "visitors may enter an address"
print("answer:", page.tabs[0].subheader[0].value)
"""
"""A program for the page's image: enters a text, clicks, and prints the label."""


class CheckError(Exception):
    """A check failed; the message says which, and what was found."""


def check(holds: object, what: str) -> None:
    if not holds:
        raise CheckError(what)


def ask(port: int, path: str, body: object | None = None) -> tuple[int, bytes]:
    """Return status and body of an answer; status 0 if nothing listens on the port."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    try:
        with HTTP.open(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], object], container: Container, what: str, seconds: float = START_S) -> float:
    """Wait for a condition and return the seconds that it took.

    Raises:
        CheckError: The container ended, or the time is over; the message ends with the container's output.
    """
    started = time.monotonic()
    while not condition():
        ended = container.process.poll() is not None
        if ended or time.monotonic() - started > seconds:
            if not ended:
                container.signal("KILL")
            text, _ = container.process.communicate(timeout=STOP_S)
            raise CheckError(
                f"{what}: not within {seconds:.0f} s, exit code {container.process.poll()}: {text[-2000:]}"
            )
        time.sleep(0.02)
    return time.monotonic() - started


@contextmanager
def running(engine: Engine, start: Start) -> Iterator[Container]:
    container = engine.start(start)
    try:
        yield container
    finally:
        stop(container)


def finished(engine: Engine, start: Start, seconds: float = START_S) -> tuple[int, str]:
    """Run a container that ends by itself; return exit code and output."""
    container = engine.start(start)
    try:
        text, _ = container.process.communicate(timeout=seconds)
        return container.process.returncode, text
    except subprocess.TimeoutExpired as error:
        raise CheckError(f"{list(start.arguments)} still runs after {seconds:.0f} s") from error
    finally:
        stop(container)


def status_field(container: Container, name: str) -> str:
    """Return a field of the first process's /proc/PID/status; "" if the process has ended."""
    try:
        lines = Path(f"/proc/{container.pid()}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{name}:")), "")


def stops(container: Container) -> float:
    """Send SIGTERM and return the seconds until exit code 0."""
    started = time.monotonic()
    container.signal("TERM")
    code = container.process.wait(STOP_S)
    check(code == 0, f"exit code 0 expected after SIGTERM, got {code}")
    return time.monotonic() - started


def as_sagemaker(engine: Engine, image: str, model: Path) -> str:
    """Check `serve` as root, with the port of SAGEMAKER_BIND_TO_PORT and a read-only model at /opt/ml/model."""
    port = free_port()
    environment = {"SAGEMAKER_BIND_TO_PORT": str(port), "SERVICE_HOST": "127.0.0.1"}
    start = Start(image, ["serve"], environment=environment, mounts={model: "/opt/ml/model:ro"})
    with running(engine, start) as container:
        bound = until(lambda: ask(port, "/ping")[0] in (200, 503), container, "/ping answers")
        ready = until(lambda: ask(port, "/ping")[0] == 200, container, "/ping answers 200") + bound
        status, body = ask(port, "/invocations", {"text": TEXT})
        check(status == 200 and isinstance(json.loads(body), dict), f"/invocations: {status} {body!r}")
        code, text = finished(engine, Start(image, ["health"], environment=environment))
        check(code == 0, f"health: exit code {code}: {text}")
        stopped = stops(container)
    code, _ = finished(engine, Start(image, ["health"], environment=environment))
    check(code == 1, f"health without a service: exit code {code}")
    return f"port bound after {bound:.1f} s, first answer after {ready:.1f} s, SIGTERM to exit 0 in {stopped:.1f} s"


def restricted(engine: Engine, image: str, *, tmp: bool) -> str:
    """Check an unprivileged user with a read-only root, no capabilities, bounded memory and no argument."""
    port = free_port()
    environment = {"SERVICE_PORT": str(port), "SERVICE_HOST": "127.0.0.1"}
    start = Start(image, environment=environment, user=UNPRIVILEGED, read_only=True, tmp=tmp, memory_mb=MEMORY_MB)
    with running(engine, start) as container:
        ready = until(lambda: ask(port, "/readyz")[0] == 200, container, "/readyz answers 200")
        status, body = ask(port, "/predict", {"text": TEXT})
        check(status == 200 and json.loads(body)["label"] == "sport", f"/predict: {status} {body!r}")
        texts = [f"{TEXT} {i} " + "Shares fell after a profit warning. " * 40 for i in range(16)]
        status, body = ask(port, "/batch", {"texts": texts, "timeout_ms": 55_000})
        check(status == 200 and len(json.loads(body)["results"]) == len(texts), f"/batch: {status} {body[:500]!r}")
        uid, peak = status_field(container, "Uid").split()[0], int(status_field(container, "VmHWM").split()[0]) / 1024
        check(uid == str(UNPRIVILEGED), f"runs as user {uid}")
        stopped = stops(container)
    return f"ready after {ready:.1f} s, {peak:.0f} MB resident of {MEMORY_MB} at most, exit 0 in {stopped:.1f} s"


def signalled_at_once(engine: Engine, image: str) -> str:
    """Check SIGTERM while Python still imports the service."""
    with running(engine, Start(image, ["serve"], environment={"SERVICE_PORT": "0"})) as container:
        caught = 1 << (15 - 1)
        until(lambda: int(status_field(container, "SigCgt") or "0", 16) & caught, container, "SIGTERM has a handler")
        return f"exit 0 in {stops(container):.1f} s"


def refuses(engine: Engine, image: str, work: Path) -> str:
    """Check the errors for a directory without artifact, `train` of the serving image, and an unknown word."""
    wrong = fresh(work / "wrong")
    (wrong / "artifact").mkdir()
    code, text = finished(engine, Start(image, ["serve"], mounts={wrong: "/opt/ml/model:ro"}))
    check(code == 1 and "no manifest.json" in text, f"model one directory too deep: exit code {code}: {text}")
    outputs = fresh(work / "outputs")
    code, text = finished(engine, Start(image, ["train"], mounts={outputs: "/opt/ml/output"}))
    failure = outputs / "failure"
    check(
        code == 2 and failure.exists() and "--target train" in failure.read_text(encoding="utf-8"),
        f"train: {code} {text}",
    )
    code, text = finished(engine, Start(image, ["sreve"]))
    check(code == 2 and "usage" in text, f"unknown word: exit code {code}: {text}")
    return "exit codes 1, 2, 2, each with its reason"


def contents(engine: Engine, image: str) -> str:
    """Check that the serving image has no package for training, page or cloud, no installer and no compiler."""
    code = (
        "import importlib.util as u, json, pathlib, shutil;"
        f"print(json.dumps([[n for n in {NOT_IN_SERVE!r} if u.find_spec(n)],"
        "[t for t in ('pip', 'pip3', 'gcc', 'cc', 'make', 'git', 'curl') if shutil.which(t)],"
        "len(json.loads(pathlib.Path('/usr/share/sbom/gpt2-classifier.cdx.json').read_text())['components'])]))"
    )
    exit_code, text = finished(engine, Start(image, entrypoint=["/opt/venv/bin/python", "-c", code]))
    check(exit_code == 0, f"contents: {text}")
    packages, tools, components = json.loads(text.splitlines()[-1])
    check(not packages and not tools, f"in the serving image, but not wanted there: {packages + tools}")
    return f"none of {', '.join(NOT_IN_SERVE)}; no compiler; SBOM of {components} packages"


def training(engine: Engine, train: str, serve: str, work: Path) -> str:
    """Check `train` over a tree like SageMaker's /opt/ml, then serve its artifact with both images."""
    tree = fresh(work / "ml")
    shutil.copytree(ROOT / "scripts" / "image_test_ml", tree, dirs_exist_ok=True)
    for name in ("model", "output/data", "checkpoints", "input/data/base_model"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    mounts = {tree: "/opt/ml"}
    maker = (tree / "make_base.py").read_text(encoding="utf-8")
    code, text = finished(engine, Start(train, entrypoint=["/opt/venv/bin/python", "-c", maker], mounts=mounts))
    check(code == 0, f"tiny base model: {text}")
    started = time.monotonic()
    code, text = finished(
        engine, Start(train, ["train"], mounts=mounts, environment={"TRAINING_JOB_NAME": "image-test"}), 300
    )
    seconds = time.monotonic() - started
    failure = tree / "output" / "failure"
    reason = failure.read_text(encoding="utf-8") if failure.exists() else ""
    check(
        code == 0 and (tree / "model" / "manifest.json").exists(), f"train: exit code {code}: {reason} {text[-3000:]}"
    )
    served = [as_sagemaker(engine, image, tree / "model") for image in (train, serve)]
    return (
        f"`train` in {seconds:.1f} s, exit 0, artifact written; served by `train`: {served[0]}; by `serve`: {served[1]}"
    )


def page(engine: Engine, image: str, serve: str) -> str:
    """Check the page beside the service, as docker-compose.yml starts both: one text, and no way to another service."""
    port, service_port = free_port(), free_port()
    environment = {"CLASSIFIER_URL": f"http://127.0.0.1:{service_port}"}
    flags = [f"--server.port={port}", "--server.address=127.0.0.1"]
    locked = Start(image, flags, environment=environment, user=UNPRIVILEGED, read_only=True, memory_mb=MEMORY_MB)
    service = Start(serve, environment={"SERVICE_PORT": str(service_port), "SERVICE_HOST": "127.0.0.1"})
    with (
        running(engine, service) as classifier,
        running(engine, locked) as container,
    ):
        up = until(lambda: ask(port, "/_stcore/health")[0] == 200, container, "the page's health answers 200")
        status, body = ask(port, "/")
        check(status == 200 and b"<title>" in body, f"/: {status} {body[:500]!r}")
        until(lambda: ask(service_port, "/readyz")[0] == 200, classifier, "/readyz answers 200")
        asks = replace(locked, arguments=(), entrypoint=["/opt/venv/bin/python", "-c", ASK_THE_PAGE])
        code, text = finished(engine, asks)
        check(code == 0 and "answer: sport" in text, f"a question: exit code {code}: {text[-3000:]}")
        peak = int(status_field(container, "VmHWM").split()[0]) / 1024
        stopped = stops(container)
    return f"answers after {up:.1f} s and with the service's label, {peak:.0f} MB resident, exit 0 in {stopped:.1f} s"


def fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def layer_table(engine: Engine, image: str) -> str:
    layers = engine.layers(image)
    total = sum(size for _, size in layers)
    rows = [f"| {size / 1e6:.1f} | `{what[:100].replace('|', ' ').strip()}` |" for what, size in layers]
    return "\n".join([f"| MB of {total / 1e6:.0f} | layer |", "| ---: | --- |", *rows])


def run(arguments: argparse.Namespace) -> None:
    """Build the images, run the checks and print the results. The first failing check ends the run."""
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    engine = choose(work)
    print(f"# Images, built and run by {engine.name} on {os.cpu_count()} cores\n", flush=True)
    serve = engine.build("serve", arguments.torch_index)
    default = ROOT / "models" / "default"
    checks: list[tuple[str, Callable[[], str]]] = [
        ("what is in `serve`", lambda: contents(engine, serve)),
        ("as SageMaker: root, `serve`, model mounted", lambda: as_sagemaker(engine, serve, default)),
        ("uid 10001, read-only root, no capabilities", lambda: restricted(engine, serve, tmp=True)),
        ("the same without a writable /tmp", lambda: restricted(engine, serve, tmp=False)),
        ("SIGTERM during imports", lambda: signalled_at_once(engine, serve)),
        ("errors of the caller", lambda: refuses(engine, serve, work)),
    ]
    tables = [("serve", layer_table(engine, serve))]
    if not arguments.skip_page:
        shown = engine.build("page", "")
        tables.append(("page", layer_table(engine, shown)))
        checks.append(("`page` beside `serve`: uid 10001, read-only root", lambda: page(engine, shown, serve)))
    if not arguments.skip_train:
        train = engine.build("train", arguments.torch_index)
        tables.append(("train", layer_table(engine, train)))
        checks.append(("`serve` of `train`", lambda: as_sagemaker(engine, train, default)))
        checks.append(("`train` over /opt/ml, then served", lambda: training(engine, train, serve, work)))
    print("\n| check | result |\n| --- | --- |", flush=True)
    try:
        for name, hold in checks:
            print(f"| {name} | {hold()} |", flush=True)
    finally:
        if isinstance(engine, Buildah):
            engine.clean()
    for target, table in tables:
        print(f"\n## {target}\n\n{table}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the images and run them as they will be run.")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "image", help="where images and logs are kept")
    parser.add_argument("--torch-index", default="", help="package index for torch; empty: pip's own")
    parser.add_argument("--skip-train", action="store_true", help="do not build the training image")
    parser.add_argument("--skip-page", action="store_true", help="do not build the page's image")
    try:
        run(parser.parse_args())
    except (CheckError, EngineError, subprocess.SubprocessError) as error:
        print(f"image test failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
