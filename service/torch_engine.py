"""The engine over PyTorch: the only file of the service that imports `classifier`.

Loading verifies the artifact, loads the model once, compares the golden texts' logits with those of training time,
each alone and all of them as one padded batch, and runs the largest batch allowed. Only then is there an engine.
"""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from classifier.artifact import Artifact, read_artifact
from classifier.decoding import combine_windows, probabilities
from classifier.encoding import EncodedText
from classifier.errors import ClassifierError, EmptyTextError, EncodingError, TextTooLongError
from classifier.model import GPT2Classifier, infer_sequences
from service.cpu import available_cpus
from service.engine import Encoded, EngineInfo, InferenceError, Item, Logits, OnLong, Prediction, TextProblem
from service.errors import EngineLoadError
from service.settings import Settings
from service.telemetry import log

GOLDEN_TOLERANCE = 1e-3
"""Largest difference allowed between golden logits of training time and of now, both float32.

Other CPUs sum in another order: 1e-5 to 1e-4 is ordinary. A wrong position or mask moves logits by 0.1 and more.
"""


class TorchEngine:
    """An artifact's model in float32; see `service.engine.Engine` for the contract."""

    def __init__(self, artifact: Artifact, model: GPT2Classifier, info: EngineInfo) -> None:
        self._encoder = artifact.encoder()
        self._model = model
        self._labels = artifact.labels
        self.info = info

    def encode(self, texts: Sequence[str], on_long: OnLong | None) -> list[Encoded | TextProblem]:
        return [_plain(result) for result in self._encoder.encode(texts, on_long)]

    def batch_cost(self, tokens: Sequence[int]) -> int:
        # the head "flatten" pads every row to its full width
        return (self.info.max_tokens if self.info.head == "flatten" else max(tokens)) * len(tokens)

    def infer(self, items: Sequence[Item]) -> Sequence[Logits]:
        rows: list[list[float]] = infer_sequences(self._model, [item.payload for item in items]).tolist()
        return rows

    def decode(self, encoded: Encoded, logits: Sequence[Logits]) -> Prediction:
        combined = combine_windows(logits, [item.tokens for item in encoded.items])
        if not np.isfinite(combined).all():
            raise InferenceError("the model's scores for this text are not finite")
        probs = probabilities(combined, self.info.temperature).tolist()
        ranked = sorted(zip(self._labels.names, probs, strict=True), key=lambda pair: -pair[1])
        return Prediction(tuple(ranked), unsure=ranked[0][1] < self.info.unsure_below)

    def probe(self) -> None:
        logits = infer_sequences(self._model, [[0]])
        if not torch.isfinite(logits).all():
            raise InferenceError("the model's scores for one token are not finite")


def load_torch_engine(settings: Settings) -> TorchEngine:
    """Artifact -> verified -> loaded -> golden texts agree -> warm.

    Raises:
        EngineLoadError: one line that says which step failed and why.
    """
    started = time.perf_counter()
    threads = settings.threads or available_cpus()
    torch.set_num_threads(threads)
    try:
        artifact = read_artifact(settings.model_dir)
        model = artifact.model()
        difference = _golden_difference(artifact, model)
    except ClassifierError as exc:
        raise EngineLoadError(str(exc)) from exc
    if not difference <= GOLDEN_TOLERANCE:  # also true for NaN
        raise EngineLoadError(
            f"artifact {artifact.directory}: golden texts' logits differ from those of training time by "
            f"{difference:.2g}, {GOLDEN_TOLERANCE:.0e} is allowed; this machine would give wrong answers"
        )
    engine = TorchEngine(artifact, model, _info(artifact, model, threads, difference))
    loaded = time.perf_counter()
    _warm_up(engine, settings.max_batch_tokens)
    log(
        "model loaded",
        model=engine.info.name,
        version=engine.info.version,
        threads=threads,
        golden_difference=difference,
        load_s=round(loaded - started, 3),
        warm_up_s=round(time.perf_counter() - loaded, 3),
    )
    return engine


def _info(artifact: Artifact, model: GPT2Classifier, threads: int, difference: float) -> EngineInfo:
    manifest = artifact.manifest
    return EngineInfo(
        name=manifest.name,
        version=artifact.weights_sha256[:12],
        labels=artifact.labels.names,
        max_tokens=manifest.max_tokens,
        window_stride=manifest.window_stride,
        on_long=manifest.on_long,
        head=manifest.head,
        temperature=manifest.calibration.temperature,
        unsure_below=manifest.unsure_below,
        parameters=sum(p.numel() for p in model.parameters()),
        precision=str(model.dtype).removeprefix("torch."),
        threads=threads,
        created=manifest.created,
        golden_difference=difference,
        metrics=manifest.metrics,
    )


def _golden_difference(artifact: Artifact, model: GPT2Classifier) -> float:
    """Largest absolute difference over all golden texts, each alone and all as one left-padded batch."""
    golden = artifact.manifest.golden
    texts: list[EncodedText] = []
    for result in artifact.encoder().encode([g.text for g in golden]):
        if isinstance(result, EncodingError):
            raise EngineLoadError(f"artifact {artifact.directory}: a golden text cannot be encoded: {result}")
        texts.append(result)

    def batched(sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        rows: list[list[float]] = infer_sequences(model, sequences).tolist()
        return rows

    def alone(sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [row for ids in sequences for row in batched([ids])]

    worst = 0.0
    ways: tuple[Callable[[Sequence[Sequence[int]]], list[list[float]]], ...] = (alone, batched)
    for way in ways:
        rows = iter(way([window.ids for text in texts for window in text.windows]))
        for text, expected in zip(texts, golden, strict=True):
            logits = [next(rows) for _ in text.windows]
            combined = combine_windows(logits, [len(window.ids) for window in text.windows])
            difference = float(np.abs(combined - np.asarray(expected.logits)).max())
            if math.isnan(difference):
                return difference
            worst = max(worst, difference)
    return worst


def _warm_up(engine: TorchEngine, max_batch_tokens: int) -> None:
    """The largest batch of the longest windows, so that the first caller pays for no allocation."""
    window = min(engine.info.max_tokens, max_batch_tokens)
    engine.infer([Item(window, [0] * window)] * max(1, max_batch_tokens // window))


def _plain(result: EncodedText | EncodingError) -> Encoded | TextProblem:
    if isinstance(result, EmptyTextError):
        return TextProblem("empty_text", str(result))
    if isinstance(result, TextTooLongError):
        return TextProblem("text_too_long", str(result))
    if isinstance(result, EncodingError):
        return TextProblem("invalid_text", str(result))
    items = tuple(Item(len(window.ids), window.ids) for window in result.windows)
    return Encoded(items, result.tokens, result.tokens_read)
