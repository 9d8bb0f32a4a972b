"""Logits of many texts by the reference forward, from which all figures of training are computed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from classifier.decoding import combine_windows
from classifier.encoding import EncodedText, Encoder, Window
from classifier.errors import EncodingError
from classifier.model import GPT2Classifier, infer_sequences

BATCH_TOKENS = 8192
"""Padded tokens per batch: enough for the matrix kernels, few enough for the memory of a laptop."""


def predict_logits(model: GPT2Classifier, encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the logits (B, C) float32 of whole texts, long ones read in windows. Sets the model to evaluation mode.

    Raises:
        EncodingError: a text cannot be encoded; the message says which.
    """
    encoded: list[EncodedText] = []
    for i, result in enumerate(encoder.encode(texts)):
        if isinstance(result, EncodingError):
            raise EncodingError(f"text {i}: {result}")
        encoded.append(result)
    model.eval()
    windows = [window for text in encoded for window in text.windows]
    logits: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(windows)
    for batch in _batches(windows, getattr(model.config, "flatten_tokens", 0)):
        rows = infer_sequences(model, [windows[i].ids for i in batch]).numpy()
        for i, row in zip(batch, rows, strict=True):
            logits[i] = row
    answers = []
    start = 0
    for text in encoded:
        stop = start + len(text.windows)
        answers.append(combine_windows(np.stack(logits[start:stop]), [len(w.ids) for w in text.windows]))
        start = stop
    return np.stack(answers)


def _batches(windows: Sequence[Window], at_least: int) -> list[list[int]]:
    """Return batches of indices of windows, longest first, of at most `BATCH_TOKENS` tokens with padding.

    Args:
        windows: the windows.
        at_least: number of tokens to which the model pads every row.
    """
    batches: list[list[int]] = []
    width = 0
    for i in sorted(range(len(windows)), key=lambda i: -len(windows[i].ids)):
        if not batches or (len(batches[-1]) + 1) * width > BATCH_TOKENS:
            batches.append([])
            width = max(at_least, len(windows[i].ids))
        batches[-1].append(i)
    return batches
