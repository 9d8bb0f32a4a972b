"""Provenance of an artifact: data, recipe, versions, commit. It contains no path of the training machine."""

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from classifier.model import GPT2Classifier
from training.config import TrainConfig
from training.data.files import name_of
from training.data.read import fingerprint
from training.data.splits import Splits

NOT_RECORDED = frozenset({"data", "output", "overwrite", "base_model", "checkpoints", "save_steps"})
"""Settings that contain paths of the training machine; data and base_model are recorded by name only."""


def provenance(
    config: TrainConfig, splits: Splits, model: GPT2Classifier, log: Sequence[dict[str, float]], seconds: float
) -> dict[str, Any]:
    """Return the `provenance` of the manifest.

    Args:
        config: settings of the run.
        splits: data of the run.
        model: the trained model.
        log: log of the Trainer.
        seconds: duration of the run.
    """
    recipe = {key: value for key, value in asdict(config).items() if key not in NOT_RECORDED}
    return {
        "data": name_of(config.data),
        "data_fingerprint": fingerprint(e for _, examples in splits.items() for e in examples),
        "split_sizes": splits.sizes(),
        "near_duplicate_groups": splits.groups,
        "base_model": Path(config.base_model).name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": recipe,
        "best_val_loss": min((entry["eval_loss"] for entry in log if "eval_loss" in entry), default=None),
        "training_seconds": round(seconds, 1),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Return the commit of the training code, if it runs from a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
