"""Wire models and helpers that several wires share."""

from collections.abc import Callable
from itertools import islice
from typing import Annotated, Any, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from service.errors import MAX_DETAILS, STATUS, UNKNOWN_FIELDS, ServiceError, error_body
from service.http.openapi import LIMIT
from service.inference.engine import EngineInfo, Prediction
from service.inference.pipeline import Answer, AnswerOrError, Pipeline, RequestOptions, Timing
from service.model.lifecycle import ModelLifecycle

T = TypeVar("T")

TEXT_ERRORS = ("text_too_large", "empty_text", "invalid_text", "text_too_long")
"""Kinds that concern one text."""

WORK_ERRORS = (
    "invalid_json",
    "body_too_large",
    "too_many_texts",
    "unsupported_media_type",
    "invalid_request",
    "overloaded",
    "inference_failed",
    "internal",
    "not_ready",
    "draining",
    "deadline_exceeded",
)
"""Kinds that concern a whole request to the model."""

EXAMPLE_TEXT = (
    "The prime minister told parliament that the government would hold a vote on the new asylum bill "
    "before the election, after opposition leaders accused him of delaying the debate."
)


def _string(value: object) -> str:
    """Accept any string. pydantic's own check would refuse the whole request for one text with an unpaired surrogate;
    the engine finds that text by text."""
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "must be a string")
    return value


ONE_TEXT = {"type": "string", "pattern": r"\S", LIMIT: "max_text_chars"}
"""JSON schema of a lone text, whose error is the error of the answer. Among several texts any string is accepted."""

Text = Annotated[str, PlainValidator(_string), WithJsonSchema({"type": "string"})]
LoneText = Annotated[str, PlainValidator(_string), WithJsonSchema(ONE_TEXT)]


def whole_float_as_int(value: object) -> object:
    """Return 2.0 as 2: to JSON Schema both are integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


PositiveInt = Annotated[int, Field(strict=True, ge=1), BeforeValidator(whole_float_as_int)]
Flag = Annotated[bool, Field(strict=True)]


class WireModel(BaseModel):
    """A model of the service's own wire, which refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RequestBody(WireModel):
    """The body of a request on the service's own wire."""

    @model_validator(mode="before")
    @classmethod
    def summarise_unknown_fields(cls, value: Any) -> Any:
        """Refuse many unknown fields with one error: 200,000 errors of pydantic's own took seconds."""
        if isinstance(value, dict) and len(value) > len(cls.model_fields) + MAX_DETAILS:
            count = len(value) - sum(name in value for name in cls.model_fields)
            first = list(islice((name for name in value if name not in cls.model_fields), MAX_DETAILS))
            raise PydanticCustomError(UNKNOWN_FIELDS, "{count} unknown fields", {"count": count, "first": first})
        return value


class LenientModel(BaseModel):
    """A model of another server's wire. It ignores unknown fields, as that server does: its clients send many."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def _text_or_texts(value: object) -> str | list[str]:
    """Check both forms at once; errors of pydantic's union would name branches that the caller did not send."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise PydanticCustomError("inputs_type", "must be a string or a list of strings that is not empty")
    for i, text in enumerate(value):
        if not isinstance(text, str):
            raise PydanticCustomError("inputs_type", "must be strings, item {index} is not", {"index": i})
    return value


TextOrTexts = Annotated[
    str | list[str],
    PlainValidator(_text_or_texts),
    WithJsonSchema(
        {"anyOf": [ONE_TEXT, {"type": "array", "items": {"type": "string"}, "minItems": 1, LIMIT: "max_texts"}]}
    ),
]


class Score(WireModel):
    label: str
    score: float = Field(ge=0, le=1, description="calibrated probability")


class ErrorDetail(WireModel):
    field: str = Field(description="place in the body, for instance `texts.3`")
    problem: str


class ErrorBody(WireModel):
    """The shape of every error."""

    error: str = Field(description="a sentence that the caller can act on")
    kind: str = Field(description="a word that a program can act on", json_schema_extra={"enum": list(STATUS)})
    request_id: str
    details: list[ErrorDetail] | None = Field(
        None, min_length=1, max_length=MAX_DETAILS, description="the first problems of the body, one object each"
    )


class ModelBody(WireModel):
    name: str
    version: str = Field(description="first 12 hex digits of the weights' SHA-256")


def lifecycle_of(request: Request) -> ModelLifecycle:
    """Return the service's lifecycle."""
    lifecycle: ModelLifecycle = request.app.state.lifecycle
    return lifecycle


def json_response(body: BaseModel, headers: dict[str, str] | None = None, status: int = 200) -> Response:
    """Make a response of a wire model; fields that are None are left out."""
    content = body.model_dump_json(exclude_none=True)
    return Response(content, status_code=status, headers=headers, media_type="application/json")


HEALTH_ROUTE: dict[str, Any] = {
    "description": "200 with an empty body if predictions are answered, 503 if not.",
    "response_class": Response,
    "responses": {200: {"description": "ready"}, 503: {"description": "not ready"}},
}
"""Arguments that the routes of load balancers' health checks share; `health_response` is their answer."""


async def health_response(request: Request) -> Response:
    """Answer a health check of a load balancer: 200 if ready, else 503, without a body."""
    return Response(status_code=200 if await lifecycle_of(request).readiness() == "ready" else 503)


async def classify_inputs(pipeline: Pipeline, inputs: str | list[str]) -> list[AnswerOrError]:
    """Classify one text or several without options.

    Raises:
        ServiceError: the whole request cannot be answered, or its lone text cannot.
    """
    if isinstance(inputs, list):
        return await pipeline.classify(inputs, RequestOptions(priority="bulk"), Timing())
    [outcome] = await pipeline.classify([inputs], RequestOptions(), Timing())
    return [answer_or_raise(outcome)]


def answer_or_raise(outcome: AnswerOrError) -> Answer:
    """Return the answer, or raise the error of the text."""
    if isinstance(outcome, ServiceError):
        raise outcome
    return outcome


def rendered(outcome: AnswerOrError, render: Callable[[Answer], T]) -> T | ErrorBody:
    """Render an answer among others; an error takes its place."""
    return ErrorBody(**error_body(outcome)) if isinstance(outcome, ServiceError) else render(outcome)


def score_list(prediction: Prediction, top_k: int | None) -> list[Score]:
    """Return the k most probable labels, or all."""
    return [Score(label=label, score=score) for label, score in prediction.scores[:top_k]]


def probabilities_of(answer: Answer, info: EngineInfo) -> list[float]:
    """Return the probabilities in the order of the model's labels."""
    scores = dict(answer.prediction.scores)
    return [scores[label] for label in info.labels]


def model_body(info: EngineInfo) -> ModelBody:
    return ModelBody(name=info.name, version=info.version)
