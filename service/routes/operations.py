"""For operators: health, information, metrics."""

from dataclasses import asdict

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service import __version__
from service.routes.common import RuntimeOf, documented
from service.schemas import Info, Ready

router = APIRouter(tags=["operations"])

LIMITS = (
    "max_body_bytes",
    "max_text_chars",
    "max_texts",
    "max_queue_items",
    "max_queue_tokens",
    "default_timeout_ms",
    "max_timeout_ms",
)


@router.get("/livez", summary="Is the process alive?", response_model_exclude_none=True)
async def livez() -> Ready:
    return Ready(status="alive")


@router.get(
    "/readyz",
    summary="Would a prediction be answered now?",
    responses={503: {"model": Ready, "description": "loading, draining, failed or unhealthy"}},
    response_model=Ready,
)
async def readyz(runtime: RuntimeOf) -> Response:
    status = await runtime.readiness()
    body: dict[str, str] = {"status": status}
    if status == "loading":
        body["stage"] = runtime.stage
    return JSONResponse(body, status_code=200 if status == "ready" else 503)


@router.get("/info", summary="Model and limits", responses=documented("not_ready", "draining"))
async def info(runtime: RuntimeOf) -> Info:
    settings, model = runtime.settings, runtime.open().info
    return Info(
        service=__version__,
        model=asdict(model),
        limits={name: getattr(settings, name) for name in LIMITS} | {"max_batch_tokens": model.max_batch_tokens},
    )


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(runtime: RuntimeOf) -> Response:
    return Response(generate_latest(runtime.metrics.registry), media_type=CONTENT_TYPE_LATEST)
