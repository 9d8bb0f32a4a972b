"""SageMaker's container contract: `/ping`, `/invocations` and `/execution-parameters`.

Contract: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html and, for batch
transform, https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-batch-code.html
"""

import json
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter, ValidationError

from service.engine import OnLong
from service.errors import ServiceError, error_body, invalid
from service.formats import (
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
from service.pipeline import Answer, Outcome, Pipeline, Timing, Work
from service.routes.common import TEXT_ERRORS, WORK_ERRORS, JsonRoute, RuntimeOf, documented, score_list
from service.runtime import Runtime
from service.schemas import (
    ErrorBody,
    ExecutionParameters,
    InputsInvocation,
    InstancesInvocation,
    Invocation,
    Predictions,
    Score,
    TextInvocation,
)

T = TypeVar("T")

CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
MAX_ATTRIBUTES = 1024
"""Characters that SageMaker allows."""

CHUNK = 64
"""Lines classified at once: many lines of one call must not keep others waiting."""

CONCURRENT_TRANSFORMS = 4
"""Calls at a time that a batch transform may make: the next is here when one is done, and 4 x 6 MB is below 100 MB."""

Asked = TextInvocation | InputsInvocation | InstancesInvocation
Invoked = dict[str, float] | list[Score | ErrorBody | list[Score]] | Predictions

_ASKED: TypeAdapter[Asked] = TypeAdapter(Invocation)


@dataclass(frozen=True)
class _Ask:
    """What one JSON value wants: its texts, how, and the answer's shape."""

    texts: Sequence[str]
    work: Work
    answer: Callable[[Sequence[Outcome]], Any]
    """The JSON value. Raises the error of a lone text."""
    lone: bool = False
    """One text that is not in a list: its error is the error of the answer."""


def _ask(asked: Asked) -> _Ask:
    if isinstance(asked, TextInvocation):
        return _Ask([asked.text], Work(), lambda outcomes: dict(_answered(outcomes[0]).prediction.scores), lone=True)
    if isinstance(asked, InstancesInvocation):
        texts = [one if isinstance(one, str) else one["text"] for one in asked.instances]
        return _Ask(
            texts, Work(lane="bulk"), lambda outcomes: {"predictions": [_best(outcome) for outcome in outcomes]}
        )
    parameters, inputs = asked.parameters, asked.inputs
    on_long: OnLong | None = "truncate" if parameters.truncation else None
    as_lists = "top_k" in parameters.model_fields_set  # as transformers' pipeline: with it (also null), a list an input

    def scores(outcome: Outcome) -> Any:
        if isinstance(outcome, ServiceError):
            return error_body(outcome)
        return _scores(outcome, parameters.top_k if as_lists else 1)

    if isinstance(inputs, str):
        return _Ask([inputs], Work(on_long=on_long), lambda outcomes: scores(_answered(outcomes[0])), lone=True)

    def several(outcomes: Sequence[Outcome]) -> Any:
        rows = [scores(outcome) for outcome in outcomes]
        return rows if as_lists else [row[0] if isinstance(row, list) else row for row in rows]

    return _Ask(inputs, Work(on_long=on_long, lane="bulk"), several)


def _answered(outcome: Outcome) -> Answer:
    if isinstance(outcome, ServiceError):
        raise outcome
    return outcome


def _scores(answer: Answer, top_k: int | None) -> list[dict[str, Any]]:
    return [score.model_dump() for score in score_list(answer.prediction, top_k)]


def _best(outcome: Outcome) -> dict[str, Any]:
    return error_body(outcome) if isinstance(outcome, ServiceError) else _scores(outcome, 1)[0]


class FormsRoute(JsonRoute):
    """Reads JSON, lines of JSON, CSV and plain text, and answers in what `Accept` asks for."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        as_json = super().get_route_handler()  # documented by its schema, and by far the most used

        async def checked(request: Request) -> Response:
            runtime: Runtime = request.app.state.runtime
            came = format_of(media_type(request.headers))
            wanted = answer_format(request.headers.get("accept"), came, runtime.settings.default_accept)
            if came == wanted == "json":
                response = await as_json(request)
            else:
                response = await self.while_client_stays(
                    lambda request: _in_form(request, runtime, came, wanted), request
                )
            attributes = request.headers.get(CUSTOM_ATTRIBUTES)
            if attributes and len(attributes) <= MAX_ATTRIBUTES and attributes.isascii() and attributes.isprintable():
                response.headers[CUSTOM_ATTRIBUTES] = attributes
            return response

        return checked


async def _in_form(request: Request, runtime: Runtime, came: Format, wanted: Format) -> Response:
    """One answer a line or row, in their order; a bad one has its error in its place."""
    pipeline = runtime.open()
    items = _items(await request.body(), came, pipeline)
    if came == "json" and isinstance(items[0], ServiceError):
        raise items[0]
    outcomes = await _classify(runtime, items)
    lone = items[0] if came in ("json", "text") else None
    if isinstance(lone, _Ask) and lone.lone:
        _answered(outcomes[0][0])  # a lone text's error is the answer's status
    if wanted == "csv":
        content = write_csv([_row(outcome) for row in outcomes for outcome in row]).removesuffix(b"\n")
    elif wanted == "text":
        content = b"\n".join(_row(outcome)[0].encode() for row in outcomes for outcome in row)
    else:
        values = [_value(item, row) for item, row in zip(items, outcomes, strict=True)]
        if wanted == "lines":
            content = write_lines(values).removesuffix(b"\n")
        else:
            content = json.dumps(values if lone is None else values[0]).encode()
    return Response(content, media_type=MEDIA_TYPES[wanted][0])


def _items(body: bytes, came: Format, pipeline: Pipeline) -> list[_Ask | ServiceError]:
    """What each line or row asks for, or what is wrong with it; at least one."""
    if came == "json":
        return [_parsed(body, "the body", pipeline)]
    if came == "lines":
        lines = split_lines(body)
        if not lines:
            raise ServiceError("invalid_body", "the body has no line")
        return [_parsed(line, "the line", pipeline) for line in lines]
    rows = read_rows(came, body)
    return [row if isinstance(row, ServiceError) else _ask(TextInvocation(text=row)) for row in rows]


def _value(item: _Ask | ServiceError, outcomes: Sequence[Outcome]) -> Any:
    if isinstance(item, ServiceError):
        return error_body(item)
    try:
        return item.answer(outcomes)
    except ServiceError as exc:
        return error_body(exc)


def _row(outcome: Outcome) -> tuple[str, float | None, str]:
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


async def _classify(runtime: Runtime, items: Sequence[_Ask | ServiceError]) -> list[list[Outcome]]:
    """The outcomes of each item's texts. Calls of many lines are classified chunk by chunk."""
    outcomes: list[list[Outcome]] = [[item] if isinstance(item, ServiceError) else [] for item in items]
    places = [(i, text, item.work) for i, item in enumerate(items) if isinstance(item, _Ask) for text in item.texts]
    several = len(places) > 1
    begun = False
    most = min(CHUNK, runtime.settings.max_texts)
    for way, group in groupby(places, key=lambda place: place[2]):
        for chunk in _in_chunks(group, most):
            # what has begun waits for room while there is time; before that, a full queue is the caller's to know
            work = replace(way, lane="bulk" if several else way.lane, patient=begun)
            found = await runtime.open().classify([text for _, text, _ in chunk], work, Timing())
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
async def ping(runtime: RuntimeOf) -> Response:
    return Response(status_code=200 if await runtime.readiness() == "ready" else 503)


@router.get("/execution-parameters", summary="What a batch transform should send")
async def execution_parameters(runtime: RuntimeOf) -> ExecutionParameters:
    return ExecutionParameters(
        MaxConcurrentTransforms=CONCURRENT_TRANSFORMS,
        BatchStrategy="MULTI_RECORD",
        MaxPayloadInMB=max(1, runtime.settings.max_body_bytes // 1_000_000),
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
async def invocations(body: Invocation, runtime: RuntimeOf) -> Invoked:
    ask = _ask(body)
    outcomes = await runtime.open().classify(ask.texts, ask.work, Timing())
    answer: Invoked = ask.answer(outcomes)
    return answer
