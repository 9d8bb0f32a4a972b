"""The same model behind other servers' wires, for clients that exist; `service.routes.tensors` has a third.

POST /classify, /v1/classify    vLLM          {"input"} -> {"data": [{"label", "probs"}]}
POST /                          Hugging Face  {"inputs"} -> [[{"label", "score"}]], what InferenceClient asks of a URL

Errors have this service's shape and statuses. Among several texts, one that cannot be classified has its error in its
place.
"""

import time
import uuid

from fastapi import APIRouter

from service.errors import ServiceError, error_body
from service.routes.common import (
    TEXT_ERRORS,
    WORK_ERRORS,
    JsonRoute,
    RuntimeOf,
    documented,
    outcomes_of,
    probabilities_of,
    score_list,
)
from service.runtime import Answer
from service.schemas import ErrorBody
from service.schemas_compat import (
    Classification,
    ClassifyRequest,
    ClassifyResponse,
    ClassifyUsage,
    PipelineRequest,
    PipelineResponse,
)

MANY_ERRORS = tuple(kind for kind in WORK_ERRORS if kind != "inference_failed")

router = APIRouter(route_class=JsonRoute, tags=["compatible"])


@router.post("/v1/classify", summary="As vLLM does", responses=documented(*MANY_ERRORS))
@router.post("/classify", summary="As vLLM does", responses=documented(*MANY_ERRORS))
async def classify(body: ClassifyRequest, runtime: RuntimeOf) -> ClassifyResponse:
    info = runtime.engine.info
    outcomes = await outcomes_of(runtime, body.input)
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
async def pipeline(body: PipelineRequest, runtime: RuntimeOf) -> PipelineResponse:
    outcomes = await outcomes_of(runtime, body.inputs)
    if isinstance(body.inputs, str) and isinstance(outcomes[0], ServiceError):
        raise outcomes[0]
    top_k = body.parameters.top_k if body.parameters else None
    return [
        score_list(outcome.prediction, top_k) if isinstance(outcome, Answer) else ErrorBody(**error_body(outcome))
        for outcome in outcomes
    ]
