"""`crossval`: figures of a recipe from grouped cross-validation, which are those of all rows instead of a tenth.

Each fold is the test of one ordinary run, whose artifact is kept: `fold-0`, `fold-1` and so on. A command that was
interrupted goes on with the first fold that has no artifact.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from classifier.artifact import MANIFEST, Artifact, read_artifact
from training.config import TrainConfig
from training.errors import ConfigError
from training.fit.run import run
from training.report.provenance import recipe_of

FOLDS = 5
RESULTS = "crossval.json"


def crossval(config: TrainConfig) -> dict[str, Any] | None:
    """Train and measure once a fold, and write the figures of all folds together to `crossval.json` in the output.

    Args:
        config: the recipe. `folds` defaults to 5, `fold` is set here, and the output holds one artifact for each fold.

    Returns:
        The figures; None in all but one of the processes that torchrun starts.

    Raises:
        ConfigError: an artifact of another recipe is in the place of a fold.
        TrainingError, ClassifierError: as a run does.
    """
    if not config.output:
        raise ConfigError("output must be given (--output): a directory for the artifacts of all folds")
    folds = config.folds or FOLDS
    made = [_run_fold(config, fold, folds) for fold in range(folds)]
    artifacts = [artifact for artifact in made if artifact is not None]
    if len(artifacts) < folds:
        return None
    figures = summary([artifact.manifest.metrics for artifact in artifacts])
    (Path(config.output) / RESULTS).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def summary(metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of all folds together.

    Args:
        metrics: the metrics of each fold's test, as `measure` returns them.

    Returns:
        For each figure its mean over the folds and the standard error of the mean. If there is a baseline, `mcnemar`
        counts the groups that only one of the two answers better, and has the two-sided p-value of McNemar's exact
        test (McNemar, "Note on the sampling error of the difference between correlated proportions", 1947): the
        probability of so unequal numbers, were both equally good.
    """
    figures: dict[str, Any] = {"folds": len(metrics), "rows": sum(each["rows"] for each in metrics)}
    for key in ("accuracy", "macro_f1"):
        figures[key] = _mean([each[key] for each in metrics])
    for key in ("ece", "coverage", "error_among_answered"):
        figures[key] = _mean([each["calibration"][key] for each in metrics])
    baselines = [each["baseline"] for each in metrics if "baseline" in each]
    if len(baselines) == len(metrics):
        for key in ("accuracy", "macro_f1"):
            figures[f"baseline_{key}"] = _mean([each[key] for each in baselines])
        model, baseline = (sum(each["only"][side] for each in baselines) for side in ("model", "baseline"))
        p = float(binomtest(model, model + baseline).pvalue) if model + baseline else 1.0
        figures["mcnemar"] = {"model": model, "baseline": baseline, "p": p}
    return figures


def lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures as `key=value;` lines for people and log collectors."""
    means = {key: value for key, value in figures.items() if isinstance(value, dict) and "mean" in value}
    found = [f"folds={figures['folds']}; rows={figures['rows']};"]
    found += [f"{key}={value['mean']:.4f}; {key}_standard_error={value['error']:.4f};" for key, value in means.items()]
    if "mcnemar" in figures:
        only = figures["mcnemar"]
        found.append(f"only_model_right={only['model']}; only_baseline_right={only['baseline']}; p={only['p']:.4g};")
    return found


def _run_fold(config: TrainConfig, fold: int, folds: int) -> Artifact | None:
    output = Path(config.output) / f"fold-{fold}"
    own = dataclasses.replace(
        config,
        folds=folds,
        fold=fold,
        output=str(output),
        name=config.name or Path(config.output).name,
        checkpoints=str(Path(config.checkpoints) / output.name) if config.checkpoints else "",
    )
    if config.overwrite or not (output / MANIFEST).is_file():
        return run(own)
    artifact = read_artifact(output)
    if artifact.manifest.provenance["recipe"] != json.loads(json.dumps(recipe_of(own))):
        raise ConfigError(
            f"{output} was trained by another recipe; choose another output, or replace all folds with --overwrite"
        )
    return artifact


def _mean(values: Sequence[float | None]) -> dict[str, float] | None:
    """Return the mean over the folds and its standard error; None if a fold lacks the figure."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return {"mean": float(np.mean(known)), "error": float(np.std(known, ddof=1) / len(known) ** 0.5)}
