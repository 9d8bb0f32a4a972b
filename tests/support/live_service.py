"""The app over the fake engine behind a real socket, in a thread of this process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from service.app import create_app
from service.http.protocol import BoundedProtocol
from service.settings import Settings
from tests.support.fake_engine import FakeEngine
from tests.support.service_process import free_port
from tests.unit.service.conftest import loaded


@contextmanager
def live_service() -> Iterator[str]:
    """Its URL, once it is ready."""
    engine, port = FakeEngine(), free_port()
    app = create_app(settings=Settings(), load_engine=lambda *_: engine)
    config = uvicorn.Config(app, http=BoundedProtocol, host="127.0.0.1", port=port, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    ready = threading.Event()

    async def serve() -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        await loaded()
        ready.set()
        await serving

    thread = threading.Thread(target=asyncio.run, args=[serve()], name="live-service")
    thread.start()
    try:
        assert ready.wait(30)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
