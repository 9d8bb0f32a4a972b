"""The engine over PyTorch, and how it is loaded.

Loading verifies the artifact, chooses the precision, loads the weights once, compares the golden texts' logits with
those stored at training time, and chooses the batch size, which is also the warm-up. There is no engine before that.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch

from classifier import OnLong, Precision
from classifier.artifact import Artifact, read_artifact
from classifier.decoding import combine_windows, probabilities
from classifier.encoding import EncodedText, end_of_reading, original_spans, window_starts
from classifier.errors import ClassifierError, EmptyTextError, EncodingError, TextTooLongError, first_line
from classifier.golden import (
    GOLDEN_TOLERANCE,
    Forward,
    check_golden_difference,
    encode_golden_texts,
    golden_difference,
)
from service.errors import EngineLoadError, ServiceError
from service.inference.engine import (
    EncodedWindow,
    EngineInfo,
    Logits,
    ModelOutOfMemory,
    Prediction,
    Progress,
    TextWindows,
    TokenizedText,
)
from service.model.autotune import NEAR, PrecisionTrial, unavailable_because
from service.model.host import available_cpus
from service.model.measure import best_budget, fastest_precision
from service.settings import Settings
from service.telemetry import log


class TorchEngine:
    """The model of an artifact; `service.inference.engine.Engine` describes the methods."""

    def __init__(self, artifact: Artifact, forward: Forward, info: EngineInfo) -> None:
        self._encoder = artifact.encoder()
        self._forward = forward
        self._labels = artifact.labels
        # the head "flatten" pads every row to its full width
        self._padded_to = info.max_tokens if info.head == "flatten" else 0
        self.info = info

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
            cleaned, ids, offsets = self._encoder.tokenize(text)
        except EncodingError as exc:
            raise _service_error(exc) from exc
        windows = len(window_starts(len(ids), self.info.max_tokens, self.info.window_stride))
        return TokenizedText(cleaned, ids, offsets, windows)

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
        probs = probabilities(combined, self.info.temperature).tolist()
        ranked = sorted(zip(self._labels.names, probs, strict=True), key=lambda pair: -pair[1])
        threshold = self.info.unsure_below
        return Prediction(tuple(ranked), unsure=None if threshold is None else ranked[0][1] < threshold)

    def probe(self) -> None:
        if not torch.isfinite(self._forward([[0]])).all():
            raise RuntimeError("the model's scores for one token are not finite")


def load_torch_engine(settings: Settings, report: Progress = lambda _: None) -> TorchEngine:
    """Load the model that the settings describe.

    Args:
        settings: the artifact, and the choices that are not to be made here.
        report: called with each stage of loading.

    Raises:
        EngineLoadError: one line that says which step failed and why.
    """
    started = time.perf_counter()
    threads = settings.threads or available_cpus()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")  # NVIDIA's images, for instance, ask for TF32
    device = _device(settings)
    try:
        report("verifying the artifact")
        artifact = read_artifact(settings.model_dir)
        report("loading the weights")
        golden = encode_golden_texts(artifact)
        loaded = _load(artifact, golden, settings, device)
        report("checking golden texts")
        loaded, difference = _check_golden_texts(artifact, golden, device, loaded)
        checked = time.perf_counter()
        report("choosing the batch size")
        budget, budget_trials = best_budget(artifact, loaded.forward, settings.max_batch_tokens)
    except ClassifierError as exc:
        raise EngineLoadError(str(exc)) from exc
    except (RuntimeError, MemoryError) as exc:  # PyTorch's
        raise EngineLoadError(
            f"the model does not run on {device} with SERVICE_PRECISION={settings.precision}: {first_line(exc)}"
        ) from exc
    manifest = artifact.manifest
    info = EngineInfo(
        name=manifest.name,
        version=artifact.weights_sha256[:12],
        labels=artifact.labels.names,
        max_tokens=manifest.max_tokens,
        window_stride=manifest.window_stride,
        on_long=manifest.on_long,
        head=manifest.head,
        input=manifest.input,
        temperature=manifest.calibration.temperature,
        unsure_below=manifest.unsure_below,
        parameters=loaded.parameters,
        precision=loaded.precision,
        precision_trials=tuple(loaded.trials),
        attention=loaded.attention,
        device=device,
        threads=threads,
        max_batch_tokens=budget,
        budget_trials=tuple(budget_trials),
        tokens_per_s=max((trial.tokens_per_s for trial in budget_trials if trial.tokens == budget), default=0.0),
        created=manifest.created,
        golden_difference=difference,
        metrics=manifest.metrics,
    )
    log(
        "model loaded",
        model=info.name,
        version=info.version,
        device=device,
        threads=threads,
        precision=info.precision,
        precision_trials={trial.precision: trial.verdict for trial in info.precision_trials},
        attention=info.attention,
        max_batch_tokens=budget,
        tokens_per_s={trial.tokens: round(trial.tokens_per_s) for trial in budget_trials},
        golden_difference=difference,
        load_s=round(checked - started, 3),
        warm_up_s=round(time.perf_counter() - checked, 3),
    )
    return TorchEngine(artifact, loaded.forward, info)


class _LoadedModel(NamedTuple):
    """A model with all its weights in memory, and how its precision was chosen."""

    precision: Precision
    trials: Sequence[PrecisionTrial]
    """Empty if a setting or the head fixes the precision."""
    forward: Forward
    parameters: int
    attention: str


def _device(settings: Settings) -> str:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise EngineLoadError("SERVICE_DEVICE=cuda, but PyTorch finds no CUDA device here")
    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return settings.device


def _load(artifact: Artifact, golden: Sequence[EncodedText], settings: Settings, device: str) -> _LoadedModel:
    if artifact.manifest.head == "flatten":
        if settings.precision not in ("auto", "float32"):
            raise EngineLoadError(f"SERVICE_PRECISION={settings.precision}: the head 'flatten' runs in float32 only")
        from classifier.model import infer_sequences  # imports transformers, which takes seconds

        model = artifact.model().to(device)
        parameters = sum(p.numel() for p in model.parameters())
        return _LoadedModel("float32", (), lambda sequences: infer_sequences(model, sequences), parameters, "plain")
    trials: Sequence[PrecisionTrial] = ()
    if settings.precision == "auto":
        trials, packed = fastest_precision(artifact, golden, device)
    else:
        packed = artifact.packed(settings.precision, device)
    return _LoadedModel(packed.precision, trials, packed, packed.parameters, packed.attention)


def _check_golden_texts(
    artifact: Artifact, golden: Sequence[EncodedText], device: str, loaded: _LoadedModel
) -> tuple[_LoadedModel, float]:
    """Return a model that agrees with the golden logits, and the difference from them.

    It is float32 in place of a lower precision that was chosen by short texts and fails on the golden ones.

    Raises:
        ArtifactError: the model gives other answers here than at training time.
    """
    chosen = bool(loaded.trials) and loaded.precision != "float32"
    verdict = f"too far from float32 on golden texts: {NEAR} is allowed"
    try:
        difference = golden_difference(artifact, golden, loaded.forward)
    except Exception as exc:
        if not chosen:
            raise
        difference, verdict = float("inf"), unavailable_because(exc)
    if chosen and not difference <= NEAR:
        loaded = _fall_back_to_float32(artifact, device, loaded, verdict, difference)
        difference = golden_difference(artifact, golden, loaded.forward)
    allowed = GOLDEN_TOLERANCE if loaded.precision == "float32" else NEAR
    check_golden_difference(artifact, difference, allowed, loaded.precision)
    return loaded, difference


def _fall_back_to_float32(
    artifact: Artifact, device: str, failed: _LoadedModel, verdict: str, difference: float
) -> _LoadedModel:
    """Load float32 in place of a precision that agreed on short texts but does not on the golden ones."""
    verdicts = {
        failed.precision: (verdict, difference),
        "float32": ("chosen: nothing faster agrees with it", None),
    }
    trials = [
        replace(trial, verdict=verdicts[trial.precision][0], largest_difference=verdicts[trial.precision][1])
        if trial.precision in verdicts
        else trial
        for trial in failed.trials
    ]
    packed = artifact.packed(device=device)
    return _LoadedModel("float32", trials, packed, packed.parameters, packed.attention)


def _service_error(problem: EncodingError) -> ServiceError:
    kinds = {EmptyTextError: "empty_text", TextTooLongError: "text_too_long"}
    return ServiceError(kinds.get(type(problem), "invalid_text"), str(problem))


def _key(ids: Sequence[int]) -> bytes:
    """Return 16 bytes that identify a window, so that the text itself need not be kept to recognise it."""
    return blake2b(np.asarray(ids, dtype=np.int32).tobytes(), digest_size=16).digest()
