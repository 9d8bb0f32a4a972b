"""What deploy/ asks of the metrics is what the service has, and Prometheus can read it."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.telemetry import Metrics
from tests.support import ROOT

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
