"""Figures out of two readings of /metrics, and `watch`."""

import json
import math
from typing import Any

import pytest

from client import Client, NotOurService
from client.cli.live import activity, compare, parse, quantile
from client.cli.main import main
from service.telemetry import Metrics
from tests.support.live_service import live_service
from tests.support.scripted_server import http, page, scripted

BEFORE = """
# HELP classifier_texts_total Texts classified.
# TYPE classifier_texts_total counter
classifier_texts_total 100.0
classifier_tokens_total 1000.0
classifier_requests_total{code="200",endpoint="/predict"} 10.0
classifier_requests_total{code="200",endpoint="/metrics"} 500.0
classifier_request_seconds_bucket{endpoint="/predict",le="0.1"} 10.0
classifier_request_seconds_bucket{endpoint="/predict",le="0.2"} 10.0
classifier_request_seconds_bucket{endpoint="/predict",le="+Inf"} 10.0
classifier_text_failures_total{kind="empty_text"} 1.0
classifier_queue_windows 3.0
"""
AFTER = """
classifier_texts_total 160.0
classifier_tokens_total 4000.0
classifier_requests_total{code="200",endpoint="/predict"} 28.0
classifier_requests_total{code="429",endpoint="/predict"} 2.0
classifier_requests_total{code="200",endpoint="/metrics"} 900.0
classifier_request_seconds_bucket{endpoint="/predict",le="0.1"} 20.0
classifier_request_seconds_bucket{endpoint="/predict",le="0.2"} 29.0
classifier_request_seconds_bucket{endpoint="/predict",le="+Inf"} 30.0
classifier_text_failures_total{kind="empty_text"} 4.0
classifier_text_failures_total{kind="we\\"ird\\\\kind"} 1.0
classifier_queue_windows 7.0
classifier_queue_tokens 70.0
classifier_ready 1.0
classifier_model_info{name="m",version="v"} 1.0
classifier_batch_windows_sum 60.0
classifier_batch_windows_count 15.0
"""


def test_rates_percentiles_and_errors() -> None:
    found = compare(parse(BEFORE, 10.0), parse(AFTER, 12.0))
    assert (found.seconds, found.ready, found.model) == (2.0, True, "m v")
    assert (found.texts_per_s, found.tokens_per_s, found.requests_per_s) == (30.0, 1500.0, 10.0)
    assert (found.queue_items, found.queue_tokens, found.batch_items) == (7.0, 70.0, 4.0)
    assert found.errors == {"429": 2.0, "empty_text": 3.0, 'we"ird\\kind': 1.0}
    assert found.latency_ms == {"/predict": {"p50": 100.0, "p95": 200.0, "p99": 200.0}}
    assert found.queue_ms == {"p50": None, "p95": None, "p99": None}


def test_after_a_restart_counters_are_the_growth() -> None:
    found = compare(parse(AFTER, 0.0), parse(BEFORE, 10.0))
    assert found.texts_per_s == 10.0 and not found.ready


@pytest.mark.parametrize(
    ("buckets", "q", "wanted"),
    [
        ({0.1: 10, 0.2: 20, math.inf: 20}, 0.5, 100.0),
        ({0.1: 10, 0.2: 20, math.inf: 20}, 0.75, 150.0),
        ({0.1: 0, 0.2: 4, math.inf: 4}, 0.25, 125.0),
        ({0.1: 1, math.inf: 4}, 0.99, 100.0),
        ({0.1: 0, math.inf: 0}, 0.5, None),
        ({}, 0.5, None),
    ],
)
def test_quantiles_as_prometheus_has_them(buckets: dict[float, float], q: float, wanted: float | None) -> None:
    found = quantile(buckets, q)
    assert found == wanted if wanted is None else found == pytest.approx(wanted)


def test_every_metric_that_is_read_exists() -> None:
    metrics = Metrics()
    metrics.start_labels(("a",))
    names = {family.name for family in metrics.registry.collect()}
    assert names >= {
        "classifier_texts",
        "classifier_tokens",
        "classifier_requests",
        "classifier_request_seconds",
        "classifier_text_failures",
        "classifier_queue_windows",
        "classifier_queue_tokens",
        "classifier_queue_seconds",
        "classifier_batch_windows",
        "classifier_dropped_windows",
        "classifier_ready",
        "classifier_model_info",
    }


def test_of_the_app() -> None:
    with live_service() as service, Client(service.url) as client:

        def work(_: float) -> None:
            client.predict("a text")
            list(client.predict_many(["a", "", "b c d"]))

        found = next(activity(client, 1.0, sleep=work))
        assert found.ready and found.model == "fake 0123456789ab"
        assert found.texts_per_s * found.seconds == pytest.approx(3)
        assert found.tokens_per_s * found.seconds == pytest.approx(6)
        assert found.requests_per_s * found.seconds == pytest.approx(2)
        assert set(found.latency_ms) == {"/predict", "/batch"} and found.errors == {"empty_text": 1.0}
        assert all(value is not None for value in found.latency_ms["/predict"].values())
        shown = dict(found.lines())
        assert shown["errors"] == "empty_text: 1" and shown["model"] == "fake 0123456789ab"


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(http(200, BEFORE, kind="text/plain"), http(200, AFTER, kind="text/plain")) as server:
        assert main(["watch", "--once", "--interval", "0.001", "--json", "--url", server.url]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["errors"]["429"] == 2 and found["latency_ms"]["/predict"]["p95"] == 200
    with scripted(http(200, BEFORE, kind="text/plain"), http(200, AFTER, kind="text/plain")) as server:
        assert main(["watch", "--once", "--interval", "0.001", "--url", server.url]) == 0
    assert "/predict ms      p50 100.0  p95 200.0  p99 200.0" in capsys.readouterr().out


def test_another_programs_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotOurService, match="no metrics of this service"):
        parse("process_cpu_seconds_total 5\nbroken line\nx NaNa\n", 0.0)
    with scripted(page(200, "<html>hello</html>")) as server:
        assert main(["watch", "--once", "--interval", "0.001", "--url", server.url]) == 3
    assert "no metrics of this service; check the URL" in capsys.readouterr().err
