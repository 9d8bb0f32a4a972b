"""Wire models of the service's own families: what requests and answers look like, their limits and examples."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, FailFast, Field, PlainValidator, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError

from service.api.schemas_base import EXAMPLE_TEXT, LIMIT, Inputs, LoneText, Positive, RequestBody, Text, WireModel
from service.errors import MAX_DETAILS, STATUS
from service.inference.engine import OnLong


class RequestOptionsBody(RequestBody):
    """Options of `/predict` and `/batch`."""

    top_k: Positive | None = Field(
        None, description="answer with the k most probable labels only; all labels if not given"
    )
    on_long: OnLong | None = Field(
        None,
        description='texts longer than the model reads at once: overlapping "windows" over all of it, "truncate" to '
        'its beginning, or "error"; if not given, what the model says (`on_long` in /info), usually "windows"',
    )
    timeout_ms: Annotated[Positive, Field(json_schema_extra={LIMIT: "max_timeout_ms"})] | None = Field(
        None, description="milliseconds after which the answer is no longer wanted"
    )

    spans: Annotated[bool, Field(strict=True)] = Field(
        False, description="also say where each window lies in the text, and what the model made of it alone"
    )


class LineRequest(RequestOptionsBody):
    """A line of `/batch`."""

    text: LoneText = Field(description="the text to classify")


class PredictRequest(LineRequest):
    model_config = ConfigDict(json_schema_extra={"examples": [{"text": EXAMPLE_TEXT}]})

    explain: Annotated[bool, Field(strict=True)] = Field(
        False,
        description="also say what each sentence did for the answer, by classifying the text without it: costs as "
        "much as that many texts",
    )


class BatchRequest(RequestOptionsBody):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"texts": [EXAMPLE_TEXT, "The striker scored twice."], "top_k": 1}]}
    )

    texts: Annotated[list[Text], FailFast()] = Field(
        min_length=1, description="the texts to classify", json_schema_extra={LIMIT: "max_texts"}
    )


class TokenizeRequest(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"text": EXAMPLE_TEXT}]})

    text: LoneText = Field(description="the text to tokenise")


class Token(WireModel):
    id: int = Field(ge=0)
    text: str = Field(description="its characters; empty within a character of several tokens")
    start: int = Field(ge=0, description="first character in the cleaned text")
    end: int = Field(ge=0, description="the character after the last one")


class TokenizeResponse(WireModel):
    cleaned: str = Field(description="the text after clean-up, which the offsets count in")
    tokens: list[Token]
    count: int = Field(ge=1)
    max_tokens: int = Field(ge=1, description="what the model reads at once")
    windows: int = Field(ge=1, description='windows that `on_long: "windows"` would read it by')
    would_truncate: bool = Field(description="the model would by default read only its beginning")


class Score(WireModel):
    label: str
    score: float = Field(ge=0, le=1, description="calibrated probability")


class WindowSpan(WireModel):
    """One window of a text."""

    start: int = Field(ge=0, description="first character, counted in the text as it was sent")
    end: int = Field(ge=1, description="the character after the last one; windows begin and end with whole words")
    tokens: int = Field(ge=1)
    label: str = Field(description="the most probable label of this window alone")
    score: float = Field(ge=0, le=1, description="its calibrated probability")


class TextResult(WireModel):
    """One text's answer."""

    label: str = Field(description="the most probable label")
    score: float = Field(ge=0, le=1, description="its calibrated probability")
    scores: list[Score] = Field(description="labels with their probabilities, most probable first")
    unsure: bool = Field(description="the score is below the model's threshold: better let a person look")
    tokens: int = Field(ge=1, description="tokens of the whole text")
    tokens_read: int = Field(ge=1, description="tokens that the model read; less than `tokens` if truncated")
    truncated: bool = Field(description="only the beginning was read")
    windows: int = Field(ge=1, description="windows that the text was read by")
    spans: list[WindowSpan] | None = Field(None, description="one a window, if asked for")


class ModelBody(WireModel):
    name: str
    version: str = Field(description="first 12 hex digits of the weights' SHA-256")


class TimingBody(WireModel):
    """Milliseconds."""

    tokenize_ms: float = Field(ge=0)
    model_ms: float = Field(ge=0, description="waiting for a place in a batch included")
    total_ms: float = Field(ge=0)


