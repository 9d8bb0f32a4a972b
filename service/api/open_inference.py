"""Open Inference Protocol v2, as Triton, KServe and MLServer speak it: one tensor `text` of BYTES in; `label`, `score`
and `probabilities` out, or those of them that are asked for. Of its extensions: strings behind the JSON instead of in
it, and the model's configuration.

Protocol: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md

Errors have this service's shape and statuses. Among several texts the first that cannot be classified is the answer's
error, because tensors have no place for one.
"""

import json
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from service import __version__
from service.api.common import (
    TEXT_ERRORS,
    WORK_ERRORS,
    JsonRoute,
    LifecycleOf,
    documented,
    outcomes_of,
    probabilities_of,
)
from service.api.schemas_compat import (
    ConfiguredTensor,
    InferRequest,
    InferResponse,
    Live,
    ModelConfig,
    ModelMetadata,
    ModelReadiness,
    OutputTensor,
    ServerMetadata,
    TensorMetadata,
)
from service.errors import ServiceError, invalid
from service.http.bodies import media_type
from service.inference.engine import EngineInfo
from service.inference.pipeline import Answer, Pipeline
from service.model.lifecycle import ModelLifecycle

BINARY_HEADER = "inference-header-content-length"
PLATFORM = "pytorch_gpt2"
MODEL_ERRORS = ("not_found", "not_ready", "draining")
INFER_ERRORS = (*WORK_ERRORS, *TEXT_ERRORS, "not_found", "invalid_body")

router = APIRouter(tags=["compatible"])


@router.get("/v2", summary="Open Inference Protocol: the server")
async def server() -> ServerMetadata:
    extensions = ["binary_tensor_data", "model_configuration"]
    return ServerMetadata(name="gpt2-classifier", version=__version__, extensions=extensions)


@router.get("/v2/health/live", summary="Open Inference Protocol: alive?")
async def live() -> Live:
    return Live()


@router.get(
    "/v2/health/ready",
    summary="Open Inference Protocol: ready?",
    response_model=ModelReadiness,
    responses={503: {"model": ModelReadiness, "description": "not ready"}},
)
async def ready(lifecycle: LifecycleOf) -> Response:
    is_ready = await lifecycle.readiness() == "ready"
    return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)


def _about_model(*parameters: str) -> dict[str, Any]:
    """What is documented of a GET below the model. The path's parameters are declared by hand, because nothing can be
    wrong with them: FastAPI would add a 422 that never comes."""
    declared = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "description": "as /info has it"}
        for name in parameters
    ]
    return {"responses": documented(*MODEL_ERRORS), "openapi_extra": {"parameters": declared}}


def _asked(request: Request, lifecycle: ModelLifecycle) -> EngineInfo:
    return _known(lifecycle, request.path_params["model"], request.path_params.get("version")).info


MODEL = "/v2/models/{model}"
VERSION = "/v2/models/{model}/versions/{version}"


@router.get(MODEL, summary="Open Inference Protocol: the model", **_about_model("model"))
@router.get(VERSION, summary="Open Inference Protocol: the model", **_about_model("model", "version"))
async def model_metadata(request: Request, lifecycle: LifecycleOf) -> ModelMetadata:
    info = _asked(request, lifecycle)
    return ModelMetadata(
        name=info.name,
        versions=[info.version],
        platform=PLATFORM,
        inputs=[TensorMetadata(name="text", datatype="BYTES", shape=[-1])],
        outputs=[
            TensorMetadata(name="label", datatype="BYTES", shape=[-1]),
            TensorMetadata(name="score", datatype="FP32", shape=[-1]),
            TensorMetadata(name="probabilities", datatype="FP32", shape=[-1, len(info.labels)]),
        ],
    )


@router.get(f"{MODEL}/config", summary="Triton: the model's configuration", **_about_model("model"))
@router.get(f"{VERSION}/config", summary="Triton: the model's configuration", **_about_model("model", "version"))
async def model_config(request: Request, lifecycle: LifecycleOf) -> ModelConfig:
    info = _asked(request, lifecycle)
    return ModelConfig(
        name=info.name,
        platform=PLATFORM,
        input=[ConfiguredTensor(name="text", data_type="TYPE_STRING", dims=[-1])],
        output=[
            ConfiguredTensor(name="label", data_type="TYPE_STRING", dims=[-1]),
            ConfiguredTensor(name="score", data_type="TYPE_FP32", dims=[-1]),
            ConfiguredTensor(name="probabilities", data_type="TYPE_FP32", dims=[-1, len(info.labels)]),
        ],
    )


@router.get(f"{MODEL}/ready", summary="Open Inference Protocol: is the model ready?", **_about_model("model"))
@router.get(
    f"{VERSION}/ready", summary="Open Inference Protocol: is the model ready?", **_about_model("model", "version")
)
async def model_ready(request: Request, lifecycle: LifecycleOf) -> ModelReadiness:
    _asked(request, lifecycle)
    if await lifecycle.readiness() != "ready":
        raise ServiceError("not_ready", "the model is not healthy; try again")
    return ModelReadiness(ready=True)


