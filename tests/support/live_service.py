"""The app over the fake engine on a real socket, behind the service's HTTP protocol, in a thread of this process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from service.app import create_app
from service.http.protocol import BoundedProtocol
from service.settings import Settings
from tests.support.app import loaded
from tests.support.fake_engine import FakeEngine


@dataclass(frozen=True)
class LiveService:
    url: str
    engine: FakeEngine


@contextmanager
def live_service(**settings: Any) -> Iterator[LiveService]:
    """A service with these settings on a free port, once it is ready."""
    engine = FakeEngine()
    app = create_app(settings=Settings(**settings), load_engine=lambda *_: engine)
    config = uvicorn.Config(
        app, http=BoundedProtocol, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="on"
    )
    server = uvicorn.Server(config)
    ready = threading.Event()

    async def serve() -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0)
        await loaded()
        ready.set()
        await serving

    thread = threading.Thread(target=asyncio.run, args=[serve()], name="live-service")
    thread.start()
    try:
        assert ready.wait(30), "the service never became ready"
        yield LiveService(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", engine)
    finally:
        engine.gate.set()
        server.should_exit = True
        thread.join(30)
