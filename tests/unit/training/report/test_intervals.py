import tracemalloc

import numpy as np
import pytest

from training.report import intervals
from training.report.intervals import group_intervals, paired_differences, wilson


def test_wilson_by_hand() -> None:
    assert wilson(0.8, 100) == pytest.approx([0.7112, 0.8666], abs=1e-4)
    assert wilson(1.0, 5) == pytest.approx([0.5655, 1.0], abs=1e-4)
    assert wilson(0.0, 5) == pytest.approx([0.0, 0.4345], abs=1e-4)


def test_intervals_hold_the_estimate_and_narrow_with_more_rows() -> None:
    truth, predicted = [0, 0, 1, 1, 1] * 20, [0, 1, 1, 1, 1] * 20
    few = group_intervals(truth[:25], predicted[:25], 2, range(25))
    many = group_intervals(truth, predicted, 2, range(100))
    for name, value in (("accuracy", 0.8), ("macro_f1", (2 / 3 + 6 / 7) / 2)):
        wide, narrow = few[name], many[name]
        assert wide is not None and narrow is not None
        assert wide[0] < narrow[0] < value < narrow[1] < wide[1]
    assert many["accuracy"] == pytest.approx(wilson(0.8, 100), abs=0.005)


@pytest.mark.parametrize("right", [True, False])
def test_five_equal_answers_prove_little(right: bool) -> None:
    found = group_intervals([0, 1, 0, 1, 0], [0, 1, 0, 1, 0] if right else [1, 0, 1, 0, 1], 2, range(5))
    assert found == {"accuracy": pytest.approx(wilson(float(right), 5)), "macro_f1": None}


def test_copies_of_the_texts_add_no_certainty() -> None:
    truth, predicted, groups = [0, 0, 1, 1, 1] * 20, [0, 1, 1, 1, 1] * 20, list(range(100))
    once = group_intervals(truth, predicted, 2, groups)
    assert group_intervals(truth * 9, predicted * 9, 2, groups * 9) == {
        name: pytest.approx(interval, abs=0.01) for name, interval in once.items()
    }


def test_one_large_group_widens_the_intervals() -> None:
    """Three hundred copies of one text, all right, and a hundred other texts, half of them right."""
    truth, predicted = [0, 1] * 200, [0, 1] * 150 + [0, 0] * 50
    found = group_intervals(truth, predicted, 2, [0] * 300 + list(range(1, 101)))["accuracy"]
    assert found is not None and found[0] < 0.65 < found[1]


def test_intervals_hold_the_true_accuracy_of_correlated_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four texts a group, all right or all wrong in most groups: 95 % intervals hold 80 % in about 95 % of samples."""
    monkeypatch.setattr(intervals, "RESAMPLES", 300)
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        right_g = rng.random(60) < 0.8
        right = np.where(rng.random((60, 4)) < 0.9, right_g[:, None], rng.random((60, 4)) < 0.8).ravel()
        truth = np.zeros(240, dtype=int)
        low, high = group_intervals(truth, 1 - right.astype(int), 2, np.repeat(range(60), 4))["accuracy"] or (0, 0)
        held += low <= 0.8 <= high
    assert 180 <= held <= 200


def test_resamples_agree_with_drawing_the_groups_one_by_one() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 150)
    truth = rng.integers(0, 3, 150)
    predicted = np.where(rng.random(150) < 0.7, truth, rng.integers(0, 3, 150))
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    drawn = []
    for _ in range(3000):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        t, p = truth[rows], predicted[rows]
        f1 = [2 * ((t == c) & (p == c)).sum() / ((t == c).sum() + (p == c).sum()) for c in set(t.tolist())]
        drawn.append(np.mean(f1))
    found = group_intervals(truth, predicted, 3, groups)
    assert found["macro_f1"] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.01)


def test_the_difference_is_measured_on_the_same_texts() -> None:
    """Both models fail on the same hard half; one fails on a tenth of the rest, too."""
    truth = np.zeros(400, dtype=int)
    model = np.repeat([0, 1], 200)
    other = model.copy()
    other[:20] = 1
    low, high = paired_differences(truth, model, other, 2, range(400))["accuracy"] or (0, 0)
    assert 0 < low < 0.05 < high < 0.08  # the intervals of the two accuracies are 0.1 wide each
    back = paired_differences(truth, other, model, 2, range(400))["accuracy"]
    assert back == pytest.approx([-high, -low], abs=0.01)
    copied = paired_differences(np.tile(truth, 9), np.tile(model, 9), np.tile(other, 9), 2, [*range(400)] * 9)
    assert copied["accuracy"] == pytest.approx([low, high], abs=0.01)


def test_equal_answers_tell_nothing_about_the_difference() -> None:
    assert paired_differences([0, 1, 1], [0, 1, 0], [0, 1, 0], 2, range(3)) == {"accuracy": None, "macro_f1": None}


def test_memory_does_not_grow_with_the_resamples() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 50, 200_000)
    predicted = np.where(rng.random(len(truth)) < 0.8, truth, rng.integers(0, 50, len(truth)))
    tracemalloc.start()
    paired_differences(truth, predicted, truth, 50, np.arange(len(truth)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6  # the resamples of the rows alone would take 3.2 GB
