"""The interface between the service and a model: three stages and a health check, over plain data. Imports no torch.

encode   texts -> windows of tokens            any thread
infer    windows -> logits                     the threads of lanes only, one batch at a time in each
decode   logits of one text -> prediction      any thread
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from classifier import OnLong
from classifier.calibration import Calibration
from service.errors import ServiceError
from service.model.autotune import BudgetTrial, LaneTrial, PrecisionTrial

Logits = Sequence[float]
"""The model's scores for one window, one per label, before the softmax."""


@dataclass(frozen=True, slots=True)
class EncodedWindow:
    """One window of one text, ready for the model."""

    tokens: int
    payload: Any
    """Data for the engine's own `infer`. The rest of the service does not read it."""
    computed_tokens: int
    """Tokens that the model computes for this window, padding included."""
    key: Hashable | None = None
    """Windows with equal keys have equal logits and may share one result. None: this window is never shared."""


@dataclass(frozen=True, slots=True)
class TextWindows:
    """One text as windows, ready for the model."""

    windows: tuple[EncodedWindow, ...]
    tokens: int
    """Tokens of the whole text."""
    tokens_read: int
    """Tokens that the model will read; fewer than `tokens` if the text is truncated."""
    spans: tuple[tuple[int, int], ...] = ()
    """Start and end (exclusive) of each window, in characters of the text as it was sent. Empty unless asked for.

    Windows begin and end with whole words, except that a truncated text ends with the last character that is read.
    """


MAX_LISTED = 10_000
"""Largest number of tokens that `TokenizedText` lists."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """The first tokens of one text, at most `MAX_LISTED`."""

    cleaned: str
    """The text after clean-up, up to the last token that is listed."""
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    """Start and end (exclusive) of each token, in characters of `cleaned`."""
    count: int
    """Number of tokens of the whole text."""
    windows: int
    """Number of windows that read the whole text."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The probability of each label."""

    scores: tuple[tuple[str, float], ...]
    """Every label with its calibrated probability, the most probable first. The probabilities sum to 1."""
    unsure: bool | None
    """True if the highest probability is below the model's threshold; None if the model has no threshold."""

    @property
    def label(self) -> str:
        return self.scores[0][0]

    @property
    def score(self) -> float:
        return self.scores[0][1]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The model that is served, and how it runs."""

    name: str
    version: str
    """First 12 hexadecimal digits of the SHA-256 of the weights."""
    labels: tuple[str, ...]
    max_tokens: int
    """Tokens of one window."""
    window_stride: int
    """Tokens between the starts of neighbouring windows."""
    on_long: OnLong
    """Treatment of a text longer than one window, unless the request says otherwise."""
    head: str
    """"last_token" or "flatten"."""
    input: str | None
    """Columns of the data that made a text in training and in `metrics`, and how they were joined; None: unknown."""
    calibration: Calibration
    """Temperature and threshold of "unsure" by the number of tokens read."""
    parameters: int
    precision: str
    """Precision of matrix products: "float32", "bfloat16" or "int8"."""
    precision_trials: tuple[PrecisionTrial, ...]
    """Trials by which the precision was chosen; empty if a setting fixes it."""
    attention: str
    """Kernel of attention: "flash" or "plain", the latter with the reason if "flash" was tried and is unavailable."""
    device: str
    lanes: int
    """Number of batches that run at the same time."""
    threads: int
    """Number of threads of one lane."""
    lane_trials: tuple[LaneTrial, ...]
    """Trials by which lanes and threads were chosen; empty if settings fix both."""
    max_batch_tokens: int
    """Tokens computed in one batch, padding included."""
    budget_trials: tuple[BudgetTrial, ...]
    """Trials by which `max_batch_tokens` was chosen; empty if a setting fixes it."""
    tokens_per_s: float
    """Measured with batches of that size in all lanes at once; 0 if a setting fixes the size."""
    created: str
    """Time at which the model was trained: ISO 8601, UTC."""
    golden_difference: float
    """Largest difference between the golden texts' logits computed at start and those stored at training time."""
    metrics: dict[str, Any]
    """Quality on the test split, measured at training time."""


Progress = Callable[[str], None]
"""A function that takes the current stage of loading, in a few words."""


class ModelOutOfMemory(Exception):
    """There was not enough memory for a batch. A smaller batch may fit."""


class Engine(Protocol):
    """A model that is loaded and has passed its start-up checks."""

    @property
    def info(self) -> EngineInfo: ...

    def encode(
        self, texts: Sequence[str], on_long: OnLong | None, spans: bool = False
    ) -> list[TextWindows | ServiceError]:
        """Tokenise texts and cut them into windows.

        Args:
            texts: any number.
            on_long: treatment of long texts; None: `info.on_long`.
            spans: fill in `TextWindows.spans`.

        Returns:
            One result per text, in order: its windows, or an error of kind empty_text, invalid_text or text_too_long.
        """

    def tokenize(self, text: str) -> TokenizedText:
        """Return the first tokens of one text of any length.

        Raises:
            ServiceError: empty_text or invalid_text.
        """

    def infer(self, windows: Sequence[EncodedWindow]) -> Sequence[Logits]:
        """Return the logits of each window, in order. Blocks. An exception concerns the batch as a whole.

        Raises:
            ModelOutOfMemory: a smaller batch may fit.
        """

    def decode(self, text: TextWindows, logits: Sequence[Logits]) -> Prediction:
        """Return the prediction for a text from the logits of all its windows.

        Raises:
            ServiceError: inference_failed, if the logits are not finite.
        """

    def prepare_thread(self) -> None:
        """Set up the calling thread as the thread of a lane. Call it once, before `infer` and `probe`."""

    def probe(self) -> None:
        """Run the model on one token, in the thread of a lane. Raises an exception if even that fails."""
