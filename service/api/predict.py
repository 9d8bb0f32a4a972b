"""`/predict`: one text, classified with every option."""

from dataclasses import asdict, replace
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field

from classifier import OnLong
from service.api import wire
from service.http.bodies import read_json
from service.http.openapi import LIMIT, json_route
from service.inference.explain import Explanation, explain
from service.inference.pipeline import Answer, AnswerOrError, RequestOptions, Timing
from service.inference.queue import Priority

PREDICT_ERRORS = (*(kind for kind in wire.WORK_ERRORS if kind != "too_many_texts"), *wire.TEXT_ERRORS)

router = APIRouter(tags=["predict"])


class RequestOptionsBody(wire.RequestBody):
    """Options of `/predict` and `/batch`."""

    top_k: wire.PositiveInt | None = Field(
        None, description="answer with the k most probable labels only; all labels if not given"
    )
    on_long: OnLong | None = Field(
        None,
        description='how to read a text longer than the model reads at once: all of it by overlapping "windows", '
        '"truncate" to its beginning, or refuse it with an "error"; the default is the model\'s (`on_long` in /info)',
    )
    timeout_ms: Annotated[wire.PositiveInt, Field(json_schema_extra={LIMIT: "max_timeout_ms"})] | None = Field(
        None, description="deadline of the request in milliseconds"
    )
    spans: wire.Flag = Field(False, description="also give the place of each window in the text and its own label")

    def options(self, priority: Priority, wait_for_room: bool = False) -> RequestOptions:
        """Return the pipeline's options for this request."""
        return RequestOptions(self.on_long, self.timeout_ms, self.spans, priority, wait_for_room)


class LineRequest(RequestOptionsBody):
    """A line of `/batch`."""

    text: wire.LoneText = Field(description="the text to classify")


class PredictRequest(LineRequest):
    model_config = ConfigDict(json_schema_extra={"examples": [{"text": wire.EXAMPLE_TEXT}]})

    explain: wire.Flag = Field(
        False,
        description="also give the effect of each sentence on the answer, by classifying the text without it; this "
        "costs as much as many texts",
    )


class WindowSpan(wire.WireModel):
    """One window of a text. Windows begin and end with whole words, but a truncated text ends where reading ended."""

    start: int = Field(ge=0, description="index of the first character in the text as it was sent")
    end: int = Field(ge=1, description="index after the last character")
    tokens: int = Field(ge=1)
    label: str = Field(description="the most probable label of this window alone")
    score: float = Field(ge=0, le=1, description="calibrated probability of that label")


class TextResult(wire.WireModel):
    """The answer to one text."""

    label: str = Field(description="the most probable label")
    score: float = Field(ge=0, le=1, description="calibrated probability of that label")
    scores: list[wire.Score] = Field(description="labels with their probabilities, most probable first")
    unsure: bool | None = Field(
        None,
        description="the score is below the model's threshold: a person should look at the text; absent if the model "
        "has no threshold",
    )
    tokens: int = Field(ge=1, description="tokens of the whole text")
    tokens_read: int = Field(ge=1, description="tokens that the model read; fewer than `tokens` if truncated")
    truncated: bool = Field(description="the model read only the beginning of the text")
    windows: int = Field(ge=1, description="windows in which the model read the text")
    spans: list[WindowSpan] | None = Field(None, description="the windows, if requested")


class TimingBody(wire.WireModel):
    """Durations in milliseconds."""

    tokenize_ms: float = Field(ge=0)
    model_ms: float = Field(ge=0, description="includes waiting for a place in a batch")
    total_ms: float = Field(ge=0)


class SentenceBody(wire.WireModel):
    start: int = Field(ge=0, description="index of the first character in the text as it was sent")
    end: int = Field(ge=1, description="index after the last character")
    contribution: float | None = Field(
        None,
        description="log-odds of the label with the sentence minus without it; absent if no text is left without it or "
        "it was not left out (see `complete`)",
    )
    alone: float | None = Field(None, description="log-odds of the label for the sentence alone")


class ExplanationBody(wire.WireModel):
    """The effect of each sentence on the answer. Contributions need not add up: see `remainder`."""

    label: str
    log_odds: float = Field(description="ln(p / (1 - p)) of the label for the whole text")
    sentences: list[SentenceBody] = Field(
        description="sentences that were read, in order; in very long texts groups of several"
    )
    complete: bool = Field(
        description="every sentence was left out in turn; if not, the text was too long for that, and the sentences "
        "that say least alone have no contribution"
    )
    sum: float = Field(description="sum of all contributions")
    remainder: float = Field(description="log_odds - sum: the part that no single sentence accounts for")


class PredictResponse(TextResult):
    explanation: ExplanationBody | None = Field(None, description="the explanation, if requested")
    model: wire.ModelBody
    timing: TimingBody


@router.post(
    "/predict",
    summary="Classify one text",
    **json_route(PredictRequest, answer=PredictResponse, errors=PREDICT_ERRORS),
)
async def predict(request: Request) -> Response:
    body = await read_json(request, PredictRequest.model_validate)
    timing, options = Timing(), replace(body.options("interactive"), spans=body.spans or body.explain)
    pipeline = wire.lifecycle_of(request).current_pipeline()
    [outcome] = await pipeline.classify([body.text], options, timing)
    answer = wire.answer_or_raise(outcome)
    explanation = None
    if body.explain:
        found = await explain(pipeline, body.text, answer, options, timing)
        explanation = _explanation_body(found)
    response = PredictResponse(
        **result_fields(answer if body.spans else replace(answer, spans=()), body.top_k),
        explanation=explanation,
        model=wire.model_body(pipeline.info),
        timing=timing_body(timing),
    )
    return wire.json_response(response, server_timing(timing))


def result_fields(answer: Answer, top_k: int | None) -> dict[str, Any]:
    """Return the fields of `TextResult`."""
    prediction = answer.prediction
    spans = [
        WindowSpan(start=w.start, end=w.end, tokens=w.tokens, label=w.prediction.label, score=w.prediction.score)
        for w in answer.spans
    ]
    return {
        "label": prediction.label,
        "score": prediction.score,
        "scores": wire.score_list(prediction, top_k),
        "unsure": prediction.unsure,
        "tokens": answer.tokens,
        "tokens_read": answer.tokens_read,
        "truncated": answer.truncated,
        "windows": answer.windows,
        "spans": spans or None,
    }


def text_result(outcome: AnswerOrError, top_k: int | None) -> TextResult | wire.ErrorBody:
    """Return the answer to one of several texts, or its error."""
    return wire.rendered(outcome, lambda answer: TextResult(**result_fields(answer, top_k)))


def _explanation_body(found: Explanation) -> ExplanationBody:
    return ExplanationBody(
        label=found.label,
        log_odds=found.log_odds,
        sentences=[SentenceBody(**asdict(part)) for part in found.parts],
        complete=found.complete,
        sum=found.total,
        remainder=found.remainder,
    )


def timing_body(timing: Timing) -> TimingBody:
    return TimingBody(
        tokenize_ms=round(timing.tokenize_ms, 3),
        model_ms=round(timing.model_ms, 3),
        total_ms=round(timing.total_ms, 3),
    )


def server_timing(timing: Timing) -> dict[str, str]:
    """Return the header that browsers' developer tools show, in milliseconds: https://www.w3.org/TR/server-timing/"""
    durations = {"tokenize": timing.tokenize_ms, "model": timing.model_ms, "total": timing.total_ms}
    return {"Server-Timing": ", ".join(f"{name};dur={ms:.2f}" for name, ms in durations.items())}
