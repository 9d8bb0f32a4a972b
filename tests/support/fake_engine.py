"""An engine whose answers can be computed on paper.

The tokens of a text are its words. Its logits are 10 for label number (characters modulo labels) and 0 elsewhere, so
that a wrong row in a batch shows at once. Some words in a text have an effect:

    poison   the model raises on the whole batch
    greedy   the model runs out of memory on the whole batch
    nan      the logits of this text are not finite
    huge     this text counts as 1,000 tokens
"""

import re
import threading
from collections.abc import Sequence
from dataclasses import replace

from classifier import OnLong
from classifier.calibration import Calibration, CalibrationPoint
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
from tests.support import texts

LABELS = texts.LABELS
MAX_TOKENS = 50


def item(text: str, tokens: int | None = None) -> EncodedWindow:
    tokens = len(text.split()) if tokens is None else tokens
    return EncodedWindow(tokens, text, tokens, key=text)


def expected_label(text: str) -> str:
    return LABELS[len(text) % len(LABELS)]


class FakeEngine:
    """The engine of this module. While its `gate` is closed, every batch waits in the model."""

    def __init__(self) -> None:
        self.info = EngineInfo(
            name="fake",
            version="0123456789ab",
            labels=LABELS,
            max_tokens=MAX_TOKENS,
            window_stride=40,
            on_long="windows",
            head="last_token",
            input="title, blank line, text",
            calibration=Calibration(points=(CalibrationPoint(tokens=1, temperature=1.0, unsure_below=0.5),)),
            parameters=0,
            precision="float32",
            precision_trials=(),
            attention="plain",
            device="cpu",
            lanes=1,
            threads=1,
            lane_trials=(),
            max_batch_tokens=4096,
            budget_trials=(),
            tokens_per_s=0.0,
            created="2026-01-01T00:00:00+00:00",
            golden_difference=0.0,
            metrics={},
        )
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        """Released each time a batch reaches the model."""
        self.broken = False
        """While true, every forward fails, the probe included."""

    def encode(
        self, texts: Sequence[str], on_long: OnLong | None, spans: bool = False
    ) -> list[TextWindows | ServiceError]:
        results = [self._encode(text, on_long) for text in texts]
        if spans:
            results = [
                replace(r, spans=((0, _end_of_word(text, r.tokens_read)),) * len(r.windows))
                if isinstance(r, TextWindows)
                else r
                for text, r in zip(texts, results, strict=True)
            ]
        return results

    def _encode(self, text: str, on_long: OnLong | None) -> TextWindows | ServiceError:
        tokens = 1000 if "huge" in text else len(text.split())
        if tokens == 0:
            return ServiceError("empty_text", "the text is empty")
        if "\ud800" in text:
            return ServiceError("invalid_text", "the text is not valid Unicode")
        if tokens > MAX_TOKENS and "huge" not in text:
            if on_long == "error":
                return ServiceError("text_too_long", f"{tokens} tokens, the limit is {MAX_TOKENS}")
            if on_long == "truncate":
                return TextWindows((item(text[: _end_of_word(text, MAX_TOKENS)], MAX_TOKENS),), tokens, MAX_TOKENS)
            return TextWindows((item(text, MAX_TOKENS), item(text + "'", MAX_TOKENS)), tokens, tokens)
        return TextWindows((item(text, tokens),), tokens, tokens)

    def tokenize(self, text: str) -> TokenizedText:
        encoded = self._encode(text, "windows")
        if isinstance(encoded, ServiceError):
            raise encoded
        places = [match.span() for match in re.finditer(r"\S+", text)]
        listed = tuple(places[:MAX_LISTED])
        ids = tuple(range(len(listed)))
        return TokenizedText(text[: listed[-1][1]], ids, listed, len(places), len(encoded.windows))

    def infer(self, windows: Sequence[EncodedWindow]) -> Sequence[Logits]:
        texts = [window.payload for window in windows]
        self.batches.append(texts)
        self.entered.release()
        assert self.gate.wait(30), "the test never opened the gate"
        if self.broken or any("poison" in text for text in texts):
            raise RuntimeError("bad batch")
        if any("greedy" in text for text in texts):
            raise ModelOutOfMemory("not enough")
        return [self._logits(text) for text in texts]

    @staticmethod
    def _logits(text: str) -> list[float]:
        if "nan" in text:
            return [float("nan")] * len(LABELS)
        return [10.0 if i == len(text) % len(LABELS) else 0.0 for i in range(len(LABELS))]

    def decode(self, text: TextWindows, logits: Sequence[Logits]) -> Prediction:
        row = logits[0]
        if any(value != value for value in row):
            raise ServiceError("inference_failed", "the model's scores for this text are not finite")
        ranked = sorted(zip(LABELS, [value / 10 for value in row], strict=True), key=lambda pair: -pair[1])
        unsure = None if not self.info.calibration.has_threshold else "unsure" in str(text.windows[0].payload)
        return Prediction(tuple(ranked), unsure)

    def prepare_thread(self) -> None:
        pass

    def probe(self) -> None:
        if self.broken:
            raise RuntimeError("broken")


def _end_of_word(text: str, count: int) -> int:
    """Return the index after the last character of word number `count`, counted from 1, or of the last word."""
    return [match.end() for match in re.finditer(r"\S+", text)][:count][-1]
