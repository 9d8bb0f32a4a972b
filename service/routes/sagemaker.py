"""SageMaker's container contract: `/ping`, `/invocations` and `/execution-parameters`.

Contract: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html and, for batch
transform, https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-batch-code.html
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

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
from service.routes.common import TEXT_ERRORS, WORK_ERRORS, JsonRoute, RuntimeOf, documented, score_list
from service.runtime import Answer, Outcome, Runtime, Timing, Work
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

CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
MAX_ATTRIBUTES = 1024
"""Characters that SageMaker allows."""

CHUNK = 64
"""Lines classified at once: many lines of one call must not keep others waiting."""

PATIENCE_S = 0.05
"""Between tries to place further lines of a call that has begun while the queue is full."""

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


def _ask(asked: Asked) -> _Ask:
    if isinstance(asked, TextInvocation):
        return _Ask([asked.text], Work(), lambda outcomes: dict(_answered(outcomes[0]).prediction.scores))
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
        return _Ask([inputs], Work(on_long=on_long), lambda outcomes: scores(_answered(outcomes[0])))

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
    body = await request.body()
    items: list[_Ask | ServiceError]
    if came == "json":
        items = [_parsed(body, "the body")]
        if isinstance(items[0], ServiceError):
            raise items[0]
    elif came == "lines":
        items = [_parsed(line, "the line") for line in split_lines(body)]
        if not items:
            raise ServiceError("invalid_body", "the body has no line")
    else:
        rows = read_rows(came, body)
        items = [row if isinstance(row, ServiceError) else _ask(TextInvocation(text=row)) for row in rows]
    outcomes = await _classify(runtime, items)
    if len(items) == 1 and came in ("json", "text"):
        for outcome in outcomes[0][:1] if len(outcomes[0]) == 1 else []:
            _answered(outcome)  # a lone text's error is the answer's status
    if wanted == "csv":
        content = write_csv([_row(outcome) for row in outcomes for outcome in row])
    elif wanted == "text":
        content = b"\n".join(_row(outcome)[0].encode() for row in outcomes for outcome in row)
    else:
        values = [_value(item, row) for item, row in zip(items, outcomes, strict=True)]
        lone = wanted == "json" and came in ("json", "text")
        content = write_lines(values) if wanted == "lines" else json.dumps(values[0] if lone else values).encode()
    return Response(content.rstrip(b"\n"), media_type=MEDIA_TYPES[wanted][0])


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


def _parsed(raw: bytes, what: str) -> _Ask | ServiceError:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        return ServiceError("invalid_json", f"{what} is not JSON: {exc}")
    try:
        return _ask(_ASKED.validate_python({"text": value} if isinstance(value, str) else value))
    except ValidationError as exc:
        return invalid(exc.errors())


async def _classify(runtime: Runtime, items: Sequence[_Ask | ServiceError]) -> list[list[Outcome]]:
    """The outcomes of each item's texts. Calls of many lines are classified chunk by chunk."""
    outcomes: list[list[Outcome]] = [[item] if isinstance(item, ServiceError) else [] for item in items]
    places = [(i, text, item.work) for i, item in enumerate(items) if isinstance(item, _Ask) for text in item.texts]
    several = len(places) > 1
    begun = False
    while places:
        work = places[0][2]
        most = min(CHUNK, runtime.settings.max_texts)
        chunk = list(takewhile(lambda place: place[2] == work, places[:most]))  # noqa: B023
        how = Work(work.on_long, work.timeout_ms, lane="bulk" if several else work.lane)
        try:
            found = await runtime.classify([text for _, text, _ in chunk], how, Timing())
        except ServiceError as exc:
            if exc.kind != "overloaded" or not begun:
                raise
            await asyncio.sleep(PATIENCE_S)
            continue
        begun = True
        for (i, _, _), outcome in zip(chunk, found, strict=True):
            outcomes[i].append(outcome)
        del places[: len(chunk)]
    return outcomes


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
    outcomes = await runtime.classify(ask.texts, ask.work, Timing())
    answer: Invoked = ask.answer(outcomes)
    return answer
