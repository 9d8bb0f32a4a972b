"""What deploy/ asks of the metrics is what the service has."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from service.telemetry import Metrics
from tests.conftest import ROOT

NAME = re.compile(r"\b[a-z_]+(?:_total|_seconds|_bucket|_items|_tokens|_info)\b|\bready\b")


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
