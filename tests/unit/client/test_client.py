"""Settings, URLs, keys, waits, and the command line's smaller commands."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import (
    Client,
    ClientError,
    ConfigurationError,
    ConnectionFailed,
    Overloaded,
    Prediction,
    Retry,
    TimedOut,
    models,
)
from client.cli.main import main
from client.files.progress import Progress
from client.settings import DEFAULT_URL, Settings, load_settings
from client.transport.http import HttpTransport
from client.transport.retry import may_help, retry_after_s
from tests.support import ROOT
from tests.support.live_service import live_service
from tests.support.scripted_server import LONE, http, scripted


def test_settings_come_from_the_environment_and_hide_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings({}) == Settings(DEFAULT_URL, "")
    assert load_settings({"CLASSIFIER_URL": " ", "CLASSIFIER_API_KEY": ""}) == Settings()
    found = load_settings({"CLASSIFIER_URL": "http://x", "CLASSIFIER_API_KEY": "secret"})
    assert found == Settings("http://x", "secret") and "secret" not in repr(found)
    monkeypatch.setenv("CLASSIFIER_URL", "http://elsewhere:1")
    assert Client().url == "http://elsewhere:1" and Client("http://here/").url == "http://here"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost:8080", "'localhost:8080' is not the URL of a service; for instance http://localhost:8080"),
        ("ftp://x", "is not the URL of a service"),
        ("http://", "is not the URL of a service"),
        ("http://x:port", "is not a URL"),
        *((f"http://x/admin{cut}", "would cut off the service's own paths") for cut in ("?", "?a=b", "#", "/p?q#f")),
    ],
)
def test_what_is_no_url(url: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Client(url)
    assert says in str(raised.value)
    assert main(["info", "--url", url]) == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize("key", ["two words", "line\n", "schlüssel"])
def test_what_cannot_be_a_key(key: str) -> None:
    with pytest.raises(ConfigurationError, match="is a line break or quote part of it") as raised:
        Client("http://x", api_key=key)
    assert key not in str(raised.value)


def test_a_closed_client_says_that_it_is_closed() -> None:
    with scripted() as server, Client(server.url) as client:
        pass
    calls: list[Callable[[], object]] = [
        lambda: client.predict("a"), lambda: client.predict_many(["a"]), client.info, client.ready,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ClientError, match="this client is closed"):
            call()


def test_a_service_on_this_machine_is_never_asked_by_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with scripted(http(200, LONE)) as server, Client(server.url) as client:
        assert client.predict("a").label == "sport"
    assert not HttpTransport("http://127.0.0.1").trust_env and HttpTransport("http://service.example").trust_env


def test_a_prefix_in_the_url_is_kept() -> None:
    with scripted(http(200, LONE)) as server, Client(f"{server.url}/models/news/") as client:
        client.predict("a")
        assert server.requests == [b"POST /models/news/predict HTTP/1.1"]


def test_an_explanation_is_typed() -> None:
    sentences = [
        {"start": 0, "end": 3, "contribution": 0.5, "alone": -0.5},
        {"start": 4, "end": 7, "contribution": None, "alone": None},
    ]
    sent = {"label": "sport", "log_odds": 0.6, "sentences": sentences, "sum": 0.5, "remainder": 0.1}
    with scripted(http(200, LONE | {"explanation": sent})) as server, Client(server.url) as client:
        answer = client.predict("abc", explain=True)
    assert json.loads(server.bodies[0]) == {"text": "abc", "explain": True}
    assert answer.explanation and answer.explanation.sentences == [
        models.Sentence(start=0, end=3, contribution=0.5, alone=-0.5),
        models.Sentence(start=4, end=7, contribution=None, alone=None),
    ]


def test_fields_of_a_newer_service_are_ignored() -> None:
    assert Prediction.model_validate(LONE | {"new": 1}).label == "sport"


DRAW = st.floats(0, 1, exclude_max=True)


@given(st.integers(1, 20), DRAW, st.floats(0.001, 100))
def test_waits_are_within_their_bounds(tries: int, draw: float, left_s: float) -> None:
    retry = Retry(tries=10)
    wait = retry.wait_s(tries, ConnectionFailed("cut"), left_s, lambda: draw)
    if wait is None:
        assert tries >= 10 or min(8, 0.25 * 2 ** (tries - 1)) * draw >= left_s
    else:
        assert 0 <= wait < left_s and wait <= min(retry.most_wait_s, 0.25 * 2 ** (tries - 1))


@given(st.floats(0, 30, exclude_min=True), DRAW)
def test_retry_after_is_kept_and_stretched_a_little(asked: float, draw: float) -> None:
    error = Overloaded("full", status=429, retry_after_s=asked)
    wait = Retry().wait_s(1, error, 60, lambda: draw)
    assert wait is not None and asked <= wait <= asked * 1.25


def test_what_another_try_may_help() -> None:
    assert may_help(ConnectionFailed("cut")) and not may_help(ConnectionFailed("certificate", retry=False))
    assert may_help(TimedOut("connect", connected=False)) and not may_help(TimedOut("answer"))


def test_retry_after_headers() -> None:
    assert retry_after_s("7") == 7.0 and retry_after_s(" 7 ") == 7.0
    soon = retry_after_s(format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    assert soon is not None and 80 < soon <= 90
    assert retry_after_s("Sun, 06 Nov 1994 08:49:37 GMT") == 0.0
    assert [retry_after_s(value) for value in (None, "", "soon", "-5", "1.5")] == [None] * 5


def test_a_server_that_asks_for_no_wait_is_not_stormed() -> None:
    error = Overloaded("full", status=429, retry_after_s=0.0)
    assert [Retry().wait_s(tries, error, 60, lambda: 1.0) for tries in (1, 2, 3)] == [0.25, 0.5, 1.0]


def test_a_patient_caller_may_try_for_ever() -> None:
    patient = Retry(total_s=1e9, tries=1_000_000)
    assert patient.wait_s(99_999, ConnectionFailed("cut"), 1e9, lambda: 1.0) == patient.most_wait_s


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"total_s": 0}, {"first_wait_s": -1}])
def test_patience_that_makes_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Retry(**wrong)  # type: ignore[arg-type]


def test_predict_reads_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe\n"))
    with scripted(http(200, LONE)) as server:
        assert main(["predict", "-", "--url", server.url, "--top-k", "2", "--spans"]) == 0
        assert json.loads(server.bodies[0]) == {"text": "from a pipe\n", "top_k": 2, "spans": True}
    assert capsys.readouterr().out == "sport     0.9000\npolitics  0.1000\n"


def test_an_option_that_makes_no_sense_is_for_the_service_to_refuse() -> None:
    with scripted(http(422, {"error": "e", "kind": "invalid_request", "request_id": "r"})) as server:
        assert main(["predict", "a", "--url", server.url, "--top-k", "0"]) == 3
        assert json.loads(server.bodies[0]) == {"text": "a", "top_k": 0}


def test_json_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with live_service() as service:
        for command in (["predict", "a text"], ["info"], ["ready"], ["watch", "--once", "--interval", "0.001"]):
            assert main([*command, "--json", "--url", service.url]) == 0
            assert isinstance(json.loads(capsys.readouterr().out), dict)
            assert main([*command, "--url", service.url]) == 0
            assert capsys.readouterr().out
    assert main(["predict", "", "--json", "--url", "nowhere"]) == 2
    assert json.loads(capsys.readouterr().out)["type"] == "ConfigurationError"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_lines_where_there_is_no_terminal() -> None:
    now = 0.0
    out = io.StringIO()
    with Progress(out, lambda: now) as progress:
        progress(0, 500)
        for now in range(1, 26):
            progress(now * 10, 500)
        progress(500, 500)
    assert out.getvalue().splitlines() == [
        "rows=100; rows_per_s=10.0; share=0.200; left_s=40;",
        "rows=200; rows_per_s=10.0; share=0.400; left_s=30;",
        "rows=500; rows_per_s=20.0; share=1.000; left_s=0;",
    ]


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with Progress(out) as progress:
        progress(5, 2468)
        progress(1234, 2468)
    assert "1,234 rows" in out.getvalue() and "50%" in out.getvalue()


def test_importing_the_client_is_cheap() -> None:
    code = "import client.__main__, sys; print({'torch', 'boto3', 'pyarrow', 'service', 'fastapi'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_types_are_shipped() -> None:
    assert (Path(ROOT) / "client" / "py.typed").exists()
