"""The ASGI application: routes, error handlers, middleware and lifespan.

Nothing is built when this module is imported, and it does not import torch."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI

from service import __version__
from service.api import (
    admin,
    batch,
    compatible,
    documentation,
    open_inference,
    open_inference_metadata,
    operations,
    predict,
    sagemaker,
    tokenize,
)
from service.errors import install_handlers
from service.http import openapi
from service.http.middleware import QUIET, HeadAsGet, RequestContext
from service.inference.engine import Engine, Progress
from service.model.lifecycle import ModelLifecycle
from service.model.loader import LoadEngine
from service.settings import Settings
from service.telemetry import Metrics

WIRES = (
    predict,
    batch,
    tokenize,
    sagemaker,
    compatible,
    open_inference_metadata,
    open_inference,
    operations,
    admin,
    documentation,
)
"""The modules with routes, in the order of the OpenAPI document."""


def create_app(
    *,
    settings: Settings,
    load_engine: LoadEngine,
    on_load_failure: Callable[[BaseException], None] | None = None,
) -> FastAPI:
    """Make the app around an engine that is loaded in the background when the app starts.

    Args:
        settings: the service's settings.
        load_engine: called once, in a thread; meanwhile the port answers and `/readyz` is 503.
        on_load_failure: called with the error if loading fails; the composition root ends the process.
    """
    lifecycle = ModelLifecycle(settings, Metrics())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async def load() -> None:
            try:
                await lifecycle.start(load_engine)
            except Exception as exc:
                if on_load_failure is None:
                    raise
                on_load_failure(exc)

        loading = asyncio.create_task(load(), name="load")
        try:
            yield
        finally:
            loading.cancel()
            with suppress(asyncio.CancelledError):
                await loading
            await lifecycle.close()

    app = FastAPI(
        title="GPT-2 text classifier",
        version=__version__,
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        # Spans are exported if OTEL_EXPORTER_OTLP_ENDPOINT names a collector; see the extra "otel".
        telemetry={
            "auto_configure": True,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "exclude": lambda scope: scope.get("path") in QUIET,
        },
        # A path with a trailing slash is not redirected, because clients would send their body twice.
        redirect_slashes=False,
    )
    app.state.lifecycle = lifecycle
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    install_handlers(app)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestContext, lifecycle=lifecycle)
    for wire in WIRES:
        app.include_router(wire.router)
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return FastAPI's document, completed, and keep it."""
    if app.openapi_schema is None:
        app.openapi_schema = openapi.complete(FastAPI.openapi(app), app.state.lifecycle.settings)
    return app.openapi_schema


def openapi_document() -> dict[str, Any]:
    """Return the contract as it is exported to openapi.yaml, with default settings."""

    def no_engine(_: Settings, __: Progress) -> Engine:
        raise RuntimeError("the contract is exported without an engine")

    return create_app(settings=Settings.model_construct(**_defaults()), load_engine=no_engine).openapi()


def _defaults() -> dict[str, Any]:
    """Return the settings' defaults without reading the environment."""
    return {name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()}
