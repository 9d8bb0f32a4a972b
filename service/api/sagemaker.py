"""SageMaker's container contract: `/ping`, `/invocations` and `/execution-parameters`.

Contract: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html and, for batch
transform, https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-batch-code.html
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter, ValidationError

from service.api.common import TEXT_ERRORS, WORK_ERRORS, JsonRoute, LifecycleOf, documented, score_list
from service.api.schemas import (
    ErrorBody,
    ExecutionParameters,
    InputsInvocation,
    InstancesInvocation,
    Invocation,
    Predictions,
    Score,
    TextInvocation,
)
from service.errors import ServiceError, error_body, invalid
from service.http.bodies import (
    MEDIA_TYPES,
    Format,
    answer_format,
    format_of,
    media_type,
    read_rows,
    split_lines,
    write_csv,
    write_lines,
)
from service.inference.engine import OnLong
from service.inference.pipeline import Answer, AnswerOrError, Pipeline, RequestOptions, Timing
from service.model.lifecycle import ModelLifecycle

T = TypeVar("T")

CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
MAX_ATTRIBUTES = 1024
"""Characters that SageMaker allows."""

CHUNK = 64
"""Lines classified at once: many lines of one call must not keep others waiting."""

ROWS_AT_ONCE = 2000
"""Rows looked through before others have their turn on the event loop, about a millisecond."""

CONCURRENT_TRANSFORMS = 4
"""Calls at a time that a batch transform may make: the next is here when one is done, and 4 x 6 MB is below 100 MB."""

Asked = TextInvocation | InputsInvocation | InstancesInvocation
Invoked = dict[str, float] | list[Score | ErrorBody | list[Score]] | Predictions

_ASKED: TypeAdapter[Asked] = TypeAdapter(Invocation)


@dataclass(frozen=True)
class _Ask:
    """What one JSON value wants: its texts, how, and the answer's shape."""

    texts: Sequence[str]
    work: RequestOptions
    answer: Callable[[Sequence[AnswerOrError]], Any]
    """The JSON value. Raises the error of a lone text."""
    lone: bool = False
    """One text that is not in a list: its error is the error of the answer."""


def _ask(asked: Asked) -> _Ask:
    if isinstance(asked, TextInvocation):
        return _Ask(
            [asked.text], RequestOptions(), lambda outcomes: dict(_answered(outcomes[0]).prediction.scores), lone=True
        )
    if isinstance(asked, InstancesInvocation):
        texts = [one if isinstance(one, str) else one["text"] for one in asked.instances]
        return _Ask(
            texts,
            RequestOptions(lane="bulk"),
            lambda outcomes: {"predictions": [_best(outcome) for outcome in outcomes]},
        )
    parameters, inputs = asked.parameters, asked.inputs
    on_long: OnLong | None = "truncate" if parameters.truncation else None
    as_lists = "top_k" in parameters.model_fields_set  # as transformers' pipeline: with it (also null), a list an input

    def scores(outcome: AnswerOrError) -> Any:
        if isinstance(outcome, ServiceError):
            return error_body(outcome)
        return _scores(outcome, parameters.top_k if as_lists else 1)

    if isinstance(inputs, str):
        return _Ask(
            [inputs], RequestOptions(on_long=on_long), lambda outcomes: scores(_answered(outcomes[0])), lone=True
        )

    def several(outcomes: Sequence[AnswerOrError]) -> Any:
        rows = [scores(outcome) for outcome in outcomes]
        return rows if as_lists else [row[0] if isinstance(row, list) else row for row in rows]

    return _Ask(inputs, RequestOptions(on_long=on_long, lane="bulk"), several)


def _answered(outcome: AnswerOrError) -> Answer:
    if isinstance(outcome, ServiceError):
        raise outcome
    return outcome


def _scores(answer: Answer, top_k: int | None) -> list[dict[str, Any]]:
    return [score.model_dump() for score in score_list(answer.prediction, top_k)]


def _best(outcome: AnswerOrError) -> dict[str, Any]:
    return error_body(outcome) if isinstance(outcome, ServiceError) else _scores(outcome, 1)[0]


