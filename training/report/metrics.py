"""Metrics of a split, and the two numbers that are chosen on validation data: temperature and threshold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import binom
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from classifier.calibration import Calibration
from classifier.decoding import probabilities

ECE_BINS = 15
CONFIDENCE = 0.95
"""Confidence of the promise that the threshold of "unsure" makes."""
ROWS_AT_ONCE = 2048
"""Rows whose float64 exponentials are in memory at once."""


def classification_metrics(truth: Sequence[int], predicted: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """Return accuracy, macro-F1, the confusion matrix, and precision, recall, F1 and rows of each label.

    Args:
        truth: B label ids.
        predicted: B label ids.
        names: C label names. Macro-F1 is the mean over the labels that occur in `truth`.
    """
    ids = list(range(len(names)))
    scores = precision_recall_fscore_support(truth, predicted, labels=ids, zero_division=0)
    _, _, f1, rows = scores
    return {
        "rows": len(truth),
        "accuracy": float(np.mean(np.asarray(truth) == np.asarray(predicted))),
        "macro_f1": float(np.mean(f1[rows > 0])),
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
            for name, p, r, f, n in zip(names, *scores, strict=True)
        },
        "confusion": confusion_matrix(truth, predicted, labels=ids).tolist(),
    }


def expected_calibration_error(probs_bc: ArrayLike, truth: Sequence[int], bins: int = ECE_BINS) -> float:
    """Return the ECE of the top label: mean |confidence - accuracy| over equal-width bins, weighted by rows.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.

    Args:
        probs_bc: (B, C), rows sum to 1.
        truth: B label ids.
    """
    found = reliability(probs_bc, truth, bins)
    return sum(one["rows"] * abs(one["confidence"] - one["right"]) for one in found) / len(truth)


def reliability(probs_bc: ArrayLike, truth: Sequence[int], bins: int = ECE_BINS) -> list[dict[str, float]]:
    """Return the mean confidence, the share of right answers and the rows of each bin of confidence that has rows.

    Args:
        probs_bc: (B, C), rows sum to 1.
        truth: B label ids.
    """
    probs = np.asarray(probs_bc)
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == np.asarray(truth)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "confidence": float(confidence[which == b].mean()),
            "right": float(right[which == b].mean()),
            "rows": int((which == b).sum()),
        }
        for b in sorted(set(which.tolist()))
    ]


def brier_score(probs_bc: ArrayLike, truth: Sequence[int]) -> float:
    """Return the mean squared distance between the probabilities and the one-hot truth: 0 is best, 2 is worst."""
    probs = np.asarray(probs_bc)
    of_truth = probs[np.arange(len(probs)), np.asarray(truth)]
    return float(np.mean(np.einsum("bc,bc->b", probs, probs) - 2 * of_truth + 1))


def negative_log_likelihood(logits_bc: ArrayLike, truth: Sequence[int], temperature: float = 1.0) -> float:
    """Return the mean -log p(truth) of softmax(logits / temperature), in nats."""
    logits = np.asarray(logits_bc)
    of_truth = logits[np.arange(len(logits)), np.asarray(truth)].astype(np.float64)
    return float(np.mean(_log_partition(logits, temperature) - of_truth / temperature))


def _log_partition(logits_bc: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Return the logarithm of the sum of exp(logits / temperature) of each row (B,), with memory for a part of them."""
    logits = np.asarray(logits_bc)
    result = np.empty(len(logits))
    for start in range(0, len(logits), ROWS_AT_ONCE):
        scaled = np.divide(logits[start : start + ROWS_AT_ONCE], temperature, dtype=np.float64)
        top = scaled.max(axis=1)
        scaled -= top[:, None]
        result[start : start + len(top)] = top + np.log(np.exp(scaled, out=scaled).sum(axis=1))
    return result


def fit_temperature(logits_bc: ArrayLike, truth: Sequence[int]) -> float:
    """Return the temperature in [0.05, 20] with the lowest negative log-likelihood (Guo et al. 2017, section 4.2).

    The targets are Platt's instead of one-hot: the truth has 1 - 1/(B + 2), the other labels share the rest (Platt,
    "Probabilistic Outputs for Support Vector Machines", 1999, section 2.2). If all B rows are classified correctly,
    one-hot targets would drive the temperature towards 0 and the best probability to 1: more certainty than B rows
    justify.
    """
    logits = np.asarray(logits_bc)
    rows, labels = logits.shape
    rest = 1 / (rows + 2)
    # The mean over rows of the sum of targets times logits, which is all that the loss needs beside the partition.
    of_truth = logits[np.arange(rows), np.asarray(truth)].mean(dtype=np.float64)
    of_others = logits.sum(axis=1, dtype=np.float64).mean() - of_truth
    linear = (1 - rest) * of_truth + rest / (labels - 1) * of_others

    def loss(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        return float(_log_partition(logits, temperature).mean() - linear / temperature)

    result = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(result.x))


