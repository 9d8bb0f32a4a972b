"""Server, health and model as the Open Inference Protocol v2 describes them, and the model's configuration as Triton
does. `service.api.open_inference` classifies."""

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from service import __version__
from service.api import wire
from service.api.open_inference import TensorMetadata, requested_pipeline
from service.errors import ServiceError
from service.http.openapi import documented
from service.inference.engine import EngineInfo

PLATFORM = "pytorch_gpt2"
MODEL = "/v2/models/{model}"
VERSION = "/v2/models/{model}/versions/{version}"

router = APIRouter(tags=["compatible"])


class ServerMetadata(wire.LenientModel):
    name: str
    version: str
    extensions: list[str]


class ServerLiveness(wire.LenientModel):
    live: bool


class ModelReadiness(wire.LenientModel):
    ready: bool


class ModelMetadata(wire.LenientModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfiguredTensor(wire.LenientModel):
    name: str
    data_type: Literal["TYPE_STRING", "TYPE_FP32"]
    dims: list[int]


class ModelConfig(wire.LenientModel):
    """The part of Triton's model configuration that applies."""

    name: str
    platform: str
    max_batch_size: Literal[0] = Field(0, description="0: `dims` include the dimension of the batch")
    input: list[ConfiguredTensor]
    output: list[ConfiguredTensor]


def _tensors(info: EngineInfo) -> tuple[list[TensorMetadata], list[TensorMetadata]]:
    """Return the model's inputs and outputs; -1 is the number of texts."""
    return [TensorMetadata(name="text", datatype="BYTES", shape=[-1])], [
        TensorMetadata(name="label", datatype="BYTES", shape=[-1]),
        TensorMetadata(name="score", datatype="FP32", shape=[-1]),
        TensorMetadata(name="probabilities", datatype="FP32", shape=[-1, len(info.labels)]),
    ]


def _documented(what: str) -> dict[str, Any]:
    return {"summary": what, "responses": documented("not_found", "not_ready", "draining")}


@router.get("/v2", summary="Open Inference Protocol: the server")
async def server_metadata() -> ServerMetadata:
    extensions = ["binary_tensor_data", "model_configuration"]
    return ServerMetadata(name="gpt2-classifier", version=__version__, extensions=extensions)


@router.get(
    "/v2/health/live",
    summary="Open Inference Protocol: is the server alive?",
    response_model=ServerLiveness,
    responses={503: {"model": ServerLiveness, "description": "only a restart of the process helps"}},
)
async def server_live(request: Request) -> Response:
    live = not wire.lifecycle_of(request).needs_restart
    return wire.json_response(ServerLiveness(live=live), status=200 if live else 503)


@router.get(
    "/v2/health/ready",
    summary="Open Inference Protocol: is the server ready?",
    response_model=ModelReadiness,
    responses={503: {"model": ModelReadiness, "description": "not ready"}},
)
async def server_ready(request: Request) -> Response:
    ready = await wire.lifecycle_of(request).readiness() == "ready"
    return wire.json_response(ModelReadiness(ready=ready), status=200 if ready else 503)


@router.get(MODEL, **_documented("Open Inference Protocol: the model"))
@router.get(VERSION, name="model_metadata_version", **_documented("Open Inference Protocol: the model"))
async def model_metadata(request: Request) -> ModelMetadata:
    info = requested_pipeline(request).info
    inputs, outputs = _tensors(info)
    return ModelMetadata(name=info.name, versions=[info.version], platform=PLATFORM, inputs=inputs, outputs=outputs)


@router.get(f"{MODEL}/config", **_documented("Triton: configuration of the model"))
@router.get(f"{VERSION}/config", name="model_config_version", **_documented("Triton: configuration of the model"))
async def model_config(request: Request) -> ModelConfig:
    info = requested_pipeline(request).info
    configured = [
        [
            ConfiguredTensor(
                name=tensor.name,
                data_type="TYPE_STRING" if tensor.datatype == "BYTES" else "TYPE_FP32",
                dims=tensor.shape,
            )
            for tensor in tensors
        ]
        for tensors in _tensors(info)
    ]
    return ModelConfig(name=info.name, platform=PLATFORM, input=configured[0], output=configured[1])


@router.get(f"{MODEL}/ready", **_documented("Open Inference Protocol: model ready?"))
@router.get(f"{VERSION}/ready", name="model_ready_version", **_documented("Open Inference Protocol: model ready?"))
async def model_ready(request: Request) -> ModelReadiness:
    requested_pipeline(request)
    if await wire.lifecycle_of(request).readiness() != "ready":
        raise ServiceError("not_ready", "the model is not healthy; try again")
    return ModelReadiness(ready=True)
