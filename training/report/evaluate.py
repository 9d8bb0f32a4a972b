"""The metrics of a model on labelled texts, which every run and `python -m training evaluate` report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.artifact import read_artifact
from classifier.decoding import probabilities
from classifier.encoding import Encoder
from classifier.labels import Labels
from classifier.model import GPT2Classifier
from training.config import DataConfig
from training.data.files import local_copy, name_of
from training.data.read import read_examples
from training.errors import DataError, Problem
from training.report import metrics
from training.report.html import ReportData, try_report
from training.report.predict import predict_logits

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
    model, encoder = artifact.model(), artifact.encoder()
    logits = predict_logits(model, encoder, texts)
    temperature = manifest.calibration.temperature
    measured = measure(logits, truth, labels, temperature, manifest.unsure_below)
    if report is not None:
        name = name_of(config.data)
        try_report(
            lambda: ReportData(
                title=f"{manifest.name} on {name}",
                labels=labels.names,
                texts=texts,
                truth=truth,
                probs_bc=probabilities(logits, temperature),
                metrics=measured,
                by_words=accuracy_by_words(model, encoder, texts, truth) | {0: measured["accuracy"]},
                rows=[e.row for e in examples],
                facts={"artifact": manifest.name, "weights (SHA-256)": artifact.weights_sha256, "data": name},
            ),
            report,
        )
    return measured


def measure(
    logits: NDArray[np.float32], truth: Sequence[int], labels: Labels, temperature: float, unsure_below: float | None
) -> dict[str, Any]:
    """Return all metrics of a model on labelled texts.

    Args:
        logits: (B, C) logits.
        truth: B label ids.
        labels: the C labels.
        temperature: temperature of the calibration.
        unsure_below: probability below which an answer is unsure; None: no threshold.
    """
    predicted = logits.argmax(axis=1).tolist()
    probs = probabilities(logits, temperature)
    return {
        **metrics.classification_metrics(truth, predicted, labels.names),
        "intervals": metrics.bootstrap_intervals(truth, predicted, len(labels)),
        "calibration": {
            **metrics.calibration_metrics(logits, truth, temperature, unsure_below),
            "temperature": temperature,
            "unsure_below": unsure_below,
        },
        "reliability": metrics.reliability(probs, truth),
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
    lines.append(
        f"ece={calibration['ece']:.4f}; coverage={calibration['coverage']:.4f}; "
        f"error_among_answered={calibration['error_among_answered']:.4f};"
    )
    if "baseline" in measured:
        baseline = measured["baseline"]
        lines.append(f"baseline_accuracy={baseline['accuracy']:.4f}; baseline_macro_f1={baseline['macro_f1']:.4f};")
    return lines


def accuracy_by_words(
    model: GPT2Classifier, encoder: Encoder, texts: Sequence[str], truth: Sequence[int]
) -> dict[int, float]:
    """Return the accuracy if only the first n words of each text are read, for each n in `WORDS_READ` that leaves words
    of some text unread; measured on at most `BY_WORDS_TEXTS` texts, evenly spaced.
    """
    step = -(-len(texts) // BY_WORDS_TEXTS)
    words = [text.split() for text in texts[::step]]
    longest = max(map(len, words))
    return {
        n: float(
            (predict_logits(model, encoder, [" ".join(w[:n]) for w in words]).argmax(axis=1) == truth[::step]).mean()
        )
        for n in WORDS_READ
        if n < longest
    }
