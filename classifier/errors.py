"""Errors of the shared core; each branch is something that the caller can act on differently.

ClassifierError
├── LabelError             labels that do not form a usable set
├── EncodingError          this one text cannot be encoded; its neighbours can
│   ├── EmptyTextError     nothing is left after clean-up
│   └── TextTooLongError   more tokens than allowed, and truncation was not asked for
├── ModelError             a base model or configuration that is no usable GPT-2
└── ArtifactError          the model directory is incomplete, altered or of an unknown version
"""

from pathlib import Path


class ClassifierError(Exception):
    """Base of everything that `classifier` raises on purpose."""


class LabelError(ClassifierError):
    """Labels that do not form a set of at least two distinct, non-empty names."""


class EncodingError(ClassifierError):
    """One text cannot be turned into tokens. The message is fit for the person who sent the text."""


class EmptyTextError(EncodingError):
    """The text has no character left after clean-up."""


class TextTooLongError(EncodingError):
    """The text has more tokens than the model reads at once, and `on_long` is "error"."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"the text has {tokens} tokens, the limit is {limit}: shorten it, "
            'or ask for on_long "windows" (whole text) or "truncate" (its beginning)'
        )
        self.tokens = tokens
        self.limit = limit


class ModelError(ClassifierError):
    """A base model that cannot be found, or is not a GPT-2 that this project can use."""


class ArtifactError(ClassifierError):
    """The artifact cannot be read or written. The message names the directory and the file."""

    def __init__(self, directory: Path, problem: str) -> None:
        super().__init__(f"artifact {directory}: {problem}")
        self.directory = directory
        self.problem = problem