def unsure_threshold(probs_bc: ArrayLike, truth: ArrayLike, max_error: float, groups: ArrayLike) -> float | None:
    """Return the lowest confidence from which, with `CONFIDENCE`, at most `max_error` of the answers are wrong.

    Thresholds are tested from high to low up to the first test that fails. A test passes if so few wrong answers would
    be improbable (1 - `CONFIDENCE`, exact binomial) were `max_error` of all answers wrong. Such a fixed sequence needs
    no correction for the number of tests (Angelopoulos et al., Learn then Test, arXiv 2110.01052). It begins with the
    most confident half, or with as many as can pass without a mistake, which are 149 for 2 %. A group of
    near-duplicates counts as one answer, which is wrong if any of its texts is answered wrongly. A test also fails if
    more than `max_error` of the texts themselves are answered wrongly, as those of one large group may be.

    Args:
        probs_bc: (B, C) calibrated validation probabilities.
        truth: B label ids.
        max_error: allowed share of wrong answers, 0 to 1.
        groups: the group of each of the B texts.

    Returns:
        A threshold: rows whose top probability is below it are unsure. It is 0 if no row needs to be, and None if not
        even the first test passes, so that nothing can be promised.
    """
    probs = np.asarray(probs_bc)
    confidence: NDArray[np.float64] = probs.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    confidence, group = confidence[order], np.asarray(groups)[order]
    wrong = np.flatnonzero(probs.argmax(axis=1)[order] != np.asarray(truth)[order])
    answered = _groups_so_far(group, np.arange(len(group)))
    failed = _groups_so_far(group, wrong)
    # A threshold cannot separate rows of equal confidence, so only the last row of such a block counts.
    ends = np.flatnonzero(np.r_[confidence[1:] < confidence[:-1], True])
    can_pass = binom.cdf(0, answered[ends], max_error) <= 1 - CONFIDENCE
    tested = ends[can_pass & (answered[ends] >= answered[-1] / 2)]
    passed = binom.cdf(failed[tested], answered[tested], max_error) <= 1 - CONFIDENCE
    passed &= np.searchsorted(wrong, tested, side="right") <= max_error * (tested + 1)
    in_a_row = int(np.argmin(np.r_[passed, False]))
    if in_a_row == 0:
        return None
    last = int(tested[in_a_row - 1])
    return 0.0 if last == len(probs) - 1 else float(np.nextafter(confidence[last + 1], 2.0))


def _groups_so_far(group_b: NDArray[np.int64], rows: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return how many different groups `rows` belong to, up to and including each row (B,)."""
    first = np.zeros(len(group_b), dtype=np.int64)
    first[rows[np.unique(group_b[rows], return_index=True)[1]]] = 1
    return first.cumsum()


def calibrated(logits_bc: ArrayLike, tokens: ArrayLike, calibration: Calibration) -> NDArray[np.float32]:
    """Return the logits (B, C) divided by the temperatures for the tokens read (B,)."""
    temperature_b = calibration.temperature(tokens).astype(np.float32)
    scaled: NDArray[np.float32] = np.asarray(logits_bc, dtype=np.float32) / temperature_b[:, None]
    return scaled


def calibration_metrics(
    logits_bc: ArrayLike, truth: Sequence[int], tokens: ArrayLike, calibration: Calibration
) -> dict[str, float | None]:
    """Return ECE, Brier score and NLL before and after temperature scaling, and coverage and error at the threshold.

    Args:
        logits_bc: (B, C) logits.
        truth: B label ids.
        tokens: number of tokens read of each of the B texts.
        calibration: temperatures and thresholds.

    Returns:
        `coverage` is the share of answers that are not unsure, None if there is no threshold; `error_among_answered` is
        the share of wrong answers among these, None if there are none.
    """
    found: dict[str, float | None] = {}
    probs = np.empty(0)
    for suffix, scaled in (("_before", np.asarray(logits_bc)), ("", calibrated(logits_bc, tokens, calibration))):
        probs = probabilities(scaled)
        found |= {
            f"ece{suffix}": expected_calibration_error(probs, truth),
            f"brier{suffix}": brier_score(probs, truth),
            f"nll{suffix}": negative_log_likelihood(scaled, truth),
        }
    answered = probs.max(axis=1) >= calibration.unsure_below(tokens)
    wrong = probs.argmax(axis=1) != np.asarray(truth)
    return found | {
        "coverage": float(answered.mean()) if calibration.has_threshold else None,
        "error_among_answered": float(wrong[answered].mean()) if answered.any() else None,
    }
