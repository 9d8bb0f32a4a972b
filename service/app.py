"""The application: routes, handlers and lifespan put together. Builds nothing when imported, and imports no torch."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import __version__
from service.api import admin, operations, predict, sagemaker
from service.api import compatible as compat
from service.api import open_inference as tensors
from service.errors import install_handlers
from service.http import openapi as contract
from service.http.middleware import QUIET, RequestContext
from service.inference.engine import Engine, Progress
from service.model.lifecycle import LoadEngine, ModelLifecycle
from service.settings import Settings
from service.telemetry import Metrics


def create_app(
    *,
    settings: Settings,
    load_engine: LoadEngine,
    on_load_failure: Callable[[BaseException], None] | None = None,
) -> FastAPI:
    """The whole service around an engine that is loaded in the background once the app starts.

    Args:
        settings: limits and places.
        load_engine: called once, in a thread; the port answers meanwhile and `/readyz` says 503.
        on_load_failure: told why there will be no engine; the composition root ends the process.
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
        description=contract.DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        # Spans go where OTEL_EXPORTER_OTLP_ENDPOINT says, if it says anything; see the extra "otel".
        telemetry={
            "auto_configure": True,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "exclude": lambda scope: scope.get("path") in QUIET,
        },
        # A trailing slash is another path: a redirect would make clients send their body twice.
        redirect_slashes=False,
    )
    app.state.lifecycle = lifecycle
    app.openapi = lambda: _contract(app)  # type: ignore[method-assign]
    install_handlers(app)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestContext, lifecycle=lifecycle)
    for router in (
        predict.router,
        predict.bulk,
        sagemaker.router,
        sagemaker.forms,
        compat.router,
        tensors.router,
        tensors.forms,
        operations.router,
        admin.router,
    ):
        app.include_router(router)
    return app


def _contract(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, completed."""
    if app.openapi_schema is None:
        app.openapi_schema = contract.complete(FastAPI.openapi(app), app.state.lifecycle.settings)
    return app.openapi_schema


class HeadAsGet:
    """Answers HEAD as GET without its body, on every path that takes GET (RFC 9110, section 9.3.2).

    Load balancers ask so, and FastAPI's routes, unlike Starlette's, take no HEAD.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        as_get = {**scope, "method": "GET"}  # a copy: the server must still know that no body may follow
        await self._app(as_get, receive, send_head)
        scope["route"] = as_get.get("route")  # metrics are by route


def openapi_document() -> dict[str, Any]:
    """The contract as it is exported to openapi.yaml: no engine, default settings."""

    def no_engine(_: Settings, __: Progress) -> Engine:
        raise RuntimeError("the contract is exported without an engine")

    return create_app(settings=Settings.model_construct(**_defaults()), load_engine=no_engine).openapi()


def _defaults() -> dict[str, Any]:
    """The settings' defaults whatever the environment says."""
    return {name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()}
