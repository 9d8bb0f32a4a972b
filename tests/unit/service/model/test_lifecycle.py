"""Another model in the place of the running one: over fake engines, so that what each answered can be told."""

import asyncio
import gc
import logging
import os
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

from service.errors import EngineLoadError
from service.inference.engine import Engine, Progress
from service.model.autotune import BudgetTrial, PrecisionTrial
from service.settings import Settings
from tests.support.app import Service, ServiceFactory, reached
from tests.support.fake_engine import LABELS, FakeEngine

pytestmark = pytest.mark.anyio

KEY = "an administrator's key"
ADMIN = {"x-api-key": KEY}


@pytest.fixture
async def service(service_with: ServiceFactory) -> AsyncIterator[Service]:
    async with service_with(admin_keys=KEY) as service:
        yield service


def other_engine(**changes: Any) -> FakeEngine:
    engine = FakeEngine()
    engine.info = replace(engine.info, **({"version": "ffffffffffff"} | changes))
    return engine


class Shifted(FakeEngine):
    """Gives every text the next label."""

    @staticmethod
    def _logits(text: str) -> list[float]:
        row = FakeEngine._logits(text)
        return row[-1:] + row[:-1]


def next_is(service: Service, found: Engine | Exception) -> list[Settings]:
    """Set what the next reload finds; return a list to which each reload adds its settings."""
    asked: list[Settings] = []

    def load(settings: Settings, report: Progress) -> Engine:
        report("loading the other")
        asked.append(settings)
        if isinstance(found, Exception):
            raise found
        return found

    assert service.lifecycle._loader is not None
    service.lifecycle._loader.load_engine = load
    return asked


async def reload(service: Service, **options: Any) -> httpx.Response:
    return await service.client.post("/admin/reload", json=options, headers=ADMIN)


async def replace_model(service: Service, engine: Engine, **options: Any) -> dict[str, Any]:
    next_is(service, engine)
    answer = await reload(service, **options)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def held_while_comparing(service: Service) -> FakeEngine:
    """Return the next reload's engine, which does not yet answer the recent text."""
    other = other_engine()
    await service.post("/predict", {"text": "a word"})
    next_is(service, other)
    other.gate.clear()
    return other


async def post_texts(service: Service, count: int) -> None:
    for i in range(count):
        await service.post("/predict", {"text": "word " * i + "end"})


async def version(service: Service) -> str:
    answer = await service.post("/predict", {"text": "a word"})
    assert answer.status_code == 200
    found: str = answer.json()["model"]["version"]
    return found


async def test_the_other_model_answers_from_then_on(service_with: ServiceFactory, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with service_with(admin_keys=KEY, model_dir=tmp_path / "first") as service:
        await check_the_other_answers(service, tmp_path / "other")


async def check_the_other_answers(service: Service, directory: Path) -> None:
    await post_texts(service, 30)
    asked = next_is(service, other_engine())
    answer = await reload(service, model_dir=str(directory))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["previous"]["version"], body["model"]["version"]) == ("0123456789ab", "ffffffffffff")
    assert body["compared"] == {"texts": 30, "flip_rate": 0, "mean_change": 0}
    assert await version(service) == "ffffffffffff"
    info = (await service.client.get("/info")).json()
    assert info["model"]["version"] == "ffffffffffff"
    assert await service.metric('classifier_model_info{name="fake",version="ffffffffffff"}') == 1
    assert await service.metric('classifier_reloads_total{outcome="done"}') == 1
    assert "0123456789ab" not in (await service.client.get("/metrics")).text
    [settings] = asked
    assert settings.model_dir == directory
    assert (settings.precision, settings.max_batch_tokens) == ("float32", 4096), "as chosen at start"


