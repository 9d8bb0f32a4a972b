"""Lines of JSON at /batch, over the fake engine: order, errors, bounded memory, departures."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from service.api.stream import CHUNK_LINES, IN_FLIGHT, Line, LinesResponse
from service.http.bodies import GONE
from service.inference.pipeline import STREAMED_AT_ONCE
from tests.support.app import Service, ServiceFactory, post_scope, reached
from tests.support.fake_engine import expected_label

pytestmark = pytest.mark.anyio

LINES = {"content-type": "application/x-ndjson"}
LEFT = 'classifier_requests_total{code="499",endpoint="/batch"}'


async def stream(service: Service, lines: Iterable[str | bytes], headers: dict[str, str] = LINES) -> list[Any]:
    async def body() -> AsyncIterator[bytes]:
        for line in lines:
            yield (line if isinstance(line, bytes) else line.encode()) + b"\n"

    response = await service.client.post("/batch", content=body(), headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in response.text.splitlines()]


async def test_each_line_has_its_answer_in_order(service: Service) -> None:
    texts = [f"{'x' * (i % 17)} word" for i in range(1000)]
    answers = await stream(service, (json.dumps(text) for text in texts))
    assert [a["label"] for a in answers] == [expected_label(text) for text in texts]


@pytest.mark.parametrize("name", ["application/jsonl", "application/jsonlines", "Application/X-NDJSON; charset=utf-8"])
async def test_other_names_of_the_type(service: Service, name: str) -> None:
    assert len(await stream(service, ['"a"'], {"content-type": name})) == 1


async def test_a_bad_line_never_ends_the_stream(service: Service) -> None:
    lines: list[tuple[str | bytes, str | None]] = [
        ('"good"', None),
        ("{broken", "invalid_json"),
        ('{"text": "good", "top_k": 1}', None),
        ('{"text": 5}', "invalid_request"),
        ('{"texts": ["a"]}', "invalid_request"),
        ('""', "empty_text"),
        ("[]", "invalid_request"),
        ('"poison"', "inference_failed"),
        ('{"text": "word ' + "word " * 60 + '", "on_long": "error"}', "text_too_long"),
        ('{"text": "word ' + "word " * 60 + '", "spans": true}', None),
        (b"\xff", "invalid_json"),
        ('"good"', None),
    ]
    answers = await stream(service, (line for line, _ in lines))
    assert [a.get("kind") for a in answers] == [kind for _, kind in lines]
    assert len(answers[2]["scores"]) == 1 and len(answers[0]["scores"]) == 3 and len(answers[9]["spans"]) == 2


async def test_a_line_may_come_in_pieces_and_the_last_without_its_end(service: Service) -> None:
    async def body() -> AsyncIterator[bytes]:
        for byte in b'"one"\r\n\n"t':
            yield bytes([byte])
        yield b'wo"'

    response = await service.client.post("/batch", content=body(), headers=LINES)
    assert len(response.text.splitlines()) == 2


async def test_a_line_above_the_limit_is_refused_and_the_others_answered(service_with: ServiceFactory) -> None:
    async with service_with(max_body_bytes=1000) as service:
        answers = await stream(service, ['"a"', '"' + "x" * 5000 + '"', '"b"'] + ['"c"'] * 500)
    assert [a.get("kind") for a in answers[:3]] == [None, "body_too_large", None]
    assert len(answers) == 503, "the sum may be as large as it likes"


async def test_a_full_queue_makes_a_stream_wait_not_fail(service_with: ServiceFactory) -> None:
    async with service_with(max_queue_items=CHUNK_LINES) as service:
        answers = await stream(service, (f'"text {i}"' for i in range(CHUNK_LINES * 6)))
    assert len(answers) == CHUNK_LINES * 6 and all("label" in a for a in answers)


async def test_before_ready_and_while_draining_a_stream_is_refused(service: Service) -> None:
    service.lifecycle.drain()
    response = await service.client.post("/batch", content=b'"a"\n', headers=LINES)
    assert (response.status_code, response.json()["kind"]) == (503, "draining")


class Caller:
    """An ASGI caller that sends lines for ever and takes answers or not."""

    def __init__(self, takes: bool) -> None:
        self.sent = 0
        self.got = 0
        self._takes = takes
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self.gone.is_set():
            return {"type": "http.disconnect"}
        self.sent += 10
        return {"type": "http.request", "body": b'"a word"\n' * 10, "more_body": True}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            if not self._takes:
                await self.gone.wait()
                raise OSError("nobody is there")
            self.got += message["body"].count(b"\n")

    async def call(self, service: Service) -> None:
        scope = post_scope("/batch", b"application/x-ndjson", extensions={GONE: self.gone})
        await service.app(scope, self.receive, self.send)


async def test_who_takes_no_answers_is_not_read_from(service: Service) -> None:
    caller = Caller(takes=False)
    call = asyncio.ensure_future(caller.call(service))
    before = -1
    while caller.sent != before:
        before = caller.sent
        await asyncio.to_thread(lambda: None)
        for _ in range(200):
            await asyncio.sleep(0)
    assert caller.sent <= (IN_FLIGHT + 3) * CHUNK_LINES
    caller.gone.set()
    await call
    assert service.lifecycle.in_flight == 0
    assert await service.metric(LEFT) == 1


async def test_work_stops_when_the_caller_hangs_up(service: Service) -> None:
    service.engine.gate.clear()
    caller = Caller(takes=True)
    call = asyncio.ensure_future(caller.call(service))
    await reached(service.engine)
    caller.gone.set()
    await call
    service.engine.gate.set()
    assert (await service.post("/predict", {"text": "next"})).status_code == 200
    assert len(service.engine.batches) == 2, "only the batch that was in the model went on"
    assert service.lifecycle.in_flight == 0
    assert await service.metric(LEFT) == 1


async def test_streams_take_turns(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 64 streams under way, hundreds of chunks shared the event loop, and one text waited for seconds."""
    running = most = 0
    answer = LinesResponse._answer

    async def counted(response: LinesResponse, chunk: list[Line]) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        lines = await answer(response, chunk)
        running -= 1
        return lines

    monkeypatch.setattr(LinesResponse, "_answer", counted)
    lines = [json.dumps(f"text {n}") for n in range(4 * CHUNK_LINES)]
    answers = await asyncio.gather(*(stream(service, lines) for _ in range(2 * STREAMED_AT_ONCE)))
    assert [len(each) for each in answers] == [len(lines)] * len(answers)
    assert most == STREAMED_AT_ONCE
