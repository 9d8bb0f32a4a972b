"""For operators: health, information, metrics."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service import __version__
from service.api.common import LifecycleOf, documented
from service.api.schemas_operations import Alive, InfoBody, LimitsBody, Ready, Root

router = APIRouter(tags=["operations"])


@router.get("/", summary="Where to go on")
async def root() -> Root:
    return Root(
        service=__version__, documentation="/docs", contract="/openapi.json", information="/info", readiness="/readyz"
    )


@router.get("/livez", summary="Is the process alive?")
async def livez() -> Alive:
    return Alive()


@router.get(
    "/readyz",
    summary="Would a prediction be answered now?",
    responses={503: {"model": Ready, "description": "loading, draining, failed or unhealthy"}},
    response_model=Ready,
)
async def readyz(lifecycle: LifecycleOf) -> Response:
    status = await lifecycle.readiness()
    body: dict[str, str] = {"status": status}
    if status == "loading":
        body["stage"] = lifecycle.stage
    return JSONResponse(body, status_code=200 if status == "ready" else 503)


@router.get("/info", summary="Model and limits", responses=documented("not_ready", "draining"))
async def info(lifecycle: LifecycleOf) -> InfoBody:
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
async def metrics(lifecycle: LifecycleOf) -> Response:
    return Response(generate_latest(lifecycle.metrics.registry), media_type=CONTENT_TYPE_LATEST)