async def test_info_still_says_after_a_reload_how_precision_and_batch_size_were_chosen(
    service_with: ServiceFactory, engine: FakeEngine
) -> None:
    engine.info = replace(
        engine.info,
        precision_trials=(PrecisionTrial("float32", "chosen: nothing faster agrees with it", 900.0),),
        budget_trials=(BudgetTrial(4096, 950.0),),
        tokens_per_s=950.0,
    )
    async with service_with(admin_keys=KEY) as service:
        before = (await service.client.get("/info")).json()["model"]
        for _ in range(2):
            await replace_model(service, other_engine())
        after = (await service.client.get("/info")).json()["model"]
    assert after["version"] == "ffffffffffff"
    for field in ("precision_trials", "budget_trials", "tokens_per_s"):
        assert before[field] and after[field] == before[field]


async def test_comparing_is_not_counted_as_traffic(service: Service) -> None:
    await service.post("/predict", {"text": "a word"})
    next_is(service, other_engine())
    await reload(service)
    assert await service.metric("classifier_texts_total") == 1


async def test_what_the_old_model_has_is_finished_by_it(service_with: ServiceFactory) -> None:
    async with service_with(admin_keys=KEY, reload_samples=0) as service:
        old = service.engine
        old.gate.clear()
        waiting = [asyncio.create_task(service.post("/predict", {"text": f"text {i}"})) for i in range(5)]
        await reached(old)
        await replace_model(service, other_engine())
        assert await version(service) == "ffffffffffff", "new requests do not wait for the old model"
        old.gate.set()
        answers = await asyncio.gather(*waiting)
        assert {a.status_code for a in answers} == {200}
        assert {a.json()["model"]["version"] for a in answers} == {"0123456789ab"}
        await asyncio.gather(*service.lifecycle._background_tasks)
        assert not service.lifecycle._background_tasks


async def kept(service: Service, answer: httpx.Response) -> str:
    """Check that the running model still answers; return the reason."""
    assert (answer.status_code, answer.json()["kind"]) == (422, "reload_refused"), answer.text
    assert await version(service) == "0123456789ab"
    assert await service.metric('classifier_reloads_total{outcome="refused"}') == 1
    reason: str = answer.json()["error"]
    assert "kept" in reason
    return reason


