"""Wire models of other servers' families; see `service.api.compatible`."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from service.api.schemas import ErrorBody, Score
from service.api.schemas_base import EXAMPLE_TEXT, Inputs, Positive, integral_float_as_int

Probability = Annotated[float, Field(ge=0, le=1)]


class _Foreign(BaseModel):
    """Fields that we do not know are passed over, as those servers do: their clients send many."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ClassifyRequest(_Foreign):
    """vLLM's `/classify`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": [EXAMPLE_TEXT]}]})

    input: Inputs
    model: Annotated[str, Field(strict=True)] | None = Field(None, description="not looked at: there is one model")


class Classification(_Foreign):
    index: int = Field(ge=0)
    label: str
    probs: list[Probability] = Field(description="in the order of the model's labels, as /info has them")
    num_classes: int = Field(ge=1)


class ClassifyUsage(_Foreign):
    prompt_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)
    completion_tokens: Literal[0] = 0


class ClassifyResponse(_Foreign):
    id: str
    object: Literal["list"] = "list"
    created: int = Field(description="Unix time in seconds")
    model: str
    data: list[Classification | ErrorBody]
    usage: ClassifyUsage


class EmbeddedParameters(_Foreign):
    top_k: Positive | None = Field(None, description="null: all labels")
    function_to_apply: Literal["softmax"] | None = Field(None, description="probabilities are calibrated softmax")


class PipelineRequest(_Foreign):
    """What huggingface_hub's InferenceClient sends to an endpoint's root."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": EXAMPLE_TEXT}]})

    inputs: Inputs
    parameters: EmbeddedParameters | None = None


PipelineResponse = list[list[Score] | ErrorBody]


class TensorMetadata(_Foreign):
    name: Literal["text", "label", "score", "probabilities"]
    datatype: Literal["BYTES", "FP32"]
    shape: list[int]


class ServerMetadata(_Foreign):
    name: str
    version: str
    extensions: list[str]


class ModelMetadata(_Foreign):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfiguredTensor(_Foreign):
    name: str
    data_type: Literal["TYPE_STRING", "TYPE_FP32"]
    dims: list[int]


class ModelConfig(_Foreign):
    """As far as Triton's model configuration applies."""

    name: str
    platform: str
    max_batch_size: Literal[0] = Field(0, description="0: the first dimension is the batch's, and named in `dims`")
    input: list[ConfiguredTensor]
    output: list[ConfiguredTensor]


class Live(_Foreign):
    live: Literal[True] = True


class ModelReadiness(_Foreign):
    ready: bool


MAX_DIMENSION = 2**31 - 1


def _strings(value: object) -> list[str] | None:
    """The strings of a tensor, row by row if they are nested."""
    rows = value
    if isinstance(rows, list) and rows and all(isinstance(row, list) for row in rows):
        rows = [text for row in rows for text in row]
    if rows is None:
        return None
    if not isinstance(rows, list) or not rows or not all(isinstance(text, str) for text in rows):
        raise PydanticCustomError("tensor_data", "must be a list of strings, or of lists of them, that is not empty")
    return rows


_STRINGS = {"type": "array", "items": {"type": "string"}, "minItems": 1}


class InputTensor(_Foreign):
    name: Literal["text"]
    shape: list[Annotated[int, Field(strict=True, ge=1, le=MAX_DIMENSION), BeforeValidator(integral_float_as_int)]] = (
        Field(min_length=1, max_length=2, description="(texts) or (texts, 1)")
    )
    datatype: Literal["BYTES"]
    data: Annotated[
        list[str] | None,
        PlainValidator(_strings),
        WithJsonSchema({"anyOf": [_STRINGS, {"type": "array", "items": _STRINGS, "minItems": 1}, {"type": "null"}]}),
    ] = Field(None, description="none if the strings come behind the JSON, by the protocol's binary extension")


class RequestedOutput(_Foreign):
    name: Literal["label", "score", "probabilities"]


class InferRequest(_Foreign):
    """Open Inference Protocol v2: one tensor `text` of datatype BYTES."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [EXAMPLE_TEXT]}]}]
        }
    )

    id: Annotated[str, Field(strict=True, max_length=1024)] | None = Field(None, description="comes back")
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] | None = Field(None, max_length=3, description="all of them if not given, or none")


class OutputTensor(TensorMetadata):
    data: list[str] | list[Probability]


class InferResponse(_Foreign):
    id: str | None = None
    model_name: str
    model_version: str
    outputs: list[OutputTensor]
