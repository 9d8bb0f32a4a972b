"""The examples run against the app on a socket, and against one that wants a key."""

import json
import os
import subprocess
import sys

import pytest

from tests.support import ROOT
from tests.support.live_service import live_service

KEY = "a-key-of-enough-characters"


def run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "no_proxy": "127.0.0.1", **variables}
    environment.pop("PYTHONPATH", None)  # nobody who reads the README has one
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.needs("curl")
@pytest.mark.parametrize("key", ["", KEY])
def test_curl(key: str) -> None:
    with live_service(api_keys=key) as service:
        ran = run(["sh", "examples/curl.sh"], URL=service.url, KEY=key)
    assert ran.returncode == 0, ran.stderr
    answers = [line for line in ran.stdout.splitlines() if line and not line.startswith("#")]
    assert json.loads(answers[0]) == {"status": "ready"}
    assert len(json.loads(answers[1])["scores"]) == 2
    assert [result.get("kind") for result in json.loads(answers[2])["results"]] == [None, "empty_text", None]
    assert [len(json.loads(line)["scores"]) for line in answers[3:5]] == [3, 1]
    assert sum(json.loads(answers[5]).values()) == 1 and len(json.loads(answers[6])[0]) == 2
    assert [row.count(",") for row in answers[7:9]] == [2, 2]
    assert json.loads(answers[9])["model"]["name"] == "fake" and len(answers) == 10


@pytest.mark.needs("curl")
def test_curl_says_what_went_wrong() -> None:
    with live_service(api_keys=KEY) as service:
        ran = run(["sh", "examples/curl.sh"], URL=service.url)
    assert ran.returncode != 0 and '"kind":"unauthorized"' in ran.stdout


def test_python() -> None:
    with live_service(api_keys=KEY) as service:
        ran = run([sys.executable, "-m", "examples.python", service.url], CLASSIFIER_API_KEY=KEY)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0] == "fake 0123456789ab: business, politics, sport"
    assert lines[3] == "'': the text is empty" and lines[7] == "the text is empty"
    assert lines[-1] == "BadText: empty_text" and len(lines) == 11


def test_python_says_what_went_wrong() -> None:
    ran = run([sys.executable, "-m", "examples.python", "nowhere"])
    assert ran.returncode == 1 and ran.stderr == (
        "error: 'nowhere' is not the URL of a service; for instance http://localhost:8080\n"
    )
