"""`/admin/reload`: put another model in the place of the running one."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field

from service.api import wire
from service.http.bodies import read_json
from service.http.openapi import json_route
from service.model.replacement import ReloadOptions

router = APIRouter(prefix="/admin", tags=["operations"])

RELOAD_ERRORS = (
    "invalid_json",
    "body_too_large",
    "unsupported_media_type",
    "invalid_request",
    "reload_refused",
    "internal",
    "not_ready",
    "draining",
    "overloaded",
    "deadline_exceeded",
)


class ReloadRequest(wire.RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model_dir": "models/trained", "max_flip_rate": 0.1}]})

    model_dir: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")] | None = Field(
        None,
        description="directory of the artifact on the service's machine, below the directory that SERVICE_MODEL_DIR is "
        "in; the default is SERVICE_MODEL_DIR",
    )
    max_flip_rate: float = Field(
        0.2, ge=0, le=1, description="share of recent texts that may get another label, if there are 20 of them"
    )
    other_labels: wire.Flag = Field(False, description="the new model may have other labels")


class ComparisonBody(wire.WireModel):
    """The comparison of both models on recent texts."""

    texts: int = Field(ge=0, description="texts that both models answered; SERVICE_RELOAD_SAMPLES are kept")
    flip_rate: float = Field(ge=0, le=1, description="share of these texts with another label")
    mean_change: float = Field(ge=0, le=1, description="mean absolute change of the probability of their label")


class ReloadResponse(wire.WireModel):
    previous: wire.ModelBody
    model: wire.ModelBody = Field(description="the model that is served now")
    compared: ComparisonBody
    seconds: float


@router.post(
    "/reload",
    summary="Put another model in the place of the running one",
    description="Loads the artifact beside the running model, checks it as at start, lets both classify recent texts, "
    "and then sends new requests to the new one; no request is lost. If anything is wrong, the running model stays. "
    "Needs one of `SERVICE_ADMIN_KEYS`. `SIGHUP` does the same for `SERVICE_MODEL_DIR`. The answer takes as long as "
    "loading does; the reload continues if the caller hangs up.",
    **json_route(ReloadRequest, answer=ReloadResponse, errors=RELOAD_ERRORS),
)
async def reload(request: Request) -> Response:
    body = await read_json(request, ReloadRequest.model_validate)
    done = await wire.lifecycle_of(request).reload(ReloadOptions(body.model_dir, body.max_flip_rate, body.other_labels))
    seen = done.comparison
    response = ReloadResponse(
        previous=wire.model_body(done.previous),
        model=wire.model_body(done.current),
        compared=ComparisonBody(texts=seen.texts, flip_rate=seen.flip_rate, mean_change=seen.mean_change),
        seconds=round(done.seconds, 3),
    )
    return wire.json_response(response)
