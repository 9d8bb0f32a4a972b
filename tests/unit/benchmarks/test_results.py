"""Tables and the page made of them."""

from pathlib import Path

import pytest

from benchmarks import engine, low_load, results, shared_cpus
from benchmarks.tools.command_line import load
from benchmarks.tools.machine import describe
from benchmarks.tools.markdown import number, table


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (0, "0"),
        (1234.5, "1,234"),
        (123.4, "123"),
        (12.345, "12.3"),
        (0.01234, "0.0123"),
        (0.00001234, "1.2e-05"),
        (7, "7"),
    ],
)
def test_number_shows_three_digits(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_table_aligns_numbers_and_escapes_bars() -> None:
    lines = table(["", "a"], [["x|y", 1.5]]).splitlines()
    assert lines == ["|  | a |", "| --- | ---: |", "| x\\|y | 1.5 |"]


def test_row_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells for 1 columns"):
        table(["a"], [["x", 1]])


def engine_figures() -> dict[str, object]:
    turn = {"peak_rss_mib": 100.0, "largest_difference": 1e-5, "labels_differ": 0}
    return {
        "artifact": "tiny",
        "parameters": 1000,
        "articles": 2,
        "tokens": 10,
        "limit": 8,
        "flops": 1e9,
        "command": "python -m benchmarks.engine",
        "machine": describe(),
        "environments": ["onnxruntime"],
        "ceiling": [{"float32": 20.0}, {"float32": 10.0}],
        "contestants": {
            engine.OURS: {"turns": [100.0, 300.0, 200.0], **turn},
            "other": {"turns": [50.0, 100.0, 100.0], **turn},
            "absent": {"turns": [], "unavailable": "not on this CPU"},
        },
    }


def test_report_takes_medians_and_each_rounds_ratio() -> None:
    page = engine.report(engine_figures())
    assert f"| {engine.OURS} | 200 | 100 to 300 | 1.00 | 20 | 100 % |" in page
    assert "| other | 100 | 50 to 100 | 0.50 |" in page  # the median of 0.5, 0.33 and 0.5
    assert "| absent | not on this CPU | - |" in page


def test_page_shows_what_was_measured_and_says_what_was_not(tmp_path: Path) -> None:
    import json

    (tmp_path / "engine-1024.json").write_text(json.dumps(engine_figures()), encoding="utf-8")
    times = {name: [1.0, 2.0, 3.0, 4.0] for name in low_load.MEASURES}
    alone = {"command": "c", "machine": describe(), "texts": 2, "rounds": 2, "times": times}
    (tmp_path / "low-load.json").write_text(json.dumps(alone), encoding="utf-8")
    output = tmp_path / "results.md"
    results.write(tmp_path, output, "python -m benchmarks")
    page = output.read_text(encoding="utf-8")
    assert "| other | 100 | 50 to 100 | 0.50 |" in page
    assert "| absent | not on this CPU |" in page
    assert page.count("Not measured.") == 5 and "- onnxruntime: onnx " in page
    assert "| added | 1.75 | 2.50 | 3.25 | 3.85 |" in page
    assert (tmp_path / "results.png").stat().st_size > 1000
    assert load(tmp_path, "service") is None


def test_rates_are_compared_with_the_quiet_round_beside_them() -> None:
    def turns(*rates: float) -> list[dict[str, float]]:
        return [{"throughput_per_s": rate, "p50_ms": 1.0, "p99_ms": 2.0} for rate in rates]

    figures = {
        "artifact": "tiny",
        "turns": {
            shared_cpus.QUIET: turns(10.0, 20.0, 30.0),
            shared_cpus.BUSY: turns(5.0, 16.0, 27.0),
            shared_cpus.SHORT: turns(100.0, 100.0, 100.0),
        },
    }
    quiet, busy, short = shared_cpus.report(figures).splitlines()[-3:]
    assert quiet.split(" | ")[-1] == "1.00 |"
    assert busy.split(" | ")[-1] == "0.80 |", "the median of 0.5, 0.8 and 0.9"
    assert short.split(" | ")[-1] == "- |"
