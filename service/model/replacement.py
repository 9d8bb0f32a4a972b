"""The decision whether a new model may replace the running one, by its files, the memory that it needs, its labels,
and its answers to the texts that the running one answered."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from service.errors import ServiceError
from service.inference.engine import EngineInfo
from service.inference.pipeline import Answer, AnswerOrError

BYTES_PER_PARAMETER = {"float32": 4.5, "bfloat16": 3.0, "int8": 3.0}
"""Memory of the weights in each precision, measured with the shape of GPT-2 small: 4.5, 2.9 and 2.8."""

FORWARD_BYTES = 64 << 20
"""Memory for the checks at the start and for the batches of a model, measured: 43 to 78 MB."""

MB = 1 << 20

ENOUGH_TEXTS = 20
"""Fewest recent texts by which a reload is judged. With fewer, only the golden texts decide."""


@dataclass(frozen=True)
class ReloadOptions:
    """The artifact that a reload loads, and the changes that it allows."""

    model_dir: str | None = None
    """The directory of the artifact; None: `SERVICE_MODEL_DIR`, which is read again."""
    max_flip_rate: float = 0.2
    """Share of recent texts that may get another label."""
    other_labels: bool = False
    """Allow a new model with other labels."""


@dataclass(frozen=True)
class ModelComparison:
    """Two models on the same recent texts."""

    texts: int
    """Number of texts that both models answered."""
    failed: int
    """Number of texts that the running model answered and the new one did not."""
    flips: int
    """Number of texts that got another label."""
    mean_change: float
    """Mean absolute change of the probability of the running model's label."""

    @property
    def flip_rate(self) -> float:
        return self.flips / self.texts if self.texts else 0.0


@dataclass(frozen=True)
class ReloadResult:
    """A reload that succeeded."""

    previous: EngineInfo
    current: EngineInfo
    comparison: ModelComparison
    seconds: float


def compare(running: Sequence[AnswerOrError], candidate: Sequence[AnswerOrError]) -> ModelComparison:
    """Compare the answers of two models to the same texts, given in the same order."""
    texts, failed, flips, change = 0, 0, 0, 0.0
    for old, new in zip(running, candidate, strict=True):
        if not isinstance(old, Answer):
            continue
        if not isinstance(new, Answer):
            failed += 1
            continue
        texts += 1
        label = old.prediction.label
        flips += new.prediction.label != label
        change += abs(dict(new.prediction.scores).get(label, 0.0) - old.prediction.score)
    return ModelComparison(texts, failed, flips, change / texts if texts else 0.0)


def check_directory(directory: Path, root: Path) -> None:
    """Refuse the directory of an artifact that a caller may not name: all its files must be regular and below a root.

    Raises:
        ServiceError: reload_refused.
    """
    root = root.resolve()
    try:
        if root == root.parent:
            problem = "SERVICE_MODEL_DIR is directly below /, so that no other directory may be named"
        elif not directory.resolve().is_relative_to(root):
            problem = f"{directory} is not below {root}, where SERVICE_MODEL_DIR is"
        elif not directory.is_dir():
            problem = f"{directory} is no directory"
        else:
            problem = next(filter(None, (_file_problem(path, root) for path in directory.iterdir())), "")
    except (OSError, RuntimeError) as exc:  # no permission, a name too long, a loop of symbolic links ...
        problem = f"{directory} cannot be read: {exc}"
    if problem:
        raise ServiceError("reload_refused", f"{problem}; the running model was kept")


def _file_problem(path: Path, root: Path) -> str:
    if not path.resolve().is_relative_to(root):
        return f"{path} leads out of {root}, where SERVICE_MODEL_DIR is"
    return "" if path.is_file() or path.is_dir() else f"{path} is no regular file"


def check_memory(directory: Path, precision: str, available: int | None) -> None:
    """Refuse an artifact if the kernel might end the process while it is loaded beside the running model.

    Args:
        directory: the artifact. If its weights cannot be read, nothing is checked, and loading says why.
        precision: the precision that it will run in.
        available: bytes that the process may still take; None: unknown.

    Raises:
        ServiceError: reload_refused, with the memory that is needed.
    """
    try:
        with safe_open(directory / "model.safetensors", framework="numpy") as weights:
            names = weights.keys()
            parameters = sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    except (OSError, SafetensorError):
        return
    needed = int(parameters * BYTES_PER_PARAMETER[precision]) + FORWARD_BYTES
    if available is not None and needed > available:
        raise ServiceError(
            "reload_refused",
            f"the new model needs {needed // MB} MB of memory beside the running one, and {available // MB} MB are "
            "available; raise the limit, or restart the service with the new model. The running model was kept",
        )


def check_labels(running: EngineInfo, candidate: EngineInfo, options: ReloadOptions) -> None:
    """Refuse a model whose labels callers do not know.

    Raises:
        ServiceError: reload_refused.
    """
    if set(candidate.labels) != set(running.labels) and not options.other_labels:
        raise ServiceError(
            "reload_refused",
            f"the labels of the new model are {', '.join(candidate.labels)}, those of the running model are "
            f"{', '.join(running.labels)}; other_labels allows that. The running model was kept",
        )


def check_answers(comparison: ModelComparison, options: ReloadOptions) -> None:
    """Refuse a model that fails on recent texts, or that answers them too differently.

    Raises:
        ServiceError: reload_refused.
    """
    if comparison.failed:
        raise ServiceError(
            "reload_refused",
            f"the new model fails on {comparison.failed} of {comparison.texts + comparison.failed} recent texts; "
            "the running model was kept",
        )
    if comparison.texts >= ENOUGH_TEXTS and comparison.flip_rate > options.max_flip_rate:
        raise ServiceError(
            "reload_refused",
            f"{comparison.flips} of {comparison.texts} recent texts would get another label, a share of "
            f"{comparison.flip_rate:.2f}; max_flip_rate allows {options.max_flip_rate:g}. The probability of their "
            f"labels would change by {comparison.mean_change:.3f} on average. The running model was kept",
        )
