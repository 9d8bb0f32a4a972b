"""The golden check: logits computed on this machine against those that the artifact stores from training time."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from classifier.artifact import Artifact
from classifier.decoding import combine_windows
from classifier.encoding import EncodedText
from classifier.errors import ArtifactError, EncodingError

if TYPE_CHECKING:
    import torch

Forward = Callable[[Sequence[Sequence[int]]], "torch.Tensor"]
"""Takes B sequences of token ids and returns logits (B, C), float32, on the CPU."""

Run = Callable[[Callable[[Sequence[int]], float], Iterable[Sequence[int]]], Iterable[float]]
"""Applies a function to each of some batches, as `map` does."""

GOLDEN_TOLERANCE = 1e-3
"""Largest difference allowed between the golden logits of training time and of now, both float32.

Other CPUs add in another order, which changes logits by 1e-5 to 1e-4. A wrong position or mask changes them by 0.1 and
more.
"""

SHORT_TOKENS = 64
"""Golden texts up to this length also run alone; longer ones would take seconds on a slow machine."""


def encode_golden_texts(artifact: Artifact) -> list[EncodedText]:
    """Return the golden texts as tokens.

    Raises:
        ArtifactError: one cannot be encoded.
    """
    texts: list[EncodedText] = []
    for result in artifact.encoder().encode([golden.text for golden in artifact.manifest.golden]):
        if isinstance(result, EncodingError):
            raise ArtifactError(artifact.directory, f"a golden text cannot be encoded: {result}")
        texts.append(result)
    return texts


def golden_difference(
    artifact: Artifact, texts: Sequence[EncodedText], forward: Forward, run: Run = map, batches: int = 1
) -> float:
    """Return the largest difference from the stored logits, infinite for NaN.

    Args:
        artifact: has the stored logits.
        texts: the golden texts.
        forward: the model's forward.
        run: runs the batches, perhaps several at the same time.
        batches: number of batches with all golden texts. Each short text also runs alone.
    """
    stored_bc = np.array([golden.logits for golden in artifact.manifest.golden])
    alone = [[i] for i, text in enumerate(texts) if text.tokens <= SHORT_TOKENS and len(text.windows) == 1]

    def difference(batch: Sequence[int]) -> float:
        rows = iter(forward([window.ids for i in batch for window in texts[i].windows]).tolist())
        lengths = [[len(window.ids) for window in texts[i].windows] for i in batch]
        logits_bc = np.stack([combine_windows([next(rows) for _ in each], each) for each in lengths])
        return float(np.abs(logits_bc - stored_bc[batch]).max())

    together = [list(range(first, len(texts), batches)) for first in range(min(batches, len(texts)))]
    differences = list(run(difference, [*together, *alone]))
    largest = float(np.max(differences))
    return largest if largest == largest else float("inf")


def check_golden_difference(artifact: Artifact, difference: float, allowed: float, precision: str) -> None:
    """Refuse a model that gives other answers here than at training time.

    Raises:
        ArtifactError: the difference is not at most the allowed one.
    """
    if not difference <= allowed:
        raise ArtifactError(
            artifact.directory,
            f"golden texts' logits differ from those of training time by {difference:.2g}, {allowed:.0e} is allowed "
            f"for {precision}; this machine would give wrong answers",
        )