@pytest.mark.parametrize("last", ["a word", "poison"])
async def test_a_replaced_model_is_freed_at_once(
    service_with: ServiceFactory, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Not by the garbage collector: a load has put all that there was before it out of its sight."""
    silent = logging.Logger("silent")
    silent.disabled = True
    for module in ("lane", "model_thread"):
        monkeypatch.setattr(f"service.inference.{module}.logger", silent)  # pytest keeps what is logged with its stacks
    async with service_with(admin_keys=KEY, cache_items=4) as service:
        await replace_model(service, other_engine())
        await service.post("/predict", {"text": last})
        pipeline = service.lifecycle.current_pipeline()
        engine, batcher = weakref.ref(pipeline.engine), weakref.ref(pipeline.batcher)
        del pipeline
        gc.collect()
        gc.disable()
        try:
            await replace_model(service, FakeEngine())
            await asyncio.gather(*service.lifecycle._background_tasks)
            await asyncio.sleep(0)
            assert (engine(), batcher()) == (None, None)
        finally:
            gc.enable()


async def test_a_broken_artifact_is_refused(service: Service) -> None:
    next_is(service, EngineLoadError("artifact x: model.safetensors was altered"))
    assert "was altered" in await kept(service, await reload(service))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("/", "is not below"),
        ("../outside", "is not below"),
        ("link-out", "is not below"),
        ("nowhere", "is no directory"),
        ("file", "is no directory"),
        ("loop", "cannot be read"),
        ("x" * 300, "cannot be read"),
        ("holds-link-out", "leads out of"),
        ("holds-fifo", "is no regular file"),
    ],
)
async def test_only_regular_files_beside_the_model_are_read(
    service_with: ServiceFactory, tmp_path: Path, name: str, problem: str
) -> None:
    root = tmp_path / "models"
    for directory in (tmp_path / "outside", root / "holds-link-out", root / "holds-fifo"):
        directory.mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (root / "file").touch()
    (root / "link-out").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to(root / "loop")
    (root / "holds-link-out" / "manifest.json").symlink_to(tmp_path / "secret")
    os.mkfifo(root / "holds-fifo" / "manifest.json")
    async with service_with(admin_keys=KEY, model_dir=root / "first") as service:
        asked = next_is(service, other_engine())
        assert problem in await kept(service, await reload(service, model_dir=str(root / name)))
        assert not asked


async def test_links_below_the_root_are_followed(service_with: ServiceFactory, tmp_path: Path) -> None:
    for name in ("v2", "blobs"):
        (tmp_path / name).mkdir()
    (tmp_path / "blobs" / "1").touch()
    (tmp_path / "v2" / "manifest.json").symlink_to(tmp_path / "blobs" / "1")
    (tmp_path / "current").symlink_to("v2")
    async with service_with(admin_keys=KEY, model_dir=tmp_path / "current") as service:
        next_is(service, other_engine())
        assert (await reload(service, model_dir=str(tmp_path / "current"))).status_code == 200


async def test_no_directory_may_be_named_where_the_model_is_directly_below_the_root(
    service_with: ServiceFactory,
) -> None:
    async with service_with(admin_keys=KEY, model_dir=Path("/model")) as service:
        next_is(service, other_engine())
        assert "directly below /" in await kept(service, await reload(service, model_dir="/etc"))


@pytest.mark.parametrize(("available_mb", "status"), [(None, 200), (154, 200), (153, 422)])
async def test_a_model_that_the_memory_may_not_hold_is_refused_before_it_is_loaded(
    service_with: ServiceFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    available_mb: int | None,
    status: int,
) -> None:
    """20 Mi parameters take 90 MB in float32, whatever they are stored in, and batches 64 MB."""
    half = np.zeros((20 << 20, 1), dtype=np.float16)
    save_file({"wte": half[: 19 << 20], "b": half[: 1 << 20].reshape(-1)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(
        "service.model.lifecycle.available_memory", lambda: None if available_mb is None else available_mb << 20
    )
    async with service_with(admin_keys=KEY, model_dir=tmp_path) as service:
        asked = next_is(service, other_engine())
        answer = await reload(service)
        assert answer.status_code == status and len(asked) == (status == 200)
        if status == 422:
            assert "needs 154 MB" in await kept(service, answer) and "153 MB are available" in answer.text


async def test_a_fault_while_loading_keeps_the_running_model(service: Service) -> None:
    next_is(service, RuntimeError("a fault"))
    answer = await reload(service)
    assert (answer.status_code, answer.json()["kind"]) == (500, "internal")
    assert await version(service) == "0123456789ab"


async def test_other_labels_are_refused_unless_asked_for(service: Service) -> None:
    next_is(service, other_engine(labels=(*LABELS, "weather")))
    assert "weather" in await kept(service, await reload(service))
    assert (await reload(service, other_labels=True)).status_code == 200
    assert await service.metric('classifier_predictions_total{label="weather"}') == 0


async def test_too_many_other_answers_are_refused(service: Service) -> None:
    shifted = Shifted()
    shifted.info = replace(shifted.info, version="ffffffffffff")
    await post_texts(service, 25)
    next_is(service, shifted)
    assert "25 of 25 recent texts" in await kept(service, await reload(service))
    answer = await reload(service, max_flip_rate=1)
    assert answer.json()["compared"] == {"texts": 26, "flip_rate": 1, "mean_change": 1}


async def test_a_model_that_fails_on_recent_texts_is_refused(service: Service) -> None:
    broken = other_engine()
    await service.post("/predict", {"text": "a word"})
    broken.broken = True
    next_is(service, broken)
    assert "fails on 1 of 1" in await kept(service, await reload(service))


async def test_one_reload_at_a_time_and_it_goes_on_without_its_caller(service: Service) -> None:
    other = await held_while_comparing(service)
    first = asyncio.create_task(reload(service))
    await reached(other)  # comparing
    second = await reload(service)
    assert (second.status_code, second.json()["kind"]) == (503, "not_ready"), "it may succeed later, unlike a refusal"
    assert second.json()["error"].startswith("another reload is under way") and int(second.headers["retry-after"]) >= 1
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    other.gate.set()
    assert service.lifecycle._reloading is not None
    await service.lifecycle._reloading
    assert await version(service) == "ffffffffffff"


async def test_stopping_during_a_reload_keeps_the_old_model_and_ends(service: Service) -> None:
    other = await held_while_comparing(service)
    call = asyncio.create_task(reload(service))
    await reached(other)
    service.lifecycle.drain()
    other.gate.set()
    assert (await call).json()["kind"] == "draining"


async def test_a_model_that_was_replaced_while_stuck_is_still_known_to_be_busy(
    service: Service, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process must know when it ends, because the interpreter waits for threads, perhaps for ever."""
    monkeypatch.setattr("service.inference.model_thread.CLOSE_S", 0.0)
    engine.gate.clear()
    assert (await service.post("/predict", {"text": "a word", "timeout_ms": 50})).status_code == 504
    await replace_model(service, other_engine())
    await asyncio.gather(*service.lifecycle._background_tasks)
    assert service.lifecycle._loader is not None and service.lifecycle._loader._thread is not None
    await asyncio.to_thread(service.lifecycle._loader._thread.join, 30)
    assert service.lifecycle.busy
    engine.gate.set()
    assert await version(service) == "ffffffffffff"


async def test_whoever_waits_for_the_old_model_is_told_when_time_is_up(
    service: Service, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.inference.model_thread.CLOSE_S", 0.0)
    engine.gate.clear()
    call = asyncio.create_task(service.post("/predict", {"text": "a word"}))
    await reached(engine)
    await replace_model(service, other_engine())
    service.lifecycle.drain()
    service.lifecycle.give_up()
    assert (await call).json()["kind"] == "draining"


@pytest.mark.parametrize(
    "headers", [{}, {"x-api-key": "not the key at all"}, {"authorization": "Bearer classify-only-key"}]
)
async def test_only_administrators_reload(service_with: ServiceFactory, headers: dict[str, str]) -> None:
    async with service_with(admin_keys=KEY, api_keys="classify-only-key") as service:
        answer = await service.client.post("/admin/reload", json={}, headers=headers)
        assert (answer.status_code, answer.json()["kind"]) == (401, "unauthorized")
        assert "SERVICE_ADMIN_KEYS" in answer.json()["error"]


async def test_without_administrators_the_path_is_closed(service_with: ServiceFactory) -> None:
    async with service_with() as service:
        answer = await reload(service)
    assert answer.status_code == 401 and "closed" in answer.json()["error"]


async def test_reload_soon_logs_and_never_raises(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    next_is(service, EngineLoadError("artifact x: manifest.json is missing"))
    service.lifecycle.reload_soon()
    await asyncio.gather(*service.lifecycle._background_tasks)
    assert "manifest.json is missing" in caplog.text
    service.lifecycle.drain()
    service.lifecycle.reload_soon()
    await asyncio.gather(*service.lifecycle._background_tasks)
    assert "no reload: the service is stopping" in caplog.text


async def test_a_signal_during_a_reload_does_not_go_unheard(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    other = await held_while_comparing(service)
    service.lifecycle.reload_soon()
    await reached(other)
    service.lifecycle.reload_soon()
    await asyncio.sleep(0)
    assert "no reload: another reload is under way" in caplog.text
    other.gate.set()
    await asyncio.gather(*service.lifecycle._background_tasks)
    assert await version(service) == "ffffffffffff"
