import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.decoding import combine_windows, probabilities

finite = st.floats(-1e4, 1e4)


@given(st.lists(st.lists(finite, min_size=3, max_size=3), min_size=1, max_size=5), st.floats(0.05, 20))
def test_probabilities_are_a_distribution_in_the_logits_order(rows: list[list[float]], temperature: float) -> None:
    probs = probabilities(rows, temperature)
    assert np.isfinite(probs).all() and np.allclose(probs.sum(axis=1), 1)
    for logits, row in zip(rows, probs, strict=True):
        assert row[int(np.argmax(logits))] == row.max()


def test_very_negative_logits_do_not_overflow() -> None:
    """Subtracting the logit of largest magnitude instead of the largest gives inf / inf here."""
    assert probabilities([-600.0, 30.0]).tolist() == pytest.approx([0.0, 1.0])


def test_temperature_softens() -> None:
    assert probabilities([2.0, 0.0], 4.0)[0] < probabilities([2.0, 0.0])[0]


def test_windows_are_weighted_by_their_tokens() -> None:
    assert combine_windows([[4.0, 0.0], [0.0, 2.0]], [30, 10]).tolist() == [3.0, 0.5]


@given(st.lists(finite, min_size=2, max_size=4), st.integers(1, 4))
def test_equal_windows_combine_to_themselves(logits: list[float], count: int) -> None:
    combined = combine_windows([logits] * count, [7] * count)
    assert np.allclose(combined, np.array(logits, dtype=np.float32))
