from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.decoding import probabilities
from training.report.metrics import (
    bootstrap_intervals,
    brier_score,
    calibration_metrics,
    classification_metrics,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    unsure_threshold,
)


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


def test_intervals_hold_the_estimate_and_narrow_with_more_rows() -> None:
    truth, predicted = [0, 0, 1, 1, 1] * 20, [0, 1, 1, 1, 1] * 20
    few, many = bootstrap_intervals(truth[:25], predicted[:25], 2), bootstrap_intervals(truth, predicted, 2)
    for name, value in classification_metrics(truth, predicted, ["a", "b"]).items():
        if name in ("accuracy", "macro_f1"):
            assert few[name][0] <= many[name][0] < value < many[name][1] <= few[name][1]
    # the binomial interval of 80 right answers of 100 is 0.72 to 0.88
    assert many["accuracy"] == pytest.approx([0.72, 0.88], abs=0.011)
    assert bootstrap_intervals([0, 1], [0, 1], 2)["accuracy"] == [1.0, 1.0]


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


def test_threshold_by_hand() -> None:
    probs = [[0.99, 0.01], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]
    assert unsure_threshold(probs, [0, 0, 0, 0], 0.0) == 0.0
    assert unsure_threshold(probs, [0, 0, 0, 1], 0.0) == pytest.approx(0.75)
    assert unsure_threshold(probs, [0, 0, 0, 1], 0.25) == 0.0
    assert unsure_threshold(probs, [1, 1, 1, 1], 0.0) > 0.99


@given(
    st.lists(st.tuples(st.sampled_from([0.5, 0.6, 0.75, 0.9, 1.0]), st.booleans()), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.02, 0.1, 0.5]),
)
def test_threshold_keeps_its_promise(rows: list[tuple[float, bool]], max_error: float) -> None:
    probs = np.array([[p, 1 - p] for p, _ in rows])
    truth = [0 if right else 1 for _, right in rows]
    threshold = unsure_threshold(probs, truth, max_error)
    answered = probs.max(axis=1) >= threshold
    wrong = (probs.argmax(axis=1) != np.array(truth))[answered]
    # a confidence of exactly 1 cannot be refused by a threshold of at most 1
    assert not answered.any() or wrong.mean() <= max_error or (threshold == 1.0 and probs.max() == 1.0)


def test_calibration_metrics_say_what_the_threshold_does() -> None:
    logits = [[3.0, 0.0], [0.2, 0.0], [0.1, 0.0], [0.0, 4.0]]
    measured = calibration_metrics(logits, [0, 0, 1, 1], temperature=1.0, unsure_below=0.9)
    assert (measured["coverage"], measured["error_among_answered"]) == (0.5, 0.0)
    assert measured["ece"] == measured["ece_before"]
    assert calibration_metrics(logits, [0, 0, 1, 1], 1.0, 1.0)["error_among_answered"] == 0.0
