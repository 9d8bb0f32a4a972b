"""What a service does right now, from two readings of its /metrics: rates, percentiles, errors by kind.

Percentiles come from the growth of the histograms between the readings, linear within a bucket, as Prometheus'
histogram_quantile computes them. A counter that fell was reset by a restart: its new value is the growth.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from client.client import Client
from client.errors import NotOurService

NO_WORK = frozenset({"/livez", "/readyz", "/ping", "/metrics", "/info", "other"})  # endpoints that classify nothing
QUANTILES = (0.5, 0.95, 0.99)

Labels = frozenset[tuple[str, str]]
Percentiles = Mapping[str, float | None]


@dataclass(frozen=True)
class Reading:
    """All samples at one time, by metric and labels."""

    at_s: float
    samples: Mapping[str, Mapping[Labels, float]]

    def of(self, name: str) -> Mapping[Labels, float]:
        return self.samples.get(name, {})


def parse(text: str, at_s: float, where: str = "/metrics") -> Reading:
    """Read Prometheus' text format. Raises NotOurService: it has none of the service's metrics."""
    samples: dict[str, dict[Labels, float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    except (ValueError, IndexError):  # another program's page
        samples = {}
    if "classifier_texts_total" not in samples:
        raise NotOurService(f"{where}: no metrics of this service; check the URL")
    return Reading(at_s, samples)


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

    def lines(self) -> list[tuple[str, str]]:
        """Return names and values for a person."""
        rows = [
            ("model", f"{self.model or 'none'}{'' if self.ready else ' (not ready)'}"),
            ("requests/s", f"{self.requests_per_s:.1f}"),
            ("texts/s", f"{self.texts_per_s:.1f}"),
            ("tokens/s", f"{self.tokens_per_s:.0f}"),
            ("queue", f"{self.queue_items:.0f} windows, {self.queue_tokens:.0f} tokens"),
            ("waiting ms", _shown(self.queue_ms)),
            ("batch", "none" if self.batch_items is None else f"{self.batch_items:.1f} windows"),
            *((f"{endpoint} ms", _shown(percentiles)) for endpoint, percentiles in self.latency_ms.items()),
            ("errors", ", ".join(f"{kind}: {count:.0f}" for kind, count in self.errors.items()) or "none"),
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

    def growth(metric: str) -> Iterator[tuple[dict[str, str], float]]:
        """Yield the labels and the growth of each of a metric's samples."""
        for labels, value in after.of(f"classifier_{metric}").items():
            was = before.of(f"classifier_{metric}").get(labels, 0.0)
            yield dict(labels), value - was if value >= was else value

    def total(metric: str) -> float:
        return sum(grown for _, grown in growth(metric))

    def now(metric: str) -> float:
        return sum(after.of(f"classifier_{metric}").values())

    def percentiles(metric: str, endpoint: str = "") -> Percentiles:
        buckets: dict[float, float] = defaultdict(float)
        for labels, grown in growth(f"{metric}_bucket"):
            if endpoint in ("", labels.get("endpoint")):
                buckets[float(labels["le"])] += grown
        return {f"p{q * 100:.0f}": quantile(buckets, q) for q in QUANTILES}

    requests = [one for one in growth("requests_total") if one[1] and one[0].get("endpoint") not in NO_WORK]
    errors = [(labels["code"], grown) for labels, grown in requests if labels.get("code", "") >= "400"]
    errors += [(labels.get("kind", "?"), grown) for labels, grown in growth("text_failures_total") if grown]
    model = dict(next(iter(after.of("classifier_model_info")), ()))
    batches = total("batch_windows_count")
    return Activity(
        seconds=seconds,
        ready=now("ready") == 1,
        model=f"{model.get('name')} {model.get('version')}" if model else "",
        requests_per_s=sum(grown for _, grown in requests) / seconds,
        texts_per_s=total("texts_total") / seconds,
        tokens_per_s=total("tokens_total") / seconds,
        queue_items=now("queue_windows"),
        queue_tokens=now("queue_tokens"),
        latency_ms={
            name: percentiles("request_seconds", name)
            for name in sorted({labels.get("endpoint", "") for labels, _ in requests})
        },
        queue_ms=percentiles("queue_seconds"),
        batch_items=total("batch_windows_sum") / batches if batches else None,
        errors={kind: sum(grown for one, grown in errors if one == kind) for kind in sorted(dict(errors))},
        dropped=total("dropped_windows_total"),
    )


def quantile(buckets: Mapping[float, float], q: float) -> float | None:
    """Return a quantile (0 to 1) in milliseconds from cumulative counts by upper bound in seconds.

    In the last, open bucket it is the lower bound, for more is not known. None: nothing was counted.
    """
    rank = q * max(buckets.values(), default=0)
    lower, below = 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= rank > 0:
            return 1000 * (lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (count - below))
        lower, below = bound, count
    return None
