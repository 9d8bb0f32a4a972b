"""The health of a model: calls that hang and probes that fail, in virtual time."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from service.inference.admission import QueueLimits
from service.inference.batcher import PROBE_S, Batcher
from service.inference.model_thread import ModelThread
from service.telemetry import Metrics
from tests.support.fake_engine import FakeEngine, item
from tests.support.virtual_time import VIRTUAL_TIME

pytestmark = pytest.mark.anyio

STUCK_S = 100.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return VIRTUAL_TIME


class SlowModel:
    """Runs the calls of an engine after so many virtual seconds."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.seconds = 1.0

    async def run(self, call: Callable[[], object]) -> object:
        await asyncio.sleep(self.seconds)
        return call()


@pytest.fixture
def model() -> SlowModel:
    return SlowModel()


@pytest.fixture
def thread(model: SlowModel) -> ModelThread:
    return ModelThread(model.engine, STUCK_S, model.run)


HEALTHY, DOWN, LOST = (True, False), (False, False), (False, True)


def state(thread: ModelThread) -> tuple[bool, bool]:
    return thread.healthy, thread.needs_restart


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_call_needs_a_restart_once_it_is_stuck_and_no_more_when_it_ends(
    model: SlowModel, thread: ModelThread
) -> None:
    model.seconds = STUCK_S + 1
    call = asyncio.create_task(thread.infer([item("a")]))
    await asyncio.sleep(STUCK_S - 1)
    assert state(thread) == HEALTHY
    await asyncio.sleep(1)
    assert state(thread) == LOST
    await call
    assert state(thread) == HEALTHY


async def test_a_probe_that_hangs_is_stuck_like_a_batch(model: SlowModel, thread: ModelThread) -> None:
    model.seconds = STUCK_S + 1
    thread.doubt()
    probing = asyncio.create_task(thread.recheck())
    await asyncio.sleep(STUCK_S)
    assert state(thread) == LOST
    await probing
    assert state(thread) == HEALTHY


async def test_the_time_of_a_batch_begins_when_the_probe_before_it_ends(model: SlowModel, thread: ModelThread) -> None:
    model.seconds = STUCK_S - 1
    thread.doubt()
    probing = asyncio.create_task(thread.recheck())
    await asyncio.sleep(1)
    batch = asyncio.create_task(thread.infer([item("a")]))
    while not batch.done():
        assert not thread.needs_restart
        await asyncio.sleep(1)
    await probing
    assert now() == pytest.approx(2 * (STUCK_S - 1), abs=1)


async def test_a_probe_never_waits_for_a_batch(model: SlowModel, thread: ModelThread) -> None:
    """Both begin in the same turn of the loop, and the batch comes first."""
    model.seconds = STUCK_S / 2
    thread.doubt()
    checked = asyncio.create_task(thread.recheck())
    batch = asyncio.create_task(thread.infer([item("a")]))
    await checked
    assert now() == 0 and state(thread) == HEALTHY
    await batch
    assert now() == STUCK_S / 2


async def test_probes_that_fail_need_a_restart_after_the_same_time(model: SlowModel, thread: ModelThread) -> None:
    """As after an error of CUDA that stays, where every call fails at once."""
    model.engine.broken = True
    thread.doubt()
    await thread.recheck()
    first = now()
    while now() < first + STUCK_S:
        assert state(thread) == DOWN
        await asyncio.sleep(9)
        await thread.recheck()
    assert state(thread) == LOST
    model.engine.broken = False
    await thread.recheck()
    assert state(thread) == HEALTHY


async def test_a_lane_that_fell_once_needs_no_restart(model: SlowModel, thread: ModelThread) -> None:
    thread.doubt(down=True)
    await asyncio.sleep(2 * STUCK_S)
    assert state(thread) == DOWN, "nobody has asked the model yet"
    await thread.recheck()
    assert state(thread) == HEALTHY


async def test_a_hanging_probe_does_not_hang_the_health_check(model: SlowModel) -> None:
    batcher = Batcher(model.engine, QueueLimits(100, 1000, 20, stuck_s=STUCK_S), Metrics(), 2, run_blocking=model.run)
    batcher.start()
    model.seconds = STUCK_S / 2
    batcher.lanes[0].thread.doubt()
    for _ in range(3):  # the second and the third join the same probe
        asked = now()
        assert not await batcher.recheck()
        assert now() == asked + PROBE_S
    await asyncio.sleep(STUCK_S / 2)
    assert await batcher.recheck() and not batcher.needs_restart
    await batcher.close()
