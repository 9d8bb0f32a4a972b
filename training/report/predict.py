"""Logits of many texts by the reference forward, from which all figures of training are computed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from classifier.decoding import combine_windows
from classifier.encoding import EncodedText, Encoder, Window
from classifier.errors import EncodingError
from classifier.model import GPT2Classifier, infer_sequences

BATCH_TOKENS = 8192
"""Padded tokens per batch: enough for the matrix kernels, few enough for the memory of a laptop."""
CHUNK_TEXTS = 2048
"""Texts that are encoded at once: enough to fill batches of equal lengths, few enough for memory."""


def predict_logits(model: GPT2Classifier, encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the logits (B, C) float32 of whole texts, long ones read in windows. Sets the model to evaluation mode.

    Products are computed in full float32, whatever the process allows elsewhere. Beside the result, memory holds the
    tokens of `CHUNK_TEXTS` texts.

    Raises:
        EncodingError: a text cannot be encoded; the message says which.
    """
    model.eval()
    logits_bc = np.empty((len(texts), model.config.num_labels), dtype=np.float32)
    with full_float32():
        for start in range(0, len(texts), CHUNK_TEXTS):
            encoded: list[EncodedText] = []
            for i, result in enumerate(encoder.encode(texts[start : start + CHUNK_TEXTS]), start):
                if isinstance(result, EncodingError):
                    raise EncodingError(f"text {i}: {result}")
                encoded.append(result)
            logits_bc[start : start + len(encoded)] = _predict_encoded(model, encoded)
    return logits_bc


def token_counts(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of tokens that the model reads of each text: (B,) int64.

    Raises:
        EncodingError: a text cannot be encoded; the message says which.
    """
    counts = np.empty(len(texts), dtype=np.int64)
    for i, result in enumerate(encoder.encode_each(texts)):
        if isinstance(result, EncodingError):
            raise EncodingError(f"text {i}: {result}")
        counts[i] = result.tokens_read
    return counts


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 matrix products without TensorFloat-32 or bfloat16, and restore the settings afterwards.

    Some images switch reduced products on for the whole process, which moves logits by more than the service allows.
    """
    switches: Any = torch.backends  # torch's type stubs lack these settings
    backends = switches.cuda.matmul, switches.mkldnn.matmul
    before = [backend.fp32_precision for backend in backends]
    overall: str | None = None
    with suppress(RuntimeError):  # torch refuses to name one precision if it was set for a single backend
        overall = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if overall is not None:
            torch.set_float32_matmul_precision(overall)
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def _predict_encoded(model: GPT2Classifier, encoded: Sequence[EncodedText]) -> NDArray[np.float32]:
    windows = [window for text in encoded for window in text.windows]
    logits_wc = np.empty((len(windows), model.config.num_labels), dtype=np.float32)
    for batch in _batches(windows, getattr(model.config, "flatten_tokens", 0)):
        logits_wc[batch] = infer_sequences(model, [windows[i].ids for i in batch]).numpy()
    answers = []
    start = 0
    for text in encoded:
        stop = start + len(text.windows)
        answers.append(combine_windows(logits_wc[start:stop], [len(w.ids) for w in text.windows]))
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
