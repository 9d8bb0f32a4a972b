"""SageMaker's container contract: `/ping`, `/invocations` and `/execution-parameters`.

Contract: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html and, for batch
transform, https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-batch-code.html
"""

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import Any, Literal, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import Field

from service.api import wire
from service.api.invocation import (
    InputsInvocation,
    InstancesInvocation,
    Invocation,
    InvocationAnswer,
    TextInvocation,
    parse_invocation,
)
from service.errors import ServiceError, error_body
from service.http import bodies
from service.http.openapi import json_route, text_form
from service.inference.pipeline import AnswerOrError, Timing
from service.model.lifecycle import ModelLifecycle

T = TypeVar("T")

CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
MAX_ATTRIBUTES = 1024
"""Characters that SageMaker allows."""

CHUNK = 64
"""Lines that are classified at once, so that many lines of one call do not keep other requests waiting."""

ROWS_AT_ONCE = 2000
"""Rows that are checked in one turn of the event loop, about a millisecond."""

CONCURRENT_TRANSFORMS, TRANSFORM_MB = 2, 1
"""Number of calls that a batch transform should make at a time, and the size of each: enough to keep the model busy. A
megabyte of text takes GPT-2 small minutes on a CPU, and SageMaker waits at most an hour for one answer."""

router = APIRouter(tags=["sagemaker"])


class ExecutionParameters(wire.WireModel):
    """Parameters of a batch transform, with SageMaker's names."""

    MaxConcurrentTransforms: int = Field(ge=1)
    BatchStrategy: Literal["MULTI_RECORD"]
    MaxPayloadInMB: int = Field(ge=1)


@router.get(
    "/ping",
    summary="Is the service healthy?",
    **wire.HEALTH_ROUTE,
)
async def ping(request: Request) -> Response:
    return await wire.health_response(request)


@router.get("/execution-parameters", summary="Parameters of a batch transform", response_model=ExecutionParameters)
async def execution_parameters(request: Request) -> Response:
    parameters = ExecutionParameters(
        MaxConcurrentTransforms=CONCURRENT_TRANSFORMS,
        BatchStrategy="MULTI_RECORD",
        MaxPayloadInMB=TRANSFORM_MB,
    )
    return wire.json_response(parameters)


_OTHER_BODIES = {
    "application/jsonlines": text_form(
        '{"text": "The striker scored."}\n"Shares fell."', "a JSON body or a text on each line"
    ),
    "text/csv": text_form('"The striker scored, twice."\nShares fell.', "a text in each row's only column"),
    "text/plain": text_form("The striker scored.", "one text"),
}
_OTHER_ANSWERS = {
    "application/jsonlines": text_form('{"sport": 0.98, "business": 0.02}', "a line for each line"),
    "text/csv": text_form("sport,0.98,\n,,empty_text", "label, score and kind of error, a row for each text"),
    "text/plain": text_form("sport", "the label, a line for each text"),
}


@router.post(
    "/invocations",
    summary="Classify, in the form of the article, of Hugging Face or of TensorFlow Serving",
    description='`{"text"}` is answered by a map from label to probability; `{"inputs", "parameters"}` as by Hugging '
    'Face\'s text-classification pipeline; `{"instances"}` by `{"predictions"}`. Lines of JSON, rows of CSV and plain '
    "text are read too, and `Accept` decides the form of the answer: a line for each line, a row for each row. Among "
    "several texts, one that cannot be classified has an error object in its place.",
    **json_route(
        TextInvocation,
        InputsInvocation,
        InstancesInvocation,
        answer=InvocationAnswer,
        errors=(*wire.WORK_ERRORS, *wire.TEXT_ERRORS, "invalid_body", "not_acceptable"),
        other_bodies=_OTHER_BODIES,
        other_answers=_OTHER_ANSWERS,
    ),
)
async def invocations(request: Request) -> Response:
    lifecycle = wire.lifecycle_of(request)
    form = bodies.body_form(request.headers, *bodies.MEDIA_TYPES)
    wanted = bodies.answer_form(request.headers.get("accept"), form, lifecycle.settings.default_accept)
    body = await request.body()
    if form in ("json", "text"):
        invocation = (
            bodies.parse_json(body, parse_invocation) if form == "json" else TextInvocation(text=bodies.read_text(body))
        )
        pipeline = lifecycle.current_pipeline()
        outcomes = await pipeline.classify(invocation.texts, invocation.options(), Timing())
        answer = invocation.answer(outcomes)  # raises the error of a lone text, in whatever form it is answered
        content = _json(answer) if wanted == "json" else _write(wanted, [invocation], [outcomes])
    else:
        content = await _answer_lines(lifecycle, form, wanted, body)
    attributes = request.headers.get(CUSTOM_ATTRIBUTES, "")
    returned = 0 < len(attributes) <= MAX_ATTRIBUTES and attributes.isascii() and attributes.isprintable()
    headers = {CUSTOM_ATTRIBUTES: attributes} if returned else None
    return Response(content, media_type=bodies.MEDIA_TYPES[wanted][0], headers=headers)


