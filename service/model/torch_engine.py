"""The engine over PyTorch."""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import torch

from classifier import OnLong
from classifier.artifact import Artifact
from classifier.decoding import combine_windows, probabilities
from classifier.encoding import EncodedText, end_of_reading, original_spans, window_starts
from classifier.errors import EmptyTextError, EncodingError, TextTooLongError
from classifier.golden import Forward
from service.errors import ServiceError
from service.inference.engine import (
    MAX_LISTED,
    EncodedWindow,
    EngineInfo,
    Logits,
    ModelOutOfMemory,
    Prediction,
    TextWindows,
    TokenizedText,
)
from service.model.measure import set_threads


class TorchEngine:
    """The model of an artifact; `service.inference.engine.Engine` describes the methods."""

    def __init__(self, artifact: Artifact, forward: Forward, info: EngineInfo) -> None:
        self._encoder = artifact.encoder()
        self._forward = forward
        self._labels = artifact.labels
        # the head "flatten" pads every row to its full width
        self._padded_to = info.max_tokens if info.head == "flatten" else 0
        self.info = info
        self._calibration_at = lru_cache(maxsize=4096)(info.calibration.at)

    def encode(
        self, texts: Sequence[str], on_long: OnLong | None, spans: bool = False
    ) -> list[TextWindows | ServiceError]:
        results: list[TextWindows | ServiceError] = []
        for text, encoded in zip(texts, self._encoder.encode(texts, on_long), strict=True):
            if isinstance(encoded, EncodingError):
                results.append(_service_error(encoded))
                continue
            windows = tuple(
                EncodedWindow(len(window.ids), window.ids, self._padded_to or len(window.ids), _key(window.ids))
                for window in encoded.windows
            )
            places = self._places(text, encoded) if spans else ()
            results.append(TextWindows(windows, encoded.tokens, encoded.tokens_read, places))
        return results

    def _places(self, text: str, encoded: EncodedText) -> tuple[tuple[int, int], ...]:
        """Return the spans of the windows, the last one up to where reading ended if the text is truncated."""
        cleaning, last = self._encoder.cleaning, encoded.windows[-1]
        *before, (start, end) = original_spans(text, cleaning, encoded.windows)
        return (*before, (start, end_of_reading(text, cleaning, last.end) if encoded.truncated else end))

    def tokenize(self, text: str) -> TokenizedText:
        try:
            cleaned, ids, places = self._encoder.tokenize(text, MAX_LISTED)
        except EncodingError as exc:
            raise _service_error(exc) from exc
        windows = len(window_starts(len(ids), self.info.max_tokens, self.info.window_stride))
        listed = tuple(ids[:MAX_LISTED])
        return TokenizedText(cleaned[: places[-1][1]], listed, tuple(places), len(ids), windows)

    def infer(self, windows: Sequence[EncodedWindow]) -> Sequence[Logits]:
        try:
            rows: list[list[float]] = self._forward([window.payload for window in windows]).tolist()
        except (MemoryError, torch.OutOfMemoryError) as exc:
            raise ModelOutOfMemory(str(exc)) from exc
        except RuntimeError as exc:
            if "can't allocate memory" in str(exc):  # PyTorch has no class of its own for the CPU's memory
                raise ModelOutOfMemory(str(exc)) from exc
            raise
        return rows

    def decode(self, text: TextWindows, logits: Sequence[Logits]) -> Prediction:
        combined = combine_windows(logits, [window.tokens for window in text.windows])
        if not np.isfinite(combined).all():
            raise ServiceError("inference_failed", "the model's scores for this text are not finite")
        temperature, threshold = self._calibration_at(text.tokens_read)
        probs = probabilities(combined, temperature).tolist()
        ranked = sorted(zip(self._labels.names, probs, strict=True), key=lambda pair: -pair[1])
        unsure = ranked[0][1] < threshold if self.info.calibration.has_threshold else None
        return Prediction(tuple(ranked), unsure)

    def prepare_thread(self) -> None:
        set_threads(self.info.threads)

    def probe(self) -> None:
        if not torch.isfinite(self._forward([[0]])).all():
            raise RuntimeError("the model's scores for one token are not finite")


def _service_error(problem: EncodingError) -> ServiceError:
    kinds = {EmptyTextError: "empty_text", TextTooLongError: "text_too_long"}
    return ServiceError(kinds.get(type(problem), "invalid_text"), str(problem))


def _key(ids: Sequence[int]) -> bytes:
    """Return 16 bytes that identify a window, so that the text itself need not be kept to recognise it."""
    return blake2b(np.asarray(ids, dtype=np.int32).tobytes(), digest_size=16).digest()
