"""Every route over the fake engine: answers, and each error with its status, kind and shape."""

import asyncio
import gzip
import json
import logging
import re
import threading
from dataclasses import replace
from typing import Any

import httpx
import pytest

from classifier.calibration import Calibration
from service.errors import STATUS
from service.telemetry import JsonFormatter
from tests.support.app import Service, ServiceFactory
from tests.support.fake_engine import LABELS, FakeEngine, expected_label

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
LINES = {"content-type": "application/x-ndjson"}


def check_error(response: httpx.Response, kind: str) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["kind"]) == (STATUS[kind], kind), body
    assert set(body) <= {"error", "kind", "request_id", "details"} and body["error"]
    assert body["request_id"] == response.headers["x-request-id"]
    return body


async def test_predict_answers_with_everything_documented(service: Service) -> None:
    response = await service.post("/predict", {"text": "the minister said"})
    body = response.json()
    assert response.status_code == 200
    assert body["label"] == expected_label("the minister said")
    assert body["scores"][0]["label"] == body["label"] and len(body["scores"]) == 3
    assert (body["tokens"], body["tokens_read"], body["truncated"], body["windows"]) == (3, 3, False, 1)
    assert body["model"] == {"name": "fake", "version": "0123456789ab"}
    assert set(body["timing"]) == {"tokenize_ms", "model_ms", "total_ms"} and body["unsure"] is False


async def test_predict_options(service: Service) -> None:
    long = "word " * 60
    assert len((await service.post("/predict", {"text": "a", "top_k": 2})).json()["scores"]) == 2
    assert len((await service.post("/predict", {"text": "a", "top_k": 99})).json()["scores"]) == 3
    windows = (await service.post("/predict", {"text": long})).json()
    assert (windows["windows"], windows["truncated"]) == (2, False)
    cut = (await service.post("/predict", {"text": long, "on_long": "truncate"})).json()
    assert (cut["windows"], cut["truncated"], cut["tokens"], cut["tokens_read"]) == (1, True, 60, 50)
    check_error(await service.post("/predict", {"text": long, "on_long": "error"}), "text_too_long")
    assert (await service.post("/predict", {"text": "an unsure one"})).json()["unsure"] is True


async def test_any_number_of_digits_of_a_length_is_read(service: Service) -> None:
    """Python refuses to make a number of more than 4,300 digits, which was an internal error."""
    body = b'{"text": "good"}'
    zeros = await service.client.post("/predict", content=body, headers=JSON | {"content-length": "0" * 4400 + "16"})
    assert zeros.status_code == 200
    large = await service.client.post("/predict", content=body, headers=JSON | {"content-length": "9" * 4400})
    check_error(large, "body_too_large")


async def test_a_model_without_a_threshold_marks_no_answer(engine: FakeEngine, service_with: ServiceFactory) -> None:
    engine.info = replace(engine.info, calibration=Calibration())
    async with service_with() as service:
        assert (await service.client.get("/info")).json()["model"]["calibration"]["points"][0]["unsure_below"] is None
        one = await service.post("/predict", {"text": "an unsure one"})
        many = await service.post("/batch", {"texts": ["an unsure one"]})
        lines = await service.client.post("/batch", content='"an unsure one"\n', headers=LINES)
        for answer in (one.json(), many.json()["results"][0], lines.json()):
            assert answer["label"] and "unsure" not in answer
        assert await service.metric("classifier_unsure_texts_total") == 0


async def test_batch_keeps_order_and_good_texts_beside_bad_ones(service_with: ServiceFactory) -> None:
    texts = ["good one", "", "x\ud800", "poison", "a nan here", "another good", "y" * 101]
    async with service_with(max_text_chars=100) as service:
        response = await service.client.post("/batch", content=json.dumps({"texts": texts, "top_k": 1}), headers=JSON)
    body = response.json()
    assert response.status_code == 200
    assert [result.get("kind", "answer") for result in body["results"]] == [
        "answer", "empty_text", "invalid_text", "inference_failed", "inference_failed", "answer", "text_too_large",
    ]  # fmt: skip
    for text, result in zip(texts, body["results"], strict=True):
        if "label" in result:
            assert result["label"] == expected_label(text) and len(result["scores"]) == 1
        else:
            assert set(result) == {"error", "kind", "request_id"}
    assert body["usage"] == {"texts": 7, "failed": 5, "tokens": 4, "truncated": 0}


