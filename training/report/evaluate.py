"""The metrics of a model on labelled texts, which every run and `python -m training evaluate` report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from classifier.artifact import read_artifact
from classifier.calibration import Calibration
from classifier.decoding import probabilities
from classifier.encoding import Encoder
from classifier.labels import Labels
from classifier.model import GPT2Classifier
from training.config import DataConfig
from training.data.files import local_copy, name_of
from training.data.read import read_examples
from training.data.splits import WHOLE, group_parts
from training.errors import DataError, Problem
from training.report import metrics
from training.report.baseline import BaselineAnswers
from training.report.html import ReportData, try_report
from training.report.intervals import group_intervals, paired_differences
from training.report.predict import predict_logits, token_counts

WORDS_READ = (8, 16, 32, 64, 128, 256)
BY_WORDS_TEXTS = 2000
"""Most texts from which the accuracy by words is computed: it takes as many predictions as `WORDS_READ` has numbers."""


def evaluate(
    artifact_dir: Path, config: DataConfig, *, skip_unlabelled: bool = False, report: Path | None = None
) -> dict[str, Any]:
    """Measure an artifact as it is served, with its clean-up, windows, temperature and threshold.

    Args:
        artifact_dir: directory of the artifact.
        config: one file of labelled texts.
        skip_unlabelled: leave out rows with an empty label.
        report: directory for report.html, metrics.json and plots, if they are wanted.

    Raises:
        ArtifactError: the artifact is unusable.
        DataError: the file is unusable, or has a label that the artifact does not know.
    """
    artifact = read_artifact(artifact_dir)
    labels, manifest = artifact.labels, artifact.manifest
    with local_copy(config.data) as path:
        examples = read_examples(path, config, skip_unlabelled=skip_unlabelled)
    unknown = [e for e in examples if e.label not in labels.label2id]
    if unknown:
        message = f"is none of {', '.join(labels.names)}"
        raise DataError(*(Problem(config.data, f"{e.label!r} {message}", e.row, field="label") for e in unknown))
    truth = [labels.id_of(e.label) for e in examples]
    texts = [e.text for e in examples]
    groups = group_parts({WHOLE: examples})[WHOLE]
    model, encoder = artifact.model(), artifact.encoder()
    logits = predict_logits(model, encoder, texts)
    calibration, tokens = manifest.calibration, token_counts(encoder, texts)
    measured = measure(logits, truth, labels, tokens, calibration, groups)
    if report is not None:
        name = name_of(config.data)
        try_report(
            lambda: ReportData(
                title=f"{manifest.name} on {name}",
                labels=labels.names,
                texts=texts,
                truth=truth,
                probs_bc=probabilities(metrics.calibrated(logits, tokens, calibration)),
                metrics=measured,
                by_words=accuracy_by_words(model, encoder, texts, truth) | {0: measured["accuracy"]},
                rows=[e.row for e in examples],
                facts={"artifact": manifest.name, "weights (SHA-256)": artifact.weights_sha256, "data": name},
            ),
            report,
        )
    return measured


def measure(
    logits: NDArray[np.float32],
    truth: Sequence[int],
    labels: Labels,
    tokens: ArrayLike,
    calibration: Calibration,
    groups: Sequence[int],
) -> dict[str, Any]:
    """Return all metrics of a model on labelled texts.

    Args:
        logits: (B, C) logits.
        truth: B label ids.
        labels: the C labels.
        tokens: number of tokens read of each of the B texts.
        calibration: temperatures and thresholds.
        groups: the group of near-duplicates of each text; `intervals` take a group for one observation.
    """
    predicted = logits.argmax(axis=1).tolist()
    return {
        **metrics.classification_metrics(truth, predicted, labels.names),
        "groups": len(set(groups)),
        "intervals": group_intervals(truth, predicted, len(labels), groups),
        "calibration": {
            **metrics.calibration_metrics(logits, truth, tokens, calibration),
            "points": [point.model_dump() for point in calibration.points],
        },
        "reliability": metrics.reliability(probabilities(metrics.calibrated(logits, tokens, calibration)), truth),
    }


def measure_baseline(
    answers: BaselineAnswers, truth: Sequence[int], predicted: Sequence[int], labels: Labels, groups: Sequence[int]
) -> dict[str, Any]:
    """Return the metrics of the baseline, and how much better the model is.

    Args:
        answers: the baseline's answers to the B test texts.
        truth: B label ids.
        predicted: B label ids, the model's answers.
        labels: the C labels.
        groups: the group of near-duplicates of each text.

    Returns:
        `difference` holds the model's accuracy and macro-F1 minus the baseline's, each with a paired interval; `only`
        counts the groups that one of the two answers better than the other.
    """
    scores = metrics.classification_metrics(truth, answers.predicted, labels.names)
    model = metrics.classification_metrics(truth, predicted, labels.names)
    intervals = paired_differences(truth, predicted, answers.predicted, len(labels), groups)
    right, baseline_right = (np.equal(truth, each).astype(int) for each in (predicted, answers.predicted))
    better = np.bincount(np.unique(groups, return_inverse=True)[1], weights=right - baseline_right)
    return {
        "model": answers.model,
        "features": answers.features,
        "trained_on": answers.trained_on,
        **{key: scores[key] for key in intervals},
        "intervals": group_intervals(truth, answers.predicted, len(labels), groups),
        "difference": {
            key: {"value": model[key] - scores[key], "interval": interval} for key, interval in intervals.items()
        },
        "only": {"model": int((better > 0).sum()), "baseline": int((better < 0).sum())},
    }


def metric_lines(measured: Mapping[str, Any]) -> list[str]:
    """Return metrics, and the baseline's if there are any, as `key=value;` lines for people and log collectors."""
    lines = [
        f"test_rows={measured['rows']}; test_accuracy={measured['accuracy']:.4f}; "
        f"test_macro_f1={measured['macro_f1']:.4f};"
    ]
    for name, row in measured["per_class"].items():
        scores = "  ".join(f"{key} {row[key]:.3f}" for key in ("precision", "recall", "f1"))
        lines.append(f"  {name:<20} {scores}  rows {row['rows']}")
    calibration = measured["calibration"]
    known = {key: calibration[key] for key in ("ece", "coverage", "error_among_answered")}
    lines.append(" ".join(f"{key}={value:.4f};" for key, value in known.items() if value is not None))
    if "baseline" in measured:
        baseline = measured["baseline"]
        lines.append(
            f"baseline_accuracy={baseline['accuracy']:.4f}; baseline_macro_f1={baseline['macro_f1']:.4f}; "
            f"accuracy_above_baseline={baseline['difference']['accuracy']['value']:.4f};"
        )
    return lines


def accuracy_by_words(
    model: GPT2Classifier, encoder: Encoder, texts: Sequence[str], truth: Sequence[int]
) -> dict[int, float]:
    """Return the accuracy if only the first n words of each text are read, for each n in `WORDS_READ` that leaves words
    of some text unread; measured on at most `BY_WORDS_TEXTS` texts, evenly spaced. White space separates words.
    """
    step = -(-len(texts) // BY_WORDS_TEXTS)
    texts, truth = texts[::step], truth[::step]
    longest = max(len(text.split(maxsplit=max(WORDS_READ))) for text in texts)
    found = {}
    for n in (n for n in WORDS_READ if n < longest):
        logits = predict_logits(model, encoder, [" ".join(text.split(maxsplit=n)[:n]) for text in texts])
        found[n] = float((logits.argmax(axis=1) == truth).mean())
    return found
