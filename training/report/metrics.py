"""Metrics of a split, and the two numbers that are chosen on validation data: temperature and threshold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from classifier.decoding import probabilities

ECE_BINS = 15


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


def bootstrap_intervals(
    truth: Sequence[int], predicted: Sequence[int], labels: int, *, resamples: int = 2000, level: float = 0.95
) -> dict[str, list[float]]:
    """Return percentile bootstrap intervals of accuracy and macro-F1 (Efron and Tibshirani 1993, chapter 13).

    Args:
        truth: B label ids.
        predicted: B label ids.
        labels: C, the number of labels.
        resamples: number of draws of B texts with replacement, from a fixed seed.
        level: coverage of the intervals.

    Returns:
        `accuracy` and `macro_f1`, each [low, high].
    """
    rng = np.random.default_rng(0)
    cells = np.asarray(truth) * labels + np.asarray(predicted)
    drawn = np.empty((resamples, 2))
    for i in range(resamples):
        sample = cells[rng.integers(0, len(cells), len(cells))]
        confusion = np.bincount(sample, minlength=labels * labels).reshape(labels, labels)
        right, rows, columns = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
        f1 = 2 * right / np.maximum(rows + columns, 1)
        drawn[i] = right.sum() / len(cells), f1[rows > 0].mean()
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
    return {name: [float(low[i]), float(high[i])] for i, name in enumerate(("accuracy", "macro_f1"))}


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
    return float(np.mean(np.sum((probs - np.eye(probs.shape[1])[np.asarray(truth)]) ** 2, axis=1)))


def negative_log_likelihood(logits_bc: ArrayLike, truth: Sequence[int], temperature: float = 1.0) -> float:
    """Return the mean -log p(truth) of softmax(logits / temperature), in nats."""
    log_probs = log_softmax(np.asarray(logits_bc, dtype=np.float64) / temperature, axis=1)
    return float(-log_probs[np.arange(len(log_probs)), np.asarray(truth)].mean())


def fit_temperature(logits_bc: ArrayLike, truth: Sequence[int]) -> float:
    """Return the temperature in [0.05, 20] with the lowest negative log-likelihood (Guo et al. 2017, section 4.2).

    The targets are Platt's instead of one-hot: the truth has 1 - 1/(B + 2), the other labels share the rest (Platt,
    "Probabilistic Outputs for Support Vector Machines", 1999, section 2.2). If all B rows are classified correctly,
    one-hot targets would drive the temperature towards 0 and the best probability to 1: more certainty than B rows
    justify.
    """
    logits = np.asarray(logits_bc, dtype=np.float64)
    rows, labels = logits.shape
    rest = 1 / (rows + 2)
    targets = np.full((rows, labels), rest / (labels - 1))
    targets[np.arange(rows), np.asarray(truth)] = 1 - rest

    def loss(log_temperature: float) -> float:
        return float(-(targets * log_softmax(logits / np.exp(log_temperature), axis=1)).sum(axis=1).mean())

    result = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(result.x))


def unsure_threshold(probs_bc: ArrayLike, truth: Sequence[int], max_error: float) -> float:
    """Return the lowest confidence above which at most `max_error` of the answers are wrong.

    Args:
        probs_bc: (B, C) calibrated validation probabilities.
        truth: B label ids.
        max_error: allowed share of wrong answers, 0 to 1.

    Returns:
        A threshold: rows whose top probability is below it are unsure. It is 0 if no row needs to be, and just above
        the highest confidence if all rows have to be.
    """
    probs = np.asarray(probs_bc)
    order = np.argsort(-probs.max(axis=1), kind="stable")
    confidence: NDArray[np.float64] = probs.max(axis=1)[order]
    wrong = np.cumsum(probs.argmax(axis=1)[order] != np.asarray(truth)[order])
    answered = np.arange(1, len(probs) + 1)
    # A threshold cannot separate rows of equal confidence, so only the last row of such a block counts.
    ends = np.flatnonzero(np.r_[confidence[1:] < confidence[:-1], True])
    allowed = ends[wrong[ends] / answered[ends] <= max_error]
    if len(allowed) == 0:
        return float(min(np.nextafter(confidence[0], 2.0), 1.0))
    last = int(allowed[-1])
    return 0.0 if last == len(probs) - 1 else float((confidence[last] + confidence[last + 1]) / 2)


def calibration_metrics(
    logits_bc: ArrayLike, truth: Sequence[int], temperature: float, unsure_below: float | None
) -> dict[str, float]:
    """Return ECE, Brier score and NLL before and after temperature scaling, and coverage and error at the threshold."""
    before, after = probabilities(logits_bc), probabilities(logits_bc, temperature)
    answered = after.max(axis=1) >= (unsure_below or 0.0)
    wrong = after.argmax(axis=1) != np.asarray(truth)
    return {
        "ece_before": expected_calibration_error(before, truth),
        "ece": expected_calibration_error(after, truth),
        "brier_before": brier_score(before, truth),
        "brier": brier_score(after, truth),
        "nll_before": negative_log_likelihood(logits_bc, truth),
        "nll": negative_log_likelihood(logits_bc, truth, temperature),
        "coverage": float(answered.mean()),
        "error_among_answered": float(wrong[answered].mean()) if answered.any() else 0.0,
    }
