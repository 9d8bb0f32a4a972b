"""Errors of the commands for AWS; the command line turns each into a message and an exit code.

LaunchError (a TrainingError)   the command cannot be done as it was given
├── RequestError   AWS would refuse a request; carries every problem found, not only the first
└── AwsError       AWS refused, could not be reached, or what it ran has failed
"""

from collections.abc import Sequence
from dataclasses import dataclass

from training.errors import TrainingError


class LaunchError(TrainingError):
    """The command cannot be done as it was given."""


@dataclass(frozen=True)
class Refusal:
    """One thing that AWS would refuse."""

    operation: str
    path: str
    """Of the field, as `InputDataConfig[0].ChannelName`; empty for the request as a whole."""
    message: str

    def __str__(self) -> str:
        return f"{self.operation}{': ' if self.path else ''}{self.path}: {self.message}"


class RequestError(LaunchError):
    """Requests that AWS would refuse. Nothing was sent."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        count = len(self.refusals)
        lines = [f"AWS would refuse this ({count} problem{'s' if count != 1 else ''}); nothing was sent:"]
        super().__init__("\n".join([*lines, *(f"  {refusal}" for refusal in self.refusals)]))


class AwsError(LaunchError):
    """AWS refused, could not be reached, or what it ran has failed."""
