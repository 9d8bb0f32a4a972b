import io
import json
import logging
import sys
import threading

import pytest

from service.telemetry import BackgroundHandler, JsonFormatter, Metrics, current_request_id, start_request


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("service", logging.INFO, "f.py", 1, message, None, None)
    made.__dict__ |= extra
    return made


def test_a_line_is_one_json_object_with_its_fields() -> None:
    line = JsonFormatter().format(record("two\nlines", fields={"status": 200, "odd": object}))
    assert "\n" not in line
    entry = json.loads(line)
    assert (entry["message"], entry["status"], entry["level"]) == ("two\nlines", 200, "info")
    assert entry["time"].endswith("Z")


def test_exceptions_are_in_the_same_line() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        line = JsonFormatter().format(record("failed", exc_info=sys.exc_info()))
    assert "ValueError: no" in json.loads(line)["exception"] and "\n" not in line


def test_request_id_is_taken_only_if_harmless() -> None:
    assert start_request("abc-1") == "abc-1" == current_request_id()
    for bad in (None, "", "a b", "x\ny", "é", "x" * 129):
        assert start_request(bad) not in (bad, "")


class Stalled(io.StringIO):
    """Takes the first line only when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.released = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        assert self.released.wait(30)
        return super().write(text)


def test_a_log_that_nobody_reads_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackgroundHandler, "MAX_LINES", 3)
    monkeypatch.setattr(BackgroundHandler, "FLUSH_S", 0.01)
    stream = Stalled()
    handler = BackgroundHandler(stream)
    handler.emit(record("first"))
    assert stream.entered.wait(30)
    for i in range(10):
        handler.emit(record(f"later {i}"))
    handler.flush()  # gives up
    monkeypatch.setattr(BackgroundHandler, "FLUSH_S", 30)
    stream.released.set()
    handler.flush()
    assert stream.getvalue().split("\n") == ["first", "later 0", "later 1", "later 2", "7 log lines dropped", ""]


def test_a_broken_log_is_not_the_end_of_logging() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            if "first" in text:
                raise OSError(28, "No space left on device")
            return super().write(text)

    stream = Full()
    handler = BackgroundHandler(stream)
    for message in ("first", "second"):
        handler.emit(record(message))
        handler.flush()
    assert stream.getvalue() == "second\n"


def test_two_registries_do_not_mix() -> None:
    first, second = Metrics(), Metrics()
    first.texts.inc()
    assert second.registry.get_sample_value("classifier_texts_total") == 0.0
