"""Decoding of logits to probabilities: combining the windows of a text, and the softmax with a temperature."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def combine_windows(logits_wc: ArrayLike, tokens_w: Sequence[int]) -> NDArray[np.float32]:
    """Return the logits of one text: the mean of its windows' logits, weighted by the tokens of each window.

    The mean of logits is the renormalised geometric mean of the windows' probabilities. One confident window cannot
    outvote several that are confident of something else, as it could with a maximum.

    Args:
        logits_wc: (W, C), one row per window, W >= 1.
        tokens_w: number of tokens of each window.

    Returns:
        (C,) float32.
    """
    if len(tokens_w) == 1:  # numpy's mean would take a tenth of a millisecond
        alone: NDArray[np.float32] = np.array(logits_wc, dtype=np.float32)[0]
        return alone
    combined: NDArray[np.float32] = np.average(
        np.asarray(logits_wc, dtype=np.float64), axis=0, weights=np.asarray(tokens_w, dtype=np.float64)
    ).astype(np.float32)
    return combined


def probabilities(logits_bc: ArrayLike, temperature: ArrayLike = 1.0) -> NDArray[np.float64]:
    """Return the softmax of logits / temperature along the last axis; rows sum to 1.

    `temperature` is one number, or has one for each row (B, 1).

    The maximum is subtracted first, so that no finite logits overflow. NaN gives NaN; callers must check for it.
    """
    probs: NDArray[np.float64] = np.divide(logits_bc, temperature, dtype=np.float64)
    probs -= probs.max(axis=-1, keepdims=True)
    np.exp(probs, out=probs)
    probs /= probs.sum(axis=-1, keepdims=True)
    return probs
