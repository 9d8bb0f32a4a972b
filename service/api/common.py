"""What the route families share: JSON bodies, documented errors, the lifecycle."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from service.api.schemas import ErrorBody, ModelBody, Score, TextResult, TimingBody, WindowSpan
from service.errors import MEANING, STATUS, ServiceError
from service.http.bodies import media_type
from service.inference.engine import EngineInfo, Prediction
from service.inference.pipeline import Answer, AnswerOrError, Pipeline, RequestOptions, Timing
from service.model.lifecycle import ModelLifecycle


async def _lifecycle(request: Request) -> ModelLifecycle:  # a plain function would be called in a thread, each time
    lifecycle: ModelLifecycle = request.app.state.lifecycle
    return lifecycle


CLIENT_LEFT = 499
"""nginx's code for logs and metrics; nobody receives it."""

LifecycleOf = Annotated[ModelLifecycle, Depends(_lifecycle)]

WORK_ERRORS = (
    "invalid_json",
    "body_too_large",
    "too_many_texts",
    "unsupported_media_type",
    "invalid_request",
    "overloaded",
    "inference_failed",
    "internal",
    "not_ready",
    "draining",
    "deadline_exceeded",
)
"""Kinds that every route with a body can give."""

TEXT_ERRORS = ("text_too_large", "empty_text", "invalid_text", "text_too_long")
"""Kinds that concern one text."""


class JsonRoute(APIRoute):
    """A route whose body must be declared as JSON; FastAPI alone would call another type a validation error."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def checked(request: Request) -> Response:
            if request.method == "POST":
                declared = media_type(request.headers)
                if declared != "application/json" and not declared.endswith("+json"):
                    shown = f"{declared[:100]!r}" if declared else "missing"
                    raise ServiceError(
                        "unsupported_media_type", f"Content-Type is {shown}; this path reads application/json"
                    )
                return await self.while_client_stays(handler, request)
            return await handler(request)

        return checked

    @staticmethod
    async def while_client_stays(
        handler: Callable[[Request], Coroutine[Any, Any, Response]], request: Request
    ) -> Response:
        return await _unless_client_leaves(handler, request)


async def _unless_client_leaves(
    handler: Callable[[Request], Coroutine[Any, Any, Response]], request: Request
) -> Response:
    """Answer, or stop working if the connection breaks: Starlette would let the handler go on for nobody."""
    try:
        await request.body()
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)
    lifecycle: ModelLifecycle = request.app.state.lifecycle
    lifecycle.in_flight += 1
    work = asyncio.ensure_future(handler(request))
    departure = asyncio.ensure_future(request.receive())  # after the body, the only message left is the disconnect
    try:
        await asyncio.wait({work, departure}, return_when=asyncio.FIRST_COMPLETED)
        return await work if work.done() else Response(status_code=CLIENT_LEFT)
    finally:
        lifecycle.in_flight -= 1
        for task in (work, departure):
            task.cancel()
        await asyncio.gather(work, departure, return_exceptions=True)


def documented(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for error kinds: one entry a status, with an example for each kind."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        entry = by_status.setdefault(
            STATUS[kind], {"model": ErrorBody, "description": "", "content": {"application/json": {"examples": {}}}}
        )
        entry["description"] += f"{'; ' if entry['description'] else ''}`{kind}`: {MEANING[kind]}"
        entry["content"]["application/json"]["examples"][kind] = error_example(kind)
        if STATUS[kind] in (429, 503):
            wait = {"description": "seconds to wait", "required": True, "schema": {"type": "integer", "minimum": 1}}
            entry["headers"] = {"Retry-After": wait}
        elif kind == "unauthorized":
            entry["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"type": "string", "const": "Bearer"}}}
    return by_status


def error_example(kind: str) -> dict[str, Any]:
    """OpenAPI's example of an error."""
    return {"value": {"error": MEANING[kind], "kind": kind, "request_id": "5c1f0ad04f3c4ee8a3ef2ee3c3f0c1a9"}}


def score_list(prediction: Prediction, top_k: int | None) -> list[Score]:
    """The k most probable labels, or all."""
    return [Score(label=label, score=score) for label, score in prediction.scores[:top_k]]


async def outcomes_of(pipeline: Pipeline, inputs: str | list[str]) -> list[AnswerOrError]:
    """Classify one text or several as other servers' wires have them, without options."""
    alone = isinstance(inputs, str)
    texts = [inputs] if isinstance(inputs, str) else inputs
    return await pipeline.classify(texts, RequestOptions(lane="interactive" if alone else "bulk"), Timing())


def probabilities_of(answer: Answer, info: EngineInfo) -> list[float]:
    """In the order of the model's labels."""
    scores = dict(answer.prediction.scores)
    return [scores[label] for label in info.labels]


def result_fields(answer: Answer, top_k: int | None) -> Mapping[str, Any]:
    """The fields of `TextResult`."""
    prediction = answer.prediction
    return {
        "label": prediction.label,
        "score": prediction.score,
        "scores": score_list(prediction, top_k),
        "unsure": prediction.unsure,
        "tokens": answer.tokens,
        "tokens_read": answer.tokens_read,
        "truncated": answer.truncated,
        "windows": answer.windows,
        "spans": [
            WindowSpan(start=w.start, end=w.end, tokens=w.tokens, label=w.prediction.label, score=w.prediction.score)
            for w in answer.spans
        ]
        or None,
    }


def result(answer: Answer, top_k: int | None) -> TextResult:
    return TextResult(**result_fields(answer, top_k))


def model_of(info: EngineInfo) -> ModelBody:
    return ModelBody(name=info.name, version=info.version)


def timing_of(timing: Timing) -> TimingBody:
    return TimingBody(
        tokenize_ms=round(timing.tokenize_ms, 3),
        model_ms=round(timing.model_ms, 3),
        total_ms=round(timing.total_ms, 3),
    )


def server_timing(timing: Timing) -> str:
    """The header that browsers' developer tools show (W3C Server Timing), milliseconds."""
    shown = {"tokenize": timing.tokenize_ms, "model": timing.model_ms, "total": timing.total_ms}
    return ", ".join(f"{name};dur={milliseconds:.2f}" for name, milliseconds in shown.items())
