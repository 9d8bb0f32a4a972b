"""Errors that `classifier` raises. Callers can act differently on each branch.

ClassifierError
├── LabelError             labels that do not form a usable set
├── EncodingError          one text cannot be encoded
│   ├── EmptyTextError     the text is empty after clean-up
│   └── TextTooLongError   more tokens than one window, and `on_long` is "error"
├── ModelError             a base model or configuration that is not a usable GPT-2
└── ArtifactError          the model directory is incomplete, altered or of an unknown version
"""

from pathlib import Path


class ClassifierError(Exception):
    """Base of all errors that `classifier` raises on purpose."""


class LabelError(ClassifierError):
    """The labels are not at least two distinct, non-empty names."""


class EncodingError(ClassifierError):
    """One text cannot be encoded. The message is meant for the person who sent the text."""


class EmptyTextError(EncodingError):
    """The text is empty after clean-up."""


class TextTooLongError(EncodingError):
    """The text has more tokens than one window, and `on_long` is "error"."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"the text has {tokens} tokens, the limit is {limit}: shorten it, "
            'or ask for on_long "windows" (whole text) or "truncate" (its beginning)'
        )
        self.tokens = tokens
        self.limit = limit


class ModelError(ClassifierError):
    """A base model cannot be found, or is not a GPT-2 that this project can use."""


class ArtifactError(ClassifierError):
    """The artifact cannot be read or written. The message names the directory and the file."""

    def __init__(self, directory: Path, problem: str) -> None:
        super().__init__(f"artifact {directory}: {problem}")
        self.directory = directory
        self.problem = problem


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class without one: PyTorch's messages go on for pages."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
