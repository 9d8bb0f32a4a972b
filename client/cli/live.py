"""What a service does right now, from two readings of its /metrics: rates, percentiles, errors by kind.

Percentiles come from the histograms' growth between the readings, linear within a bucket, as Prometheus'
histogram_quantile. After a restart counters begin at zero again: what they show then is the growth.

Formats: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from client.errors import NotOurService

_LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+\d+)?")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")

QUIET = frozenset({"/livez", "/readyz", "/ping", "/metrics", "/info", "other"})
"""Endpoints whose requests are not work."""

QUANTILES = (0.5, 0.95, 0.99)

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Reading:
    """All samples at one time."""

    at_s: float
    samples: Mapping[str, Mapping[Labels, float]]
    """By name and labels."""

    def total(self, name: str) -> float:
        return sum(self.samples.get(name, {}).values())


def parse(text: str, at_s: float, where: str = "/metrics") -> Reading:
    """Prometheus' text format.

    Raises:
        NotOurService: it has none of the service's metrics.
    """
    samples: dict[str, dict[Labels, float]] = defaultdict(dict)
    for line in text.splitlines():
        match = None if line.startswith("#") else _LINE.fullmatch(line.strip())
        if match:
            try:
                value = float(match[3])
            except ValueError:
                continue
            labels = [(name, _ESCAPE.sub(_unescaped, text)) for name, text in _LABEL.findall(match[2] or "")]
            samples[match[1]][tuple(sorted(labels))] = value
    if "classifier_texts_total" not in samples:
        raise NotOurService(f"{where}: no metrics of this service; check the URL")
    return Reading(at_s, samples)


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


@dataclass(frozen=True)
class Figures:
    """Between two readings."""

    seconds: float
    ready: bool
    model: str
    requests_per_s: float
    """Of work: health checks and the like are left out."""
    texts_per_s: float
    tokens_per_s: float
    queue_items: float
    """Windows that wait now."""
    queue_tokens: float
    latency_ms: Mapping[str, Mapping[str, float | None]]
    """Endpoint -> "p50" | "p95" | "p99"; None: no request."""
    queue_ms: Mapping[str, float | None]
    batch_items: float | None
    """Windows in a batch, on average; None: no batch."""
    errors: Mapping[str, float]
    """Requests by status of 400 and more, and texts by kind of error: how many."""
    dropped: float
    """Windows that nobody waited for any more."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def figures(before: Reading, after: Reading) -> Figures:
    """What happened between two readings of the same service."""
    seconds = max(after.at_s - before.at_s, 1e-9)
    all_requests = _grown(before, after, "classifier_requests_total")
    requests = {labels: count for labels, count in all_requests.items() if _endpoint(labels) not in QUIET}
    errors: dict[str, float] = defaultdict(float)
    for labels, count in requests.items():
        code = dict(labels).get("code", "")
        if code >= "400" and count:
            errors[code] += count
    for labels, count in _grown(before, after, "classifier_text_failures_total").items():
        if count:
            errors[dict(labels).get("kind", "?")] += count
    models = [dict(labels) for labels in after.samples.get("classifier_model_info", {})]
    batches = sum(_grown(before, after, "classifier_batch_windows_count").values())
    items = sum(_grown(before, after, "classifier_batch_windows_sum").values())
    endpoints = sorted({_endpoint(labels) for labels, n in requests.items() if n})
    return Figures(
        seconds=seconds,
        ready=after.total("classifier_ready") == 1,
        model=f"{models[0].get('name')} {models[0].get('version')}" if models else "",
        requests_per_s=sum(requests.values()) / seconds,
        texts_per_s=sum(_grown(before, after, "classifier_texts_total").values()) / seconds,
        tokens_per_s=sum(_grown(before, after, "classifier_tokens_total").values()) / seconds,
        queue_items=after.total("classifier_queue_windows"),
        queue_tokens=after.total("classifier_queue_tokens"),
        latency_ms={name: _percentiles(before, after, "classifier_request_seconds", name) for name in endpoints},
        queue_ms=_percentiles(before, after, "classifier_queue_seconds"),
        batch_items=items / batches if batches else None,
        errors=dict(sorted(errors.items())),
        dropped=sum(_grown(before, after, "classifier_dropped_windows_total").values()),
    )


def _endpoint(labels: Labels) -> str:
    return dict(labels).get("endpoint", "")


def _grown(before: Reading, after: Reading, name: str) -> dict[Labels, float]:
    """A counter's growth by its labels."""
    earlier = before.samples.get(name, {})
    grown = {}
    for labels, value in after.samples.get(name, {}).items():
        was = earlier.get(labels, 0.0)
        grown[labels] = value - was if value >= was else value
    return grown


def _percentiles(before: Reading, after: Reading, name: str, endpoint: str = "") -> dict[str, float | None]:
    """Milliseconds."""
    buckets: dict[float, float] = defaultdict(float)
    for labels, count in _grown(before, after, f"{name}_bucket").items():
        if not endpoint or _endpoint(labels) == endpoint:
            buckets[float(dict(labels)["le"].replace("+Inf", "inf"))] += count
    return {f"p{q * 100:.0f}": quantile(buckets, q) for q in QUANTILES}


def quantile(buckets: Mapping[float, float], q: float) -> float | None:
    """In milliseconds, from cumulative counts by upper bound in seconds; None: nothing was counted.

    In the last, open bucket it is that bucket's lower bound: more is not known.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    rank = q * buckets[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if math.isinf(bound):
                return lower * 1000
            inside = buckets[bound] - below
            return 1000 * (lower + (bound - lower) * ((rank - below) / inside if inside else 1.0))
        lower, below = bound, buckets[bound]
    return lower * 1000
