"""Every kind of error, provoked through HTTP: its status, its one shape, its headers, and its place in the contract."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
import pytest
import yaml
from starlette.exceptions import HTTPException

from service.api.wire import ErrorBody
from service.app import create_app
from service.errors import STATUS, EngineLoadError
from service.http import protocol
from service.inference.engine import Engine
from service.settings import Settings
from tests.support import ROOT
from tests.support.app import Service, ServiceFactory
from tests.support.raw_http import connection

pytestmark = pytest.mark.anyio

REQUEST_ID = "errors-7"
HEADERS = {"x-request-id": REQUEST_ID}
JSON = HEADERS | {"content-type": "application/json"}
KEY = "k" * 16

Provoke = Callable[[Service], Awaitable[httpx.Response]]


def post(path: str, body: Any, **headers: str) -> Provoke:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda service: service.client.post(path, content=content, headers=JSON | headers)


def get(path: str, **headers: str) -> Provoke:
    return lambda service: service.client.get(path, headers=HEADERS | headers)


async def while_busy(service: Service, provoke: Provoke) -> httpx.Response:
    """Provoke the error while a batch is in the model."""
    async with service.busy():
        return await provoke(service)


async def draining(service: Service) -> httpx.Response:
    service.lifecycle.drain()
    return await post("/predict", {"text": "a"})(service)


async def overloaded(service: Service) -> httpx.Response:
    return await while_busy(service, post("/predict", {"text": "b"}))


async def too_late(service: Service) -> httpx.Response:
    return await while_busy(service, post("/predict", {"text": "b", "timeout_ms": 1}))


async def fault(service: Service) -> httpx.Response:
    def broken(*_: object) -> Any:
        raise ZeroDivisionError("a fault of the service")

    setattr(service.engine, "encode", broken)  # noqa: B010 - as an assignment it would need two type: ignore
    return await post("/predict", {"text": "a"})(service)


async def unhealthy(service: Service) -> httpx.Response:
    service.engine.broken = True
    await post("/predict", {"text": "a"})(service)
    return await get("/v2/models/fake/ready")(service)


async def reload_of_nothing(service: Service) -> httpx.Response:
    def load(*_: object) -> Engine:
        raise EngineLoadError("artifact nowhere: no such directory")

    assert service.lifecycle._loader is not None
    service.lifecycle._loader.load_engine = load
    return await post("/admin/reload", {}, authorization=f"Bearer {KEY}")(service)


async def teapot(service: Service) -> httpx.Response:
    """An error of the framework that has no kind of its own, from a route added here."""

    async def short() -> None:
        raise HTTPException(418)

    service.app.add_api_route("/livez/teapot", short)
    return await get("/livez/teapot")(service)


NOT_UTF8 = b'{"text": "\xff"}'
DEEP = b'{"text":' + b"[" * 100_000
DIGITS = b'{"text": "a", "top_k": ' + b"1" * 5_000 + b"}"

CASES: list[tuple[str, str, str, Provoke, Mapping[str, Any]]] = [
    ("invalid_json", "not JSON", "/predict", post("/predict", b"{"), {}),
    ("invalid_json", "not UTF-8", "/predict", post("/predict", NOT_UTF8), {}),
    ("invalid_json", "nested too deeply", "/predict", post("/predict", DEEP), {}),
    ("invalid_json", "a number of 5,000 digits", "/predict", post("/predict", DIGITS), {}),
    ("invalid_body", "CSV that is not UTF-8", "/invocations",
     post("/invocations", b"\xff", **{"content-type": "text/csv"}), {}),
    ("unauthorized", "no key", "/info", get("/info"), {"api_keys": KEY}),
    ("unauthorized", "a wrong key", "/predict", post("/predict", {"text": "a"}, authorization="Bearer x"),
     {"api_keys": KEY}),
    ("unauthorized", "a key that may only classify", "/admin/reload",
     post("/admin/reload", {}, authorization=f"Bearer {KEY}"), {"api_keys": KEY, "admin_keys": f"{KEY}-of-admins"}),
    ("reload_refused", "an artifact that is not there", "/admin/reload", reload_of_nothing, {"admin_keys": KEY}),
    ("bad_request", "the framework's own error of another status", "", teapot, {}),
    ("not_found", "an unknown path", "", get("/nothing"), {}),
    ("not_found", "another model", "/v2/models/{model}", get("/v2/models/other"), {}),
    ("method_not_allowed", "another method", "/predict", get("/predict"), {}),
    ("method_not_allowed", "another method of a path with two routes", "/",
     lambda service: service.client.delete("/", headers=HEADERS), {}),
    ("not_acceptable", "an Accept that cannot be met", "/invocations",
     post("/invocations", {"text": "a"}, accept="image/png"), {}),
    ("body_too_large", "a declared length above the limit", "/predict",
     post("/predict", {"text": "a" * 2_000}), {"max_body_bytes": 1_000}),
    ("text_too_large", "too many characters", "/predict", post("/predict", {"text": "a" * 11}), {"max_text_chars": 10}),
    ("too_many_texts", "too many texts", "/batch", post("/batch", {"texts": ["a", "b", "c"]}), {"max_texts": 2}),
    ("unsupported_media_type", "another Content-Type", "/predict",
     post("/predict", b"a", **{"content-type": "text/plain"}), {}),
    ("unsupported_media_type", "a compressed body", "/batch",
     post("/batch", {"texts": ["a"]}, **{"content-encoding": "gzip"}), {}),
    ("invalid_request", "a field of the wrong type", "/predict", post("/predict", {"text": 1}), {}),
    ("invalid_request", "an unknown field", "/predict", post("/predict", {"text": "a", "b": 1}), {}),
    ("invalid_request", "1,000 unknown fields", "/predict",
     post("/predict", {"text": "a"} | {f"f{i}": 1 for i in range(1000)}), {}),
    ("invalid_request", "an id with an unpaired surrogate", "/v2/models/{model}/infer",
     post("/v2/models/fake/infer", {"id": "\ud800", "inputs": [
         {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}), {}),
    ("invalid_request", "a timeout above the limit", "/predict",
     post("/predict", {"text": "a", "timeout_ms": 10**6}), {}),
    ("empty_text", "white space only", "/predict", post("/predict", {"text": " \n"}), {}),
    ("empty_text", "one of several tensors' texts", "/v2/models/{model}/infer",
     post("/v2/models/fake/infer", {"inputs": [
         {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a", ""]}]}), {}),
    ("invalid_text", "an unpaired surrogate", "/predict", post("/predict", {"text": "\ud800"}), {}),
    ("text_too_long", 'too many tokens, on_long "error"', "/predict",
     post("/predict", {"text": "a " * 60, "on_long": "error"}), {}),
    ("overloaded", "the queue is full", "/predict", overloaded, {"max_queue_items": 1}),
    ("overloaded", "too many requests in flight", "/predict", overloaded, {"max_requests": 1}),
    ("inference_failed", "the model raises on the text", "/predict", post("/predict", {"text": "poison"}), {}),
    ("inference_failed", "the model's answer is not finite", "/predict", post("/predict", {"text": "nan"}), {}),
    ("internal", "a fault in the service", "/predict", fault, {}),
    ("not_ready", "the model is not healthy", "/v2/models/{model}/ready", unhealthy, {}),
    ("draining", "after SIGTERM", "/predict", draining, {}),
    ("deadline_exceeded", "a timeout shorter than the work", "/predict", too_late, {}),
]  # fmt: skip

DOCUMENT = yaml.safe_load((ROOT / "openapi.yaml").read_text(encoding="utf-8"))


def check(kind: str, path: str, method: str, status: int, headers: Mapping[str, str], content: bytes) -> None:
    """Check all that the contract promises about an error."""
    body = ErrorBody.model_validate_json(content)
    assert (body.kind, status) == (kind, STATUS[kind])
    assert set(json.loads(content)) <= {"error", "kind", "request_id", "details"} and body.error
    assert ("retry-after" in headers) == (status in (429, 503))
    assert int(headers.get("retry-after", 1)) >= 1
    assert ("www-authenticate" in headers) == (status == 401)
    assert ("allow" in headers) == (status == 405)
    if not path:  # no path of the contract; its description says it
        assert f"`{kind}`" in DOCUMENT["info"]["description"] or kind == "bad_request"
        return
    operations = DOCUMENT["paths"][path]
    answer = operations.get(method, next(iter(operations.values())))["responses"][str(status)]
    if "$ref" in answer:
        answer = DOCUMENT["components"]["responses"][answer["$ref"].rsplit("/", 1)[1]]
    assert kind in answer["content"]["application/json"]["examples"], f"{method} {path} does not document {kind}"


@pytest.mark.parametrize(("kind", "how", "path", "provoke", "settings"), CASES, ids=[f"{c[0]}: {c[1]}" for c in CASES])
async def test_error(
    service_with: ServiceFactory, kind: str, how: str, path: str, provoke: Provoke, settings: Mapping[str, Any]
) -> None:
    async with service_with(**settings) as service:
        response = await provoke(service)
    check(kind, path, response.request.method.lower(), response.status_code, response.headers, response.content)
    assert response.headers["x-request-id"] == response.json()["request_id"] == REQUEST_ID


async def test_before_the_model_is_loaded() -> None:
    def load(*_: object) -> Engine:
        raise AssertionError("the app is never started")

    app = create_app(settings=Settings(), load_engine=load)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        response = await client.post("/predict", json={"text": "a"})
    check("not_ready", "/predict", "post", response.status_code, response.headers, response.content)


HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SOCKET_CASES = [
    ("bad_request", "what is not HTTP", b"what is this?\r\n\r\n"),
    ("bad_request", "a chunk without its length", HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ("headers_too_large", "a head of 40,000 bytes", HEAD + b"X: " + b"a" * 40_000),
    ("request_timeout", "a head that does not end", HEAD),
    ("request_timeout", "a body that does not come", HEAD + b"Content-Length: 9\r\n\r\n{"),
]


@pytest.mark.parametrize(("kind", "how", "sent"), SOCKET_CASES, ids=[f"{c[0]}: {c[1]}" for c in SOCKET_CASES])
async def test_error_of_the_protocol(
    service: Service, monkeypatch: pytest.MonkeyPatch, kind: str, how: str, sent: bytes
) -> None:
    if kind == "request_timeout":
        monkeypatch.setattr(protocol, "HEAD_S", 0.05)
        monkeypatch.setattr(protocol, "BODY_IDLE_S", 0.05)
    async with connection(service.app) as (reader, writer):
        writer.write(sent)
        head, _, body = (await asyncio.wait_for(reader.read(), 30)).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    path = "/predict" if sent.startswith(HEAD) else ""
    check(kind, path, "post", int(first.split()[1]), headers, body)
    assert headers["connection"] == "close"


def test_every_kind_is_provoked() -> None:
    assert {case[0] for case in CASES} | {case[0] for case in SOCKET_CASES} == set(STATUS)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/ping", "/health", "/", "/info", "/v2/health/ready"])
async def test_head_is_get_without_its_body(service: Service, path: str) -> None:
    got, head = await service.client.get(path), await service.client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"") == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert (await service.client.head("/predict")).headers["allow"] == "POST"
    assert await service.metric(f'classifier_requests_total{{code="200",endpoint="{path}"}}') == 2.0


async def test_head_over_a_socket_leaves_the_connection_in_order(service: Service) -> None:
    async with connection(service.app) as (reader, writer):
        for _ in range(2):
            writer.write(b"HEAD /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            assert head.startswith(b"HTTP/1.1 200 ") and b"content-length: 18" in head.lower()


async def test_a_body_of_200_000_unknown_fields_is_refused_in_a_few_details(service: Service) -> None:
    body = {"text": "a"} | {f"field-{i:012}": 1 for i in range(200_000)}
    response = await post("/predict", body)(service)
    error = ErrorBody.model_validate_json(response.content)
    assert error.kind == "invalid_request" and error.details and len(error.details) == 20
    assert "(and 199999 more, the first 20 are in details)" in error.error and len(response.content) < 3_000
