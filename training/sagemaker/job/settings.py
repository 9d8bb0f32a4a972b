"""Every environment variable that a training job's container reads, and where its files lie.

What a toolkit of AWS has set (`SM_*`) wins over the platform's own files below the root, `/opt/ml`.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import ConfigError

RESERVE, RESERVE_BYTES = "reserve", 65_536
"""A file in the work directory, given up when a job fails: on a full disk there is room to say so."""


@dataclass(frozen=True)
class Places:
    """A job's directories and the variables that were set."""

    root: Path
    """`/opt/ml`; `SAGEMAKER_BASE_DIR` moves it, as it does for AWS's own toolkits."""
    variables: Mapping[str, str]

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> "Places":
        variables = dict(os.environ if environment is None else environment)
        return cls(Path(variables.get("SAGEMAKER_BASE_DIR") or "/opt/ml"), variables)

    def _path(self, variable: str, default: str) -> Path:
        return Path(self.variables.get(variable) or self.root / default)

    @property
    def model(self) -> Path:
        return self._path("SM_MODEL_DIR", "model")

    @property
    def output_data(self) -> Path:
        return self._path("SM_OUTPUT_DATA_DIR", "output/data")

    @property
    def failure(self) -> Path:
        return self.root / "output" / "failure"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def work(self) -> Path:
        """What a start makes for itself; on the big volume, and at the same path after a restart."""
        return self.root / "work"

    @property
    def job(self) -> str:
        return self.variables.get("TRAINING_JOB_NAME", "")

    def channel(self, name: str) -> Path | None:
        """The channel's directory, if the job has such a channel."""
        place = self._path(f"SM_CHANNEL_{name.upper()}", f"input/data/{name}")
        return place if place.exists() else None

    def config(self, name: str, variable: str) -> dict[str, Any]:
        """A JSON object of the platform's, {} where there is none.

        Raises:
            ConfigError: it is no JSON object.
        """
        path = self.root / "input" / "config" / f"{name}.json"
        try:
            raw = self.variables.get(variable) or (path.read_text(encoding="utf-8") if path.is_file() else "{}")
            value = json.loads(raw)
        except ValueError as exc:
            raise ConfigError(f"{variable if self.variables.get(variable) else path} is not valid JSON: {exc}") from exc
        if not isinstance(value, dict):
            raise ConfigError(f"{path} must hold a JSON object, holds {type(value).__name__}")
        return value

    def environment(self, **defaults: str) -> dict[str, str]:
        """Variables for the processes that train: all that were set, and `defaults` where they were not."""
        return {**defaults, **self.variables}
