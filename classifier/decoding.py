"""From logits to an answer: windows combined, temperature applied, probabilities."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def combine_windows(logits_wc: ArrayLike, tokens_w: Sequence[int]) -> NDArray[np.float32]:
    """One text's logits from its windows': their mean, weighted by each window's tokens.

    The mean of logits is the (renormalised) geometric mean of the windows' probabilities: one window that is sure
    cannot outvote several that are sure of something else, as it could under a maximum.

    Args:
        logits_wc: (W, C), one row a window, W >= 1.
        tokens_w: tokens of each window.

    Returns:
        (C,) float32.
    """
    combined: NDArray[np.float32] = np.average(
        np.asarray(logits_wc, dtype=np.float64), axis=0, weights=np.asarray(tokens_w, dtype=np.float64)
    ).astype(np.float32)
    return combined


def probabilities(logits_bc: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Softmax of logits / temperature along the last axis; rows sum to 1.

    The true maximum is subtracted first, so that no finite logits overflow. NaN in gives NaN out: callers check.
    """
    scaled = np.asarray(logits_bc, dtype=np.float64) / temperature
    exp = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = exp / exp.sum(axis=-1, keepdims=True)
    return result
