"""Errors of training; the command line prints the message and exits with code 2.

TrainingError
├── CheckpointError  a checkpoint cannot be written
├── ConfigError      an unknown or contradictory setting
├── DataError        the texts cannot be used; carries every problem found, not only the first
├── DivergedError    the loss or the gradients are no longer finite
└── LeakError        texts of one split also occur in another
"""

from dataclasses import dataclass
from pathlib import Path

SHOWN_PROBLEMS = 100


class TrainingError(Exception):
    """Base of all errors that `training` raises on purpose."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be written, for instance because the disk is full."""


class ConfigError(TrainingError):
    """A setting does not exist, is out of range, or contradicts another one."""


@dataclass(frozen=True)
class Problem:
    """A problem of the data: its place, and what to do about it."""

    file: str | Path
    message: str
    row: int = 0
    """Data row counted from 1, without the header; 0: the file as a whole."""
    line: int = 0
    """Line of a text file in which the row begins, counted from 1; 0: unknown."""
    field: str = ""

    def __str__(self) -> str:
        where = str(self.file)
        if self.row:
            where += f", row {self.row}"
        if self.line:
            where += f" (line {self.line})"
        if self.field:
            where += f", field {self.field!r}"
        return f"{where}: {self.message}"


class DataError(TrainingError):
    """The data cannot be used as it is. The message lists at most `SHOWN_PROBLEMS` problems."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        count = len(problems)
        lines = [f"{count} problem{'s' if count != 1 else ''} in the data:"]
        lines += [f"  {problem}" for problem in problems[:SHOWN_PROBLEMS]]
        if count > SHOWN_PROBLEMS:
            lines.append(f"  ... and {count - SHOWN_PROBLEMS} more")
        super().__init__("\n".join(lines))


class LeakError(TrainingError):
    """Texts of one split also occur in another, so its score says nothing about new texts."""


class DivergedError(TrainingError):
    """The loss or the gradients of a run are no longer finite, so that its weights are worth nothing."""
