import json
import re
from pathlib import Path

import numpy as np
import pytest

from classifier.calibration import Calibration, CalibrationPoint
from classifier.decoding import probabilities
from classifier.labels import Labels
from training.report.baseline import BaselineAnswers
from training.report.evaluate import measure, measure_baseline
from training.report.html import (
    MISTAKES,
    ReportData,
    frequent_confusions,
    try_report,
    worst_mistakes,
    write_report,
)

LABELS = Labels(("a", "b"))


def calibration(unsure_below: float | None) -> Calibration:
    return Calibration(points=(CalibrationPoint(tokens=9, temperature=1.0, unsure_below=unsure_below),))


def report_data(count: int = 40, **changes: object) -> ReportData:
    rng = np.random.default_rng(0)
    truth = [i % 2 for i in range(count)]
    logits = rng.normal(size=(count, 2)).astype(np.float32) + 2 * np.eye(2, dtype=np.float32)[truth]
    measured = measure(logits, truth, LABELS, [9] * count, calibration(0.6), range(count))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    values = {
        "title": "A <b>model</b>", "labels": LABELS.names, "truth": truth, "probs_bc": probs.astype(np.float64),
        "texts": [f"text {i} <script>alert(1)</script>" for i in range(count)], "metrics": measured,
        "by_words": {8: 0.7, 16: 0.9, 0: measured["accuracy"]},
    }  # fmt: skip
    return ReportData(**(values | changes))


def test_page_needs_nothing_else_and_escapes_texts(tmp_path: Path) -> None:
    page = write_report(report_data(), tmp_path).read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script" not in page and "&lt;script&gt;" in page and "A &lt;b&gt;model" in page
    assert page.count("data:image/png;base64,") == 2
    for name in ("reliability.png", "words.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    stored = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert stored["accuracy_by_words_read"]["8"] == 0.7 and len(stored["intervals"]["accuracy"]) == 2


def test_curves_are_drawn_where_there_was_training(tmp_path: Path) -> None:
    log = [{"epoch": 0.5, "loss": 1.0}, {"epoch": 1.0, "eval_loss": 0.8}]
    page = write_report(report_data(log=log), tmp_path).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3


@pytest.mark.parametrize(
    ("wrong", "verdict"),
    [
        (30, "This model is right more often than TF-IDF + logistic regression on the same split.\n"),
        (6, "the difference may be chance"),
        (0, "not better than TF-IDF + logistic regression"),
    ],
)
def test_verdict_against_the_baseline_is_plain(tmp_path: Path, wrong: int, verdict: str) -> None:
    """The model has 5 mistakes in 40 answers; `wrong` answers of the baseline are wrong."""
    data = report_data()
    answers = BaselineAnswers("characters", 60, [1 - t if i < wrong else t for i, t in enumerate(data.truth)])
    predicted = data.probs_bc.argmax(axis=1).tolist()
    baseline = measure_baseline(answers, data.truth, predicted, LABELS, range(40))
    page = write_report(report_data(metrics={**data.metrics, "baseline": baseline}), tmp_path).read_text("utf-8")
    assert verdict in page and "reads characters and was fitted on 60 training and validation texts" in page


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    """All answers right, no threshold, and no text longer than the fewest words."""
    truth = [0, 1] * 3
    logits = 9 * np.eye(2, dtype=np.float32)[truth]
    measured = measure(logits, truth, LABELS, [9] * 6, calibration(None), range(6))
    data = report_data(6, metrics=measured, truth=truth, probs_bc=probabilities(logits), by_words={0: 1.0})
    page = write_report(data, tmp_path).read_text("utf-8")
    assert "0.610 to 1.000" in page and "not known" in page and "No answer is marked unsure" in page
    assert not (tmp_path / "words.png").exists()


def test_mistakes_are_the_surest_wrong_ones_in_order() -> None:
    data = report_data(count=400)
    mistakes = worst_mistakes(data)
    assert len(mistakes) == MISTAKES
    confidences = [m["confidence"] for m in mistakes]
    assert confidences == sorted(confidences, reverse=True)
    wrong = data.probs_bc.argmax(1) != np.asarray(data.truth)
    assert confidences[0] == data.probs_bc[wrong].max()
    assert all(m["truth"] != m["predicted"] for m in mistakes)


def test_mistakes_name_the_row_of_the_file() -> None:
    rows = [1000 + 2 * i for i in range(40)]
    found, numbered = worst_mistakes(report_data()), worst_mistakes(report_data(rows=rows))
    assert [m["row"] for m in numbered] == [rows[m["row"] - 1] for m in found]


def with_labels(names: tuple[str, ...]) -> ReportData:
    """Every second text of a label gets the label after it."""
    count = len(names)
    truth = [i // 4 for i in range(4 * count)]
    answers = [(label + i % 2) % count for i, label in enumerate(truth)]
    logits = 9 * np.eye(count, dtype=np.float32)[answers]
    measured = measure(logits, truth, Labels(names), [9] * len(truth), calibration(0.6), range(len(truth)))
    return report_data(
        len(truth), labels=names, truth=truth, probs_bc=logits / logits.sum(axis=1, keepdims=True), metrics=measured
    )


HOSTILE = ("$x_1$", "$unclosed", "体育", "a_b", "x" * 300, "<i>", "🙂")


@pytest.mark.parametrize("count", [2, 7, 30])
def test_any_label_is_shown_as_it_is_in_the_confusion_matrix(tmp_path: Path, count: int) -> None:
    names = (*HOSTILE, *(f"label {i}" for i in range(30)))[:count]
    page = write_report(with_labels(names), tmp_path).read_text(encoding="utf-8")
    matrix = page[page.index('<table class="matrix">') :].partition("</table>")[0]
    assert matrix.count("<tr>") == count + 1 and matrix.count("<td") == count**2
    for name in names:
        assert matrix.count(f'title="{name.replace("<", "&lt;").replace(">", "&gt;")}"') == 2


def test_many_labels_are_summed_up_and_metrics_has_all(tmp_path: Path) -> None:
    names = tuple(sorted({f"label {i}" for i in range(605)}))
    page = write_report(with_labels(names), tmp_path).read_text(encoding="utf-8")
    assert "matrix" not in page.partition("<body>")[2] and len(page) < 400_000
    assert "Of 605 labels, those 30 with the lowest F1" in page and page.count("50.0 %</td>") == 30
    stored = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert len(stored["per_class"]) == len(stored["confusion"]) == 605


def test_most_frequent_confusions_come_first() -> None:
    truth = [0, 0, 0, 0, 1, 1, 1, 1]
    probs = np.eye(2)[[0, 0, 0, 1, 0, 0, 1, 1]]
    found = [(c["truth"], c["answer"], c["texts"], c["share"]) for c in frequent_confusions(
        report_data(8, truth=truth, probs_bc=probs)
    )]  # fmt: skip
    assert found == [("b", "a", 2, 0.5), ("a", "b", 1, 0.25)]


def test_report_that_fails_says_why_and_leaves_no_older_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(report_data(), tmp_path)

    def fail() -> ReportData:
        raise MemoryError("no room\nfor it")

    assert try_report(fail, tmp_path) is None
    warning = f"warning: no report was written to {tmp_path}: MemoryError: no room for it\n"
    assert capsys.readouterr().err == warning and not (tmp_path / "report.html").exists()
