"""Errors of training; the command line turns each into a message and exit code 2.

TrainingError
├── ConfigError    an unknown or contradictory setting
├── DataError      the examples cannot be used; carries every problem found, not only the first
└── LeakError      texts of one split stand in another one
"""

from collections.abc import Sequence
from dataclasses import dataclass

SHOWN_PROBLEMS = 100


class TrainingError(Exception):
    """Base of everything that `training` raises on purpose."""


class ConfigError(TrainingError):
    """A setting that does not exist, is out of range, or contradicts another one."""


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong with the data: where, and what to do about it."""

    file: str
    row: int
    """Data row counted from 1, the header not counted; 0 means the file as a whole."""
    line: int
    """Line of a text file where the row begins, counted from 1; 0 where files have no lines."""
    field: str
    message: str

    def __str__(self) -> str:
        where = self.file
        if self.row:
            where += f", row {self.row}"
        if self.line:
            where += f" (line {self.line})"
        if self.field:
            where += f", field {self.field!r}"
        return f"{where}: {self.message}"


class DataError(TrainingError):
    """The data cannot be used as it is. The message lists the problems, at most `SHOWN_PROBLEMS` of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = [f"{count} problem{'s' if count != 1 else ''} in the data:"]
        lines += [f"  {problem}" for problem in self.problems[:SHOWN_PROBLEMS]]
        if count > SHOWN_PROBLEMS:
            lines.append(f"  ... and {count - SHOWN_PROBLEMS} more")
        super().__init__("\n".join(lines))


class LeakError(TrainingError):
    """Texts of one split stand in another one, so that its score would say nothing about new texts."""
