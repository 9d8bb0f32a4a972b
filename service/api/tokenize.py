"""`/tokenize`: the tokens that the model would read of a text."""

import asyncio
import json

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field

from service.api import wire
from service.http.bodies import read_json
from service.http.openapi import json_route
from service.inference.engine import MAX_LISTED, TokenizedText

TOKENIZE_ERRORS = {*wire.WORK_ERRORS, *wire.TEXT_ERRORS} - {"too_many_texts", "inference_failed", "text_too_long"}

TOKENS_AT_ONCE = 1000
"""Tokens that are written in one turn of the event loop, about two milliseconds."""

router = APIRouter(tags=["predict"])


class TokenizeRequest(wire.RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"text": wire.EXAMPLE_TEXT}]})

    text: wire.LoneText = Field(description="the text to tokenise")


class Token(wire.WireModel):
    id: int = Field(ge=0)
    text: str = Field(description="its characters; empty if it ends inside a character that has several tokens")
    start: int = Field(ge=0, description="index of the first character in the cleaned text")
    end: int = Field(ge=0, description="index after the last character")


class TokenizeResponse(wire.WireModel):
    cleaned: str = Field(description="the text after clean-up, in which offsets count, up to the last of `tokens`")
    tokens: list[Token] = Field(max_length=MAX_LISTED, description="the first tokens, all unless there are very many")
    count: int = Field(ge=1, description="tokens of the whole text")
    max_tokens: int = Field(ge=1, description="tokens that the model reads at once")
    windows: int = Field(ge=1, description='windows in which `on_long: "windows"` reads the text')
    would_truncate: bool = Field(description="by default the model would read only the beginning of the text")


@router.post(
    "/tokenize",
    summary="Tokens of a text",
    description="The tokens that the model would read, without the model. The first 10,000 are listed.",
    **json_route(TokenizeRequest, answer=TokenizeResponse, errors=TOKENIZE_ERRORS),
)
async def tokenize(request: Request) -> Response:
    body = await read_json(request, TokenizeRequest.model_validate)
    pipeline = wire.lifecycle_of(request).current_pipeline()
    tokenized = await pipeline.tokenize(body.text)
    count, max_tokens = tokenized.count, pipeline.info.max_tokens
    rest = {
        "cleaned": tokenized.cleaned,
        "count": count,
        "max_tokens": max_tokens,
        "windows": tokenized.windows,
        "would_truncate": pipeline.info.on_long == "truncate" and count > max_tokens,
    }
    content = b'{"tokens":[' + b",".join(await _token_json(tokenized)) + b"]," + _json(rest)[1:]
    return Response(content, media_type="application/json")


async def _token_json(tokenized: TokenizedText) -> list[bytes]:
    """Return stretches of the tokens as JSON without brackets. Other requests have their turn on the event loop after
    each stretch."""
    stretches = []
    for first in range(0, len(tokenized.ids), TOKENS_AT_ONCE):
        stretch = slice(first, first + TOKENS_AT_ONCE)
        tokens = [
            {"id": i, "text": tokenized.cleaned[start:end], "start": start, "end": end}
            for i, (start, end) in zip(tokenized.ids[stretch], tokenized.offsets[stretch], strict=True)
        ]
        stretches.append(_json(tokens)[1:-1])
        await asyncio.sleep(0)
    return stretches


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
