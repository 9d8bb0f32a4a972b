"""The same model behind other servers' wires, for clients that exist.

POST /classify, /v1/classify    vLLM          {"input"} -> {"data": [{"label", "probs"}]}
POST /                          Hugging Face  {"inputs"} -> [[{"label", "score"}]], what InferenceClient asks of a URL
/v2/...                         Open Inference Protocol v2 (Triton, KServe, MLServer): one tensor `text` of BYTES in,
                                `label`, `score` and `probabilities` out; its binary extension for the input

Errors have this service's shape and statuses. Among several texts of /v2 the first that cannot be classified is the
answer's error, because tensors have no place for one; everywhere else it stands in its text's place.
"""

import json
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import ValidationError

from service import __version__
from service.engine import EngineInfo
from service.errors import ServiceError, error_body, invalid
from service.pipeline import Answer, Outcome, Timing, Work
from service.routes.common import TEXT_ERRORS, WORK_ERRORS, JsonRoute, RuntimeOf, documented, score_list
from service.runtime import Runtime
from service.schemas import ErrorBody
from service.schemas_compat import (
    Classification,
    ClassifyRequest,
    ClassifyResponse,
    ClassifyUsage,
    Flag,
    InferRequest,
    InferResponse,
    ModelMetadata,
    OutputTensor,
    PipelineRequest,
    PipelineResponse,
    ServerMetadata,
    TensorMetadata,
)

BINARY_HEADER = "inference-header-content-length"
MANY_ERRORS = tuple(kind for kind in WORK_ERRORS if kind != "inference_failed")

router = APIRouter(route_class=JsonRoute, tags=["compatible"])


async def _outcomes(runtime: Runtime, inputs: str | list[str]) -> list[Outcome]:
    alone = isinstance(inputs, str)
    texts = [inputs] if isinstance(inputs, str) else inputs
    return await runtime.open().classify(texts, Work(lane="interactive" if alone else "bulk"), Timing())


def _probabilities(answer: Answer, info: EngineInfo) -> list[float]:
    """In the order of the model's labels."""
    scores = dict(answer.prediction.scores)
    return [scores[label] for label in info.labels]


