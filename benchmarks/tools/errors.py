"""Errors that the reader of a message can act on.

BenchmarkError       the command prints one line and ends with exit code 2
  Unavailable        a runtime or a server cannot run here; its row of the results says why, the others go on
"""


class BenchmarkError(Exception):
    """The benchmark cannot go on; the message says what is missing and what to do."""


class Unavailable(BenchmarkError):
    """One runtime or server cannot be installed or run on this machine; the message says why."""
