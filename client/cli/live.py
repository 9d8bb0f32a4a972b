"""What a service does right now, from two readings of its /metrics: rates, percentiles, errors by kind.

Percentiles come from the growth of the histograms between the readings, linear within a bucket, as Prometheus'
histogram_quantile computes them. A counter that fell was reset by a restart: its new value is the growth.

Formats: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from client.client import Client
from client.errors import NotOurService

_LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+\d+)?")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')

NO_WORK = frozenset({"/livez", "/readyz", "/ping", "/metrics", "/info", "other"})  # endpoints that classify nothing
QUANTILES = (0.5, 0.95, 0.99)

Labels = tuple[tuple[str, str], ...]
Percentiles = Mapping[str, float | None]


@dataclass(frozen=True)
class Reading:
    """All samples at one time, by metric and labels."""

    at_s: float
    samples: Mapping[str, Mapping[Labels, float]]

    def total(self, name: str) -> float:
        return sum(self.samples.get(name, {}).values())


def parse(text: str, at_s: float, where: str = "/metrics") -> Reading:
    """Read Prometheus' text format. Raises NotOurService: it has none of the service's metrics."""
    samples: dict[str, dict[Labels, float]] = defaultdict(dict)
    for line in text.splitlines():
        match = None if line.startswith("#") else _LINE.fullmatch(line.strip())
        if match:
            labels = [(name, re.sub(r"\\(.)", _unescaped, value)) for name, value in _LABEL.findall(match[2] or "")]
            try:
                samples[match[1]][tuple(sorted(labels))] = float(match[3])
            except ValueError:
                continue
    if "classifier_texts_total" not in samples:
        raise NotOurService(f"{where}: no metrics of this service; check the URL")
    return Reading(at_s, samples)


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


@dataclass(frozen=True)
class Activity:
    """What a service did between two readings."""

    seconds: float
    ready: bool
    model: str
    requests_per_s: float  # that classify; health checks and the like are left out
    texts_per_s: float
    tokens_per_s: float
    queue_items: float  # windows that wait now
    queue_tokens: float
    latency_ms: Mapping[str, Percentiles]  # endpoint -> "p50", "p95", "p99"; None: no request
    queue_ms: Percentiles
    batch_items: float | None  # windows in a batch, on average; None: no batch
    errors: Mapping[str, float]  # requests by status of 400 and more, and texts by kind of error
    dropped: float  # windows that nobody waited for any more

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[tuple[str, str]]:
        """Return names and values for a person."""
        shown_errors = ", ".join(f"{kind}: {count:.0f}" for kind, count in self.errors.items())
        rows = [
            ("model", f"{self.model or 'none'}{'' if self.ready else ' (not ready)'}"),
            ("requests/s", f"{self.requests_per_s:.1f}"),
            ("texts/s", f"{self.texts_per_s:.1f}"),
            ("tokens/s", f"{self.tokens_per_s:.0f}"),
            ("queue", f"{self.queue_items:.0f} windows, {self.queue_tokens:.0f} tokens"),
            ("waiting ms", _shown(self.queue_ms)),
            ("batch", "none" if self.batch_items is None else f"{self.batch_items:.1f} windows"),
            *((f"{endpoint} ms", _shown(percentiles)) for endpoint, percentiles in self.latency_ms.items()),
            ("errors", shown_errors or "none"),
        ]
        return rows + ([("dropped", f"{self.dropped:.0f} windows")] if self.dropped else [])


def _shown(percentiles: Percentiles) -> str:
    return "  ".join(f"{name} {'-' if value is None else f'{value:.1f}'}" for name, value in percentiles.items())


def activity(
    client: Client,
    interval_s: float,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Activity]:
    """Yield what the service did in each interval. Raises ClientError."""
    before = parse(client.metrics(), now(), client.url)
    while True:
        sleep(interval_s)
        after = parse(client.metrics(), now(), client.url)
        yield compare(before, after)
        before = after


def compare(before: Reading, after: Reading) -> Activity:
    """Compute what happened between two readings of the same service."""
    seconds = max(after.at_s - before.at_s, 1e-9)

    def grown(name: str) -> dict[Labels, float]:
        earlier, later = before.samples.get(name, {}), after.samples.get(name, {})
        was = {labels: earlier.get(labels, 0.0) for labels in later}
        return {labels: value - was[labels] if value >= was[labels] else value for labels, value in later.items()}

    def percentiles(name: str, endpoint: str = "") -> Percentiles:
        buckets: dict[float, float] = defaultdict(float)
        for labels, count in grown(f"{name}_bucket").items():
            if not endpoint or dict(labels).get("endpoint") == endpoint:
                buckets[float(dict(labels)["le"])] += count
        return {f"p{q * 100:.0f}": quantile(buckets, q) for q in QUANTILES}

    requests: dict[str, float] = defaultdict(float)
    errors: dict[str, float] = defaultdict(float)
    for labels, count in grown("classifier_requests_total").items():
        names = dict(labels)
        if count and names.get("endpoint") not in NO_WORK:
            requests[names.get("endpoint", "")] += count
            if names.get("code", "") >= "400":
                errors[names["code"]] += count
    for labels, count in grown("classifier_text_failures_total").items():
        if count:
            errors[dict(labels).get("kind", "?")] += count
    models = [dict(labels) for labels in after.samples.get("classifier_model_info", {})]
    batches = sum(grown("classifier_batch_windows_count").values())
    return Activity(
        seconds=seconds,
        ready=after.total("classifier_ready") == 1,
        model=f"{models[0].get('name')} {models[0].get('version')}" if models else "",
        requests_per_s=sum(requests.values()) / seconds,
        texts_per_s=sum(grown("classifier_texts_total").values()) / seconds,
        tokens_per_s=sum(grown("classifier_tokens_total").values()) / seconds,
        queue_items=after.total("classifier_queue_windows"),
        queue_tokens=after.total("classifier_queue_tokens"),
        latency_ms={name: percentiles("classifier_request_seconds", name) for name in sorted(requests)},
        queue_ms=percentiles("classifier_queue_seconds"),
        batch_items=sum(grown("classifier_batch_windows_sum").values()) / batches if batches else None,
        errors=dict(sorted(errors.items())),
        dropped=sum(grown("classifier_dropped_windows_total").values()),
    )


def quantile(buckets: Mapping[float, float], q: float) -> float | None:
    """Return a quantile in milliseconds, None if nothing was counted.

    Args:
        buckets: cumulative counts by upper bound in seconds. In the last, open bucket, the quantile is its lower bound:
            more is not known.
        q: the quantile, from 0 to 1.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    rank = q * buckets[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            inside = buckets[bound] - below
            share = 0.0 if math.isinf(bound) else ((rank - below) / inside if inside else 1.0)
            return 1000 * (lower + ((bound - lower) * share if share else 0.0))
        lower, below = bound, buckets[bound]
    return lower * 1000