@router.post("/v1/classify", summary="As vLLM does", responses=documented(*MANY_ERRORS))
@router.post("/classify", summary="As vLLM does", responses=documented(*MANY_ERRORS))
async def classify(body: ClassifyRequest, runtime: RuntimeOf) -> ClassifyResponse:
    info = runtime.open().info
    outcomes = await _outcomes(runtime, body.input)
    tokens = sum(outcome.tokens_read for outcome in outcomes if isinstance(outcome, Answer))
    return ClassifyResponse(
        id=f"classify-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=info.name,
        data=[
            Classification(
                index=i,
                label=outcome.prediction.label,
                probs=_probabilities(outcome, info),
                num_classes=len(info.labels),
            )
            if isinstance(outcome, Answer)
            else ErrorBody(**error_body(outcome))
            for i, outcome in enumerate(outcomes)
        ],
        usage=ClassifyUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


@router.post(
    "/",
    summary="As a Hugging Face endpoint does",
    responses=documented(*WORK_ERRORS, *TEXT_ERRORS),
    response_model_exclude_none=True,
)
async def pipeline(body: PipelineRequest, runtime: RuntimeOf) -> PipelineResponse:
    outcomes = await _outcomes(runtime, body.inputs)
    if isinstance(body.inputs, str) and isinstance(outcomes[0], ServiceError):
        raise outcomes[0]
    top_k = body.parameters.top_k if body.parameters else None
    return [
        score_list(outcome.prediction, top_k) if isinstance(outcome, Answer) else ErrorBody(**error_body(outcome))
        for outcome in outcomes
    ]


Name = Annotated[str, Path(description="the model's name, as /info has it")]
Version = Annotated[str, Path(description="its version, as /info has it")]


class TensorRoute(JsonRoute):
    """JSON, and behind it the bytes of a tensor: the protocol's binary extension, which Triton's client prefers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        as_json = super().get_route_handler()

        async def checked(request: Request) -> Response:
            if BINARY_HEADER not in request.headers:
                return await as_json(request)

            async def in_binary(request: Request) -> Response:
                body = _with_binary(await request.body(), request.headers[BINARY_HEADER])
                parameters = request.path_params
                runtime: Runtime = request.app.state.runtime
                answer = await _infer(body, runtime, parameters["model"], parameters.get("version"))
                return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")

            return await self.while_client_stays(in_binary, request)

        return checked


tensors = APIRouter(route_class=TensorRoute, tags=["compatible"])


@router.get("/v2", summary="Open Inference Protocol: the server")
async def server() -> ServerMetadata:
    return ServerMetadata(name="gpt2-classifier", version=__version__, extensions=["binary_tensor_data"])


@router.get("/v2/health/live", summary="Open Inference Protocol: alive?", response_model_exclude_none=True)
async def live() -> Flag:
    return Flag(live=True)


@router.get(
    "/v2/health/ready",
    summary="Open Inference Protocol: ready?",
    response_model=Flag,
    responses={503: {"model": Flag, "description": "not ready"}},
)
async def ready(runtime: RuntimeOf) -> Response:
    is_ready = await runtime.readiness() == "ready"
    content = Flag(ready=is_ready).model_dump_json(exclude_none=True)
    return Response(content, status_code=200 if is_ready else 503, media_type="application/json")


MODEL_ERRORS = ("not_found", "not_ready", "draining")


def _parameter(name: str) -> dict[str, Any]:
    """Of the path. Declared by hand where nothing can be wrong with it: FastAPI would add a 422 that never comes."""
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "description": "as /info has it",
    }


@router.get(
    "/v2/models/{model}",
    summary="Open Inference Protocol: the model",
    responses=documented(*MODEL_ERRORS),
    openapi_extra={"parameters": [_parameter("model")]},
)
@router.get(
    "/v2/models/{model}/versions/{version}",
    summary="Open Inference Protocol: the model",
    responses=documented(*MODEL_ERRORS),
    openapi_extra={"parameters": [_parameter("model"), _parameter("version")]},
)
async def model_metadata(request: Request, runtime: RuntimeOf) -> ModelMetadata:
    info = _known(runtime, request.path_params["model"], request.path_params.get("version"))
    return ModelMetadata(
        name=info.name,
        versions=[info.version],
        platform="pytorch_gpt2",
        inputs=[TensorMetadata(name="text", datatype="BYTES", shape=[-1])],
        outputs=[
            TensorMetadata(name="label", datatype="BYTES", shape=[-1]),
            TensorMetadata(name="score", datatype="FP32", shape=[-1]),
            TensorMetadata(name="probabilities", datatype="FP32", shape=[-1, len(info.labels)]),
        ],
    )


@router.get(
    "/v2/models/{model}/ready",
    summary="Open Inference Protocol: is the model ready?",
    responses=documented(*MODEL_ERRORS),
    response_model_exclude_none=True,
    openapi_extra={"parameters": [_parameter("model")]},
)
async def model_ready(request: Request, runtime: RuntimeOf) -> Flag:
    _known(runtime, request.path_params["model"], None)
    if await runtime.readiness() != "ready":
        raise ServiceError("not_ready", "the model is not healthy; try again", retry_after_s=1)
    return Flag(ready=True)


INFER_ERRORS = (*WORK_ERRORS, *TEXT_ERRORS, "not_found", "invalid_body")


@tensors.post(
    "/v2/models/{model}/infer",
    summary="Open Inference Protocol: classify",
    responses=documented(*INFER_ERRORS),
    response_model_exclude_none=True,
)
async def infer(body: InferRequest, model: Name, runtime: RuntimeOf) -> InferResponse:
    return await _infer(body, runtime, model, None)


@tensors.post(
    "/v2/models/{model}/versions/{version}/infer",
    summary="Open Inference Protocol: classify",
    responses=documented(*INFER_ERRORS),
    response_model_exclude_none=True,
)
async def infer_version(body: InferRequest, model: Name, version: Version, runtime: RuntimeOf) -> InferResponse:
    return await _infer(body, runtime, model, version)


def _known(runtime: Runtime, model: str, version: str | None) -> EngineInfo:
    info = runtime.open().info
    if model != info.name or version not in (None, info.version):
        raise ServiceError("not_found", f"there is one model here, {info.name!r} of version {info.version}")
    return info


async def _infer(body: InferRequest, runtime: Runtime, model: str, version: str | None) -> InferResponse:
    info = _known(runtime, model, version)
    outcomes = await _outcomes(runtime, _texts(body))
    answers = []
    for place, outcome in enumerate(outcomes):
        if isinstance(outcome, ServiceError):
            raise ServiceError(outcome.kind, f"text {place}: {outcome.message}")
        answers.append(outcome)
    count = len(answers)
    return InferResponse(
        id=body.id,
        model_name=info.name,
        model_version=info.version,
        outputs=[
            OutputTensor(name="label", datatype="BYTES", shape=[count], data=[a.prediction.label for a in answers]),
            OutputTensor(name="score", datatype="FP32", shape=[count], data=[a.prediction.score for a in answers]),
            OutputTensor(
                name="probabilities",
                datatype="FP32",
                shape=[count, len(info.labels)],
                data=[p for a in answers for p in _probabilities(a, info)],
            ),
        ],
    )


def _texts(body: InferRequest) -> list[str]:
    [tensor] = body.inputs
    texts = tensor.data or []
    while texts and all(isinstance(text, list) for text in texts):  # (n, 1) may come nested
        texts = [text for row in texts for text in row]
    size = 1
    for length in tensor.shape:
        size *= length
    if tensor.name != "text" or tensor.datatype != "BYTES":
        raise ServiceError("invalid_request", "inputs.0: one tensor 'text' of datatype BYTES is expected")
    if not texts or size != len(texts) or not all(isinstance(text, str) for text in texts):
        raise ServiceError("invalid_request", f"inputs.0.data: {size} strings are expected by the shape")
    return texts


def _with_binary(body: bytes, declared: str) -> InferRequest:
    """Put the strings behind the JSON into it: each is 4 bytes of length, little-endian, and UTF-8."""
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
    texts: list[Any] = []
    place = length
    while place < len(body):
        size = int.from_bytes(body[place : place + 4], "little")
        text = body[place + 4 : place + 4 + size]
        if len(text) != size or place + 4 > len(body):
            raise ServiceError("invalid_body", f"inputs.0: the tensor ends within text {len(texts)}")
        try:
            texts.append(text.decode())
        except UnicodeDecodeError as exc:
            raise ServiceError("invalid_body", f"inputs.0: text {len(texts)} is not UTF-8") from exc
        place += 4 + size
    return request.model_copy(update={"inputs": [tensor.model_copy(update={"data": texts})]})
