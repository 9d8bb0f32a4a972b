"""Errors of the SageMaker commands; the command line turns each into a message and an exit code."""

from collections.abc import Sequence

from training.errors import TrainingError


class LaunchError(TrainingError):
    """The command cannot run as it was given, and nothing was sent."""


class RequestError(LaunchError):
    """AWS would refuse these requests. Each problem has one message, and nothing was sent."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__("\n  ".join([f"AWS would refuse this ({count}); nothing was sent:", *self.problems]))


class AwsError(LaunchError):
    """AWS refused, could not be reached, or what it ran has failed."""


class NotFoundError(AwsError):
    """AWS knows no such resource."""


class AlreadyExistsError(AwsError):
    """AWS has a resource of this name already."""
