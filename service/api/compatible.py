"""The wires of vLLM and of Hugging Face's endpoints, for their clients. `service.api.open_inference` has a third wire.

POST /classify, /v1/classify    vLLM          {"input"} -> {"data": [{"label", "probs"}]}
POST /                          Hugging Face  {"inputs"} -> [[{"label", "score"}]], which InferenceClient requests
GET /health                     both          200 or 503, without a body

Errors have this service's shape and statuses. The error of a lone text is the error of the answer; among several texts
each error has the place of its text.
"""

import time
import uuid
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field, TypeAdapter

from service.api.wire import (
    EXAMPLE_TEXT,
    TEXT_ERRORS,
    WORK_ERRORS,
    ErrorBody,
    LenientModel,
    PositiveInt,
    Score,
    TextOrTexts,
    classify_inputs,
    health_response,
    json_response,
    lifecycle_of,
    probabilities_of,
    rendered,
    score_list,
)
from service.http.bodies import read_json
from service.http.openapi import documented, json_body
from service.inference.pipeline import Answer

router = APIRouter(tags=["compatible"])


class ClassifyRequest(LenientModel):
    """vLLM's `/classify`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": [EXAMPLE_TEXT]}]})

    input: TextOrTexts
    model: Annotated[str, Field(strict=True)] | None = Field(None, description="ignored: the service has one model")


class Classification(LenientModel):
    index: int = Field(ge=0)
    label: str
    probs: list[Annotated[float, Field(ge=0, le=1)]] = Field(description="in the order of the labels in /info")
    num_classes: int = Field(ge=1)


class ClassifyUsage(LenientModel):
    prompt_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)
    completion_tokens: Literal[0] = 0


class ClassifyResponse(LenientModel):
    id: str
    object: Literal["list"] = "list"
    created: int = Field(description="Unix time in seconds")
    model: str
    data: list[Classification | ErrorBody]
    usage: ClassifyUsage


class EndpointParameters(LenientModel):
    top_k: PositiveInt | None = Field(None, description="null: all labels")
    function_to_apply: Literal["softmax"] | None = Field(None, description="probabilities are a calibrated softmax")


class EndpointRequest(LenientModel):
    """The request of huggingface_hub's InferenceClient to an endpoint."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": EXAMPLE_TEXT}]})

    inputs: TextOrTexts
    parameters: EndpointParameters | None = None


EndpointResponse = list[list[Score] | ErrorBody]
_ENDPOINT_RESPONSE: TypeAdapter[EndpointResponse] = TypeAdapter(EndpointResponse)


@router.post(
    "/v1/classify",
    name="classify_v1",
    summary="Classify as vLLM does",
    response_model=ClassifyResponse,
    responses=documented(*WORK_ERRORS, *TEXT_ERRORS),
    openapi_extra=json_body(ClassifyRequest),
)
@router.post(
    "/classify",
    summary="Classify as vLLM does",
    response_model=ClassifyResponse,
    responses=documented(*WORK_ERRORS, *TEXT_ERRORS),
    openapi_extra=json_body(ClassifyRequest),
)
async def classify(request: Request) -> Response:
    body = await read_json(request, ClassifyRequest.model_validate)
    pipeline = lifecycle_of(request).current_pipeline()
    info = pipeline.info
    outcomes = await classify_inputs(pipeline, body.input)

    def classification(index: int, answer: Answer) -> Classification:
        return Classification(
            index=index,
            label=answer.prediction.label,
            probs=probabilities_of(answer, info),
            num_classes=len(info.labels),
        )

    tokens = sum(outcome.tokens_read for outcome in outcomes if isinstance(outcome, Answer))
    response = ClassifyResponse(
        id=f"classify-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=info.name,
        data=[rendered(outcome, partial(classification, index)) for index, outcome in enumerate(outcomes)],
        usage=ClassifyUsage(prompt_tokens=tokens, total_tokens=tokens),
    )
    return json_response(response)


@router.post(
    "/",
    name="endpoint",
    summary="Classify as a Hugging Face endpoint does",
    response_model=EndpointResponse,
    responses=documented(*WORK_ERRORS, *TEXT_ERRORS),
    openapi_extra=json_body(EndpointRequest),
)
async def endpoint(request: Request) -> Response:
    body = await read_json(request, EndpointRequest.model_validate)
    outcomes = await classify_inputs(lifecycle_of(request).current_pipeline(), body.inputs)
    top_k = body.parameters.top_k if body.parameters else None
    rows = [rendered(outcome, lambda answer: score_list(answer.prediction, top_k)) for outcome in outcomes]
    return Response(_ENDPOINT_RESPONSE.dump_json(rows, exclude_none=True), media_type="application/json")


@router.get(
    "/health",
    summary="Is the service healthy? As vLLM and Hugging Face's servers answer it",
    description="200 with an empty body if predictions are answered, 503 if not.",
    response_class=Response,
    responses={200: {"description": "ready"}, 503: {"description": "not ready"}},
)
async def health(request: Request) -> Response:
    return await health_response(request)