class TensorRoute(JsonRoute):
    """JSON, and behind it the bytes of a tensor: the protocol's binary extension, which Triton's client prefers.

    That client sends JSON, too, without a Content-Type.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        as_json = super().get_route_handler()

        async def checked(request: Request) -> Response:
            declared = request.headers.get(BINARY_HEADER)
            if declared is None and media_type(request.headers):
                return await as_json(request)

            async def in_binary(request: Request) -> Response:
                content = await request.body()
                parameters = request.path_params
                lifecycle: ModelLifecycle = request.app.state.lifecycle
                pipeline = _known(lifecycle, parameters["model"], parameters.get("version"))
                body = _with_binary(content, str(len(content)) if declared is None else declared, pipeline)
                answer = await _infer(body, pipeline)
                return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")

            return await self.while_client_stays(in_binary, request)

        return checked


forms = APIRouter(route_class=TensorRoute, tags=["compatible"])

Name = Annotated[str, Path(description="the model's name, as /info has it")]
Version = Annotated[str, Path(description="its version, as /info has it")]

_BINARY: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/octet-stream": {
                "schema": {
                    "type": "string",
                    "format": "binary",
                    "description": "as many bytes of JSON as `Inference-Header-Content-Length` says, and behind it "
                    "each string as 4 bytes of length, little-endian, and UTF-8",
                }
            }
        }
    }
}


@forms.post(
    f"{MODEL}/infer",
    summary="Open Inference Protocol: classify",
    responses=documented(*INFER_ERRORS),
    response_model_exclude_none=True,
    openapi_extra=_BINARY,
)
async def infer(body: InferRequest, model: Name, lifecycle: LifecycleOf) -> InferResponse:
    return await _infer(body, _known(lifecycle, model, None))


@forms.post(
    f"{VERSION}/infer",
    summary="Open Inference Protocol: classify",
    responses=documented(*INFER_ERRORS),
    response_model_exclude_none=True,
    openapi_extra=_BINARY,
)
async def infer_version(body: InferRequest, model: Name, version: Version, lifecycle: LifecycleOf) -> InferResponse:
    return await _infer(body, _known(lifecycle, model, version))


def _known(lifecycle: ModelLifecycle, model: str, version: str | None) -> Pipeline:
    pipeline = lifecycle.current_pipeline()
    info = pipeline.info
    if model != info.name or version not in (None, "", info.version):
        raise ServiceError("not_found", f"there is one model here, {info.name!r} of version {info.version}")
    return pipeline


async def _infer(body: InferRequest, pipeline: Pipeline) -> InferResponse:
    info = pipeline.info
    answers = []
    for place, outcome in enumerate(await outcomes_of(pipeline, _texts(body))):
        if isinstance(outcome, ServiceError):
            message = f"text {place}: {outcome.message}"
            raise ServiceError(outcome.kind, message, details=outcome.details, retry_after_s=outcome.retry_after_s)
        answers.append(outcome)
    wanted = {output.name for output in body.outputs or []}
    return InferResponse(
        id=body.id,
        model_name=info.name,
        model_version=info.version,
        outputs=[tensor for tensor in _tensors(answers, info) if not wanted or tensor.name in wanted],
    )


def _tensors(answers: Sequence[Answer], info: EngineInfo) -> list[OutputTensor]:
    count = len(answers)
    return [
        OutputTensor(name="label", datatype="BYTES", shape=[count], data=[a.prediction.label for a in answers]),
        OutputTensor(name="score", datatype="FP32", shape=[count], data=[a.prediction.score for a in answers]),
        OutputTensor(
            name="probabilities",
            datatype="FP32",
            shape=[count, len(info.labels)],
            data=[p for a in answers for p in probabilities_of(a, info)],
        ),
    ]


def _texts(body: InferRequest) -> list[str]:
    [tensor] = body.inputs
    size, texts = math.prod(tensor.shape), tensor.data or []
    if size != len(texts):
        raise ServiceError(
            "invalid_request", f"inputs.0.data: {size} strings are expected by the shape, not {len(texts)}"
        )
    return texts


def _with_binary(body: bytes, declared: str, pipeline: Pipeline) -> InferRequest:
    """Put the strings behind the JSON into it: each is 4 bytes of length, little-endian, and UTF-8. So many as the
    shape says are read, and no more than a request may have: a body has room for millions."""
    length = int(declared) if declared.isdecimal() and len(declared) < 12 else len(body) + 1
    if length > len(body):
        raise ServiceError("invalid_body", f"Inference-Header-Content-Length is {declared[:20]!r}, the body is shorter")
    try:
        request = InferRequest.model_validate(json.loads(body[:length]))
    except ValidationError as exc:
        raise invalid(exc.errors()) from exc
    except (ValueError, RecursionError) as exc:
        raise ServiceError("invalid_json", f"the body is not valid JSON: {exc}") from exc
    [tensor] = request.inputs
    if tensor.data is not None:
        return request
    count = math.prod(tensor.shape)
    pipeline.check_count(count)
    texts = _elements(memoryview(body)[length:], count)
    return request.model_copy(update={"inputs": [tensor.model_copy(update={"data": texts})]})


def _elements(tensor: memoryview, count: int) -> list[str]:
    """Raises ServiceError invalid_body unless the bytes are so many strings or fewer."""
    texts: list[str] = []
    place = 0
    while place < len(tensor):
        if len(texts) == count:
            raise ServiceError("invalid_body", f"inputs.0: the tensor goes on after its {count} texts")
        size = int.from_bytes(tensor[place : place + 4], "little")
        text = tensor[place + 4 : place + 4 + size]
        if len(text) != size or place + 4 > len(tensor):
            raise ServiceError("invalid_body", f"inputs.0: the tensor ends within text {len(texts)}")
        try:
            texts.append(str(text, "utf-8"))
        except UnicodeDecodeError as exc:
            raise ServiceError("invalid_body", f"inputs.0: text {len(texts)} is not UTF-8") from exc
        place += 4 + size
    return texts
