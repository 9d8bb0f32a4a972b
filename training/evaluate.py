"""An artifact's figures on a file of labelled texts."""

from pathlib import Path
from typing import Any

from classifier.artifact import read_artifact
from training import metrics
from training.data import Columns, read_examples
from training.errors import DataError, Problem
from training.predict import predict_logits


def evaluate(
    artifact_dir: Path,
    data: Path,
    columns: Columns | None = None,
    *,
    encoding: str = "utf-8",
    skip_unlabelled: bool = False,
) -> dict[str, Any]:
    """Measure an artifact as it is served: its clean-up, windows, temperature and threshold.

    Raises:
        ArtifactError: the artifact is unusable.
        DataError: the file is, or holds a label that the artifact does not know.
    """
    artifact = read_artifact(artifact_dir)
    labels, manifest = artifact.labels, artifact.manifest
    examples = read_examples(data, columns, encoding=encoding, skip_unlabelled=skip_unlabelled)
    unknown = [
        Problem(str(data), e.row, 0, "label", f"{e.label!r} is none of {', '.join(labels.names)}")
        for e in examples
        if e.label not in labels.label2id
    ]
    if unknown:
        raise DataError(unknown)
    truth = [labels.id_of(e.label) for e in examples]
    logits = predict_logits(artifact.model(), artifact.encoder(), [e.text for e in examples])
    measured = metrics.classification_metrics(truth, logits.argmax(axis=1).tolist(), labels.names)
    temperature, unsure_below = manifest.calibration.temperature, manifest.unsure_below
    return measured | {"calibration": metrics.calibration_metrics(logits, truth, temperature, unsure_below)}