class FormsRoute(JsonRoute):
    """Reads JSON, lines of JSON, CSV and plain text, and answers in what `Accept` asks for."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        as_json = super().get_route_handler()  # documented by its schema, and by far the most used

        async def checked(request: Request) -> Response:
            lifecycle: ModelLifecycle = request.app.state.lifecycle
            came = format_of(media_type(request.headers))
            wanted = answer_format(request.headers.get("accept"), came, lifecycle.settings.default_accept)
            if came == wanted == "json":
                response = await as_json(request)
            else:
                response = await self.while_client_stays(
                    lambda request: _in_form(request, lifecycle, came, wanted), request
                )
            attributes = request.headers.get(CUSTOM_ATTRIBUTES)
            if attributes and len(attributes) <= MAX_ATTRIBUTES and attributes.isascii() and attributes.isprintable():
                response.headers[CUSTOM_ATTRIBUTES] = attributes
            return response

        return checked


async def _in_form(request: Request, lifecycle: ModelLifecycle, came: Format, wanted: Format) -> Response:
    """One answer a line or row, in their order; a bad one has its error in its place.

    A body may have millions of lines: they are parsed, classified and written a stretch at a time, and between two
    stretches others have their turn on the event loop.
    """
    pipeline = lifecycle.current_pipeline()
    body = await request.body()
    await _check_form(came, body)
    lone = came in ("json", "text")
    written: list[bytes] = []
    for items in _in_chunks(_items(body, came, pipeline), CHUNK):
        if came == "json" and isinstance(items[0], ServiceError):
            raise items[0]
        outcomes = await _classify(lifecycle, items, begun=bool(written))
        if lone and isinstance(items[0], _Ask) and items[0].lone:
            _answered(outcomes[0][0])  # a lone text's error is the answer's status
        written.append(_write(wanted, items, outcomes))
        await asyncio.sleep(0)  # others' turn, also if no line of these needed the model
    content = b"[" + b", ".join(written) + b"]" if wanted == "json" and not lone else b"\n".join(written)
    return Response(content, media_type=MEDIA_TYPES[wanted][0])


async def _check_form(came: Format, body: bytes) -> None:
    """Raises ServiceError invalid_body if what can only be told of the whole body is wrong."""
    if came == "lines" and not body.strip():
        raise ServiceError("invalid_body", "the body has no line")
    if came == "csv":
        for count, _ in enumerate(read_rows(came, body), 1):
            if count % ROWS_AT_ONCE == 0:
                await asyncio.sleep(0)


def _items(body: bytes, came: Format, pipeline: Pipeline) -> Iterator[_Ask | ServiceError]:
    """What each line or row asks for, or what is wrong with it; at least one."""
    if came == "json":
        yield _parsed(body, "the body", pipeline)
    elif came == "lines":
        for line in split_lines(body):
            yield _parsed(line, "the line", pipeline)
    else:
        for row in read_rows(came, body):
            yield row if isinstance(row, ServiceError) else _ask(TextInvocation(text=row))


def _write(wanted: Format, items: Sequence[_Ask | ServiceError], outcomes: Sequence[Sequence[AnswerOrError]]) -> bytes:
    """The answers to these items; what stands between them and those to others is left out."""
    if wanted == "csv":
        return write_csv([_row(outcome) for row in outcomes for outcome in row]).removesuffix(b"\n")
    if wanted == "text":
        return b"\n".join(_row(outcome)[0].encode() for row in outcomes for outcome in row)
    values = [_value(item, row) for item, row in zip(items, outcomes, strict=True)]
    if wanted == "lines":
        return write_lines(values).removesuffix(b"\n")
    return ", ".join(map(json.dumps, values)).encode()


def _value(item: _Ask | ServiceError, outcomes: Sequence[AnswerOrError]) -> Any:
    if isinstance(item, ServiceError):
        return error_body(item)
    try:
        return item.answer(outcomes)
    except ServiceError as exc:
        return error_body(exc)


def _row(outcome: AnswerOrError) -> tuple[str, float | None, str]:
    if isinstance(outcome, ServiceError):
        return "", None, outcome.kind
    return outcome.prediction.label, outcome.prediction.score, ""


def _parsed(raw: bytes, what: str, pipeline: Pipeline) -> _Ask | ServiceError:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        return ServiceError("invalid_json", f"{what} is not JSON: {exc}")
    try:
        ask = _ask(_ASKED.validate_python({"text": value} if isinstance(value, str) else value))
        pipeline.check_count(len(ask.texts))
    except ValidationError as exc:
        return invalid(exc.errors())
    except ServiceError as exc:
        return exc
    return ask


async def _classify(
    lifecycle: ModelLifecycle, items: Sequence[_Ask | ServiceError], begun: bool
) -> list[list[AnswerOrError]]:
    """The outcomes of each item's texts, chunk by chunk. `begun`: other texts of the same call were classified."""
    outcomes: list[list[AnswerOrError]] = [[item] if isinstance(item, ServiceError) else [] for item in items]
    places = [(i, text, item.work) for i, item in enumerate(items) if isinstance(item, _Ask) for text in item.texts]
    several = begun or len(places) > 1
    most = min(CHUNK, lifecycle.settings.max_texts)
    for way, group in groupby(places, key=lambda place: place[2]):
        for chunk in _in_chunks(group, most):
            # what has begun waits for room while there is time; before that, a full queue is the caller's to know
            work = replace(way, lane="bulk" if several else way.lane, patient=begun)
            found = await lifecycle.current_pipeline().classify([text for _, text, _ in chunk], work, Timing())
            begun = True
            for (i, _, _), outcome in zip(chunk, found, strict=True):
                outcomes[i].append(outcome)
    return outcomes