class SentenceBody(WireModel):
    start: int = Field(ge=0, description="first character, counted in the text as it was sent")
    end: int = Field(ge=1, description="the character after the last one")
    contribution: float | None = Field(
        None, description="log-odds of the label with the sentence minus without; absent if nothing is left without it"
    )
    alone: float | None = Field(None, description="log-odds of the label for the sentence alone")


class ExplanationBody(WireModel):
    """What each sentence did for the answer. Contributions need not add up: see `remainder`."""

    label: str
    log_odds: float = Field(description="ln(p / (1 - p)) of the label, for the whole text")
    sentences: list[SentenceBody] = Field(description="in their order; of very long texts, stretches of several")
    sum: float = Field(description="of all contributions")
    remainder: float = Field(description="log_odds - sum: what no sentence alone accounts for")


class PredictResponse(TextResult):
    explanation: ExplanationBody | None = Field(None, description="if asked for")
    model: ModelBody
    timing: TimingBody


class ErrorDetail(WireModel):
    field: str = Field(description="where in the body, for instance `texts.3`")
    problem: str


class ErrorBody(WireModel):
    """Every error looks like this."""

    error: str = Field(description="a sentence that the caller can act on")
    kind: str = Field(description="a word that a program can act on", json_schema_extra={"enum": list(STATUS)})
    request_id: str
    details: list[ErrorDetail] | None = Field(
        None, min_length=1, max_length=MAX_DETAILS, description="the first problems of the body, one object each"
    )


class Usage(WireModel):
    texts: int = Field(ge=1)
    failed: int = Field(ge=0, description="texts whose result is an error")
    tokens: int = Field(ge=0, description="tokens read")
    truncated: int = Field(ge=0, description="texts of which only the beginning was read")


class BatchResponse(WireModel):
    results: list[TextResult | ErrorBody] = Field(description="one a text, in the order of the texts")
    usage: Usage
    model: ModelBody
    timing: TimingBody


class TextInvocation(RequestBody):
    """The form of the original article: answered by a map from label to probability."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": EXAMPLE_TEXT}]})

    text: LoneText


class InferenceParameters(RequestBody):
    top_k: Positive | None = Field(None, description="null: all labels")
    truncation: Annotated[bool, Field(strict=True)] = Field(
        False, description="read only the beginning of a long text; else all of it, by windows"
    )


class InputsInvocation(RequestBody):
    """Hugging Face's form, answered as its text-classification pipeline does."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": [EXAMPLE_TEXT], "parameters": {"top_k": 2}}]})

    inputs: Inputs
    parameters: InferenceParameters = InferenceParameters()


def _instances(value: object) -> list[str | dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise PydanticCustomError("instances_type", "must be a list that is not empty")
    for i, one in enumerate(value):
        if not isinstance(one, str) and not (
            isinstance(one, dict) and set(one) == {"text"} and isinstance(one["text"], str)
        ):
            raise PydanticCustomError(
                "instances_type", 'must be strings or objects {{"text": string}}, item {index} is not', {"index": i}
            )
    return value


Instances = Annotated[
    list[str | dict[str, str]],
    PlainValidator(_instances),
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 1,
            LIMIT: "max_texts",
            "items": {
                "anyOf": [
                    {"type": "string"},
                    {
                        "type": "object",
                        "properties": {"text": {"type": "string"}},
                        "required": ["text"],
                        "additionalProperties": False,
                    },
                ]
            },
        }
    ),
]


class InstancesInvocation(RequestBody):
    """TensorFlow Serving's form, answered by `predictions`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"instances": [{"text": EXAMPLE_TEXT}]}]})

    instances: Instances


def _shape(body: Any) -> Literal["text", "inputs", "instances"]:
    for shape in ("inputs", "instances"):
        if isinstance(body, Mapping) and shape in body:
            return shape
    return "text"


Invocation = Annotated[
    Annotated[TextInvocation, Tag("shape:text")]
    | Annotated[InputsInvocation, Tag("shape:inputs")]
    | Annotated[InstancesInvocation, Tag("shape:instances")],
    Discriminator(lambda body: f"shape:{_shape(body)}"),
]


class Predictions(WireModel):
    predictions: list[Score | ErrorBody]


class ExecutionParameters(WireModel):
    """The names are SageMaker's."""

    MaxConcurrentTransforms: int = Field(ge=1)
    BatchStrategy: Literal["MULTI_RECORD"]
    MaxPayloadInMB: int = Field(ge=1)
