"""Hyper-parameters, which reach a container as strings, as settings of a training run."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.config import TrainConfig, load_config
from training.errors import ConfigError
from training.options import flag, parse

ALIASES = {
    "learning_rate": "lr", "num_train_epochs": "epochs", "warmup_ratio": "warmup",
    "max_length": "max_seq_len", "max_seq_length": "max_seq_len",
    "per_device_train_batch_size": "batch_size", "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "gradient_accumulation",
    "model_name": "base_model", "model_name_or_path": "base_model",
}  # fmt: skip
"""Names that other training scripts give to these settings."""
PLACED = frozenset({"data", "output", "checkpoints", "overwrite"})
"""Settings that the container takes from the job's channels and directories."""
RECIPE = "config"
"""Hyper-parameter that names a file of training/configs, whose settings are the defaults."""
CONFIGS = Path(__file__).parents[2] / "configs"

_FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig) if field.name not in PLACED}


def parse_hyperparameters(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyper-parameters as fields of `TrainConfig`, without `sagemaker_*` and the tuner's own (`_tuning_*`).

    Names have dashes or underscores; values are strings, or the JSON that AWS's estimators make of them (`"abc"` with
    its quotes). Raises ConfigError with every unknown name and every value of the wrong type.
    """
    problems: list[str] = []
    settings: dict[str, Any] = {}
    for key, value in raw.items():
        name = key.strip().lower().replace("-", "_")
        if name.startswith(("sagemaker_", "_tuning_")):
            continue
        name = ALIASES.get(name, name)
        if name in settings:
            problems.append(f"hyper-parameter {key} is given twice, under two names")
        elif name in PLACED:
            problems.append(f"hyper-parameter {key} is set by the container, from the job's channels and directories")
        elif name == RECIPE:
            settings[name] = _unquoted(value)
        elif name not in _FIELDS:
            known = ", ".join([*(flag(field)[2:] for field in _FIELDS), RECIPE])
            problems.append(f"unknown hyper-parameter {key!r}; known are {known}")
        else:
            try:
                settings[name] = parse(_FIELDS[name], _unquoted(value))
            except ConfigError as exc:
                problems.append(f"hyper-parameter {exc}")
    if problems:
        raise ConfigError("; ".join(problems))
    return settings


def training_config(settings: Mapping[str, Any], **placed: Any) -> TrainConfig:
    """Return the settings of the run: the given ones, which override those of a named recipe.

    Raises ConfigError if there is no such recipe, or a value is out of its range.
    """
    given = dict(settings)
    recipe = given.pop(RECIPE, "")
    file = CONFIGS / f"{recipe}.toml" if recipe else None
    if file is not None and (Path(recipe).name != recipe or not file.is_file()):
        known = ", ".join(
            sorted(path.stem for path in CONFIGS.glob("*.toml") if path.stem not in ("pretrain", "distil"))
        )
        raise ConfigError(f"hyper-parameter {RECIPE}: no recipe {recipe!r}; there are {known}")
    return load_config(TrainConfig, file, given | placed)


def _unquoted(value: Any) -> str:
    """Return a value as a string, without the quotes of JSON."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        decoded = json.loads(value) if len(value) > 1 and value[0] == value[-1] == '"' else value
    except ValueError:
        return value
    return str(decoded)