@pytest.mark.parametrize(
    ("path", "field", "bodies"),
    [
        ("/predict", "text", [{}, {"text": 5}, {"text": None}, {"text": ["a"]}]),
        ("/predict", "top_k", [{"text": "a", "top_k": wrong} for wrong in (0, "2", True)]),
        ("/predict", "on_long", [{"text": "a", "on_long": "cut"}]),
        ("/predict", "timeout_ms", [{"text": "a", "timeout_ms": 0}]),
        ("/predict", "txet", [{"text": "a", "txet": "b"}]),
        ("/predict", "the body", [[1], "text"]),
        ("/predict", "body", [{"text": "a", "body": 1, "shape:text": 2}]),
        ("/batch", "texts", [{"texts": []}, {"texts": "a"}]),
        ("/batch", "texts.1", [{"texts": ["a", 7]}]),
        ("/invocations", "text", [{}]),
        ("/invocations", "inputs", [{"inputs": 5}]),
        ("/invocations", "parameters.topk", [{"inputs": "a", "parameters": {"topk": 1}}]),
    ],
)
async def test_wrong_fields_are_named(service: Service, path: str, field: str, bodies: list[Any]) -> None:
    for body in bodies:
        error = check_error(await service.post(path, body), "invalid_request")
        assert field in [detail["field"] for detail in error["details"]]
    assert (await service.post("/predict", {"text": "still here"})).status_code == 200


@pytest.mark.parametrize("path", ["/predict", "/batch", "/invocations", "/tokenize", "/v2/models/fake/infer"])
async def test_a_body_that_is_no_object_is_told_so_without_our_class_names(service: Service, path: str) -> None:
    error = check_error(await service.post(path, [1]), "invalid_request")
    assert "must be a JSON object" in error["error"]


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/predict", {"text": ""}, "empty_text"),
        ("/predict", {"text": "poison"}, "inference_failed"),
        ("/predict", {"text": "a", "timeout_ms": 60_000}, "invalid_request"),
        ("/predict", {"text": "z" * 2000}, "body_too_large"),
        ("/invocations", {"text": ""}, "empty_text"),
        ("/invocations", {"inputs": ""}, "empty_text"),
        ("/invocations", {"inputs": ["a"] * 4}, "too_many_texts"),
    ],
)
async def test_requests_that_cannot_be_answered(service_with: ServiceFactory, path: str, body: Any, kind: str) -> None:
    async with service_with(max_texts=3, max_body_bytes=1000) as service:
        check_error(await service.post(path, body), kind)
        assert (await service.post("/predict", {"text": "still here"})).status_code == 200


@pytest.mark.parametrize("content", [b"", b'{"text": "a"} x', b"[1,", b"\xff\xfe", b"[" * 90_000 + b"]" * 90_000])
async def test_broken_json_is_400_and_no_body_422(service: Service, content: bytes) -> None:
    response = await service.client.post("/predict", content=content, headers=JSON)
    check_error(response, "invalid_json" if content else "invalid_request")


@pytest.mark.parametrize("coding", ["gzip", "br", "Deflate", "identity, gzip"])
@pytest.mark.parametrize("path", ["/predict", "/batch", "/invocations", "/v2/models/fake/infer"])
async def test_compressed_bodies_are_415_and_not_called_broken(service: Service, path: str, coding: str) -> None:
    headers = JSON | {"content-encoding": coding}
    response = await service.client.post(path, content=gzip.compress(b'{"text": "a"}'), headers=headers)
    error = check_error(response, "unsupported_media_type")
    assert f"Content-Encoding is '{coding.lower()}'" in error["error"]
    for plain in ("identity", ""):
        headers = {"content-encoding": plain}
        assert (await service.client.post("/predict", json={"text": "a"}, headers=headers)).status_code == 200


