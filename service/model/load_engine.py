"""Loading of the engine over PyTorch.

Loading verifies the artifact, chooses lanes, threads and precision, loads the weights once, compares the golden texts'
logits with those stored at training time, and chooses the batch size, which is also the warm-up. There is no engine
before that.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from classifier import Precision
from classifier.artifact import Artifact, read_artifact
from classifier.encoding import EncodedText
from classifier.errors import ClassifierError, first_line
from classifier.golden import (
    GOLDEN_TOLERANCE,
    Forward,
    check_golden_difference,
    encode_golden_texts,
    golden_difference,
)
from classifier.products import has_bfloat16
from service.errors import EngineLoadError
from service.inference.engine import (
    EngineInfo,
    Progress,
)
from service.model.autotune import NEAR, LaneTrial, PrecisionTrial, arrangements, unavailable_because
from service.model.autotune_file import AutotuneFile, Tuning
from service.model.host import available_cpus, machine
from service.model.measure import (
    Lanes,
    best_budget,
    fastest_lanes,
    fastest_precision,
    forward_rate,
    layer_rate,
    set_threads,
)
from service.model.torch_engine import TorchEngine
from service.settings import Settings
from service.telemetry import log


def load_torch_engine(settings: Settings, report: Progress = lambda _: None) -> TorchEngine:
    """Load the model that the settings describe.

    Args:
        settings: the artifact, and the choices that are not to be made here.
        report: called with each stage of loading.

    Raises:
        EngineLoadError: one line that says which step failed and why.
    """
    started = time.perf_counter()
    torch.set_float32_matmul_precision("highest")  # NVIDIA's images, for instance, ask for TF32
    device = _device(settings)
    try:
        report("verifying the artifact")
        artifact = read_artifact(settings.model_dir)
        golden = encode_golden_texts(artifact)
        file = AutotuneFile(settings.autotune_dir, _measurements_depend_on(artifact, settings, device))
        saved = file.read()
        report("choosing lanes and threads")
        padded = _padded(artifact, settings, device) if artifact.manifest.head == "flatten" else None
        count, threads, lane_trials = _choose_lanes(artifact, settings, device, padded, saved)
        set_threads(threads)
        with Lanes(count, threads) as lanes:
            report("loading the weights")
            loaded = padded or _packed(artifact, golden, settings, device, lanes, saved)
            report("checking golden texts")
            loaded, difference = _check_golden_texts(artifact, golden, device, loaded, lanes)
            checked = time.perf_counter()
            report("choosing the batch size")
            fixed = settings.max_batch_tokens or (saved.max_batch_tokens if saved else 0)
            budget, trials = best_budget(artifact, loaded.forward, fixed, lanes)
    except ClassifierError as exc:
        raise EngineLoadError(str(exc)) from exc
    except (RuntimeError, MemoryError) as exc:  # PyTorch's
        raise EngineLoadError(
            f"the model does not run on {device} with SERVICE_PRECISION={settings.precision}: {first_line(exc)}"
        ) from exc
    budget_trials = saved.budget_trials if saved else tuple(trials)
    if not saved:
        file.write(Tuning(count, threads, lane_trials, loaded.precision, tuple(loaded.trials), budget, budget_trials))
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
        calibration=manifest.calibration,
        parameters=loaded.parameters,
        precision=loaded.precision,
        precision_trials=tuple(loaded.trials),
        attention=loaded.attention,
        device=device,
        lanes=count,
        threads=threads,
        lane_trials=lane_trials,
        max_batch_tokens=budget,
        budget_trials=budget_trials,
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
        lanes=count,
        threads=threads,
        lane_trials={f"{each.lanes} x {each.threads}": round(each.tokens_per_s) for each in lane_trials},
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


def _measurements_depend_on(artifact: Artifact, settings: Settings, device: str) -> dict[str, object]:
    return {
        "weights": artifact.weights_sha256,
        "config": artifact.manifest.files["config.json"].sha256,
        "max_tokens": artifact.manifest.max_tokens,
        "machine": machine(),
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "capability": [torch.backends.cpu.get_cpu_capability(), has_bfloat16()],
        "settings": [settings.precision, settings.lanes, settings.threads, settings.max_batch_tokens],
    }


def _choose_lanes(
    artifact: Artifact, settings: Settings, device: str, padded: _LoadedModel | None, saved: Tuning | None
) -> tuple[int, int, tuple[LaneTrial, ...]]:
    """Return the number of lanes, the number of threads of each, and the trials by which they were chosen."""
    if saved:
        return saved.lanes, saved.threads, saved.lane_trials
    cpus = available_cpus()
    candidates = arrangements(cpus, settings.lanes or int(device != "cpu"), settings.threads)
    if len(candidates) == 1:
        return *candidates[0], ()
    if padded:
        return fastest_lanes(candidates, partial(forward_rate, padded.forward, artifact.manifest.max_tokens))
    precision = "float32" if settings.precision == "auto" else settings.precision
    return fastest_lanes(candidates, partial(layer_rate, artifact.packed(precision, device, keep=False)))


def _padded(artifact: Artifact, settings: Settings, device: str) -> _LoadedModel:
    """Load the reference model for the head "flatten", which pads every text to the same length."""
    if settings.precision not in ("auto", "float32"):
        raise EngineLoadError(f"SERVICE_PRECISION={settings.precision}: the head 'flatten' runs in float32 only")
    from classifier.model import infer_sequences  # imports transformers, which takes seconds

    model = artifact.model().to(device)
    parameters = sum(p.numel() for p in model.parameters())
    return _LoadedModel("float32", (), lambda sequences: infer_sequences(model, sequences), parameters, "plain")


def _packed(
    artifact: Artifact,
    golden: Sequence[EncodedText],
    settings: Settings,
    device: str,
    lanes: Lanes,
    saved: Tuning | None,
) -> _LoadedModel:
    trials: Sequence[PrecisionTrial] = saved.precision_trials if saved else ()
    if saved:
        packed = artifact.packed(saved.precision, device)
    elif settings.precision == "auto":
        trials, packed = fastest_precision(artifact, golden, device, lanes)
    else:
        packed = artifact.packed(settings.precision, device)
    return _LoadedModel(packed.precision, trials, packed, packed.parameters, packed.attention.kernel)


def _check_golden_texts(
    artifact: Artifact, golden: Sequence[EncodedText], device: str, loaded: _LoadedModel, lanes: Lanes
) -> tuple[_LoadedModel, float]:
    """Return a model that agrees with the golden logits, and the difference from them.

    It is float32 in place of a lower precision that was chosen by short texts and fails on the golden ones.

    Raises:
        ArtifactError: the model gives other answers here than at training time.
    """
    chosen = bool(loaded.trials) and loaded.precision != "float32"
    verdict = f"too far from float32 on golden texts: {NEAR} is allowed"
    try:
        difference = golden_difference(artifact, golden, loaded.forward, lanes.map, lanes.count)
    except Exception as exc:
        if not chosen:
            raise
        difference, verdict = float("inf"), unavailable_because(exc)
    if chosen and not difference <= NEAR:
        loaded = _fall_back_to_float32(artifact, device, loaded, verdict, difference)
        difference = golden_difference(artifact, golden, loaded.forward, lanes.map, lanes.count)
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
    return _LoadedModel("float32", trials, packed, packed.parameters, packed.attention.kernel)
