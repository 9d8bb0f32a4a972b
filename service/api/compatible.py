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

from service.api import wire
from service.http.bodies import read_json
from service.http.openapi import json_route
from service.inference.pipeline import Answer

router = APIRouter(tags=["compatible"])


class ClassifyRequest(wire.LenientModel):
    """The request of vLLM's `/classify`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": [wire.EXAMPLE_TEXT]}]})

    input: wire.TextOrTexts
    model: Annotated[str, Field(strict=True)] | None = Field(None, description="ignored: the service has one model")


class Classification(wire.LenientModel):
    index: int = Field(ge=0)
    label: str
    probs: list[Annotated[float, Field(ge=0, le=1)]] = Field(description="in the order of the labels in /info")
    num_classes: int = Field(ge=1)


class ClassifyUsage(wire.LenientModel):
    prompt_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)
    completion_tokens: Literal[0] = 0


class ClassifyResponse(wire.LenientModel):
    id: str
    object: Literal["list"] = "list"
    created: int = Field(description="Unix time in seconds")
    model: str
    data: list[Classification | wire.ErrorBody]
    usage: ClassifyUsage


class EndpointParameters(wire.LenientModel):
    top_k: wire.PositiveInt | None = Field(None, description="null: all labels")
    function_to_apply: Literal["softmax"] | None = Field(None, description="probabilities are a calibrated softmax")


class EndpointRequest(wire.LenientModel):
    """The request of huggingface_hub's InferenceClient to an endpoint."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": wire.EXAMPLE_TEXT}]})

    inputs: wire.TextOrTexts
    parameters: EndpointParameters | None = None


EndpointResponse = list[list[wire.Score] | wire.ErrorBody]
_ENDPOINT_RESPONSE: TypeAdapter[EndpointResponse] = TypeAdapter(EndpointResponse)


@router.post(
    "/v1/classify",
    name="classify_v1",
    summary="Classify as vLLM does",
    **json_route(ClassifyRequest, answer=ClassifyResponse, errors=(*wire.WORK_ERRORS, *wire.TEXT_ERRORS)),
)
@router.post(
    "/classify",
    summary="Classify as vLLM does",
    **json_route(ClassifyRequest, answer=ClassifyResponse, errors=(*wire.WORK_ERRORS, *wire.TEXT_ERRORS)),
)
async def classify(request: Request) -> Response:
    body = await read_json(request, ClassifyRequest.model_validate)
    pipeline = wire.lifecycle_of(request).current_pipeline()
    info = pipeline.info
    outcomes = await wire.classify_inputs(pipeline, body.input)

    def classification(index: int, answer: Answer) -> Classification:
        return Classification(
            index=index,
            label=answer.prediction.label,
            probs=wire.probabilities_of(answer, info),
            num_classes=len(info.labels),
        )

    tokens = sum(outcome.tokens_read for outcome in outcomes if isinstance(outcome, Answer))
    response = ClassifyResponse(
        id=f"classify-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=info.name,
        data=[wire.rendered(outcome, partial(classification, index)) for index, outcome in enumerate(outcomes)],
        usage=ClassifyUsage(prompt_tokens=tokens, total_tokens=tokens),
    )
    return wire.json_response(response)


@router.post(
    "/",
    name="endpoint",
    summary="Classify as a Hugging Face endpoint does",
    **json_route(EndpointRequest, answer=EndpointResponse, errors=(*wire.WORK_ERRORS, *wire.TEXT_ERRORS)),
)
async def endpoint(request: Request) -> Response:
    body = await read_json(request, EndpointRequest.model_validate)
    outcomes = await wire.classify_inputs(wire.lifecycle_of(request).current_pipeline(), body.inputs)
    top_k = body.parameters.top_k if body.parameters else None
    rows = [wire.rendered(outcome, lambda answer: wire.score_list(answer.prediction, top_k)) for outcome in outcomes]
    return Response(_ENDPOINT_RESPONSE.dump_json(rows, exclude_none=True), media_type="application/json")


@router.get(
    "/health",
    summary="Is the service healthy? As vLLM and Hugging Face's servers answer it",
    **wire.HEALTH_ROUTE,
)
async def health(request: Request) -> Response:
    return await wire.health_response(request)
