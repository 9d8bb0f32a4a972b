"""Whether another model may take the place of the running one, decided by what both make of the same texts."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import ServiceError
from service.inference.engine import EngineInfo
from service.inference.pipeline import Answer, AnswerOrError

ENOUGH_SAMPLES = 20
"""Below so many texts a share of them says nothing, and only golden texts decide."""


@dataclass(frozen=True)
class ReloadOptions:
    """What a reload may do."""

    model_dir: str | None = None
    """The artifact; None: `SERVICE_MODEL_DIR`, read anew."""
    max_flip_rate: float = 0.2
    """Share of recent texts that may get another label."""
    other_labels: bool = False
    """The new model may have other labels."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same recent texts."""

    samples: int
    """Texts that both answered."""
    failed: int
    """Texts that the new model does not answer although the running one does."""
    flips: int
    """Texts with another label."""
    mean_change: float
    """Mean absolute change of the probability of the label that the running model gave."""

    @property
    def flip_rate(self) -> float:
        return self.flips / self.samples if self.samples else 0.0


@dataclass(frozen=True)
class ReloadResult:
    """A reload that went through."""

    previous: EngineInfo
    current: EngineInfo
    comparison: Comparison
    seconds: float


def compare(running: Sequence[AnswerOrError], candidate: Sequence[AnswerOrError]) -> Comparison:
    """Both sequences are about the same texts, in order."""
    both, failed, flips, change = 0, 0, 0, 0.0
    for old, new in zip(running, candidate, strict=True):
        if not isinstance(old, Answer):
            continue
        if not isinstance(new, Answer):
            failed += 1
            continue
        both += 1
        label = old.prediction.label
        flips += new.prediction.label != label
        change += abs(dict(new.prediction.scores).get(label, 0.0) - old.prediction.score)
    return Comparison(both, failed, flips, change / both if both else 0.0)


def check_labels(running: EngineInfo, candidate: EngineInfo, options: ReloadOptions) -> None:
    """Raises ServiceError reload_refused: callers would meet labels that they do not know."""
    if set(candidate.labels) != set(running.labels) and not options.other_labels:
        raise ServiceError(
            "reload_refused",
            f"the new model's labels are {', '.join(candidate.labels)}, those served are {', '.join(running.labels)}; "
            "other_labels allows it. The running model was kept",
        )


def check_answers(comparison: Comparison, options: ReloadOptions) -> None:
    """Raises ServiceError reload_refused: the new model answers recent texts too differently, or not at all."""
    if comparison.failed:
        raise ServiceError(
            "reload_refused",
            f"the new model fails on {comparison.failed} of {comparison.samples + comparison.failed} recent texts; "
            "the running model was kept",
        )
    if comparison.samples >= ENOUGH_SAMPLES and comparison.flip_rate > options.max_flip_rate:
        raise ServiceError(
            "reload_refused",
            f"{comparison.flips} of {comparison.samples} recent texts would get another label, a share of "
            f"{comparison.flip_rate:.2f}, max_flip_rate allows {options.max_flip_rate:g}; the probability of their "
            f"labels changes by {comparison.mean_change:.3f} on average. The running model was kept",
        )
