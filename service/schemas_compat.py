"""Wire models of other servers' families; see `service.routes.compat`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.schemas import EXAMPLE_TEXT, ErrorBody, Inputs, Score


class _Foreign(BaseModel):
    """Fields that we do not know are passed over, as those servers do: their clients send many."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ClassifyRequest(_Foreign):
    """vLLM's `/classify`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": [EXAMPLE_TEXT]}]})

    input: Inputs
    model: str | None = Field(None, description="not looked at: there is one model")


class Classification(_Foreign):
    index: int
    label: str
    probs: list[float] = Field(description="in the order of the model's labels, as /info has them")
    num_classes: int


class ClassifyUsage(_Foreign):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class ClassifyResponse(_Foreign):
    id: str
    object: Literal["list"] = "list"
    created: int = Field(description="Unix time in seconds")
    model: str
    data: list[Classification | ErrorBody]
    usage: ClassifyUsage


class EmbeddedParameters(_Foreign):
    top_k: Annotated[int, Field(ge=1)] | None = Field(None, description="null: all labels")
    function_to_apply: Literal["softmax"] | None = Field(None, description="probabilities are calibrated softmax")


class PipelineRequest(_Foreign):
    """What huggingface_hub's InferenceClient sends to an endpoint's root."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": EXAMPLE_TEXT}]})

    inputs: Inputs
    parameters: EmbeddedParameters | None = None


PipelineResponse = list[list[Score] | ErrorBody]


class TensorMetadata(_Foreign):
    name: str
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


class Flag(_Foreign):
    live: bool | None = None
    ready: bool | None = None


class InputTensor(_Foreign):
    name: str
    shape: list[int] = Field(min_length=1, max_length=2)
    datatype: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: list[Any] | None = None


class InferRequest(_Foreign):
    """Open Inference Protocol v2: one tensor `text` of datatype BYTES."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [EXAMPLE_TEXT]}]}]
        }
    )

    id: str | None = None
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)


class OutputTensor(TensorMetadata):
    data: list[str] | list[float]


class InferResponse(_Foreign):
    id: str | None = None
    model_name: str
    model_version: str
    outputs: list[OutputTensor]
