"""The same model behind other servers' wires, for clients that exist; `service.api.open_inference` has a third.

POST /classify, /v1/classify    vLLM          {"input"} -> {"data": [{"label", "probs"}]}
POST /                          Hugging Face  {"inputs"} -> [[{"label", "score"}]], what InferenceClient asks of a URL
GET /health                     both          200 or 503, without a body

Errors have this service's shape and statuses: a lone text's is the answer's, and among several texts each has its own
in its place.
"""

import time
import uuid
from collections.abc import Sequence

from fastapi import APIRouter, Response

from service.api.common import (
    TEXT_ERRORS,
    WORK_ERRORS,
    JsonRoute,
    LifecycleOf,
    documented,
    outcomes_of,
    probabilities_of,
    score_list,
)
from service.api.schemas import ErrorBody
from service.api.schemas_compat import (
    Classification,
    ClassifyRequest,
    ClassifyResponse,
    ClassifyUsage,
    PipelineRequest,
    PipelineResponse,
)
from service.errors import ServiceError, error_body
from service.inference.pipeline import Answer, AnswerOrError

router = APIRouter(route_class=JsonRoute, tags=["compatible"])


def _raise_if_alone(inputs: str | list[str], outcomes: Sequence[AnswerOrError]) -> None:
    if isinstance(inputs, str) and isinstance(outcomes[0], ServiceError):
        raise outcomes[0]


@router.post("/v1/classify", summary="As vLLM does", responses=documented(*WORK_ERRORS, *TEXT_ERRORS))
@router.post("/classify", summary="As vLLM does", responses=documented(*WORK_ERRORS, *TEXT_ERRORS))
async def classify(body: ClassifyRequest, lifecycle: LifecycleOf) -> ClassifyResponse:
    pipeline = lifecycle.current_pipeline()
    info = pipeline.info
    outcomes = await outcomes_of(pipeline, body.input)
    _raise_if_alone(body.input, outcomes)
    tokens = sum(outcome.tokens_read for outcome in outcomes if isinstance(outcome, Answer))
    return ClassifyResponse(
        id=f"classify-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=info.name,
        data=[
            Classification(
                index=i,
                label=outcome.prediction.label,
                probs=probabilities_of(outcome, info),
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
async def pipeline(body: PipelineRequest, lifecycle: LifecycleOf) -> PipelineResponse:
    outcomes = await outcomes_of(lifecycle.current_pipeline(), body.inputs)
    _raise_if_alone(body.inputs, outcomes)
    top_k = body.parameters.top_k if body.parameters else None
    return [
        score_list(outcome.prediction, top_k) if isinstance(outcome, Answer) else ErrorBody(**error_body(outcome))
        for outcome in outcomes
    ]


@router.get(
    "/health",
    summary="Healthy? As vLLM and Hugging Face's servers say it",
    description="200 with an empty body once predictions are answered, 503 before and when the model is not healthy.",
    response_class=Response,
    responses={200: {"description": "ready"}, 503: {"description": "not ready"}},
)
async def health(lifecycle: LifecycleOf) -> Response:
    return Response(status_code=200 if await lifecycle.readiness() == "ready" else 503)
