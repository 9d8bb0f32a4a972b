"""`/predict` and `/batch`: the service's own wire."""

from fastapi import APIRouter

from service.batcher import Lane
from service.errors import ServiceError, error_body
from service.routes.common import (
    TEXT_ERRORS,
    WORK_ERRORS,
    JsonRoute,
    RuntimeOf,
    documented,
    model_of,
    result,
    result_fields,
    timing_of,
)
from service.runtime import Answer, Timing, Work
from service.schemas import BatchRequest, BatchResponse, ErrorBody, Options, PredictRequest, PredictResponse, Usage

router = APIRouter(route_class=JsonRoute, tags=["predict"])

PREDICT_ERRORS = (*(kind for kind in WORK_ERRORS if kind != "too_many_texts"), *TEXT_ERRORS)
BATCH_ERRORS = tuple(kind for kind in WORK_ERRORS if kind != "inference_failed")


def _options(body: Options, lane: Lane) -> Work:
    return Work(on_long=body.on_long, timeout_ms=body.timeout_ms, spans=body.spans, lane=lane)


@router.post(
    "/predict",
    summary="Classify one text",
    responses=documented(*PREDICT_ERRORS),
    response_model_exclude_none=True,
)
async def predict(body: PredictRequest, runtime: RuntimeOf) -> PredictResponse:
    timing = Timing()
    info = runtime.engine.info
    [outcome] = await runtime.classify([body.text], _options(body, "interactive"), timing)
    if isinstance(outcome, ServiceError):
        raise outcome
    return PredictResponse(**result_fields(outcome, body.top_k), model=model_of(info), timing=timing_of(timing))


@router.post(
    "/batch",
    summary="Classify many texts",
    description="A text that cannot be classified has an error object in its place; the others are not touched by it.",
    responses=documented(*BATCH_ERRORS),
    response_model_exclude_none=True,
)
async def batch(body: BatchRequest, runtime: RuntimeOf) -> BatchResponse:
    timing = Timing()
    info = runtime.engine.info
    outcomes = await runtime.classify(body.texts, _options(body, "bulk"), timing)
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    return BatchResponse(
        results=[
            result(outcome, body.top_k) if isinstance(outcome, Answer) else ErrorBody(**error_body(outcome))
            for outcome in outcomes
        ],
        usage=Usage(
            texts=len(outcomes),
            failed=len(outcomes) - len(answers),
            tokens=sum(answer.tokens_read for answer in answers),
            truncated=sum(answer.truncated for answer in answers),
        ),
        model=model_of(info),
        timing=timing_of(timing),
    )
