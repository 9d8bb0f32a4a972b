"""`/batch`: several texts in one JSON body, or any number of them as lines (`service.api.stream`)."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, FailFast, Field

from service.api import wire
from service.api.predict import RequestOptionsBody, TextResult, TimingBody, server_timing, text_result, timing_body
from service.api.stream import LinesResponse
from service.http.bodies import is_stream, read_json
from service.http.openapi import LIMIT, json_route, text_form
from service.inference.pipeline import Answer, Timing

router = APIRouter(tags=["predict"])


class BatchRequest(RequestOptionsBody):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"texts": [wire.EXAMPLE_TEXT, "The striker scored twice."], "top_k": 1}]}
    )

    texts: Annotated[list[wire.Text], FailFast()] = Field(
        min_length=1, description="the texts to classify", json_schema_extra={LIMIT: "max_texts"}
    )


class Usage(wire.WireModel):
    texts: int = Field(ge=1)
    failed: int = Field(ge=0, description="texts whose result is an error")
    tokens: int = Field(ge=0, description="tokens that the model read")
    truncated: int = Field(ge=0, description="texts of which only the beginning was read")


class BatchResponse(wire.WireModel):
    results: list[TextResult | wire.ErrorBody] = Field(description="one result for each text, in their order")
    usage: Usage
    model: wire.ModelBody
    timing: TimingBody


@router.post(
    "/batch",
    summary="Classify many texts",
    description="A text that cannot be classified has an error object in its place; the other texts are answered.\n\n"
    "With `Content-Type: application/x-ndjson` the body has any number of lines, each a string or an object as for\n"
    "`/predict`. Each line is answered by a line, in order, while the body is read. Read the answers while you send:\n"
    "the service stops reading from a caller who does not.",
    **json_route(
        BatchRequest,
        answer=BatchResponse,
        errors=(kind for kind in wire.WORK_ERRORS if kind != "inference_failed"),
        other_bodies={
            "application/x-ndjson": text_form(
                '"The striker scored twice."\n{"text": "The bank cut its rate.", "top_k": 1}\n',
                "a text or an object as for /predict on each line",
            )
        },
        other_answers={
            "application/x-ndjson": text_form(
                '{"label":"sport","score":0.98,"scores":[],"unsure":false,"tokens":6,"tokens_read":6,"truncated":false,'
                '"windows":1}\n',
                "a result or an error object on each line",
            )
        },
    ),
)
async def batch(request: Request) -> Response:
    lifecycle = wire.lifecycle_of(request)
    if is_stream(request.scope):
        lifecycle.current_pipeline()  # raises unless new work is accepted
        return LinesResponse(lifecycle)
    body = await read_json(request, BatchRequest.model_validate)
    timing = Timing()
    pipeline = lifecycle.current_pipeline()
    outcomes = await pipeline.classify(body.texts, body.options("bulk"), timing)
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    response = BatchResponse(
        results=[text_result(outcome, body.top_k) for outcome in outcomes],
        usage=Usage(
            texts=len(outcomes),
            failed=len(outcomes) - len(answers),
            tokens=sum(answer.tokens_read for answer in answers),
            truncated=sum(answer.truncated for answer in answers),
        ),
        model=wire.model_body(pipeline.info),
        timing=timing_body(timing),
    )
    return wire.json_response(response, server_timing(timing))
