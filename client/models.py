"""What the service answers, as frozen pydantic models. Fields that a newer service adds are ignored.

The contract is openapi.yaml; a test holds these models to it. Through a SageMaker endpoint only labels and scores come
back, and the fields that are None by default stay so.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

OnLong = Literal["windows", "truncate", "error"]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class Score(_Answer):
    """A label with its calibrated probability, 0 to 1."""

    label: str
    score: float


class Span(_Answer):
    """One window of a long text, and what the model made of it alone."""

    start: int
    """First character, counted in the text as it was sent."""
    end: int
    """The character after the last one."""
    tokens: int
    label: str
    score: float


class Sentence(_Answer):
    """A part of the text and its share in the answer."""

    start: int
    """First character, counted in the text as it was sent."""
    end: int
    """The character after the last one."""
    contribution: float | None = None
    """Log-odds of the answer's label with it minus without it: above 0 it speaks for the label. None: nothing is left
    without it."""
    alone: float | None = None
    """Log-odds of the label for the sentence alone."""


class Explanation(_Answer):
    """What each sentence did for the answer, if asked for with `explain`."""

    label: str
    log_odds: float
    """ln(p / (1 - p)) of the label, for the whole text."""
    sentences: list[Sentence]
    sum: float
    """Of all contributions; they need not add up to `log_odds`."""
    remainder: float
    """`log_odds` - `sum`."""


class Model(_Answer):
    """What answered."""

    name: str
    version: str
    """First 12 hex digits of the weights' SHA-256."""


class Timing(_Answer):
    """Milliseconds within the service."""

    tokenize_ms: float
    model_ms: float
    """Waiting for a place in a batch included."""
    total_ms: float


class Prediction(_Answer):
    """One text's answer."""

    label: str
    """The most probable label."""
    score: float
    """Its calibrated probability, 0 to 1."""
    scores: list[Score]
    """Labels with their probabilities, most probable first; `top_k` of them if asked so."""
    unsure: bool | None = None
    """The score is below the model's threshold: better let a person look."""
    tokens: int | None = None
    """Of the whole text."""
    tokens_read: int | None = None
    """That the model read."""
    truncated: bool | None = None
    """Only the beginning was read."""
    windows: int | None = None
    """Windows that the text was read by."""
    spans: list[Span] | None = None
    """One a window, if asked for."""
    explanation: Explanation | None = None
    """If asked for."""
    model: Model | None = None
    """Not through a stream; see `Client.info`."""
    timing: Timing | None = None
    """For a lone text."""

    @property
    def ok(self) -> Literal[True]:
        """Tells an answer from a `TextError`."""
        return True


class TextError(_Answer):
    """Stands in the place of a text that has no answer; the others have theirs."""

    error: str
    """A sentence that says what to do."""
    kind: str
    """The service's word for it, for instance "empty_text"."""
    request_id: str = ""
    details: list[dict[str, Any]] | None = None

    @property
    def ok(self) -> Literal[False]:
        """Tells an answer from a `TextError`."""
        return False


def _which(value: Any) -> str:
    return "error" if isinstance(value, TextError) or (isinstance(value, dict) and "error" in value) else "answer"


Outcome = Annotated[
    Annotated[Prediction, Tag("answer")] | Annotated[TextError, Tag("error")],
    Discriminator(_which),
]
"""What became of one text among many. `outcome.ok` tells which."""


class Batch(_Answer):
    """The answer to `/batch`; `usage` and `timing` are left out."""

    results: list[Outcome]
    model: Model | None = None


class ServiceError(_Answer):
    """The one shape of the service's errors."""

    error: str
    kind: str
    request_id: str
    details: list[dict[str, Any]] | None = None


class Limits(_Answer):
    """Of the service; the defaults are its own, for where it cannot be asked."""

    max_body_bytes: int = Field(6_000_000, ge=1)
    """Of a request."""
    max_text_chars: int = Field(200_000, ge=1)
    """Of one text."""
    max_texts: int = Field(256, ge=1)
    """Of one request."""
    default_timeout_ms: int = Field(30_000, ge=1)
    """For a request that names none."""
    max_timeout_ms: int = Field(55_000, ge=1)
    """Most that a request may ask for."""


class ModelInfo(_Answer):
    """What is served; `model_extra` has all other fields of `/info`."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    name: str
    version: str
    labels: list[str]
    max_tokens: int
    """Read at once."""
    on_long: OnLong = "windows"
    """What becomes of longer texts where a caller does not say."""
    precision: str = ""


class Info(_Answer):
    """The answer to `/info`."""

    service: str
    """The service's release."""
    model: ModelInfo
    limits: Limits


class Readiness(_Answer):
    """The answer to `/readyz`."""

    status: str
    """ "ready", "loading", "draining", "failed" or "unhealthy"."""
    stage: str | None = None
    """While loading: what it is about now."""
