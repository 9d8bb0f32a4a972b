"""For those who may change what is served."""

from fastapi import APIRouter

from service.api.common import JsonRoute, LifecycleOf, documented, model_of
from service.api.schemas_admin import Compared, ReloadRequest, ReloadResponse
from service.model.reload import ReloadOptions

router = APIRouter(route_class=JsonRoute, prefix="/admin", tags=["operations"])


@router.post(
    "/reload",
    summary="Put another model in the place of the running one",
    description="Loads the artifact beside the running model, checks it as at start, lets both classify recent texts, "
    "and then sends new requests to the new one; no request is lost. If anything is wrong, the running model stays "
    "where it is. Needs one of `SERVICE_ADMIN_KEYS`. `SIGHUP` does the same for `SERVICE_MODEL_DIR`. The answer takes "
    "as long as loading does; the reload goes on if the caller leaves.",
    responses=documented(
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
    ),
)
async def reload(body: ReloadRequest, lifecycle: LifecycleOf) -> ReloadResponse:
    done = await lifecycle.reload(ReloadOptions(body.model_dir, body.max_flip_rate, body.other_labels))
    seen = done.comparison
    return ReloadResponse(
        previous=model_of(done.previous),
        model=model_of(done.current),
        compared=Compared(texts=seen.samples, flip_rate=seen.flip_rate, mean_change=seen.mean_change),
        seconds=round(done.seconds, 3),
    )
