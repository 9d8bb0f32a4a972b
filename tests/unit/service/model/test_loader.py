"""Loading in a thread: what must hold however it ends."""

from collections.abc import Callable

import pytest

from service.errors import EngineLoadError
from service.inference.engine import Engine, Progress
from service.model import loader
from service.model.host import LOADING, SERVING
from service.settings import Settings
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio


def answers(settings: Settings, report: Progress) -> Engine:
    return FakeEngine()


def fails(settings: Settings, report: Progress) -> Engine:
    raise EngineLoadError("no such model")


@pytest.mark.parametrize("load", [answers, fails])
async def test_the_allocator_is_set_for_serving_however_loading_ends(
    load: Callable[[Settings, Progress], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    thresholds: list[int] = []
    monkeypatch.setattr(loader, "tune_allocator", thresholds.append)
    try:
        await loader.EngineLoader(load).load(Settings())
    except EngineLoadError:
        assert load is fails
    assert thresholds == [LOADING, SERVING]
