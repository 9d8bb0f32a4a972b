"""Arithmetic that the results rest on."""

import math
from itertools import pairwise

import pytest

from benchmarks.engine import differences
from benchmarks.tools.statistics import forward_flops, medians, percentile, poisson_schedule, token_batches


def test_percentile_lies_between_neighbours() -> None:
    assert percentile([40, 10, 20, 30], 50) == 25
    assert percentile([40, 10, 20, 30], 0) == 10
    assert percentile([40, 10, 20, 30], 100) == 40
    assert percentile([7], 99) == 7


def test_percentile_of_nothing_is_nan() -> None:
    assert math.isnan(percentile([], 50))


def test_percentile_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="range"):
        percentile([1], 101)


def test_poisson_schedule_repeats_with_its_seed() -> None:
    assert poisson_schedule(50, 10, seed=1) == poisson_schedule(50, 10, seed=1)
    assert poisson_schedule(50, 10, seed=1) != poisson_schedule(50, 10, seed=2)


def test_poisson_schedule_has_the_rate_and_the_spread_of_poisson_arrivals() -> None:
    times = poisson_schedule(100, 100, seed=0)
    assert times == sorted(times)
    assert times[0] > 0 and times[-1] < 100
    assert abs(len(times) - 10_000) < 4 * math.sqrt(10_000)
    gaps = [b - a for a, b in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert deviation == pytest.approx(mean, rel=0.05)  # of an exponential distribution


def test_poisson_schedule_of_no_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        poisson_schedule(0, 10, seed=0)


def test_medians_go_into_nested_counts_and_leave_out_words() -> None:
    records = [{"a": 1, "name": "x", "n": {"200": 4}}, {"a": 3, "name": "y", "n": {"200": 6, "429": 1}}]
    assert medians(records) == {"a": 2, "n": {"200": 5, "429": 1}}


def test_flops_of_a_forward_by_hand() -> None:
    # linear layers: 2 * 12 a token; attention: 2 multiply-additions for each of the 1 + 2 pairs of tokens
    assert forward_flops([2], layers=1, width=1) == 48 + 12
    assert forward_flops([2, 2], layers=3, width=1) == 2 * 3 * (48 + 12)


def test_batches_hold_every_text_once_and_keep_the_budget() -> None:
    lengths = [5, 100, 30, 30, 60, 41]
    batches = token_batches(lengths, 100)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in batch) <= 100 for batch in batches)


def test_text_above_the_budget_goes_alone() -> None:
    assert token_batches([7, 3], 1) == [[0], [1]]


def test_differences_count_labels_and_take_nan_for_the_worst() -> None:
    assert differences([[1.0, 2.0], [3.0, 1.0]], [[1.0, 2.5], [1.0, 1.5]]) == (2.0, 1)
    assert differences([[float("nan"), 0.0]], [[0.0, 0.0]])[0] == float("inf")
