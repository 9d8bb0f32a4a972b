"""The calibration as a function of the tokens read."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.calibration import Calibration, CalibrationPoint

CURVE = Calibration(
    points=(
        CalibrationPoint(tokens=8, temperature=3.0, unsure_below=None),
        CalibrationPoint(tokens=32, temperature=2.0, unsure_below=0.9),
        CalibrationPoint(tokens=128, temperature=1.0, unsure_below=0.7),
    )
)


def test_temperature_is_interpolated_over_the_logarithm_of_the_tokens() -> None:
    assert CURVE.temperature([1, 8, 16, 32, 64, 128, 5000]).tolist() == [3.0, 3.0, 2.5, 2.0, 1.5, 1.0, 1.0]
    assert CURVE.temperature(16) == 2.5


def test_the_higher_threshold_of_two_neighbours_counts_and_an_unknown_one_is_infinite() -> None:
    thresholds = CURVE.unsure_below([1, 8, 9, 31, 32, 33, 127, 128, 5000]).tolist()
    assert thresholds == [math.inf] * 4 + [0.9] * 3 + [0.7] * 2
    assert CURVE.unsure_below(40) == 0.9


@given(st.integers(1, 4096))
def test_one_text_gets_what_many_get(tokens: int) -> None:
    assert CURVE.at(tokens) == (CURVE.temperature([tokens])[0], CURVE.unsure_below([tokens])[0])


@given(st.lists(st.integers(1, 4096), min_size=1, max_size=9))
def test_one_point_holds_everywhere(tokens: list[int]) -> None:
    curve = Calibration(points=(CalibrationPoint(tokens=400, temperature=1.5, unsure_below=0.8),))
    assert np.all(curve.temperature(tokens) == 1.5) and np.all(curve.unsure_below(tokens) == 0.8)


def test_a_threshold_of_one_point_is_enough_to_mark_answers() -> None:
    assert CURVE.has_threshold and not Calibration().has_threshold


def test_points_must_ascend() -> None:
    point = CalibrationPoint(tokens=8, temperature=1.0)
    with pytest.raises(ValueError, match="ascend"):
        Calibration(points=(point, point))
    with pytest.raises(ValueError, match="at least 1"):
        Calibration(points=())
