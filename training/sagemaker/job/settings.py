"""The directories of a training job, and every environment variable that its container reads.

A variable of AWS's toolkits (`SM_*`) takes precedence over the platform's own files below the root, `/opt/ml`.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import ConfigError


@dataclass(frozen=True)
class JobPaths:
    """Directories of a job, and the variables that are set."""

    root: Path
    """`/opt/ml`; `SAGEMAKER_BASE_DIR` moves it, as it does for AWS's own toolkits."""
    variables: Mapping[str, str]

    @classmethod
    def read(cls) -> "JobPaths":
        return cls(Path(os.environ.get("SAGEMAKER_BASE_DIR") or "/opt/ml"), dict(os.environ))

    def _path(self, variable: str, default: str) -> Path:
        return Path(self.variables.get(variable) or self.root / default)

    @property
    def model(self) -> Path:
        return self._path("SM_MODEL_DIR", "model")

    @property
    def output_data(self) -> Path:
        return self._path("SM_OUTPUT_DATA_DIR", "output/data")

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def work(self) -> Path:
        """Scratch directory of one start, on the large volume, and at the same path after a restart."""
        return self.root / "work"

    def channel(self, name: str) -> Path | None:
        """Return a channel's directory, None if the job has no such channel."""
        path = self._path(f"SM_CHANNEL_{name.upper()}", f"input/data/{name}")
        return path if path.exists() else None

    def config(self, name: str, variable: str) -> dict[str, Any]:
        """Return a JSON object of the platform, {} where there is none. Raises ConfigError if it is no object."""
        path, given = self.root / "input" / "config" / f"{name}.json", self.variables.get(variable)
        source = variable if given else path
        try:
            value = json.loads(given or (path.read_text(encoding="utf-8") if path.is_file() else "{}"))
        except ValueError as exc:
            raise ConfigError(f"{source} is not valid JSON: {exc}") from exc
        if not isinstance(value, dict):
            raise ConfigError(f"{source} must hold a JSON object, holds {type(value).__name__}")
        return value
