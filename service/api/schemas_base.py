"""What all wire models are made of: a text, texts, and objects that say which of their fields nobody knows."""

from itertools import islice
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from service.errors import MAX_DETAILS, UNKNOWN_FIELDS

EXAMPLE_TEXT = (
    "The prime minister told parliament that the government would hold a vote on the new asylum bill "
    "before the election, after opposition leaders accused him of delaying the debate."
)


def _text(value: object) -> str:
    """Accept any str. Pydantic's own would refuse the whole request for one text with an unpaired surrogate; that
    is found text by text instead."""
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "must be a string")
    return value


LIMIT = "x-limit"
"""Marks a bound in a schema that is a setting; the contract has its value instead."""

ONE_TEXT = {"type": "string", "pattern": r"\S", LIMIT: "max_text_chars"}
"""A lone text, whose error is the answer's status. Among several any string is taken."""

Text = Annotated[str, PlainValidator(_text), WithJsonSchema({"type": "string"})]
LoneText = Annotated[str, PlainValidator(_text), WithJsonSchema(ONE_TEXT)]


def integral_float_as_int(value: object) -> object:
    """2.0 is an integer to JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Positive = Annotated[int, Field(strict=True, ge=1), BeforeValidator(integral_float_as_int)]


class WireModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RequestBody(WireModel):
    @model_validator(mode="before")
    @classmethod
    def _few_unknown(cls, value: Any) -> Any:
        """Count unknown fields if they are many: pydantic's error object for each of 200,000 took seconds."""
        if isinstance(value, dict) and len(value) > len(cls.model_fields) + MAX_DETAILS:
            count = len(value) - sum(name in value for name in cls.model_fields)
            first = list(islice((name for name in value if name not in cls.model_fields), MAX_DETAILS))
            raise PydanticCustomError(UNKNOWN_FIELDS, "{count} unknown fields", {"count": count, "first": first})
        return value


def _inputs(value: object) -> str | list[str]:
    """One check for both forms: pydantic's union would name branches that the caller never sent."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise PydanticCustomError("inputs_type", "must be a string or a list of strings that is not empty")
    for i, text in enumerate(value):
        if not isinstance(text, str):
            raise PydanticCustomError("inputs_type", "must be strings, item {index} is not", {"index": i})
    return value


Inputs = Annotated[
    str | list[str],
    PlainValidator(_inputs),
    WithJsonSchema(
        {"anyOf": [ONE_TEXT, {"type": "array", "items": {"type": "string"}, "minItems": 1, LIMIT: "max_texts"}]}
    ),
]
