"""The file that keeps what a start has measured, so that the next start on the same machine need not measure it."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from classifier import Precision
from service.model.autotune import BudgetTrial, LaneTrial, PrecisionTrial
from service.telemetry import logger


@dataclass(frozen=True)
class Tuning:
    """What a start chooses by measuring. There are no trials of what a setting fixes."""

    lanes: int
    threads: int
    lane_trials: tuple[LaneTrial, ...]
    precision: Precision
    precision_trials: tuple[PrecisionTrial, ...]
    max_batch_tokens: int
    budget_trials: tuple[BudgetTrial, ...]

    @property
    def measured(self) -> bool:
        """True if anything was chosen by measuring."""
        return bool(self.lane_trials or self.precision_trials or self.budget_trials)


class AutotuneFile:
    """The file for one machine, model, set of settings and set of versions.

    Args:
        directory: the directory of the file; empty: there is no file.
        depends_on: everything that the measurements depend on.
    """

    def __init__(self, directory: str, depends_on: dict[str, object]) -> None:
        self._depends_on = json.dumps(depends_on, sort_keys=True)
        name = f"autotune-{hashlib.sha256(self._depends_on.encode()).hexdigest()[:16]}.json"
        self.path = Path(directory) / name if directory else None

    def read(self) -> Tuning | None:
        """Return what an earlier start has measured; None if there is no such file or it cannot be used."""
        if self.path is None:
            return None
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return _TUNING.validate_python(content["tuning"]) if content["for"] == self._depends_on else None
        except OSError:
            return None
        except (ValueError, KeyError, TypeError) as exc:  # pydantic's error is a ValueError
            logger.warning("%s cannot be used, measuring anew: %s", self.path, type(exc).__name__)
            return None

    def write(self, tuning: Tuning) -> None:
        """Keep what was measured. Does nothing where no file can be written, for example on a read-only system."""
        if self.path is None or not tuning.measured:
            return
        content = json.dumps({"for": self._depends_on, "tuning": _TUNING.dump_python(tuning, mode="json")}, indent=1)
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(content + "\n", encoding="utf-8")
            partial.replace(self.path)
        except OSError as exc:
            logger.debug("what was measured is not kept: %s", exc)


_TUNING = TypeAdapter(Tuning)