@pytest.mark.parametrize("path", ["/predict", "/batch", "/invocations"])
async def test_a_refused_content_type_is_answered_with_those_that_are_read(service: Service, path: str) -> None:
    response = await service.client.post(path, content=b"a", headers={"content-type": "image/png"})
    message = check_error(response, "unsupported_media_type")["error"]
    assert "application/json" in message and "+json" in message
    for name in re.findall(r"[a-z]+/[a-z-]+(?=,|$| or)", message.partition("reads")[2]):
        accepted = await service.client.post(path, content=b'{"text": "a"}\n', headers={"content-type": name})
        assert accepted.status_code != 415, name
    assert ("application/x-ndjson" in message) == (path != "/predict")


async def test_body_without_length_is_limited_while_it_is_read(service_with: ServiceFactory) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 1000

    async with service_with(max_body_bytes=10_000) as service:
        check_error(await service.client.post("/predict", content=endless(), headers=JSON), "body_too_large")
    assert sent <= 12


async def test_unknown_paths_and_methods(service: Service) -> None:
    check_error(await service.client.get("/nothing"), "not_found")
    check_error(await service.post("/predict/", {"text": "a"}), "not_found")
    response = await service.client.get("/predict")
    check_error(response, "method_not_allowed")
    assert response.headers["allow"] == "POST"


async def test_queue_full_is_429_with_retry_after(service_with: ServiceFactory) -> None:
    async with service_with(max_queue_items=1) as service:
        async with service.busy():
            response = await service.post("/predict", {"text": "b"})
        check_error(response, "overloaded")
        assert int(response.headers["retry-after"]) >= 1


async def test_too_many_requests_in_flight_are_429_and_health_still_answers(service_with: ServiceFactory) -> None:
    async with service_with(max_requests=2) as service:
        async with service.busy():
            second = asyncio.create_task(service.post("/predict", {"text": "b"}))
            while service.lifecycle.in_flight < 2:
                await asyncio.sleep(0)
            body = check_error(await service.post("/predict", {"text": "c"}), "overloaded")
            assert body["error"] == "2 requests are in flight, SERVICE_MAX_REQUESTS allows no more"
            for path in ("/ping", "/livez", "/readyz", "/metrics", "/info", "/v2/health/ready"):
                assert (await service.client.get(path)).status_code == 200
        assert (await second).status_code == 200
        assert (await service.post("/predict", {"text": "c"})).status_code == 200


