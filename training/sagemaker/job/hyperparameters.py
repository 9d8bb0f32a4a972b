"""Hyper-parameters, which reach a container as strings: to settings of a training run."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.config import TrainConfig, load_config
from training.errors import ConfigError

ALIASES = {
    "learning_rate": "lr",
    "max_length": "max_seq_len",
    "max_seq_length": "max_seq_len",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "gradient_accumulation",
    "warmup_ratio": "warmup",
    "model_name": "base_model",
    "model_name_or_path": "base_model",
}
"""Names that other training scripts give to settings of ours."""
PLACED = frozenset({"data", "output", "checkpoints", "overwrite"})
"""Settings that the container makes of the job's channels and directories."""
RECIPE = "config"
"""Names a file of training/configs, whose settings stand below those given."""
CONFIGS = Path(__file__).parents[2] / "configs"
TRUE, FALSE = ("true", "yes", "on", "1", ""), ("false", "no", "off", "0")

_FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig) if field.name not in PLACED}


def parse_hyperparameters(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as `TrainConfig` takes them.

    Args:
        raw: names with dashes or underscores; values as they are, or as the JSON that AWS's estimators make of them
            (`"abc"` with its quotes). `sagemaker_*` and the tuner's own (`_tuning_*`) are passed over.

    Raises:
        ConfigError: with every unknown name and every value of the wrong type.
    """
    problems: list[str] = []
    settings: dict[str, Any] = {}
    for key, value in raw.items():
        name = key.strip().lower().replace("-", "_")
        if name.startswith(("sagemaker_", "_tuning_")):
            continue
        name = ALIASES.get(name, name)
        if name in settings:
            problems.append(f"{key} is given twice, under two names")
        elif name in PLACED:
            problems.append(
                f"{key} is not for the caller: the container sets it from the job's channels and directories"
            )
        elif name == RECIPE:
            settings[name] = _plain(value)
        elif name not in _FIELDS:
            known = ", ".join([*(field.replace("_", "-") for field in _FIELDS), RECIPE])
            problems.append(f"unknown hyper-parameter {key!r}; known are {known}")
        else:
            try:
                settings[name] = _convert(_plain(value), str(getattr(_FIELDS[name].type, "__name__", "")))
            except ValueError:
                kind = getattr(_FIELDS[name].type, "__name__", "")
                problems.append(f"hyper-parameter {key} must be {kind}, is {value!r:.100}")
    if problems:
        raise ConfigError("; ".join(problems))
    return settings


def training_config(settings: Mapping[str, Any], **places: Any) -> TrainConfig:
    """The run's settings: a recipe's, if one is named, then those given, then the places.

    Raises:
        ConfigError: no such recipe, or a value out of its range.
    """
    given = dict(settings)
    recipe = given.pop(RECIPE, "")
    file = CONFIGS / f"{recipe}.toml" if recipe else None
    if file is not None and (Path(recipe).name != recipe or not file.is_file()):
        known = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.toml") if path.stem != "pretrain"))
        raise ConfigError(f"hyper-parameter {RECIPE}: no recipe {recipe!r}; there are {known}")
    return load_config(TrainConfig, file, given | places)


def _plain(value: Any) -> str:
    """The text of a value, without the quotes of JSON."""
    if not isinstance(value, str):
        return json.dumps(value)
    if len(value) > 1 and value[0] == value[-1] == '"':
        try:
            decoded = json.loads(value)
        except ValueError:
            return value
        return decoded if isinstance(decoded, str) else value
    return value


def _convert(text: str, kind: str) -> str | int | float | bool:
    if kind == "str":
        return text
    text = text.strip()
    if kind == "bool":
        if text.lower() in TRUE:
            return True
        if text.lower() in FALSE:
            return False
        raise ValueError(text)
    if kind == "float":
        return float(text)
    try:
        return int(text)
    except ValueError:
        number = float(text)  # a tuner writes 16.0
        if not number.is_integer():
            raise
        return int(number)
