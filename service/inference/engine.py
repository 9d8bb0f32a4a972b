"""What the service asks of a model: three stages and a probe, over plain data. Imports no torch.

encode   texts -> windows of tokens      any thread
infer    windows -> logits               the batcher's thread only, one batch at a time
decode   a text's logits -> prediction   any thread
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from service.model.autotune import BudgetTrial, Trial

OnLong = Literal["windows", "truncate", "error"]

Logits = Sequence[float]
"""One window's raw scores, one a label."""


@dataclass(frozen=True, slots=True)
class EncodedWindow:
    """One window of one text: what the batcher puts into batches."""

    tokens: int
    payload: Any
    """What the engine's own `infer` needs; nobody else looks at it."""
    computed: int
    """Tokens that the model computes for it, padding included."""
    key: Hashable | None = None
    """Equal for windows whose logits are equal; None: never shared."""


@dataclass(frozen=True, slots=True)
class TextWindows:
    """One text, ready for the model."""

    items: tuple[EncodedWindow, ...]
    tokens: int
    """Tokens of the whole text."""
    tokens_read: int
    """Tokens that the model will see."""
    spans: tuple[tuple[int, int], ...] = ()
    """Each window's first character and the one after its last, in the text as it was sent; empty unless asked for."""


@dataclass(frozen=True, slots=True)
class TextProblem:
    """Why one text cannot be encoded: a kind of `service.errors.STATUS` and a sentence."""

    kind: Literal["empty_text", "invalid_text", "text_too_long"]
    message: str


@dataclass(frozen=True, slots=True)
class Tokenized:
    """What the tokenizer makes of one text."""

    cleaned: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    """Each token's first character and the one after its last, in `cleaned`."""
    windows: int
    """Windows that would read all of it."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one text."""

    scores: tuple[tuple[str, float], ...]
    """(label, calibrated probability), every label, most probable first; the probabilities sum to 1."""
    unsure: bool

    @property
    def label(self) -> str:
        return self.scores[0][0]

    @property
    def score(self) -> float:
        return self.scores[0][1]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What is served; `/info` shows all of it."""

    name: str
    version: str
    """First 12 hex digits of the weights' SHA-256."""
    labels: tuple[str, ...]
    max_tokens: int
    window_stride: int
    on_long: OnLong
    """What becomes of longer texts where a caller does not say."""
    head: str
    """"last_token" or "flatten"."""
    temperature: float
    unsure_below: float
    parameters: int
    precision: str
    """Of matrix products: "float32", "bfloat16" or "int8"."""
    precision_trials: tuple[Trial, ...]
    """How it was chosen; empty if a setting says which."""
    device: str
    threads: int
    max_batch_tokens: int
    """Tokens computed at once, padding included."""
    budget_trials: tuple[BudgetTrial, ...]
    """How that was chosen; empty if a setting says how many."""
    tokens_per_s: float
    """Measured with batches of that size; 0 if a setting says how many."""
    created: str
    golden_difference: float
    """Largest difference between the golden texts' logits of training time, which are float32, and those computed at
    start-up."""
    metrics: dict[str, Any]


Progress = Callable[[str], None]
"""Told what loading is about now, in a few words."""


class InferenceError(Exception):
    """The model gave no usable answer for one text, for instance NaN."""


class ModelOutOfMemory(Exception):
    """There was not enough memory for a batch; a smaller one may fit."""


class Engine(Protocol):
    """A model that is loaded and has passed its start-up checks."""

    @property
    def info(self) -> EngineInfo: ...

    def encode(
        self, texts: Sequence[str], on_long: OnLong | None, spans: bool = False
    ) -> list[TextWindows | TextProblem]:
        """One result a text, in order; a text's problem stands in its own place.

        Args:
            texts: any number.
            on_long: None: `info.on_long`.
            spans: fill in `TextWindows.spans`.
        """

    def tokenize(self, text: str) -> Tokenized | TextProblem:
        """The tokens of one text, however long."""

    def infer(self, items: Sequence[EncodedWindow]) -> Sequence[Logits]:
        """Logits of each window, in order. Blocks. Whatever it raises concerns the batch as a whole.

        Raises:
            ModelOutOfMemory: a smaller batch may do.
        """

    def decode(self, encoded: TextWindows, logits: Sequence[Logits]) -> Prediction:
        """The answer from the logits of all of a text's windows.

        Raises:
            InferenceError: logits that are not finite.
        """

    def probe(self) -> None:
        """A one-token forward; raises if the model cannot do even that. Runs on the batcher's thread."""
