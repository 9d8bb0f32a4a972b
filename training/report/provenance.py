"""Provenance of an artifact: data, recipe, machine, versions, commit. It contains no path of the training machine."""

import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from classifier.model import GPT2Classifier
from training.config import TrainConfig
from training.data.files import name_of
from training.data.read import NEAR_DUPLICATE_COLUMN, fingerprint
from training.data.splits import Splits
from training.fit.loop import setting_of_machine

NOT_RECORDED = frozenset({"data", "output", "overwrite", "base_model", "checkpoints", "save_steps"})
"""Settings that contain paths of the training machine; data and base_model are recorded by name only."""
PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "scikit-learn")
"""Packages whose version may change weights or figures."""


def provenance(
    config: TrainConfig, splits: Splits, model: GPT2Classifier, log: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Return the `provenance` of the manifest.

    Args:
        config: settings of the run.
        splits: data of the run.
        model: the trained model.
        log: log of the Trainer.
    """
    return {
        "data": name_of(config.data),
        "data_fingerprint": fingerprint(e for _, examples in splits.items() for e in examples),
        "split_sizes": splits.sizes(),
        "near_duplicate_groups": splits.groups,
        "grouping": str(splits),
        "leaks": [asdict(leak) for leak in splits.leaks],
        "held_out": held_out(splits),
        "base_model": Path(config.base_model).name,
        "base_was_classifier": model.base_was_classifier,
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": recipe_of(config),
        "best_val_loss": min((entry["eval_loss"] for entry in log if "eval_loss" in entry), default=None),
        "training_seconds": next((round(entry["seconds"], 1) for entry in reversed(log) if "seconds" in entry), None),
        **setting_of_machine(config),
        "device": _device(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "git_commit": _git_commit(),
    }


def recipe_of(config: TrainConfig) -> dict[str, Any]:
    """Return the settings of a run, without those that contain paths of the training machine."""
    recipe = {key: value for key, value in asdict(config).items() if key not in NOT_RECORDED}
    return recipe | {key: name_of(recipe[key]) for key in ("teacher_labels", "unlabelled")}


def held_out(splits: Splits) -> str:
    """Return a sentence about how far the test texts are new to the model."""
    searched = "" if splits.near_duplicates else " Near-duplicates were not searched."
    if splits.leaks:
        leaks = "; ".join(map(str, splits.leaks))
        return (
            f"The given split leaks: {leaks}. On new texts, the model is probably worse than these figures.{searched}"
        )
    kind = "copy or near-duplicate" if splits.near_duplicates else "copy"
    named = f", or has one as near-duplicate by column {NEAR_DUPLICATE_COLUMN}" if splits.near_duplicates_named else ""
    return f"None of them is a {kind} of a training or validation text{named}.{searched}"


def input_of(splits: Splits) -> str:
    """Return how the texts were made of the columns of the data."""
    titled = sum(e.titled for _, examples in splits.items() for e in examples)
    total = sum(splits.sizes().values())
    if not titled:
        return "text"
    joined = "title, blank line, text"
    return joined if titled == total else f"{joined} in {titled} of {total} rows, and the text alone in the others"


def _device() -> str:
    """Return the name of the GPU, or of the CPU where there is none."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """Return the commit of the training code, with `-dirty` if tracked files were changed; None without a checkout."""
    here = str(Path(__file__).parent)
    command = ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
