"""Start the real service with models/default, send requests, stop it. Exit status 0 if all of that succeeds.

Run it with an interpreter that has the service's packages: .venv/bin/python scripts/smoke.py
It sends one request to each family of routes, and measures neither speed nor load.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
# Without this, a proxy named in the environment would be asked for localhost.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class SmokeError(Exception):
    """The smoke test failed; the message is one line."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, body: object | None = None) -> object:
    """Return the JSON answer, None for an empty body.

    Raises:
        SmokeError: The status is not 2xx; the message has the service's answer.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with HTTP.open(request, timeout=30) as response:
            answer = response.read()
    except urllib.error.HTTPError as error:
        raise SmokeError(f"{url}: {error.code} {error.read().decode(errors='replace')}") from error
    return json.loads(answer) if answer else None


def wait_until_ready(process: subprocess.Popen[bytes], base: str) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        if process.poll() is not None:
            raise SmokeError(f"the service ended by itself with exit code {process.returncode}")
        try:
            ask(f"{base}/readyz")
            return
        except (SmokeError, OSError) as error:  # 503 while it loads; refused before the port is bound
            if time.monotonic() > deadline:
                raise SmokeError(f"not ready within {START_LIMIT_S:.0f} s: {error}") from error
        time.sleep(0.1)


def expect(holds: bool, what: str, answer: object) -> None:
    if not holds:
        raise SmokeError(f"{what}; the answer was {answer}")


def talk(process: subprocess.Popen[bytes], base: str) -> None:
    """Run every step in order and print a line for each."""
    text = (ROOT / "examples" / "article.txt").read_text(encoding="utf-8")
    started = time.monotonic()

    def done(step: str) -> None:
        nonlocal started
        now = time.monotonic()
        print(f"{step:<24} {now - started:7.3f} s", flush=True)
        started = now

    wait_until_ready(process, base)
    done("ready")
    answer = ask(f"{base}/predict", {"text": text})
    expect(isinstance(answer, dict) and answer.get("label") == "politics", "label should be politics", answer)
    done("POST /predict")
    answer = ask(f"{base}/batch", {"texts": [text, "The match ended in a draw."]})
    results = answer.get("results") if isinstance(answer, dict) else None
    expect(isinstance(results, list) and len(results) == 2, "two results expected", answer)
    expect(all("label" in result for result in results or []), "each result should have a label", answer)
    done("POST /batch")
    answer = ask(f"{base}/invocations", {"text": text})
    expect(isinstance(answer, dict) and max(answer, key=answer.__getitem__) == "politics", "politics expected", answer)
    done("POST /invocations")
    ask(f"{base}/ping")
    done("GET /ping")
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise SmokeError(f"still running {STOP_LIMIT_S:.0f} s after SIGTERM") from error
    expect(code == 0, "exit code 0 expected after SIGTERM", code)
    done("SIGTERM, exit code 0")


def main() -> int:
    port = free_port()
    environment = {**os.environ, "SERVICE_PORT": str(port), "SERVICE_MODEL_DIR": str(ROOT / "models" / "default")}
    process = subprocess.Popen([sys.executable, "-m", "service"], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)
    try:
        talk(process, f"http://127.0.0.1:{port}")
    except (SmokeError, OSError) as error:
        print(f"smoke test failed: {error}", file=sys.stderr)
        return 1
    finally:
        process.kill()  # no effect on a process that has ended
        process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
