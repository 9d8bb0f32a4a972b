"""SageMaker's container contract: `/ping` and `/invocations`.

Contract: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

from fastapi import APIRouter, Response

from service.errors import ServiceError, error_body
from service.routes.common import TEXT_ERRORS, WORK_ERRORS, JsonRoute, RuntimeOf, documented, score_list
from service.runtime import Outcome, Timing, Work
from service.schemas import ErrorBody, InputsInvocation, Invocation, Score, TextInvocation

router = APIRouter(route_class=JsonRoute, tags=["sagemaker"])

Invoked = dict[str, float] | list[Score | ErrorBody | list[Score]]


@router.get(
    "/ping",
    summary="Healthy?",
    description="200 with an empty body once predictions are answered, 503 before and when the model is not healthy.",
    response_class=Response,
    responses={200: {"description": "ready"}, 503: {"description": "not ready"}},
)
async def ping(runtime: RuntimeOf) -> Response:
    return Response(status_code=200 if await runtime.readiness() == "ready" else 503)


@router.post(
    "/invocations",
    summary="Classify, in the form of the article or of Hugging Face",
    description='`{"text"}` is answered by a map from label to probability; `{"inputs", "parameters"}` as by Hugging '
    "Face's text-classification pipeline. Among several inputs, one that cannot be classified has an error object in "
    "its place.",
    responses=documented(*WORK_ERRORS, *TEXT_ERRORS),
    response_model_exclude_none=True,
)
async def invocations(body: Invocation, runtime: RuntimeOf) -> Invoked:
    if isinstance(body, TextInvocation):
        [outcome] = await runtime.classify([body.text], Work(), Timing())
        if isinstance(outcome, ServiceError):
            raise outcome
        return dict(outcome.prediction.scores)
    return await _pipeline(body, runtime)


async def _pipeline(body: InputsInvocation, runtime: RuntimeOf) -> list[Score | ErrorBody | list[Score]]:
    """As transformers' pipeline: without `top_k` one object an input, with it (also as null) a list an input."""
    parameters = body.parameters
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    wanted = Work(
        on_long="truncate" if parameters.truncation else None,
        lane="interactive" if isinstance(body.inputs, str) else "bulk",
    )
    outcomes = await runtime.classify(texts, wanted, Timing())
    as_lists = "top_k" in parameters.model_fields_set

    def wire(outcome: Outcome) -> ErrorBody | list[Score]:
        if isinstance(outcome, ServiceError):
            return ErrorBody(**error_body(outcome))
        return score_list(outcome.prediction, parameters.top_k if as_lists else 1)

    if isinstance(body.inputs, str):
        [outcome] = outcomes
        if isinstance(outcome, ServiceError):
            raise outcome
        return [*score_list(outcome.prediction, parameters.top_k if as_lists else 1)]
    answered = [wire(outcome) for outcome in outcomes]
    return [*answered] if as_lists else [row[0] if isinstance(row, list) else row for row in answered]
