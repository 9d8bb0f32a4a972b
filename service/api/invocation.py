"""The three JSON forms of `/invocations`: their bodies, how each is classified and how it is answered."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from service.api import wire
from service.errors import ServiceError, error_body
from service.http.openapi import LIMIT
from service.inference.pipeline import Answer, AnswerOrError, RequestOptions


class TextInvocation(wire.RequestBody):
    """The form of the article, answered by a map from label to probability."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": wire.EXAMPLE_TEXT}]})

    text: wire.LoneText

    @property
    def texts(self) -> list[str]:
        return [self.text]

    def options(self) -> RequestOptions:
        return RequestOptions()

    def answer(self, outcomes: Sequence[AnswerOrError]) -> Any:
        """Return the JSON answer. Raises the error of the text."""
        return dict(wire.answer_or_raise(outcomes[0]).prediction.scores)


class InferenceParameters(wire.RequestBody):
    top_k: wire.PositiveInt | None = Field(None, description="null: all labels")
    truncation: wire.Flag = Field(False, description="read only the beginning of a long text instead of all of it")


class InputsInvocation(wire.RequestBody):
    """The form of Hugging Face's text-classification pipeline, answered as that pipeline does."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": [wire.EXAMPLE_TEXT], "parameters": {"top_k": 2}}]}
    )

    inputs: wire.TextOrTexts
    parameters: InferenceParameters = InferenceParameters()

    @property
    def texts(self) -> list[str]:
        return [self.inputs] if isinstance(self.inputs, str) else self.inputs

    def options(self) -> RequestOptions:
        return RequestOptions(
            on_long="truncate" if self.parameters.truncation else None,
            priority="interactive" if isinstance(self.inputs, str) else "bulk",
        )

    def answer(self, outcomes: Sequence[AnswerOrError]) -> Any:
        """Return the JSON answer. Raises the error of a lone text.

        As in transformers, `top_k` (also null) makes a list of labels for each of several texts, and without it each
        text has its best label only.
        """
        lists = "top_k" in self.parameters.model_fields_set
        top_k = self.parameters.top_k if lists else 1
        if isinstance(self.inputs, str):
            return _scores(wire.answer_or_raise(outcomes[0]), top_k)
        return [
            error_body(outcome) if isinstance(outcome, ServiceError)
            else _scores(outcome, top_k) if lists else _scores(outcome, 1)[0]
            for outcome in outcomes
        ]  # fmt: skip


def _instances(value: object) -> list[str | dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise PydanticCustomError("instances_type", "must be a list that is not empty")
    for i, instance in enumerate(value):
        text = instance["text"] if isinstance(instance, dict) and set(instance) == {"text"} else instance
        if not isinstance(text, str):
            raise PydanticCustomError(
                "instances_type", 'must be strings or objects {{"text": string}}, item {index} is not', {"index": i}
            )
    return value


_TEXT_OBJECT = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}
_INSTANCES_SCHEMA = {
    "type": "array",
    "minItems": 1,
    LIMIT: "max_texts",
    "items": {"anyOf": [{"type": "string"}, _TEXT_OBJECT]},
}


class InstancesInvocation(wire.RequestBody):
    """The form of TensorFlow Serving, answered by `predictions`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"instances": [{"text": wire.EXAMPLE_TEXT}]}]})

    instances: Annotated[list[str | dict[str, str]], PlainValidator(_instances), WithJsonSchema(_INSTANCES_SCHEMA)]

    @property
    def texts(self) -> list[str]:
        return [instance if isinstance(instance, str) else instance["text"] for instance in self.instances]

    def options(self) -> RequestOptions:
        return RequestOptions(priority="bulk")

    def answer(self, outcomes: Sequence[AnswerOrError]) -> Any:
        """Return the JSON answer."""
        return {
            "predictions": [
                error_body(outcome) if isinstance(outcome, ServiceError) else _scores(outcome, 1)[0]
                for outcome in outcomes
            ]
        }


class Predictions(wire.WireModel):
    predictions: list[wire.Score | wire.ErrorBody]


Invocation = TextInvocation | InputsInvocation | InstancesInvocation
InvocationAnswer = dict[str, float] | list[wire.Score | wire.ErrorBody | list[wire.Score]] | Predictions


def parse_invocation(value: Any) -> Invocation:
    """Make the wire model of a JSON value by the field that only its form has. Raises pydantic's ValidationError."""
    if isinstance(value, dict) and "inputs" in value:
        return InputsInvocation.model_validate(value)
    if isinstance(value, dict) and "instances" in value:
        return InstancesInvocation.model_validate(value)
    return TextInvocation.model_validate(value)


def _scores(answer: Answer, top_k: int | None) -> list[dict[str, Any]]:
    return [score.model_dump() for score in wire.score_list(answer.prediction, top_k)]
