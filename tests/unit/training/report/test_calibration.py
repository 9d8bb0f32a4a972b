"""Calibration fitted on texts that are whole and cut at many lengths."""

import numpy as np
import pytest
from numpy.typing import NDArray

from classifier.artifact import Artifact
from classifier.decoding import probabilities
from training.report.calibration import FEWEST, Cuts, cut_logits, fit_calibration

LABELS = 3


def drawn(rng: np.random.Generator, rows: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return logits and labels that their softmax describes."""
    logits = 3 * rng.normal(size=(rows, LABELS))
    chosen = (probabilities(logits).cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    return logits.astype(np.float32), chosen


def test_cut_logits_are_those_of_the_cut_text(artifact: Artifact) -> None:
    encoder, model = artifact.encoder(), artifact.model()
    texts = [f"shares fell {word} and the bank said that " * 3 for word in ("a", "b", "c", "d")] * 10
    found = cut_logits(model, encoder, texts)
    assert set(found) == {8, 16, 32} and all(len(cuts.rows) >= FEWEST for cuts in found.values())
    for length, cuts in found.items():
        beginnings = [tuple(encoder.tokenize(texts[row], 0)[1][:length]) for row in range(len(texts))]
        expected = dict(zip(beginnings, model_logits(artifact, beginnings), strict=True))
        for row in range(len(texts)):
            mine = cuts.logits[cuts.rows == row]
            nearest = np.abs(mine - expected[beginnings[row]]).max(axis=1).min()
            assert nearest < 1e-4, "one of the text's cuts is its beginning"


def model_logits(artifact: Artifact, sequences: list[tuple[int, ...]]) -> NDArray[np.float32]:
    packed = artifact.packed()
    return np.stack([packed([list(ids)])[0].numpy() for ids in sequences])


def test_few_texts_have_no_cuts(artifact: Artifact) -> None:
    assert cut_logits(artifact.model(), artifact.encoder(), ["shares fell and the bank said that " * 3] * 10) == {}


def test_each_length_gets_its_own_temperature() -> None:
    rng = np.random.default_rng(0)
    whole, truth = drawn(rng, 4000)
    short = (whole * 2.5).astype(np.float32)  # after a few tokens the same answers are claimed with too much confidence
    curve = fit_calibration(whole, [300] * 4000, {16: Cuts(np.arange(4000), short)}, truth.tolist(), range(4000), 0.05)
    assert [point.tokens for point in curve.points] == [16, 300]
    assert [point.temperature for point in curve.points] == pytest.approx([2.5, 1.0], rel=0.06)
    thresholds = [point.unsure_below for point in curve.points]
    assert thresholds[0] == pytest.approx(thresholds[1], abs=0.02)


def test_cuts_as_long_as_the_median_text_are_left_out() -> None:
    rng = np.random.default_rng(0)
    whole, truth = drawn(rng, 200)
    cuts = {8: Cuts(np.arange(200), whole), 16: Cuts(np.arange(200), whole)}
    curve = fit_calibration(whole, [12] * 200, cuts, truth.tolist(), range(200), 0.05)
    assert [point.tokens for point in curve.points] == [8, 12]


def test_shorter_cuts_get_a_threshold_that_leaves_the_allowed_mistakes() -> None:
    rng = np.random.default_rng(0)
    rows = 400
    truth = rng.integers(0, LABELS, rows)
    sure = 12 * np.eye(LABELS, dtype=np.float32)[truth]
    spoilt = sure.copy()
    spoilt[::2] = 0.1 * np.roll(sure[::2], 1, axis=1)  # every second answer is wrong, and hesitant
    cuts = {8: Cuts(np.arange(rows), -spoilt), 16: Cuts(np.arange(rows), spoilt)}
    curve = fit_calibration(sure, [300] * rows, cuts, truth.tolist(), range(rows), 0.02)
    assert [point.unsure_below for point in curve.points][::2] == [None, 0.0], "after 8 tokens all answers are wrong"
    threshold = curve.points[1].unsure_below
    assert threshold is not None
    probs = probabilities(spoilt, curve.points[1].temperature).max(axis=1)
    assert (probs >= threshold).tolist() == [False, True] * (rows // 2)


def test_nothing_is_promised_where_nothing_can_be() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(300, LABELS)).astype(np.float32)
    truth = rng.integers(0, LABELS, 300).tolist()
    assert not fit_calibration(logits, [300] * 300, {}, truth, range(300), 0.02).has_threshold
