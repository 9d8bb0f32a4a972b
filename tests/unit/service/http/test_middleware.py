"""API keys, and callers who hang up."""

import asyncio
from typing import Any

import httpx
import pytest

from service.settings import Settings, SettingsError, load_settings
from tests.support.app import Service, ServiceFactory, post_scope, reached

pytestmark = pytest.mark.anyio

KEYS = ("first-key-0123456789", "second-key-0123456789")


@pytest.mark.parametrize("path", ["/predict", "/batch", "/invocations", "/info", "/metrics", "/docs", "/nowhere"])
async def test_every_path_needs_a_key(service_with: ServiceFactory, path: str) -> None:
    async with service_with(api_keys=",".join(KEYS)) as service:
        for headers in (
            {},
            {"x-api-key": "wrong"},
            {"authorization": "Bearer"},
            {"authorization": f"Basic {KEYS[0]}"},
            {"authorization": f"Bearer {KEYS[0]}x"},
            {"x-api-key": f"{KEYS[0]},{KEYS[1]}"},
        ):
            response = await service.client.get(path, headers=headers)
            assert (response.status_code, response.json()["kind"]) == (401, "unauthorized")
            assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", KEYS)
async def test_any_of_the_keys_opens_in_either_header(service_with: ServiceFactory, key: str) -> None:
    async with service_with(api_keys=f" {KEYS[0]} , {KEYS[1]},") as service:
        for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}, {"authorization": f"bearer  {key}"}):
            response: httpx.Response = await service.client.post("/predict", json={"text": "a"}, headers=headers)
            assert response.status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready"])
async def test_health_stays_open(service_with: ServiceFactory, path: str) -> None:
    async with service_with(api_keys=KEYS[0]) as service:
        assert (await service.client.get(path)).status_code == 200


async def test_without_keys_the_service_is_open(service: Service) -> None:
    assert (await service.client.get("/info")).status_code == 200


def test_keys_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_API_KEYS", "secret-key-0123456789,short")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "5 characters" in str(caught.value) and "secret-key" not in str(caught.value)
    assert "secret-key" not in repr(Settings(api_keys="secret-key-0123456789"))


async def test_a_caller_who_hangs_up_stops_the_work(service: Service) -> None:
    messages = [{"type": "http.request", "body": b'{"text": "a"}', "more_body": False}]
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError("answered although nobody is there")

    service.engine.gate.clear()
    call = asyncio.ensure_future(service.app(post_scope("/predict", b"application/json"), receive, send))
    await reached(service.engine)
    assert service.lifecycle.in_flight == 1
    gone.set()
    await call
    assert service.lifecycle.in_flight == 0
    assert await service.metric('classifier_requests_total{code="499",endpoint="/predict"}') == 1
