"""A service whose model only a restart helps stops by itself."""

from dataclasses import dataclass

import pytest

from service.app import create_app
from service.http import server as module
from service.http.server import RESTART_S, Server
from service.model.lifecycle import ModelLifecycle
from service.settings import Settings
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio


@dataclass
class Clock:
    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class Lost(ModelLifecycle):
    lost = True

    @property
    def needs_restart(self) -> bool:
        return self.lost


@pytest.fixture
def server() -> Server:
    settings = Settings(port=0)
    app = create_app(settings=settings, load_engine=lambda *_: FakeEngine())
    lifecycle = app.state.lifecycle
    lifecycle.__class__ = Lost
    lifecycle.status = "ready"
    server = Server(app, lifecycle, settings)
    server.config.load()
    return server


def state(server: Server) -> tuple[str, bool]:
    return server._lifecycle.status, server.model_failed


async def test_it_ends_once_the_state_has_lasted(server: Server, clock: Clock) -> None:
    assert not await server.on_tick(1)
    clock.now += RESTART_S - 0.1
    assert not await server.on_tick(1) and state(server) == ("ready", False)
    clock.now += 0.1
    await server.on_tick(1)
    assert state(server) == ("draining", True)
    clock.now += module.LINGER_S
    assert await server.on_tick(1)


async def test_a_state_that_ends_in_time_is_forgotten(server: Server, clock: Clock) -> None:
    """As after a pause of the whole process, in which the clock went on."""
    for lost in (True, False, True):
        server._lifecycle.__dict__["lost"] = lost
        assert not await server.on_tick(1)
        clock.now += RESTART_S - 0.1
    assert state(server) == ("ready", False)


async def test_a_stop_that_was_asked_for_is_no_failure(server: Server, clock: Clock) -> None:
    server.handle_exit(15, None)
    await server.on_tick(1)
    clock.now += RESTART_S
    await server.on_tick(1)
    assert not server.model_failed