async def test_deadline_holds_while_tokenising(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    may_encode = threading.Event()
    monkeypatch.setattr(service.engine, "encode", lambda *_: may_encode.wait(30))
    body = check_error(await service.post("/predict", {"text": "a", "timeout_ms": 20}), "deadline_exceeded")
    assert "within 20 ms" in body["error"]
    may_encode.set()


def hold_encode(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, having: str = ""
) -> tuple[threading.Event, threading.Event]:
    """Hold the tokenisation of texts that have `having` until the second event; the first is set when one begins."""
    encode, entered, go_on = engine.encode, threading.Event(), threading.Event()

    def held(texts: list[str], *how: Any) -> Any:
        if having in texts[0]:
            entered.set()
            assert go_on.wait(30)
        return encode(texts, *how)

    monkeypatch.setattr(engine, "encode", held)
    return entered, go_on


async def test_a_small_text_does_not_wait_for_large_ones_to_be_tokenised(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = hold_encode(service.engine, monkeypatch, "large")
    left = asyncio.create_task(service.post("/predict", {"text": "large" * 20_000}))
    await asyncio.to_thread(entered.wait, 30)
    left.cancel()  # its tokenising goes on
    large = [asyncio.create_task(service.post("/batch", {"texts": ["large" * 20_000] * 4})) for _ in range(4)]
    assert (await service.post("/predict", {"text": "small"})).status_code == 200
    go_on.set()
    assert [r.status_code for r in await asyncio.gather(*large)] == [200] * 4


async def test_large_requests_take_turns_at_the_tokenizer(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    encode = service.engine.encode

    def noting(texts: list[str], *how: Any) -> Any:
        order.append(texts[0][:5])
        return encode(texts, *how)

    monkeypatch.setattr(service.engine, "encode", noting)
    bodies = [{"texts": [name * 20_000] * 4} for name in ("one: ", "two: ")]
    await asyncio.gather(*(service.post("/batch", body) for body in bodies))
    assert sorted(order[:2]) == sorted(order[2:4]) == ["one: ", "two: "]


async def test_what_waits_to_be_tokenised_is_bounded(
    service_with: ServiceFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service_with(max_queue_tokens=100) as service:
        entered, go_on = hold_encode(service.engine, monkeypatch)
        first = asyncio.create_task(service.post("/predict", {"text": "x" * 390}))
        await asyncio.to_thread(entered.wait, 30)
        check_error(await service.post("/predict", {"text": "x" * 20}), "overloaded")
        go_on.set()
        assert (await first).status_code == 200


async def test_thousands_of_wrong_items_get_a_short_answer(service: Service) -> None:
    for path, body in (("/batch", {"texts": [1] * 50_000}), ("/invocations", {"inputs": [1] * 50_000})):
        error = check_error(await service.post(path, body), "invalid_request")
        assert len(json.dumps(error)) < 3_000
    unknown = {"text": "a"} | {f"{i}" * 50: 1 for i in range(1000)}
    error = check_error(await service.post("/predict", unknown), "invalid_request")
    assert len(error["details"]) == 20 and "999 more" in error["error"]
    assert all(len(detail["field"]) <= 100 for detail in error["details"])


async def test_health_information_and_metrics(service_with: ServiceFactory) -> None:
    async with service_with(max_texts=9) as service:
        ping = await service.client.get("/ping")
        assert (ping.status_code, ping.content) == (200, b"")
        assert (await service.client.get("/livez")).json() == {"status": "alive"}
        assert (await service.client.get("/readyz")).json() == {"status": "ready"}
        info = (await service.client.get("/info")).json()
        assert info["model"]["labels"] == list(LABELS) and info["limits"]["max_texts"] == 9
        assert await service.metric("classifier_predictions_total{") == 0, "each label is there before any request"
        await service.post("/batch", {"texts": ["a goal", "", "word " * 60]})
        assert await service.metric("classifier_texts_total") == 2
        assert await service.metric('classifier_text_failures_total{kind="empty_text"}') == 1
        assert await service.metric("classifier_tokens_total") == 62
        assert await service.metric('classifier_requests_total{code="200",endpoint="/batch"}') == 1
        assert await service.metric("classifier_queue_windows") == 0
        assert await service.metric("classifier_model_info{") == 1


async def test_paths_of_scanners_share_one_series(service: Service) -> None:
    for path in ("/a", "/b", "/.env"):
        await service.client.get(path)
    assert await service.metric('classifier_requests_total{code="404",endpoint="other"}') == 3


async def test_request_id_is_echoed_made_or_replaced(service: Service) -> None:
    for sent, came in (("order-66", "order-66"), (None, "[0-9a-f]{32}"), ("x" * 500, "[0-9a-f]{32}")):
        response = await service.client.get("/livez", headers={"x-request-id": sent} if sent else {})
        assert re.fullmatch(came, response.headers["x-request-id"])


async def test_no_text_reaches_the_log_or_an_error(
    service_with: ServiceFactory, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "confidential-memo"
    with caplog.at_level(logging.DEBUG):
        async with service_with() as service:
            await service.post("/predict", {"text": secret})
            await service.post("/predict", {"text": secret + " poison"})
            await service.post("/predict", {"text": secret, "top_k": secret})
            response = await service.post("/batch", {"texts": [secret, 5], "top_k": secret})
    assert secret not in response.text and caplog.records
    for record in caplog.records:
        assert secret not in record.getMessage() + str(record.__dict__) + str(record.exc_info)


async def test_unexpected_fault_is_500_without_its_message(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.engine, "encode", lambda *_: 1 / 0)
    body = check_error(await service.post("/predict", {"text": "a"}), "internal")
    assert "division" not in body["error"] and body["request_id"] in body.values()
    assert await service.metric('classifier_requests_total{code="500",endpoint="/predict"}') == 1


async def test_concurrent_requests_each_get_their_own_answer(service: Service) -> None:
    texts = [f"{'word ' * (i % 40 + 1)}{'x' * i}" for i in range(64)]
    responses = await asyncio.gather(*(service.post("/predict", {"text": text}) for text in texts))
    assert [r.json()["label"] for r in responses] == [expected_label(text) for text in texts]


async def test_broken_model_is_not_ready_until_it_works_again(service: Service) -> None:
    service.engine.broken = True
    check_error(await service.post("/predict", {"text": "a"}), "inference_failed")
    assert (await service.client.get("/ping")).status_code == 503
    assert (await service.client.get("/readyz")).json() == {"status": "unhealthy"}
    assert await service.metric("classifier_ready") == 0
    assert (await service.client.get("/livez")).status_code == 200
    service.engine.broken = False
    assert (await service.client.get("/readyz")).status_code == 200


async def test_draining_service_refuses_new_work_and_finishes_the_old(service: Service) -> None:
    async with service.busy():
        service.lifecycle.drain()
        for path, body in (("/predict", {"text": "a"}), ("/batch", {"texts": ["a"]}), ("/invocations", {"text": "a"})):
            response = await service.post(path, body)
            check_error(response, "draining")
            assert (response.headers["retry-after"], response.headers["connection"]) == ("1", "close")
        assert (await service.client.get("/readyz")).json() == {"status": "draining"}
        assert (await service.client.get("/ping")).status_code == 503
        assert (await service.client.get("/livez")).status_code == 200


async def test_spans_are_given_where_they_are_asked_for(service: Service) -> None:
    long = "word " * 80
    plain = (await service.post("/predict", {"text": long})).json()
    asked = (await service.post("/predict", {"text": long, "spans": True})).json()
    assert "spans" not in plain and plain["windows"] == len(asked["spans"]) == 2
    assert set(asked["spans"][0]) == {"start", "end", "tokens", "label", "score"}
    several = (await service.post("/batch", {"texts": [long, "a"], "spans": True})).json()["results"]
    assert [len(result["spans"]) for result in several] == [2, 1]


async def test_batch_waits_behind_single_texts(service_with: ServiceFactory, engine: FakeEngine) -> None:
    """Each route's texts get the route's priority, wherever they come in."""
    engine.info = replace(engine.info, max_batch_tokens=1)
    requests: list[tuple[str, Any]] = [
        ("/batch", {"texts": ["bulk1"]}),
        ("/invocations", {"inputs": ["bulk2"]}),
        ("/predict", {"text": "single1"}),
        ("/invocations", {"text": "single2"}),
        ("/invocations", {"inputs": "single3"}),
    ]
    async with service_with() as service:
        batcher = service.lifecycle.current_pipeline().batcher
        async with service.busy():
            tasks = []
            for waiting, (path, body) in enumerate(requests, start=2):
                tasks.append(asyncio.create_task(service.post(path, body)))
                while batcher.load.windows < waiting:
                    await asyncio.sleep(0)
        await asyncio.gather(*tasks)
    assert [batch[0][:4] for batch in engine.batches] == ["busy", "sing", "sing", "sing", "bulk", "bulk"]


async def test_timing_is_in_a_header_too(service: Service) -> None:
    for path, body in (("/predict", {"text": "a"}), ("/batch", {"texts": ["a"]})):
        header = (await service.post(path, body)).headers["server-timing"]
        assert re.fullmatch(r"tokenize;dur=[0-9.]+, model;dur=[0-9.]+, total;dur=[0-9.]+", header)


@pytest.mark.parametrize(
    ("traceparent", "trace"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
        ("nonsense", None),
        (None, None),
    ],
)
async def test_the_callers_trace_is_in_the_log(
    service_with: ServiceFactory, caplog: pytest.LogCaptureFixture, traceparent: str | None, trace: str | None
) -> None:
    caplog.handler.setFormatter(JsonFormatter())
    caplog.set_level(logging.INFO)
    async with service_with() as service:
        headers = {"traceparent": traceparent} if traceparent else {}
        await service.client.post("/predict", json={"text": "a"}, headers=headers)
    [line] = [line for line in map(json.loads, caplog.text.splitlines()) if line["message"] == "request"]
    assert line.get("trace_id") == trace
