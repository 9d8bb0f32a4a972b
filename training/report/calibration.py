"""Fitting the calibration on validation texts: whole, and cut at many lengths and places."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from classifier.calibration import Calibration, CalibrationPoint
from classifier.decoding import probabilities
from classifier.encoding import Encoder, pad
from classifier.model import GPT2Classifier
from training.report.metrics import fit_temperature, unsure_threshold
from training.report.predict import full_float32

LENGTHS = tuple(2**power for power in range(3, 11))
"""Numbers of tokens to which texts are cut."""
FEWEST = 50
"""Cuts of one length, at least, to fit a temperature."""
MOST_TEXTS = 1000
"""Most texts that are cut: two forwards each."""
BATCH_TEXTS = 16


@dataclass(frozen=True)
class Cuts:
    """The logits of texts that were cut to one length, at their beginning and at a random place."""

    rows: NDArray[np.intp]
    """(K,) the text of each cut."""
    logits: NDArray[np.float32]
    """(K, C)."""


def cut_logits(model: GPT2Classifier, encoder: Encoder, texts: Sequence[str], seed: int = 0) -> dict[int, Cuts]:
    """Return the logits of cut texts by length. Lengths with fewer than `FEWEST` cuts are left out.

    GPT-2 is causal, so one forward from a place gives the logits of all cuts that begin there. The head `flatten` has
    no such logits: the result is empty.

    Args:
        model: the reference model; set to evaluation mode.
        encoder: its encoder.
        texts: of more than `MOST_TEXTS`, as many are taken at even distances.
        seed: decides the places.
    """
    if getattr(model.config, "flatten_tokens", 0):
        return {}
    draw = random.Random(seed)
    sequences: list[tuple[int, Sequence[int]]] = []
    step = -(-len(texts) // MOST_TEXTS)
    for row in range(0, len(texts), step):
        _, ids, _ = encoder.tokenize(texts[row], 0)
        for start in (0, draw.randrange(max(1, len(ids) - LENGTHS[0] + 1))):
            sequences.append((row, ids[start : start + encoder.max_tokens]))
    sequences.sort(key=lambda each: len(each[1]))  # so that batches have little padding
    found: dict[int, list[tuple[int, NDArray[np.float32]]]] = {length: [] for length in LENGTHS}
    model.eval()
    with full_float32(), torch.inference_mode():
        for first in range(0, len(sequences), BATCH_TEXTS):
            group = sequences[first : first + BATCH_TEXTS]
            batch = pad([ids for _, ids in group], model.config.pad_token_id, "right")
            ids_bt, mask_bt = (torch.from_numpy(each).to(model.device) for each in (batch.ids_bt, batch.mask_bt))
            logits_btc = model(ids_bt, mask_bt, every_token=True).logits.float().cpu().numpy()
            for (row, sequence), logits_tc in zip(group, logits_btc, strict=True):
                for length in LENGTHS:
                    if length <= len(sequence):
                        found[length].append((row, logits_tc[length - 1].copy()))
    return {
        length: Cuts(np.array([row for row, _ in cuts]), np.stack([logits for _, logits in cuts]))
        for length, cuts in found.items()
        if len(cuts) >= FEWEST
    }


def fit_calibration(
    whole_bc: NDArray[np.float32],
    tokens: ArrayLike,
    cuts: dict[int, Cuts],
    truth: Sequence[int],
    groups: Sequence[int],
    max_error: float,
) -> Calibration:
    """Return the calibration that fits validation texts.

    There is a point for each length of cuts that is shorter than the median text, and one for whole texts at the
    median. The threshold of whole texts is promised by the test of `unsure_threshold`. For a shorter cut it is the
    lowest above which at most `max_error` of the validation cuts of this length are answered wrongly, but not lower
    than that of longer cuts: a few tokens leave too many mistakes among the most confident half of a few hundred texts
    for a promise. Without a promise for whole texts no point has a threshold.

    Args:
        whole_bc: (B, C) logits of whole texts.
        tokens: their B numbers of tokens.
        cuts: see `cut_logits`.
        truth: B label ids.
        groups: the group of near-duplicates of each text.
        max_error: allowed share of wrong answers among those that are not unsure, 0 to 1.
    """
    median = int(np.median(np.asarray(tokens)))
    rows = np.arange(len(truth))
    parts = {length: cut for length, cut in cuts.items() if length < median} | {median: Cuts(rows, whole_bc)}
    truth_b = np.asarray(truth)
    points: list[CalibrationPoint] = []
    for length, part in sorted(parts.items(), reverse=True):
        truth_k = truth_b[part.rows]
        temperature = fit_temperature(part.logits, truth_k.tolist())
        probs = probabilities(part.logits, temperature)
        if not points:
            threshold = unsure_threshold(probs, truth_k, max_error, groups)
        elif threshold is not None:
            threshold = _observed_threshold(probs, truth_k, max_error, threshold)
        points.insert(0, CalibrationPoint(tokens=length, temperature=temperature, unsure_below=threshold))
    return Calibration(points=tuple(points))


def _observed_threshold(
    probs_kc: NDArray[np.float64], truth_k: NDArray[np.int64], max_error: float, lowest: float
) -> float | None:
    """Return the lowest threshold from `lowest` on with at most `max_error` of wrong answers above it, or None."""
    confidence = probs_kc.max(axis=1)
    wrong = probs_kc.argmax(axis=1) != truth_k
    candidates = (lowest, *np.unique(confidence[confidence > lowest]).tolist())
    return next((each for each in candidates if _share(wrong[confidence >= each]) <= max_error), None)


def _share(wrong: NDArray[np.bool_]) -> float:
    return float(wrong.mean()) if len(wrong) else 1.0
