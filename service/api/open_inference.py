"""Classification over the Open Inference Protocol v2, as Triton, KServe and MLServer have it.

One tensor `text` of BYTES comes in; `label`, `score` and `probabilities` go out, or those of them that are requested.
With the protocol's binary extension, the strings follow the JSON instead of being part of it.
`service.api.open_inference_metadata` describes server and model.

Protocol: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md

Errors have this service's shape and statuses. Among several texts the first that cannot be classified is the error of
the answer, because tensors have no place for errors.
"""

import math
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from service.api import wire
from service.errors import ServiceError
from service.http.bodies import media_type, parse_json, read_json
from service.http.openapi import json_route
from service.inference.pipeline import Pipeline

INFER = "/v2/models/{model}/infer"
INFER_VERSION = "/v2/models/{model}/versions/{version}/infer"

BINARY_HEADER = "inference-header-content-length"
LENGTH_BYTES = 4  # before each string of a binary tensor, little-endian
MAX_DIMENSION = 2**31 - 1

router = APIRouter(tags=["compatible"])


class TensorMetadata(wire.LenientModel):
    name: Literal["text", "label", "score", "probabilities"]
    datatype: Literal["BYTES", "FP32"]
    shape: list[int]


def _flat_strings(value: object) -> list[str] | None:
    """Return the strings of a tensor in one list, row by row if they are nested."""
    if value is None:
        return None
    if isinstance(value, list) and value and all(isinstance(row, list) for row in value):
        value = [text for row in value for text in row]
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise PydanticCustomError("tensor_data", "must be a list of strings, or of lists of them, that is not empty")
    return value


_STRINGS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_Dimension = Annotated[int, Field(strict=True, ge=1, le=MAX_DIMENSION), BeforeValidator(wire.whole_float_as_int)]


class InputTensor(wire.LenientModel):
    name: Literal["text"]
    shape: list[_Dimension] = Field(min_length=1, max_length=2, description="(texts) or (texts, 1)")
    datatype: Literal["BYTES"]
    data: Annotated[
        list[str] | None,
        PlainValidator(_flat_strings),
        WithJsonSchema({"anyOf": [_STRINGS, {"type": "array", "items": _STRINGS, "minItems": 1}, {"type": "null"}]}),
    ] = Field(None, description="absent if the strings stand behind the JSON, by the protocol's binary extension")


class RequestedOutput(wire.LenientModel):
    name: Literal["label", "score", "probabilities"]


