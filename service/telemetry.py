"""JSON logs, request ids and Prometheus metrics. They never contain a text of a caller."""

import json
import logging
import re
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, TextIO

from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

logger = logging.getLogger("service")

REQUEST_ID_HEADER = "X-Request-ID"
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_request_id: ContextVar[str] = ContextVar("request_id", default="-")
_trace_id: ContextVar[str] = ContextVar("trace_id", default="")

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""The header `traceparent`: https://www.w3.org/TR/trace-context/#traceparent-header."""


def current_request_id() -> str:
    """Return the id of the request that is being answered, or "-" outside of a request."""
    return _request_id.get()


def start_request(offered: str | None, traceparent: str | None = None) -> str:
    """Set the request id and the trace id of all log lines of this request, and return the request id.

    Args:
        offered: the caller's request id, which is taken if it is harmless in a header and in a log.
        traceparent: the caller's header of this name. Without a valid one, the trace begun here is used, if any.
    """
    given = _TRACEPARENT.fullmatch(traceparent or "")
    begun = trace.get_current_span().get_span_context()
    _trace_id.set(given[1] if given else f"{begun.trace_id:032x}" if begun.is_valid else "")
    request_id = offered if offered and _ACCEPTED_ID.fullmatch(offered) else uuid.uuid4().hex
    _request_id.set(request_id)
    return request_id


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, message, request id, and `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if current_request_id() != "-":
            entry["request_id"] = current_request_id()
        if _trace_id.get():
            entry["trace_id"] = _trace_id.get()
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class BackgroundHandler(logging.Handler):
    """Writes log lines in a thread of its own, so that a log without a reader does not delay requests.

    Lines are formatted by the caller, where the request's id is known. While `MAX_LINES` lines wait, further lines are
    dropped, and a line with their number is written later.
    """

    MAX_LINES = 10_000
    FLUSH_S = 2.0

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._changed = threading.Condition()
        self._writing = False
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        with self._changed:
            if len(self._lines) >= self.MAX_LINES:
                self._dropped += 1
                return
            self._lines.append(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all lines are written, at most `FLUSH_S` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines and not self._writing, self.FLUSH_S)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                lines, dropped = list(self._lines), self._dropped
                self._lines.clear()
                self._dropped, self._writing = 0, True
            if dropped:
                record = logging.LogRecord("service", logging.WARNING, "", 0, "%d log lines dropped", (dropped,), None)
                lines.append(self.format(record))
            with suppress(OSError, ValueError):  # the disk is full or the reader has gone: it cannot be reported
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()


def configure_logging(level: str) -> None:
    """Send all logs and warnings to standard error as lines of JSON. Only `service.__main__` calls this."""
    for earlier in logging.root.handlers:
        earlier.flush()
    handler = BackgroundHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


def log(message: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Log one line with fields."""
    logger.log(level, message, extra={"fields": fields})


class Metrics:
    """The Prometheus metrics of one service, all named `classifier_...`.

    Each object has a registry of its own, so that two apps in one process do not share counters.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, namespace="classifier", registry=self.registry)
        gauge = partial(Gauge, namespace="classifier", registry=self.registry)
        histogram = partial(Histogram, namespace="classifier", registry=self.registry)

        self.requests = counter("requests_total", "Requests answered.", ["endpoint", "code"])
        self.request_seconds = histogram(
            "request_seconds",
            "Seconds from the first byte of a request to the last byte of its answer.",
            ["endpoint"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )
        self.texts = counter("texts_total", "Texts classified.")
        self.text_failures = counter("text_failures_total", "Texts answered with an error.", ["kind"])
        self.tokens = counter("tokens_total", "Tokens that the model read of the texts classified.")
        self.windows = counter("windows_total", "Windows that the model read of the texts classified.")
        self.truncated = counter("truncated_texts_total", "Texts of which only the beginning was read.")
        self.unsure = counter("unsure_texts_total", "Texts whose answer was marked unsure.")
        self.predictions = counter("predictions_total", "Texts classified, by the label of the answer.", ["label"])
        self.confidence = histogram(
            "confidence",
            "Probability of the label of the answer.",
            buckets=(0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1),
        )
        self.queue_windows = gauge("queue_windows", "Windows waiting for the model or in it.")
        self.queue_tokens = gauge("queue_tokens", "Tokens waiting for the model or in it.")
        self.queue_seconds = histogram(
            "queue_seconds",
            "Seconds that a window waited for the model.",
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )
        self.batch_windows = histogram("batch_windows", "Windows in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
        self.batch_tokens = histogram(
            "batch_tokens", "Tokens in a batch, without padding.", buckets=(64, 256, 1024, 4096, 16384)
        )
        self.inference_seconds = histogram(
            "inference_seconds",
            "Seconds that the model took for a batch.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self.dropped = counter(
            "dropped_windows_total", "Windows dropped before they reached the model, by reason.", ["reason"]
        )
        self.padding_tokens = counter("padding_tokens_total", "Padding tokens that the model computed.")
        self.shared = counter(
            "shared_windows_total",
            "Windows answered with the result of an equal window, in flight or from the cache.",
            ["how"],
        )
        self.batch_failures = counter("batch_failures_total", "Batches on which the model raised an error.")
        self.reloads = counter("reloads_total", "Attempts to replace the model, by outcome.", ["outcome"])
        self.ready = gauge("ready", "1 while /readyz answers 200, else 0.")
        gauge("start_time_seconds", "Start of the process, in seconds since 1970.").set_to_current_time()
        self.model_info = gauge("model_info", "Always 1; the labels name the model.", ["name", "version"])

    def start_labels(self, labels: Sequence[str]) -> None:
        """Create every labelled counter with the value 0, because Prometheus computes no rate over a missing series."""
        for label in labels:
            self.predictions.labels(label)
        for reason in ("deadline", "departed"):
            self.dropped.labels(reason)
        for how in ("in_flight", "cache"):
            self.shared.labels(how)
        for outcome in ("done", "refused"):
            self.reloads.labels(outcome)
