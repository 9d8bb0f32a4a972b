"""The engine over PyTorch: the only file of the service that imports `classifier`.

Loading verifies the artifact, chooses the precision, loads the weights once, compares the golden texts' logits with
those of training time, each alone and all as one batch, and finds the batch size at which throughput levels off, which
is the warm-up, too. Only then is there an engine.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch

from classifier.artifact import Artifact, read_artifact
from classifier.decoding import combine_windows, probabilities
from classifier.encoding import EncodedText, original_spans
from classifier.errors import ClassifierError, EmptyTextError, EncodingError, TextTooLongError
from classifier.packed import PackedClassifier
from service.errors import EngineLoadError
from service.inference.engine import (
    EncodedWindow,
    EngineInfo,
    InferenceError,
    Logits,
    ModelOutOfMemory,
    OnLong,
    Prediction,
    Progress,
    TextProblem,
    TextWindows,
    Tokenized,
)
from service.model.autotune import (
    NEAR,
    PRECISIONS,
    QUICK_S,
    BudgetTrial,
    Precision,
    Trial,
    choose_budget,
    choose_precision,
    disagreement,
)
from service.model.host import available_cpus
from service.settings import Settings
from service.telemetry import log

GOLDEN_TOLERANCE = 1e-3
"""Largest difference allowed between golden logits of training time and of now, both float32.

Other CPUs sum in another order: 1e-5 to 1e-4 is ordinary. A wrong position or mask moves logits by 0.1 and more.
Lower precisions may be `NEAR`.
"""

TRIAL_TOKENS = 512
"""Tokens of the layer that precisions are compared by."""

SHORT_TOKENS = 64
"""Golden texts up to this length also run alone, and a precision is tried on them before it is tried on longer ones,
which would take seconds on a slow machine."""

Forward = Callable[[Sequence[Sequence[int]]], torch.Tensor]
"""B sequences of ids to logits (B, C) float32 on the CPU."""


class TorchEngine:
    """An artifact's model; see `service.inference.engine.Engine` for the contract."""

    def __init__(self, artifact: Artifact, forward: Forward, info: EngineInfo) -> None:
        self._encoder = artifact.encoder()
        self._forward = forward
        self._labels = artifact.labels
        # the head "flatten" pads every row to its full width
        self._padded_to = info.max_tokens if info.head == "flatten" else 0
        self.info = info

    def encode(
        self, texts: Sequence[str], on_long: OnLong | None, spans: bool = False
    ) -> list[TextWindows | TextProblem]:
        results = self._encoder.encode(texts, on_long)
        return [self._plain(text, result, spans) for text, result in zip(texts, results, strict=True)]

    def tokenize(self, text: str) -> Tokenized | TextProblem:
        [result] = self.encode([text], "windows")
        if isinstance(result, TextProblem):
            return result
        cleaned, ids, offsets = self._encoder.tokenize(text)
        return Tokenized(cleaned, ids, offsets, len(result.items))

    def infer(self, items: Sequence[EncodedWindow]) -> Sequence[Logits]:
        try:
            rows: list[list[float]] = self._forward([item.payload for item in items]).tolist()
        except (MemoryError, torch.OutOfMemoryError) as exc:
            raise ModelOutOfMemory(str(exc)) from exc
        except RuntimeError as exc:
            if "can't allocate memory" in str(exc):  # PyTorch has no class of its own for the CPU's
                raise ModelOutOfMemory(str(exc)) from exc
            raise
        return rows

    def decode(self, encoded: TextWindows, logits: Sequence[Logits]) -> Prediction:
        combined = combine_windows(logits, [item.tokens for item in encoded.items])
        if not np.isfinite(combined).all():
            raise InferenceError("the model's scores for this text are not finite")
        probs = probabilities(combined, self.info.temperature).tolist()
        ranked = sorted(zip(self._labels.names, probs, strict=True), key=lambda pair: -pair[1])
        return Prediction(tuple(ranked), unsure=ranked[0][1] < self.info.unsure_below)

    def probe(self) -> None:
        if not torch.isfinite(self._forward([[0]])).all():
            raise InferenceError("the model's scores for one token are not finite")

    def _plain(self, text: str, result: EncodedText | EncodingError, spans: bool) -> TextWindows | TextProblem:
        if isinstance(result, EmptyTextError):
            return TextProblem("empty_text", str(result))
        if isinstance(result, TextTooLongError):
            return TextProblem("text_too_long", str(result))
        if isinstance(result, EncodingError):
            return TextProblem("invalid_text", str(result))
        items = tuple(
            EncodedWindow(len(window.ids), window.ids, self._padded_to or len(window.ids), _key(window.ids))
            for window in result.windows
        )
        places = original_spans(text, self._encoder.cleaning, result.windows) if spans else ()
        return TextWindows(items, result.tokens, result.tokens_read, places)


