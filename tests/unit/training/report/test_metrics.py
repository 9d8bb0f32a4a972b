import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from classifier.calibration import Calibration, CalibrationPoint
from classifier.decoding import probabilities
from training.report.metrics import (
    brier_score,
    calibration_metrics,
    classification_metrics,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    unsure_threshold,
)


def calibration(temperature: float, unsure_below: float | None) -> Calibration:
    return Calibration(points=(CalibrationPoint(tokens=9, temperature=temperature, unsure_below=unsure_below),))


def test_figures_computed_by_hand() -> None:
    measured = classification_metrics([0, 0, 1, 1, 1], [0, 1, 1, 1, 0], ["a", "b", "never"])
    assert measured["accuracy"] == pytest.approx(0.6)
    assert measured["per_class"]["a"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "rows": 2}
    assert measured["per_class"]["b"]["f1"] == pytest.approx(2 / 3)
    assert measured["macro_f1"] == pytest.approx((0.5 + 2 / 3) / 2)  # "never" has no rows and does not count
    assert measured["confusion"] == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("score", "probs", "truth", "expected"),
    [
        # confidence 0.9: half right, gap 0.4; confidence 0.6: all right, gap 0.4
        (expected_calibration_error, [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]], [0, 1, 1, 1], 0.4),
        (expected_calibration_error, [[1.0, 0.0]], [0], 0.0),
        (brier_score, [[1.0, 0.0]], [0], 0.0),
        (brier_score, [[1.0, 0.0]], [1], 2.0),
        (brier_score, [[0.5, 0.5]], [0], 0.5),
    ],
)
def test_scores_by_hand(score: Any, probs: list[list[float]], truth: list[int], expected: float) -> None:
    assert score(probs, truth) == pytest.approx(expected)


def test_reliability_by_hand() -> None:
    probs = [[0.91, 0.09], [0.05, 0.95], [0.52, 0.48], [1.0, 0.0]]
    low, high = reliability(probs, [0, 0, 0, 0], bins=10)
    assert low == {"confidence": pytest.approx(0.52), "right": 1.0, "rows": 1}
    assert high == {"confidence": pytest.approx(2.86 / 3), "right": pytest.approx(2 / 3), "rows": 3}


def test_temperature_recovers_the_one_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)) * 6
    truth = [int(rng.choice(4, p=row)) for row in probabilities(logits, 2.5)]
    assert fit_temperature(logits, truth) == pytest.approx(2.5, rel=0.05)


def test_temperature_claims_no_more_than_the_rows_can_prove() -> None:
    """Ten right answers of ten: confidence stays near 11 of 12, however far apart the logits are."""
    logits = [[50.0, 0.0], [0.0, 50.0]] * 5
    temperature = fit_temperature(logits, [0, 1] * 5)
    assert probabilities(logits, temperature).max() == pytest.approx(11 / 12, abs=0.01)


def test_nll_equals_the_log_of_the_probability() -> None:
    logits = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    expected = -np.log(probabilities(logits, 1.5)[[0, 1], [2, 1]]).mean()
    assert negative_log_likelihood(logits, [2, 1], 1.5) == pytest.approx(expected)


def test_temperature_needs_no_copy_of_the_logits() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(10_000, 250)).astype(np.float32)
    truth = rng.integers(0, 250, len(logits)).tolist()
    tracemalloc.start()
    temperature = fit_temperature(logits, truth)
    scaled = calibration_metrics(logits, truth, [9] * len(truth), calibration(temperature, 0.5))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (scaled["nll"] or 0) < (scaled["nll_before"] or 0)
    assert peak < 5.5 * logits.nbytes  # twice their probabilities in float64, and parts


def one_answer_each(right: Sequence[bool]) -> tuple[NDArray[np.float64], list[int]]:
    """Return probabilities that fall from answer to answer, and the truth."""
    confidence = np.linspace(0.99, 0.6, len(right))
    return np.column_stack([confidence, 1 - confidence]), [0 if r else 1 for r in right]


@pytest.mark.parametrize(
    ("rows", "max_error", "promised"),
    [(149, 0.02, True), (148, 0.02, False), (299, 0.01, True), (298, 0.01, False), (5, 1.0, True), (9999, 0.0, False)],
)
def test_so_many_right_answers_prove_so_small_an_error(rows: int, max_error: float, promised: bool) -> None:
    probs, truth = one_answer_each([True] * rows)
    assert unsure_threshold(probs, truth, max_error, range(rows)) == (0.0 if promised else None)


