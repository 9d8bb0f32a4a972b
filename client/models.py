"""The service's answers as frozen pydantic models. Fields that a newer service adds are ignored.

The contract is openapi.yaml; a test compares these models with it. A SageMaker endpoint answers with labels and scores
only: all fields that are None by default stay None there.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel, Tag

OnLong = Literal["windows", "truncate", "error"]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class Score(_Answer):
    """A label with its calibrated probability, 0 to 1."""

    label: str
    score: float


class Span(_Answer):
    """One window of a long text, and the model's answer for that window alone."""

    start: int  # first character, counted in the text as it was sent
    end: int  # the character after the last one
    tokens: int
    label: str
    score: float


class Sentence(_Answer):
    """One sentence of the text and its share in the answer."""

    start: int  # first character, counted in the text as it was sent
    end: int  # the character after the last one
    contribution: float | None = None
    """Log-odds of the label for the text with this sentence minus those without it: above 0, the sentence speaks for
    the label. None if nothing is left without it, or if it was not left out (see `Explanation.complete`)."""
    alone: float | None = None  # log-odds of the label for the sentence alone


class Explanation(_Answer):
    """Each sentence's share in the answer; the option `explain` asks for it."""

    label: str
    log_odds: float  # ln(p / (1 - p)) of the label, for the whole text
    sentences: list[Sentence]
    complete: bool = True  # every sentence was left out; the budget of a long text ends before
    sum: float  # of all contributions; they need not add up to `log_odds`
    remainder: float  # `log_odds` - `sum`


class Model(_Answer):
    """The model that answered."""

    name: str
    version: str  # first 12 hex digits of the weights' SHA-256


class Timing(_Answer):
    """Milliseconds spent within the service."""

    tokenize_ms: float
    model_ms: float  # including the wait for a place in a batch
    total_ms: float


class Prediction(_Answer):
    """The answer for one text."""

    label: str  # the most probable label
    score: float  # its calibrated probability, 0 to 1
    scores: list[Score]  # labels with their probabilities, most probable first; `top_k` of them if asked so
    unsure: bool | None = None  # the score is below the model's threshold; None: no threshold is known
    tokens: int | None = None  # of the whole text
    tokens_read: int | None = None  # of these, how many the model read
    truncated: bool | None = None  # only the beginning was read
    windows: int | None = None  # overlapping windows that the text was read in
    spans: list[Span] | None = None  # one a window; the option `spans` asks for them
    explanation: Explanation | None = None  # the option `explain` asks for it
    model: Model | None = None  # a stream's answers lack it; see `Client.info`
    timing: Timing | None = None  # for a lone text

    ok: ClassVar[Literal[True]] = True  # a `TextError` has False here


class TextError(_Answer):
    """Stands in the place of one text that has no answer; the other texts have theirs."""

    error: str  # a sentence that says what to do
    kind: str  # the service's name for the error, for instance "empty_text"
    request_id: str = ""
    details: list[dict[str, Any]] | None = None

    ok: ClassVar[Literal[False]] = False  # a `Prediction` has True here


def _which(value: Any) -> str:
    return "error" if isinstance(value, TextError) or (isinstance(value, dict) and "error" in value) else "answer"


Outcome = Annotated[Annotated[Prediction, Tag("answer")] | Annotated[TextError, Tag("error")], Discriminator(_which)]
"""The result of one text among many; `outcome.ok` tells a Prediction from a TextError."""


class Line(RootModel[Outcome]):
    """One line of the answer of `/batch` to a stream of texts."""


class Batch(_Answer):
    """The answer of `/batch`, without its `usage` and `timing`."""

    results: list[Outcome]
    model: Model | None = None


class ServiceError(_Answer):
    """The one shape of the service's errors."""

    error: str
    kind: str
    request_id: str
    details: list[dict[str, Any]] | None = None


class Limits(_Answer):
    """The service's limits. The defaults are those of the service, for a transport that cannot ask for them."""

    max_body_bytes: int = Field(6_000_000, ge=1)  # of a request
    max_text_chars: int = Field(200_000, ge=1)  # of one text
    max_texts: int = Field(256, ge=1)  # of one request
    default_timeout_ms: int = Field(30_000, ge=1)  # for a request without `timeout_ms`
    max_timeout_ms: int = Field(55_000, ge=1)  # the largest `timeout_ms`


class ModelInfo(_Answer):
    """The model in service; `model_extra` has all other fields of `/info`."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    name: str
    version: str
    labels: list[str]
    max_tokens: int  # that the model reads at once
    on_long: OnLong = "windows"  # how longer texts are read where a request does not say
    precision: str = ""


class Info(_Answer):
    """The answer of `/info`."""

    service: str  # the service's release
    model: ModelInfo
    limits: Limits


class Readiness(_Answer):
    """The answer of `/readyz`."""

    status: str  # "ready", "loading", "draining", "failed" or "unhealthy"
    stage: str | None = None  # the step of loading that is under way