def load_torch_engine(settings: Settings, report: Progress = lambda _: None) -> TorchEngine:
    """Artifact -> verified -> loaded -> golden texts agree -> warm.

    Args:
        settings: which artifact, and what is not to be chosen here.
        report: told each stage.

    Raises:
        EngineLoadError: one line that says which step failed and why.
    """
    started = time.perf_counter()
    threads = settings.threads or available_cpus()
    torch.set_num_threads(threads)
    try:
        report("verifying the artifact")
        artifact = read_artifact(settings.model_dir)
        device = _device(settings)
        report("loading the weights")
        loaded = _load(artifact, settings, device)
        report("checking golden texts")
        difference = _golden_difference(artifact, loaded.forward)
        if loaded.trials and loaded.precision != "float32" and not difference <= NEAR:
            loaded = _exact_after_all(artifact, device, loaded, difference)
            difference = _golden_difference(artifact, loaded.forward)
    except ClassifierError as exc:
        raise EngineLoadError(str(exc)) from exc
    precision, trials, forward, parameters = loaded
    allowed = GOLDEN_TOLERANCE if precision == "float32" else NEAR
    if not difference <= allowed:  # also true for NaN
        raise EngineLoadError(
            f"artifact {artifact.directory}: golden texts' logits differ from those of training time by "
            f"{difference:.2g}, {allowed:.0e} is allowed for {precision}; this machine would give wrong answers"
        )
    checked = time.perf_counter()
    report("choosing the batch size")
    budget, budget_trials = _choose_budget(artifact, settings, forward)
    manifest = artifact.manifest
    info = EngineInfo(
        name=manifest.name,
        version=artifact.weights_sha256[:12],
        labels=artifact.labels.names,
        max_tokens=manifest.max_tokens,
        window_stride=manifest.window_stride,
        on_long=manifest.on_long,
        head=manifest.head,
        temperature=manifest.calibration.temperature,
        unsure_below=manifest.unsure_below,
        parameters=parameters,
        precision=precision,
        precision_trials=tuple(trials),
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
        precision=precision,
        precision_trials={trial.precision: trial.verdict for trial in trials},
        max_batch_tokens=budget,
        tokens_per_s={trial.tokens: round(trial.tokens_per_s) for trial in budget_trials},
        golden_difference=difference,
        load_s=round(checked - started, 3),
        warm_up_s=round(time.perf_counter() - checked, 3),
    )
    return TorchEngine(artifact, forward, info)


def _device(settings: Settings) -> str:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise EngineLoadError("SERVICE_DEVICE=cuda, but PyTorch finds no CUDA device here")
    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return settings.device


class _Loaded(NamedTuple):
    """The precision, how it was chosen, the forward with all weights in memory, and the number of parameters."""

    precision: Precision
    trials: Sequence[Trial]
    forward: Forward
    parameters: int


def _exact_after_all(artifact: Artifact, device: str, failed: _Loaded, difference: float) -> _Loaded:
    """float32, where the precision that agreed on short texts does not on the golden ones."""
    verdict = f"too far from float32 on golden texts: {NEAR} is allowed"
    trials = [
        replace(trial, verdict=verdict, largest_difference=difference)
        if trial.precision == failed.precision
        else replace(trial, verdict="chosen: nothing faster agrees with it")
        if trial.precision == "float32"
        else trial
        for trial in failed.trials
    ]
    packed = artifact.packed(device=device)
    return _Loaded("float32", trials, packed, packed.parameters)


def _load(artifact: Artifact, settings: Settings, device: str) -> _Loaded:
    if artifact.manifest.head == "flatten":
        if settings.precision not in ("auto", "float32"):
            raise EngineLoadError(f"SERVICE_PRECISION={settings.precision}: the head 'flatten' runs in float32 only")
        from classifier.model import infer_sequences  # seconds of imports that the other head does not need

        model = artifact.model().to(device)
        parameters = sum(p.numel() for p in model.parameters())
        return _Loaded("float32", (), lambda sequences: infer_sequences(model, sequences), parameters)
    if settings.precision != "auto":
        packed = artifact.packed(settings.precision, device)
        return _Loaded(settings.precision, (), packed, packed.parameters)
    precision, trials, packed = _fastest(artifact, device)
    return _Loaded(precision, trials, packed, packed.parameters)