def test_threshold_lies_just_above_the_answer_that_breaks_the_promise() -> None:
    probs, truth = one_answer_each([True] * 200 + [False] + [True] * 20)
    threshold = unsure_threshold(probs, truth, 0.02, range(221))
    assert threshold is not None and probs[200, 0] < threshold < probs[199, 0]
    # from the 236th answer on, one mistake is few enough
    probs, truth = one_answer_each([True] * 240 + [False] + [True] * 20)
    assert unsure_threshold(probs, truth, 0.02, range(261)) == 0.0


def test_a_test_that_fails_ends_the_sequence() -> None:
    probs, truth = one_answer_each([False] + [True] * 400)
    assert unsure_threshold(probs, truth, 0.02, range(401)) is None  # 201 answers do not pass with a mistake, 236 would
    probs, truth = one_answer_each([False] * 10 + [True] * 5000)
    assert unsure_threshold(probs, truth, 0.02, range(5010)) == 0.0  # tested from the most confident half downwards
    probs, truth = one_answer_each([True] * 100 + [False] + [True] * 100)
    assert unsure_threshold(probs, truth, 0.02, range(201)) is None


def test_a_group_counts_as_one_answer() -> None:
    probs, truth = one_answer_each([True] * 149)
    assert unsure_threshold(probs, truth, 0.02, [0, *range(148)]) is None
    probs, truth = one_answer_each(([True] * 5 + [False]) * 500)
    groups = np.repeat(range(500), 6)
    assert unsure_threshold(probs, truth, 0.2, range(3000)) == 0.0
    assert unsure_threshold(probs, truth, 0.2, groups) is None  # one wrong text of six makes each group wrong


def test_one_large_group_of_wrong_answers_is_not_excused() -> None:
    probs, truth = one_answer_each([False] * 70 + [True] * 600)
    assert unsure_threshold(probs, truth, 0.02, [0] * 70 + [*range(1, 601)]) is None  # 1 of 601 groups, 70 of 670 texts


def test_threshold_cannot_separate_equal_confidence() -> None:
    probs = np.array([[0.9, 0.1]] * 160 + [[0.8, 0.2]] * 40)
    truth = [0] * 160 + [0] * 20 + [1] * 20
    threshold = unsure_threshold(probs, truth, 0.02, range(200))
    assert threshold is not None and 0.8 < threshold <= 0.9
    assert unsure_threshold(probs, [1, *truth[1:]], 0.02, range(200)) is None


def test_promises_are_kept_in_nineteen_of_twenty_validation_splits() -> None:
    """The true error among answers above a confidence is known here: half of 1 - confidence, on average."""
    rng = np.random.default_rng(1)
    promised = broken = 0
    for _ in range(400):
        doubt = rng.random(2000) * 0.12  # the true error among answers with less doubt than d is d / 2
        right = rng.random(2000) >= doubt
        probs = np.column_stack([1 - doubt, doubt])
        threshold = unsure_threshold(probs, np.where(right, 0, 1).tolist(), 0.05, range(2000))
        promised += threshold is not None
        broken += threshold is not None and (1 - threshold if threshold else 0.12) / 2 > 0.05
    assert promised > 300
    assert broken <= 0.05 * 400 + 2 * np.sqrt(0.05 * 0.95 * 400)


def test_calibration_metrics_say_what_the_threshold_does() -> None:
    logits = [[3.0, 0.0], [0.2, 0.0], [0.1, 0.0], [0.0, 4.0]]
    measured = calibration_metrics(logits, [0, 0, 1, 1], [9] * 4, calibration(1.0, 0.9))
    assert (measured["coverage"], measured["error_among_answered"]) == (0.5, 0.0)
    assert measured["ece"] == pytest.approx(measured["ece_before"])
    refused = calibration_metrics(logits, [0, 0, 1, 1], [9] * 4, calibration(1.0, 1.0))
    assert (refused["coverage"], refused["error_among_answered"]) == (0.0, None)
    without = calibration_metrics(logits, [0, 0, 1, 1], [9] * 4, calibration(1.0, None))
    assert (without["coverage"], without["error_among_answered"]) == (None, None)
