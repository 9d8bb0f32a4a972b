"""Health, information and metrics for operators."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field

from service import __version__
from service.api import wire
from service.http.openapi import documented
from service.inference.engine import EngineInfo

router = APIRouter(tags=["operations"])


class Root(wire.WireModel):
    """The release of the service, and the paths of its most important pages."""

    service: str = Field(description="the service's release")
    documentation: str
    contract: str
    information: str
    readiness: str


class Alive(wire.WireModel):
    status: Literal["alive", "needs_restart"]


class Ready(wire.WireModel):
    status: Literal["loading", "ready", "draining", "failed", "unhealthy"]
    stage: str | None = Field(None, description="while loading: the step that is under way")


class LimitsBody(wire.WireModel):
    """The values of the settings with the same names, and the model's token budget."""

    max_body_bytes: int
    max_text_chars: int
    max_texts: int
    max_requests: int
    max_streams: int
    max_held_bytes: int
    max_queue_items: int
    max_queue_tokens: int
    default_timeout_ms: int
    max_timeout_ms: int
    max_batch_tokens: int = Field(description="tokens computed at once")


class InfoBody(wire.WireModel):
    """The served model and the limits of requests."""

    service: str = Field(description="the service's release")
    model: EngineInfo
    limits: LimitsBody


@router.get("/", summary="Paths to continue with")
async def root() -> Root:
    return Root(
        service=__version__, documentation="/docs", contract="/openapi.json", information="/info", readiness="/readyz"
    )


@router.get(
    "/livez",
    summary="Is the process alive?",
    responses={503: {"model": Alive, "description": "only a restart of the process helps"}},
    response_model=Alive,
)
async def livez(request: Request) -> Response:
    lost = wire.lifecycle_of(request).needs_restart
    return wire.json_response(Alive(status="needs_restart" if lost else "alive"), status=503 if lost else 200)


@router.get(
    "/readyz",
    summary="Would a prediction be answered now?",
    responses={503: {"model": Ready, "description": "loading, draining, failed or unhealthy"}},
    response_model=Ready,
)
async def readyz(request: Request) -> Response:
    lifecycle = wire.lifecycle_of(request)
    status = await lifecycle.readiness()
    body = Ready.model_validate({"status": status, "stage": lifecycle.stage if status == "loading" else None})
    return wire.json_response(body, status=200 if status == "ready" else 503)


@router.get("/info", summary="Model and limits", responses=documented("not_ready", "draining"))
async def info(request: Request) -> InfoBody:
    lifecycle = wire.lifecycle_of(request)
    settings, model = lifecycle.settings, lifecycle.current_pipeline().info
    limits = {name: getattr(settings, name) for name in LimitsBody.model_fields if name != "max_batch_tokens"}
    return InfoBody(
        service=__version__, model=model, limits=LimitsBody(**limits, max_batch_tokens=model.max_batch_tokens)
    )


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    lifecycle = wire.lifecycle_of(request)
    lifecycle.metrics.ready.set(await lifecycle.readiness() == "ready")
    return Response(generate_latest(lifecycle.metrics.registry), media_type=CONTENT_TYPE_LATEST)
