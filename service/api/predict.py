"""`/predict`, `/batch` and `/tokenize`: the service's own wire."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response

from service.api.common import (
    TEXT_ERRORS,
    WORK_ERRORS,
    JsonRoute,
    LifecycleOf,
    documented,
    model_of,
    result,
    result_fields,
    server_timing,
    timing_of,
)
from service.api.schemas import (
    BatchRequest,
    BatchResponse,
    ErrorBody,
    ExplanationBody,
    LineRequest,
    PredictRequest,
    PredictResponse,
    RequestOptionsBody,
    SentenceBody,
    TokenizeRequest,
    TokenizeResponse,
    Usage,
)
from service.api.stream import LinesResponse
from service.errors import ServiceError, error_body
from service.http.bodies import LINES, media_type
from service.inference.engine import Tokenized
from service.inference.explain import Explanation, explain
from service.inference.pipeline import Answer, AnswerOrError, RequestOptions, Timing
from service.inference.queue import Lane
from service.model.lifecycle import ModelLifecycle

PREDICT_ERRORS = (*(kind for kind in WORK_ERRORS if kind != "too_many_texts"), *TEXT_ERRORS)
MODEL_ERRORS = ("inference_failed", "text_too_long", "deadline_exceeded")
"""Kinds that come of the model or of waiting for it."""
BATCH_ERRORS = tuple(kind for kind in WORK_ERRORS if kind != "inference_failed")

TOKENS_AT_ONCE = 1000
"""Of `/tokenize`, written in about two milliseconds."""


class BatchRoute(JsonRoute):
    """JSON, or lines of JSON that are answered while they come in."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def checked(request: Request) -> Response:
            if media_type(request.headers) not in LINES:
                return await handler(request)
            lifecycle: ModelLifecycle = request.app.state.lifecycle
            lifecycle.current_pipeline()  # raises unless work may begin
            return LinesResponse(lifecycle, _line, lifecycle.settings.max_body_bytes)

        return checked


router = APIRouter(route_class=JsonRoute, tags=["predict"])
bulk = APIRouter(route_class=BatchRoute, tags=["predict"])


def _line(outcome: AnswerOrError, request: LineRequest) -> bytes:
    wire = result(outcome, request.top_k) if isinstance(outcome, Answer) else ErrorBody(**error_body(outcome))
    return wire.model_dump_json(exclude_none=True).encode()


def _explanation(found: Explanation) -> ExplanationBody:
    return ExplanationBody(
        label=found.label,
        log_odds=found.log_odds,
        sentences=[SentenceBody(**asdict(p)) for p in found.parts],
        sum=found.total,
        remainder=found.remainder,
    )


def _options(body: RequestOptionsBody, lane: Lane) -> RequestOptions:
    return RequestOptions(on_long=body.on_long, timeout_ms=body.timeout_ms, spans=body.spans, lane=lane)


@router.post(
    "/predict",
    summary="Classify one text",
    responses=documented(*PREDICT_ERRORS),
    response_model_exclude_none=True,
)
async def predict(body: PredictRequest, lifecycle: LifecycleOf, response: Response) -> PredictResponse:
    timing = Timing()
    pipeline = lifecycle.current_pipeline()
    work = _options(body, "interactive")
    [outcome] = await pipeline.classify([body.text], work, timing)
    if isinstance(outcome, ServiceError):
        raise outcome
    explanation = None
    if body.explain:
        allowed_ms = pipeline.allowed_ms(work)
        explanation = _explanation(await explain(pipeline, body.text, outcome, work, allowed_ms, timing))
    response.headers["Server-Timing"] = server_timing(timing)
    return PredictResponse(
        **result_fields(outcome, body.top_k),
        explanation=explanation,
        model=model_of(pipeline.info),
        timing=timing_of(timing),
    )


@bulk.post(
    "/batch",
    summary="Classify many texts",
    description="A text that cannot be classified has an error object in its place; the others are not touched by "
    "it.\n\n"
    "With `Content-Type: application/x-ndjson`, any number of lines, each a string or an object as for `/predict`: "
    "answered line by line, in order, while they come in. Read while you send: a caller who takes no answers is not "
    "read from either.",
    responses=documented(*BATCH_ERRORS)
    | {
        200: {
            "content": {
                "application/x-ndjson": {
                    "schema": {"type": "string", "description": "a result or an error object a line"},
                    "example": '{"label":"sport","score":0.98,"scores":[],"unsure":false,"tokens":6,"tokens_read":6,'
                    '"truncated":false,"windows":1}\n',
                }
            }
        }
    },
    openapi_extra={
        "requestBody": {
            "content": {
                "application/x-ndjson": {
                    "schema": {"type": "string", "description": "a text or an object as for /predict a line"},
                    "example": '"The striker scored twice."\n{"text": "The bank cut its rate.", "top_k": 1}\n',
                }
            }
        }
    },
    response_model_exclude_none=True,
)
async def batch(body: BatchRequest, lifecycle: LifecycleOf, response: Response) -> BatchResponse:
    timing = Timing()
    pipeline = lifecycle.current_pipeline()
    outcomes = await pipeline.classify(body.texts, _options(body, "bulk"), timing)
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    response.headers["Server-Timing"] = server_timing(timing)
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
        model=model_of(pipeline.info),
        timing=timing_of(timing),
    )


@router.post(
    "/tokenize",
    summary="Tokens of a text",
    description="What the model would read of a text, without reading it.",
    responses=documented(*(kind for kind in PREDICT_ERRORS if kind not in MODEL_ERRORS)),
    response_model=TokenizeResponse,
)
async def tokenize(body: TokenizeRequest, lifecycle: LifecycleOf) -> Response:
    pipeline = lifecycle.current_pipeline()
    tokens = await pipeline.tokenize(body.text)
    info = pipeline.info
    rest = {
        "cleaned": tokens.cleaned,
        "count": len(tokens.ids),
        "max_tokens": info.max_tokens,
        "windows": tokens.windows,
        "would_truncate": info.on_long == "truncate" and len(tokens.ids) > info.max_tokens,
    }
    content = b'{"tokens":[' + b",".join([part async for part in _written(tokens)]) + b"]," + _json(rest)[1:]
    return Response(content, media_type="application/json")


async def _written(tokens: Tokenized) -> AsyncIterator[bytes]:
    """The tokens as JSON without brackets. The longest text has half a million, seconds of work: in between, others
    have their turn on the event loop."""
    for first in range(0, len(tokens.ids), TOKENS_AT_ONCE):
        some = slice(first, first + TOKENS_AT_ONCE)
        yield _json(
            [
                {"id": i, "text": tokens.cleaned[start:end], "start": start, "end": end}
                for i, (start, end) in zip(tokens.ids[some], tokens.offsets[some], strict=True)
            ]
        )[1:-1]
        await asyncio.sleep(0)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