class InferRequest(wire.LenientModel):
    """One tensor `text` of datatype BYTES."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [wire.EXAMPLE_TEXT]}]}]
        }
    )

    id: Annotated[str, Field(strict=True, max_length=1024)] | None = Field(None, description="returned in the answer")
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] | None = Field(None, max_length=3, description="all outputs if absent or empty")


class OutputTensor(TensorMetadata):
    data: list[str] | list[Annotated[float, Field(ge=0, le=1)]]


class InferResponse(wire.LenientModel):
    id: str | None = None
    model_name: str
    model_version: str
    outputs: list[OutputTensor]


_BINARY_BODY = {
    "schema": {
        "type": "string",
        "format": "binary",
        "description": "as many bytes of JSON as `Inference-Header-Content-Length` says, then each string as 4 bytes "
        "of length, little-endian, and UTF-8",
    }
}
_DOCUMENTED = {
    "summary": "Open Inference Protocol: classify",
    **json_route(
        InferRequest,
        answer=InferResponse,
        errors=(*wire.WORK_ERRORS, *wire.TEXT_ERRORS, "not_found", "invalid_body"),
        other_bodies={"application/octet-stream": _BINARY_BODY},
    ),
}


@router.post(INFER, **_DOCUMENTED)
@router.post(INFER_VERSION, name="infer_version", **_DOCUMENTED)
async def infer(request: Request) -> Response:
    header = request.headers.get(BINARY_HEADER)
    if header is None and media_type(request.headers):
        body = await read_json(request, InferRequest.model_validate)
        pipeline = requested_pipeline(request)
    else:  # Triton's client declares no Content-Type, not even for JSON
        content = await request.body()
        pipeline = requested_pipeline(request)
        body = _parse_binary(content, str(len(content)) if header is None else header, pipeline)
    info = pipeline.info
    [tensor] = body.inputs
    size, texts = math.prod(tensor.shape), tensor.data or []
    if size != len(texts):
        raise ServiceError(
            "invalid_request", f"inputs.0.data: {size} strings are expected by the shape, not {len(texts)}"
        )
    answers = []
    for place, outcome in enumerate(await wire.classify_inputs(pipeline, texts)):
        if isinstance(outcome, ServiceError):
            message = f"text {place}: {outcome.message}"
            raise ServiceError(outcome.kind, message, details=outcome.details, retry_after_s=outcome.retry_after_s)
        answers.append(outcome)
    outputs = [
        OutputTensor(name="label", datatype="BYTES", shape=[size], data=[a.prediction.label for a in answers]),
        OutputTensor(name="score", datatype="FP32", shape=[size], data=[a.prediction.score for a in answers]),
        OutputTensor(
            name="probabilities",
            datatype="FP32",
            shape=[size, len(info.labels)],
            data=[p for a in answers for p in wire.probabilities_of(a, info)],
        ),
    ]
    requested = {output.name for output in body.outputs or []}
    response = InferResponse(
        id=body.id,
        model_name=info.name,
        model_version=info.version,
        outputs=[output for output in outputs if not requested or output.name in requested],
    )
    return wire.json_response(response)


def requested_pipeline(request: Request) -> Pipeline:
    """Return the current pipeline.

    Raises:
        ServiceError: not_found, if the path names another model or version; not_ready, draining.
    """
    pipeline = wire.lifecycle_of(request).current_pipeline()
    info, parameters = pipeline.info, request.path_params
    if parameters["model"] != info.name or parameters.get("version", info.version) not in ("", info.version):
        raise ServiceError("not_found", f"there is one model here, {info.name!r} of version {info.version}")
    return pipeline


def _parse_binary(content: bytes, json_length: str, pipeline: Pipeline) -> InferRequest:
    """Parse a request whose strings follow its JSON, and put the strings into their tensor.

    A body has room for millions of strings, so no more are read than the shape says and a request may have.

    Raises:
        ServiceError: invalid_json, invalid_body, invalid_request, too_many_texts.
    """
    length = int(json_length) if json_length.isdecimal() and len(json_length) < 12 else len(content) + 1
    if length > len(content):
        raise ServiceError(
            "invalid_body", f"Inference-Header-Content-Length is {json_length[:20]!r}, but the body is shorter"
        )
    request = parse_json(content[:length], InferRequest.model_validate)
    [tensor] = request.inputs
    if tensor.data is not None:
        return request
    count = math.prod(tensor.shape)
    pipeline.check_count(count)
    strings = _read_strings(memoryview(content)[length:], count)
    return request.model_copy(update={"inputs": [tensor.model_copy(update={"data": strings})]})


def _read_strings(tensor: memoryview, max_strings: int) -> list[str]:
    """Return the strings of a binary tensor.

    Raises:
        ServiceError: invalid_body, if the bytes are not strings or are more than `max_strings` of them.
    """
    strings: list[str] = []
    start = 0
    while start < len(tensor):
        if len(strings) == max_strings:
            raise ServiceError("invalid_body", f"inputs.0: the tensor continues after its {max_strings} texts")
        size = int.from_bytes(tensor[start : start + LENGTH_BYTES], "little")
        string = tensor[start + LENGTH_BYTES : start + LENGTH_BYTES + size]
        if len(string) != size or start + LENGTH_BYTES > len(tensor):
            raise ServiceError("invalid_body", f"inputs.0: the tensor ends within text {len(strings)}")
        try:
            strings.append(str(string, "utf-8"))
        except UnicodeDecodeError as exc:
            raise ServiceError("invalid_body", f"inputs.0: text {len(strings)} is not UTF-8") from exc
        start += LENGTH_BYTES + size
    return strings
