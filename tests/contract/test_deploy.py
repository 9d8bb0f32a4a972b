"""What deploy/ asks of the metrics is what the service has, and Prometheus can read it."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.processes import free_port
from service.telemetry import Metrics
from tests.support import ROOT
from tests.support.live_service import live_service

NAME = re.compile(r"\bclassifier_[a-z_]+\b")


def names() -> set[str]:
    metrics = Metrics()
    metrics.start_labels(("a",))
    found: set[str] = set()
    for family in metrics.registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        found |= {family.name + suffix for suffix in suffixes}
    return found


def rules() -> Iterator[dict[str, Any]]:
    document = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))
    for group in document["groups"]:
        yield from group["rules"]


def expressions() -> list[str]:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [*panels, *(rule["expr"] for rule in rules())]


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_that_is_asked_for_exists(expression: str) -> None:
    asked = set(NAME.findall(expression))
    assert asked and asked <= names()


def test_every_alert_says_what_to_do() -> None:
    for rule in rules():
        assert rule["annotations"]["summary"] and rule["annotations"]["action"], rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("command", [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]])
def test_promtool_accepts_the_rules(command: list[str]) -> None:
    done = subprocess.run(
        ["promtool", *command], cwd=ROOT / "deploy" / "prometheus", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def scrape_jobs(name: str) -> list[dict[str, Any]]:
    """Return the scrape jobs of a file: Prometheus' own configuration, or values for its chart."""
    document = yaml.safe_load((ROOT / "deploy" / name).read_text(encoding="utf-8"))
    jobs: list[dict[str, Any]] = document.get("scrape_configs") or yaml.safe_load(document["extraScrapeConfigs"])
    return jobs


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("name", ["prometheus/prometheus.yaml", "kubernetes/prometheus.yaml"])
def test_promtool_accepts_the_scrape_jobs_of_the_alerts(name: str, tmp_path: Path) -> None:
    [job] = scrape_jobs(name)
    assert job["job_name"] == "classifier" and any('job="classifier"' in rule["expr"] for rule in rules())
    job["authorization"]["credentials_file"] = str(tmp_path / "key")
    (tmp_path / "key").write_text("a-key-of-prometheus\n", encoding="utf-8")
    if job.pop("kubernetes_sd_configs", None):  # Debian's promtool is built without it
        job["static_configs"] = [{"targets": ["pod:8080"]}]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump({"scrape_configs": [job]}), encoding="utf-8")
    command = ["promtool", "check", "config", str(tmp_path / "prometheus.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_chart_mounts_the_key_where_the_job_reads_it() -> None:
    values = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "prometheus.yaml").read_text(encoding="utf-8"))
    [mount], [job] = values["server"]["extraSecretMounts"], scrape_jobs("kubernetes/prometheus.yaml")
    assert job["authorization"]["credentials_file"] == f"{mount['mountPath']}/key"
    assert {rule.get("target_label") for rule in job["relabel_configs"]} >= {"namespace", "pod"}, "for the adapter"


@pytest.mark.needs("prometheus")
@pytest.mark.parametrize(
    ("key", "outcome"), [("the-key-of-prometheus", "up"), ("another-key-than-that", "HTTP status 401 Unauthorized")]
)
def test_prometheus_reads_a_service_with_keys(tmp_path: Path, key: str, outcome: str) -> None:
    """The real Prometheus with the file for one host; only the address and the interval are the test's."""
    document = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))
    [job] = document["scrape_configs"]
    (tmp_path / job["authorization"]["credentials_file"]).write_text(f"{key}\n", encoding="utf-8")
    shutil.copy(ROOT / "deploy" / "prometheus" / "alerts.yaml", tmp_path)
    with live_service(api_keys="a-key-of-the-callers,the-key-of-prometheus") as service:
        job["static_configs"] = [{"targets": [service.url.removeprefix("http://")]}]
        document["global"] = {"scrape_interval": "1s"}
        (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        with running_prometheus(tmp_path) as outcomes:
            assert any(outcome in found for found in outcomes), (tmp_path / "log").read_text()


@contextmanager
def running_prometheus(directory: Path) -> Iterator[Iterator[str]]:
    """Run Prometheus on the `prometheus.yaml` of a directory; for a minute, yield "up" or the last scrape's error."""
    port = free_port()
    command = ["prometheus", "--config.file=prometheus.yaml", f"--storage.tsdb.path={directory / 'data'}"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], cwd=directory, stderr=log)

    def outcomes() -> Iterator[str]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(httpx.TransportError):
                answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/targets", trust_env=False)
                if answer.status_code == 200:
                    for target in answer.json()["data"]["activeTargets"]:
                        yield target["lastError"] or target["health"]

    try:
        yield outcomes()
    finally:
        process.kill()
        process.wait()


def test_every_alert_is_tested() -> None:
    tests = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts_test.yaml").read_text(encoding="utf-8"))["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in rules()}


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("expression", expressions())
def test_promtool_parses_every_expression(expression: str, tmp_path: Path) -> None:
    """A panel's expression as a recording rule; Grafana's variables stand for a duration."""
    rule = {"record": "x", "expr": re.sub(r"\$__\w+|\$\{__\w+\}", "5m", expression)}
    (tmp_path / "rule.yaml").write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": [rule]}]}), encoding="utf-8")
    command = ["promtool", "check", "rules", str(tmp_path / "rule.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