def _fastest(artifact: Artifact, device: str) -> tuple[Precision, Sequence[Trial], PackedClassifier]:
    """See `service.model.autotune`. While others are tried, float32 only passes through memory layer by layer, so that
    the check of a lower precision does not cost the memory which that one saves."""
    exact = artifact.packed(device=device, keep=False)
    golden = [window.ids for text in _golden_texts(artifact) for window in text.windows if len(window.ids) <= 256]
    drawn = _random_texts(exact.vocabulary, min(artifact.manifest.max_tokens, 64))
    tokens = min(TRIAL_TOKENS, exact.max_tokens)
    short = [ids for ids in golden if len(ids) <= SHORT_TOKENS]
    long = [ids for ids in golden if len(ids) > SHORT_TOKENS]
    batteries = [texts for texts in (drawn, short, long) if texts]  # what fails in one need not go through the next
    expected: list[list[list[float]]] = []
    loaded: dict[Precision, PackedClassifier] = {}

    def rate(precision: Precision) -> float:
        one = exact if precision == "float32" else artifact.packed(precision, device, keep=False)
        return tokens / (exact.layers * one.layer_seconds(tokens, rounds=3))

    def check(precision: Precision) -> tuple[float, int]:
        loaded.clear()
        model = artifact.packed(precision, device, keep=False)  # what fails at once never has all layers in memory
        largest, changed = 0.0, 0
        for place, texts in enumerate(batteries):
            if place == len(expected):
                expected.append(exact(texts).tolist())
            if place:
                model = loaded[precision] = artifact.packed(precision, device)
            difference, flips = disagreement(model(texts).tolist(), expected[place])
            largest, changed = max(largest, difference), changed + flips
            if not largest <= NEAR or changed:
                break
        return largest, changed

    unavailable = _unavailable(device)
    candidates = [precision for precision in PRECISIONS if precision not in unavailable]
    chosen, trials = choose_precision(candidates, rate, check, unavailable)
    packed = loaded.get(chosen)
    loaded.clear()
    return chosen, trials, artifact.packed(chosen, device) if packed is None else packed


def _unavailable(device: str) -> dict[Precision, str]:
    """Precisions that this hardware has no instructions for."""
    reasons: dict[Precision, str] = {}
    if device == "cuda":
        reasons["int8"] = "runs on CPUs only"
        if not torch.cuda.is_bf16_supported():
            reasons["bfloat16"] = "not on this GPU"
        return reasons
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        reasons["bfloat16"] = "not on this CPU: it has neither AVX512-BF16 nor AMX"
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        reasons["int8"] = "this build of PyTorch has no oneDNN"
    return reasons


def _random_texts(vocabulary: int, longest: int) -> list[tuple[int, ...]]:
    """Ids at random, of lengths 1, 2, 3, 5, 8 ...: what no golden text has in it."""
    draw = random.Random(0)
    lengths = [1, 2]
    while lengths[-1] + lengths[-2] <= longest:
        lengths.append(lengths[-1] + lengths[-2])
    return [tuple(draw.randrange(vocabulary) for _ in range(length)) for length in lengths]


def _golden_texts(artifact: Artifact) -> list[EncodedText]:
    texts: list[EncodedText] = []
    for result in artifact.encoder().encode([golden.text for golden in artifact.manifest.golden]):
        if isinstance(result, EncodingError):
            raise EngineLoadError(f"artifact {artifact.directory}: a golden text cannot be encoded: {result}")
        texts.append(result)
    return texts


def _golden_difference(artifact: Artifact, forward: Forward) -> float:
    """Largest absolute difference over all golden texts as one batch, and over the short ones each alone; infinite for
    NaN."""
    texts = _golden_texts(artifact)
    expected = [golden.logits for golden in artifact.manifest.golden]
    together = forward([window.ids for text in texts for window in text.windows]).tolist()
    rows = iter(together)
    got = [
        combine_windows([next(rows) for _ in text.windows], [len(window.ids) for window in text.windows]).tolist()
        for text in texts
    ]
    short = [i for i, text in enumerate(texts) if text.tokens <= SHORT_TOKENS and len(text.windows) == 1]
    got += [forward([texts[i].windows[0].ids]).tolist()[0] for i in short]
    return disagreement(got, [*expected, *(expected[i] for i in short)])[0]


def _choose_budget(artifact: Artifact, settings: Settings, forward: Forward) -> tuple[int, list[BudgetTrial]]:
    """Also warms up: the largest batch runs at least once."""
    longest = artifact.manifest.max_tokens

    def seconds(tokens: int) -> float:
        """Over texts of 128 tokens, or as long as there can be; the better of two runs where they are short."""
        length = longest if artifact.manifest.head == "flatten" else min(128, longest)
        batch = [[0] * length] * max(1, tokens // length)
        times: list[float] = []
        while not times or (len(times) < 2 and times[0] < QUICK_S):
            started = time.perf_counter()
            forward(batch)
            times.append(time.perf_counter() - started)
        return min(times) * tokens / (length * len(batch))

    if settings.max_batch_tokens:
        seconds(settings.max_batch_tokens)
        return settings.max_batch_tokens, []
    return choose_budget(seconds)


def _key(ids: Sequence[int]) -> bytes:
    """16 bytes that stand for a window: the text itself need not be kept to recognise it."""
    return blake2b(np.asarray(ids, dtype=np.int32).tobytes(), digest_size=16).digest()
