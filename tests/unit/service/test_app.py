"""Start and stop of the app."""

import asyncio
import subprocess
import sys
import threading

import pytest

from service.app import create_app
from service.errors import EngineLoadError
from service.inference.engine import Engine, Progress
from service.settings import Settings
from tests.support import ROOT
from tests.support.app import client_of, loaded
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio


async def test_not_ready_before_ready_inside_drained_after() -> None:
    may_load, may_report = threading.Event(), threading.Event()

    def load(_: Settings, report: Progress) -> Engine:
        report("importing")
        may_report.set()
        assert may_load.wait(30)
        return FakeEngine()

    app = create_app(settings=Settings(), load_engine=load)
    async with client_of(app) as client, app.router.lifespan_context(app):
        assert (await client.get("/livez")).status_code == 200
        assert await asyncio.to_thread(may_report.wait, 30)
        assert (await client.get("/readyz")).json() == {"status": "loading", "stage": "importing"}
        assert (await client.get("/ping")).status_code == 503
        refused = await client.post("/predict", json={"text": "a"})
        assert (refused.status_code, refused.json()["kind"]) == (503, "not_ready")
        assert refused.headers["retry-after"] == "1"
        may_load.set()
        await loaded()
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/predict", json={"text": "a"})).status_code == 200
    assert app.state.lifecycle.status == "draining"


async def test_failed_load_is_told_to_the_composition_root_once() -> None:
    def load(_: Settings, report: Progress) -> Engine:
        raise EngineLoadError("the artifact is bad")

    failures: list[BaseException] = []
    app = create_app(settings=Settings(), load_engine=load, on_load_failure=failures.append)
    async with client_of(app) as client, app.router.lifespan_context(app):
        await loaded()
        assert (await client.get("/readyz")).json() == {"status": "failed"}
        assert (await client.post("/predict", json={"text": "a"})).status_code == 503
    assert [str(f) for f in failures] == ["the artifact is bad"]


async def test_stop_while_loading_is_clean() -> None:
    may_load = threading.Event()

    def load(_: Settings, report: Progress) -> Engine:
        may_load.wait(30)
        return FakeEngine()

    app = create_app(settings=Settings(), load_engine=load)
    async with app.router.lifespan_context(app):
        await asyncio.sleep(0)
        app.state.lifecycle.drain()
        may_load.set()


def test_app_and_contract_import_no_torch() -> None:
    code = (
        "import sys; from service.app import openapi_document; openapi_document(); "
        "print([m for m in ('torch', 'transformers', 'tokenizers', 'training') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