def _in_chunks(values: Iterable[T], most: int) -> Iterator[list[T]]:
    """As itertools.batched, which Python 3.11 does not have."""
    rest = iter(values)
    while chunk := list(islice(rest, most)):
        yield chunk


router = APIRouter(tags=["sagemaker"])
forms = APIRouter(route_class=FormsRoute, tags=["sagemaker"])


@router.get(
    "/ping",
    summary="Healthy?",
    description="200 with an empty body once predictions are answered, 503 before and when the model is not healthy.",
    response_class=Response,
    responses={200: {"description": "ready"}, 503: {"description": "not ready"}},
)
async def ping(lifecycle: LifecycleOf) -> Response:
    return Response(status_code=200 if await lifecycle.readiness() == "ready" else 503)


@router.get("/execution-parameters", summary="What a batch transform should send")
async def execution_parameters(lifecycle: LifecycleOf) -> ExecutionParameters:
    return ExecutionParameters(
        MaxConcurrentTransforms=CONCURRENT_TRANSFORMS,
        BatchStrategy="MULTI_RECORD",
        MaxPayloadInMB=max(1, lifecycle.settings.max_body_bytes // 1_000_000),
    )


def _example(content: str, description: str) -> Mapping[str, Any]:
    return {"schema": {"type": "string", "description": description}, "example": content}


_OTHER_BODIES = {
    "application/jsonlines": _example(
        '{"text": "The striker scored."}\n"Shares fell."', "a JSON body or a text a line"
    ),
    "text/csv": _example('"The striker scored, twice."\nShares fell.', "a text a row, in its only column"),
    "text/plain": _example("The striker scored.", "one text"),
}
_OTHER_ANSWERS = {
    "application/jsonlines": _example('{"sport": 0.98, "business": 0.02}', "the answer to each line, a line"),
    "text/csv": _example("sport,0.98,\n,,empty_text", "label, score and kind of error, a row a text"),
    "text/plain": _example("sport", "the label, a line a text"),
}


@forms.post(
    "/invocations",
    summary="Classify, in the form of the article, of Hugging Face or of TensorFlow Serving",
    description='`{"text"}` is answered by a map from label to probability; `{"inputs", "parameters"}` as by Hugging '
    'Face\'s text-classification pipeline; `{"instances"}` by `{"predictions"}`. Lines of JSON, rows of CSV and plain '
    "text are read, too, and `Accept` decides the form of the answer: one line a line, one row a row. Among several "
    "texts, one that cannot be classified has an error object in its place.",
    responses=documented(*WORK_ERRORS, *TEXT_ERRORS, "invalid_body", "not_acceptable")
    | {200: {"content": _OTHER_ANSWERS}},
    openapi_extra={"requestBody": {"content": _OTHER_BODIES}},
    response_model_exclude_none=True,
)
async def invocations(body: Invocation, lifecycle: LifecycleOf) -> Invoked:
    ask = _ask(body)
    outcomes = await lifecycle.current_pipeline().classify(ask.texts, ask.work, Timing())
    answer: Invoked = ask.answer(outcomes)
    return answer
