"""What the reader can act on.

BenchmarkError       one line; the command ends with exit code 2
  Unavailable        a contestant cannot run here; its row says why, the others go on
"""


class BenchmarkError(Exception):
    """The benchmark cannot go on; the message says what is missing and what to do."""


class Unavailable(BenchmarkError):
    """One contestant cannot be installed or run here; the message says why."""
