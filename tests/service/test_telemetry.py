import json
import logging
import sys

from service.telemetry import JsonFormatter, Metrics, current_request_id, start_request


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


def test_two_registries_do_not_mix() -> None:
    first, second = Metrics(), Metrics()
    first.texts.inc()
    assert second.registry.get_sample_value("texts_total") == 0.0