async def _answer_lines(lifecycle: ModelLifecycle, form: bodies.Form, wanted: bodies.Form, body: bytes) -> bytes:
    """Return an answer for each line or row, in their order; a bad one has its error in its place.

    A body may have millions of lines: they are parsed, classified and written in chunks, and other requests have their
    turn on the event loop after each chunk.

    Raises:
        ServiceError: invalid_body, before any line is classified; or the service cannot classify now.
    """
    if form == "csv":
        for count, _ in enumerate(bodies.read_rows(body), 1):
            if count % ROWS_AT_ONCE == 0:
                await asyncio.sleep(0)
    elif not body.strip():
        raise ServiceError("invalid_body", "the body has no line")
    written: list[bytes] = []
    for chunk in _chunked(_parse_lines(lifecycle, form, body), CHUNK):
        outcomes = await _classify(lifecycle, chunk, begun=bool(written))
        written.append(_write(wanted, chunk, outcomes))
        await asyncio.sleep(0)  # also if no line of the chunk needed the model
    return b"[" + b", ".join(written) + b"]" if wanted == "json" else b"\n".join(written)


def _parse_lines(lifecycle: ModelLifecycle, form: bodies.Form, body: bytes) -> Iterator[Invocation | ServiceError]:
    """Yield the invocation of each line or row, or the error that it has."""
    if form == "csv":
        for row in bodies.read_rows(body):
            yield row if isinstance(row, ServiceError) else TextInvocation(text=row)
        return
    pipeline = lifecycle.current_pipeline()

    def parse(value: Any) -> Invocation:
        invocation = parse_invocation(value)
        pipeline.check_count(len(invocation.texts))
        return invocation

    for line in bodies.split_lines(body):
        yield bodies.parse_line(line, parse)


async def _classify(
    lifecycle: ModelLifecycle, chunk: Sequence[Invocation | ServiceError], begun: bool
) -> list[list[AnswerOrError]]:
    """Return the outcomes of each line's texts.

    Args:
        lifecycle: the service.
        chunk: invocations, or the errors that are their lines' outcomes.
        begun: earlier lines of the call were classified. Then the texts wait for room in the queue until the deadline;
            before that, a full queue is an error that tells the caller to try again.
    """
    outcomes: list[list[AnswerOrError]] = [[line] if isinstance(line, ServiceError) else [] for line in chunk]
    texts = [
        (place, text, line.options())
        for place, line in enumerate(chunk)
        if not isinstance(line, ServiceError)
        for text in line.texts
    ]
    alone = not begun and len(texts) == 1
    for options, group in groupby(texts, key=lambda text: text[2]):
        for some in _chunked(group, min(CHUNK, lifecycle.settings.max_texts)):
            own = replace(options, priority=options.priority if alone else "bulk", wait_for_room=begun)
            found = await lifecycle.current_pipeline().classify([text for _, text, _ in some], own, Timing())
            begun = True
            for (place, _, _), outcome in zip(some, found, strict=True):
                outcomes[place].append(outcome)
    return outcomes


def _write(
    wanted: bodies.Form, lines: Sequence[Invocation | ServiceError], outcomes: Sequence[Sequence[AnswerOrError]]
) -> bytes:
    """Return the answers to these lines without a separator after the last one."""
    if wanted == "csv":
        return bodies.write_csv(_row(outcome) for own in outcomes for outcome in own).removesuffix(b"\n")
    if wanted == "text":
        return b"\n".join(_row(outcome)[0].encode() for own in outcomes for outcome in own)
    values = [_json(_answer_or_error(line, own)) for line, own in zip(lines, outcomes, strict=True)]
    return (b"\n" if wanted == "lines" else b", ").join(values)


def _answer_or_error(line: Invocation | ServiceError, outcomes: Sequence[AnswerOrError]) -> Any:
    try:
        return error_body(line) if isinstance(line, ServiceError) else line.answer(outcomes)
    except ServiceError as exc:
        return error_body(exc)


def _row(outcome: AnswerOrError) -> tuple[str, float | None, str]:
    """Return label, score and kind of error."""
    if isinstance(outcome, ServiceError):
        return "", None, outcome.kind
    return outcome.prediction.label, outcome.prediction.score, ""


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _chunked(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of at most `size` values, as itertools.batched does, which Python 3.11 does not have."""
    rest = iter(values)
    while chunk := list(islice(rest, size)):
        yield chunk
