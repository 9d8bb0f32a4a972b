"""The page without a browser: what stands on it after each step, against a service that does as it is told."""

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from client import Client
from client.page import markup
from tests.support import ROOT
from tests.support.live_service import LiveService
from tests.support.scripted_server import LONE, Scripted, error, http, page, scripted

APP = ROOT / "client" / "page" / "app.py"
MODEL = {"name": "m*", "version": "0123456789ab", "labels": ["sport", "<b>"], "max_tokens": 256}
INFO = {"service": "1.2.3", "model": MODEL, "limits": {}}
METRICS = {
    "rows": 100,
    "accuracy": 0.97,
    "intervals": {"accuracy": [0.95, 0.99]},
    "baseline": {"model": "TF-IDF", "accuracy": 0.96},
    "calibration": {"ece": 0.02},
    "reliability": [{"confidence": 0.95, "right": 0.97, "rows": 100}],
}


Open = Callable[[str], AppTest]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing cached from another test, and nobody listening at the default address."""
    import streamlit as st

    monkeypatch.setenv("CLASSIFIER_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("CLASSIFIER_API_KEY", raising=False)
    monkeypatch.setattr("client.transport.retry.Retry.wait_s", lambda *_: None)
    st.cache_data.clear()
    yield


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens the page for the service at a URL."""

    def open_page(url: str) -> AppTest:
        monkeypatch.setenv("CLASSIFIER_URL", url)
        app = AppTest.from_file(str(APP), default_timeout=60).run()
        assert not app.exception
        return app

    return open_page


def classify(app: AppTest, text: str) -> AppTest:
    app.text_area(key="text").set_value(text)
    next(button for button in app.button if button.label == "Classify").click()
    app.run()
    assert not app.exception
    return app


def said(app: AppTest) -> str:
    return "\n".join(str(one.value) for one in (*app.error, *app.warning, *app.info, *app.success))


def label(app: AppTest) -> str:
    """The answer's; "" if there is none."""
    answers = [one.value for one in app.tabs[0].subheader]
    return answers[0] if answers else ""


def html(app: AppTest) -> str:
    return "\n".join(one.proto.body for one in app.get("html"))


def test_a_text_is_classified_and_explained(opened: Open, service: LiveService) -> None:
    app = classify(opened(service.url), "One two three. Four <b>five</b> six! Seven eight nine ten?")
    assert label(app)
    assert "gc-bars" in html(app) and "Four &lt;b&gt;five&lt;/b&gt; six!" in html(app)
    assert "left over" in html(app) and "Tokens:" in html(app)
    assert "Ready" in app.sidebar.success[0].value
    app.selectbox(key="example").set_value("A cup tie").run()
    assert str(app.text_area(key="text").value).startswith("A late header") and not label(app)


def test_the_answer_is_shown_before_its_explanation_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, opened: Open, service: LiveService
) -> None:
    order: list[str] = []
    bars, predict = markup.bars, Client.predict

    def shown(scores: Any) -> str:
        order.append("shown")
        return bars(scores)

    def asked(self: Client, text: str, **options: Any) -> Any:
        order.append("explain" if "explain" in options else "predict")
        return predict(self, text, **options)

    monkeypatch.setattr(markup, "bars", shown)
    monkeypatch.setattr(Client, "predict", asked)
    app = classify(opened(service.url), "One two three. Four five six!")
    assert order == ["predict", "shown", "explain"] and "gc-text" in html(app)
    app.run()
    assert order == ["predict", "shown", "explain", "shown"], "what is kept is not asked for again"


def test_an_empty_text_is_a_hint_and_a_short_one_a_note(opened: Open, service: LiveService) -> None:
    app = classify(opened(service.url), "  ")
    assert "choose an example" in said(app) and not label(app)
    app = classify(app, "Goal!")
    assert "only 1 word" in said(app) and label(app)


def test_unsure_is_said_in_words(opened: Open, service: LiveService) -> None:
    app = classify(opened(service.url), "unsure " * 20)
    assert label(app).endswith("· unsure") and "a person should check" in said(app)


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        (error(429, "overloaded", retry_after="1"), "The service is busy"),
        (error(503, "not_ready", retry_after="1"), "The service is not ready"),
        (error(401, "unauthorized"), "The service asks for an API key"),
        (error(413, "body_too_large"), "This is too much for the service"),
        (error(422, "invalid_text"), "This text cannot be classified"),
        (error(500, "internal"), "The service failed"),
        (error(504, "deadline_exceeded"), "The service took too long"),
        (page(502), "The service is not ready"),
        (page(200), "Another program answers at this address"),
        (http(200, '{"label": "sp'), "Another program answers at this address"),
        (b"", "The service does not answer"),
    ],
)
def test_trouble_is_told_and_never_a_stack_trace(opened: Open, answer: bytes, title: str) -> None:
    with scripted(answer) as server:
        app = classify(opened(server.url), "some text")
    assert title in said(app) and "Traceback" not in said(app) and not label(app)


def test_nobody_there(opened: Open) -> None:
    app = classify(opened("http://127.0.0.1:9"), "some text")
    assert "The service does not answer" in said(app) and "make serve" in said(app)
    assert "The service does not answer" in app.sidebar.error[0].value


def test_without_an_explanation_the_answer_stays(opened: Open) -> None:
    late = error(504, "deadline_exceeded", "no answer within 20000 ms")
    with scripted(http(200, INFO), http(200, LONE), late) as server:
        app = classify(opened(server.url), "some text")
    assert label(app) == "sport" and "There is no explanation for this text" in said(app)


def test_the_model(opened: Open) -> None:
    told = INFO | {"model": MODEL | {"metrics": METRICS}}
    with scripted(http(200, told)) as server:
        app = opened(server.url)
    assert [one.value for one in app.metric] == ["97.0 %", "96.0 %"]
    shown = "\n".join(one.value for one in app.markdown)
    assert r"**m\***" in shown and r"\<b\>" in shown and "<b>" not in shown
    assert "95.0 to 99.0" in html(app) and "Expected calibration error: 2.0 %" in html(app)


def keys(server: Scripted) -> list[bytes]:
    return [head for head in server.heads if b"authorization" in head.lower() or b"x-api-key" in head.lower()]


def test_the_configured_key_goes_to_no_other_address(monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    monkeypatch.setenv("CLASSIFIER_API_KEY", "configured-0123456789")
    with scripted(http(200, INFO)) as own, scripted(http(200, INFO)) as other:
        app = opened(own.url)
        assert keys(own)
        app.sidebar.text_input[0].set_value(other.url).run()
        assert other.requests and not keys(other)
        app.sidebar.text_input[1].set_value("entered-0123456789").run()
        assert keys(other) and b"configured" not in b"".join(other.heads)


def test_a_fixed_page_asks_one_service_only(monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    monkeypatch.setenv("CLASSIFIER_FIXED", "1")
    with scripted(http(200, INFO)) as server:
        app = opened(server.url)
    assert not app.sidebar.text_input and not app.sidebar.radio and app.sidebar.success


def test_an_endpoint_is_chosen_by_name(monkeypatch: pytest.MonkeyPatch, opened: Open, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    app = opened("sagemaker://news?region=eu-west-1")
    assert [one.value for one in app.sidebar.text_input] == ["news", "eu-west-1"]
    assert "does not tell whether it is ready" in app.sidebar.info[0].value
    app.sidebar.text_input[0].set_value("").run()
    assert not app.exception and app.sidebar.error


def test_the_page_listens_on_this_machine_only_unless_told_otherwise() -> None:
    settings = tomllib.loads((APP.parent / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    assert settings["server"]["address"] == "localhost"
