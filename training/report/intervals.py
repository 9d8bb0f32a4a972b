"""Confidence intervals by cluster bootstrap: a group of near-duplicate texts is drawn whole, as one observation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

LEVEL = 0.95
Z = 1.959964
"""Quantile of the normal distribution for `LEVEL`."""
RESAMPLES, FEWEST_RESAMPLES = 2000, 200
MAX_DRAWS = 100_000_000
"""Bound of resamples times kinds of groups, which keeps a million groups below a minute."""
BLOCK = 4_000_000
"""Counts in memory at once."""

Interval = list[float]
NAMES = ("accuracy", "macro_f1")


def group_intervals(
    truth: ArrayLike, predicted: ArrayLike, labels: int, groups: ArrayLike
) -> dict[str, Interval | None]:
    """Return 95 % intervals of accuracy and macro-F1.

    Macro-F1 has the percentile interval of the bootstrap over groups (Efron and Tibshirani 1993, chapter 13). Accuracy
    has Wilson's interval (1927) for as many independent texts as have the variance of that bootstrap (Korn and
    Graubard, Survey Methodology 24, 1998): where nearly every answer is right, percentiles are too narrow. If all
    answers are right, or all wrong, the bootstrap has no variance, and every group counts as one text.

    Args:
        truth: B label ids.
        predicted: B label ids.
        labels: C, the number of labels.
        groups: the group of each of the B texts.

    Returns:
        `accuracy` and `macro_f1`, each [low, high]; the latter None if all resamples agree, so that nothing is known.
    """
    accuracy_r, f1_r = _resample(truth, [predicted], labels, groups)[:, 0].T
    right = float(np.mean(np.asarray(truth) == np.asarray(predicted)))
    varies = accuracy_r.min() < accuracy_r.max()
    independent = (
        min(right * (1 - right) / float(accuracy_r.var()), np.size(truth)) if varies else len(np.unique(groups))
    )
    return {"accuracy": wilson(right, independent), "macro_f1": _percentiles(f1_r)}


def paired_differences(
    truth: ArrayLike, predicted: ArrayLike, other: ArrayLike, labels: int, groups: ArrayLike
) -> dict[str, Interval | None]:
    """Return 95 % intervals of the differences `predicted` minus `other` in accuracy and macro-F1.

    Both models answer the same resampled groups, so that texts which both find hard do not widen the intervals.

    Args:
        truth: B label ids.
        predicted: B label ids of one model.
        other: B label ids of the other model.
        labels: C, the number of labels.
        groups: the group of each of the B texts.

    Returns:
        `accuracy` and `macro_f1`, each [low, high]; None if all resamples agree, so that nothing is known.
    """
    drawn = _resample(truth, [predicted, other], labels, groups)
    return {name: _percentiles(drawn[:, 0, i] - drawn[:, 1, i]) for i, name in enumerate(NAMES)}


def wilson(share: float, trials: float) -> Interval:
    """Return Wilson's score interval at `LEVEL` of a share of right answers in independent trials."""
    weight = Z**2 / trials
    centre = share + weight / 2
    half = np.sqrt(share * (1 - share) * weight + weight**2 / 4)
    return [max(0.0, float((centre - half) / (1 + weight))), min(1.0, float((centre + half) / (1 + weight)))]


def _percentiles(drawn_r: NDArray[np.float64]) -> Interval | None:
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn_r, [tail, 100 - tail])
    return [float(low), float(high)] if drawn_r.min() < drawn_r.max() else None


def _resample(truth: ArrayLike, answers: Sequence[ArrayLike], labels: int, groups: ArrayLike) -> NDArray[np.float64]:
    """Return accuracy and macro-F1 of each model in each resample, (R, models, 2), from a fixed seed.

    Groups with the same labels and answers are one kind. A resample draws how often each kind occurs (a multinomial
    draw), and its figures follow from sums over the kinds, so that no resample copies B rows.
    """
    rng = np.random.default_rng(0)
    truth_b, answers_mb = np.asarray(truth), np.asarray(answers)
    kind_b, times_k = _kinds(np.vstack([truth_b[None], answers_mb]), groups, rng)
    kept = kind_b >= 0
    kind_b, truth_b, answers_mb = kind_b[kept], truth_b[kept], answers_mb[:, kept]
    # Columns: texts of each label; then for each model right answers of each label, and all answers of each label.
    places = [(kind_b, truth_b)]
    for m, answers_b in enumerate(answers_mb):
        right = answers_b == truth_b
        places.append((kind_b[right], (2 * m + 1) * labels + truth_b[right]))
        places.append((kind_b, (2 * m + 2) * labels + answers_b))
    kinds, columns = (np.concatenate(part) for part in zip(*places, strict=True))
    sums = csr_array((np.ones(len(kinds)), (kinds, columns)), shape=(len(times_k), (1 + 2 * len(answers_mb)) * labels))
    resamples = int(np.clip(MAX_DRAWS // len(times_k), FEWEST_RESAMPLES, RESAMPLES))
    drawn = np.empty((resamples, len(answers_mb), 2))
    for start in range(0, resamples, max(1, BLOCK // len(times_k))):
        block = drawn[start : start + max(1, BLOCK // len(times_k))]
        counts_rk = rng.multinomial(times_k.sum(), times_k / times_k.sum(), size=len(block))
        totals = (sums.T @ counts_rk.T).T.reshape(len(block), -1, labels)
        rows_rc = totals[:, 0]
        for m in range(len(answers_mb)):
            right_rc, answered_rc = totals[:, 2 * m + 1], totals[:, 2 * m + 2]
            f1_rc = 2 * right_rc / np.maximum(rows_rc + answered_rc, 1)
            block[:, m, 0] = right_rc.sum(axis=1) / rows_rc.sum(axis=1)
            block[:, m, 1] = (f1_rc * (rows_rc > 0)).sum(axis=1) / (rows_rc > 0).sum(axis=1)
    return drawn


def _kinds(
    cells_nb: NDArray[np.int64], groups: ArrayLike, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the kind of each row of one group of every kind, -1 for all other rows, and the number of groups a kind.

    Two groups are of one kind if their rows have the same labels and answers, in any order. Each combination of label
    and answers has a random 64-bit number, and the sum of a group's numbers, modulo 2**64, stands for its kind.
    """
    _, group_b = np.unique(groups, return_inverse=True)
    _, cell_b = np.unique(cells_nb, axis=1, return_inverse=True)
    numbers = rng.integers(0, 2**64, size=cell_b.max() + 1, dtype=np.uint64)
    order = np.argsort(group_b, kind="stable")
    starts = np.flatnonzero(np.diff(group_b[order], prepend=-1))
    _, first_k, times_k = np.unique(
        np.add.reduceat(numbers[cell_b[order]], starts), return_index=True, return_counts=True
    )
    kind_g = np.full(len(starts), -1)
    kind_g[first_k] = np.arange(len(first_k))
    return kind_g[group_b], times_k
