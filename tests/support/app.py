"""The app in the test's own event loop, over the fake engine, with a client for it."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from service.app import create_app
from service.model.lifecycle import ModelLifecycle
from service.settings import Settings
from tests.support.fake_engine import FakeEngine


class Service:
    """The app, its client and its engine."""

    def __init__(self, app: FastAPI, client: httpx.AsyncClient, engine: FakeEngine) -> None:
        self.app = app
        self.client = client
        self.engine = engine

    @property
    def lifecycle(self) -> ModelLifecycle:
        lifecycle: ModelLifecycle = self.app.state.lifecycle
        return lifecycle

    async def post(self, path: str, body: Any) -> httpx.Response:
        return await self.client.post(path, json=body)

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Hold a batch in the model; its caller gets the answer at the end."""
        self.engine.gate.clear()
        held = asyncio.create_task(self.post("/predict", {"text": "busy"}))
        await reached(self.engine)
        yield
        self.engine.gate.set()
        assert (await held).status_code == 200

    async def metric(self, line_start: str) -> float:
        """Return the value of the first line of /metrics that begins so."""
        text = (await self.client.get("/metrics")).text
        [value, *_] = [line.split()[-1] for line in text.splitlines() if line.startswith(line_start)]
        return float(value)


ServiceFactory = Callable[..., AbstractAsyncContextManager[Service]]


def service_factory(engine: FakeEngine) -> ServiceFactory:
    """Return what starts the app over this engine; its arguments are settings."""

    @asynccontextmanager
    async def factory(**settings: Any) -> AsyncIterator[Service]:
        app = create_app(settings=Settings(**settings), load_engine=lambda *_: engine)
        async with app.router.lifespan_context(app):
            await loaded()
            async with client_of(app) as client:
                try:
                    yield Service(app, client, engine)
                finally:
                    engine.gate.set()

    return factory


def post_scope(path: str, content_type: bytes, **more: Any) -> dict[str, Any]:
    """Return the ASGI scope of a POST, for a caller that goes on after its body or does not take the answer."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", content_type)],
    } | more


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


async def loaded() -> None:
    """Wait for the app's own loading task."""
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == "load"))


async def reached(engine: FakeEngine, batches: int = 1) -> None:
    """Wait until so many more batches have reached the model."""
    for _ in range(batches):
        assert await asyncio.to_thread(engine.entered.acquire, timeout=30)


async def longest_turn_of(call: Coroutine[Any, Any, httpx.Response]) -> tuple[httpx.Response, float]:
    """Return the answer, and the most CPU seconds that the event loop's thread took between two turns of others."""
    gc.collect()
    gc.disable()  # its pauses are pytest's, not the call's
    try:
        task, longest, last = asyncio.create_task(call), 0.0, time.thread_time()
        while not task.done():
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, last = max(longest, now - last), now
    finally:
        gc.enable()
    return await task, longest
