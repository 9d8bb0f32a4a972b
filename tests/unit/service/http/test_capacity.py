"""Places and bytes of requests in flight: who takes them, when, and who is refused."""

import asyncio
import json
from typing import Any

import pytest

from service.errors import ServiceError
from service.http.bodies import GONE, NEW
from service.http.capacity import FREE_BYTES, Capacity, Holding, counted
from service.model.lifecycle import ModelLifecycle
from service.settings import Settings
from service.telemetry import Metrics
from tests.support.app import Service, ServiceFactory, post_scope, reached

pytestmark = pytest.mark.anyio

LARGE = FREE_BYTES + 1000


class Caller:
    """An ASGI caller whose body and departure come when the test says so, and who may take no answer."""

    def __init__(self, service: Service, path: str = "/predict", content_type: bytes = b"application/json") -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.gone, self.taking = asyncio.Event(), asyncio.Event()
        self.taking.set()
        self.status = 0
        self.pieces: list[bytes] = []
        scope = post_scope(path, content_type, extensions={GONE: self.gone})
        self.call = asyncio.ensure_future(service.app(scope, self.messages.get, self._take))

    async def _take(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["body"]:
            self.pieces.append(message["body"])
            await self.taking.wait()

    async def send(self, body: bytes, more: bool = True) -> None:
        self.messages.put_nowait({"type": "http.request", "body": body, "more_body": more})
        await settled()

    async def leave(self) -> None:
        self.gone.set()
        self.messages.put_nowait({"type": "http.disconnect"})
        await self.call

    def error(self) -> tuple[int, str]:
        return self.status, json.loads(b"".join(self.pieces))["kind"]


async def settled() -> None:
    """Let everything happen that follows at once."""
    for _ in range(50):
        await asyncio.sleep(0)


async def begun(service: Service, count: int, *arguments: Any, first: bytes) -> list[Caller]:
    """Return callers that have sent the beginning of a body."""
    callers = [Caller(service, *arguments) for _ in range(count)]
    for caller in callers:
        await caller.send(first)
    return callers


async def all_leave(callers: list[Caller]) -> None:
    await asyncio.gather(*(caller.leave() for caller in callers))


async def test_a_body_that_does_not_end_takes_no_place(service_with: ServiceFactory) -> None:
    async with service_with(max_requests=2) as service:
        slow = await begun(service, 5, first=b'{"text": "a')
        assert (await service.post("/predict", {"text": "b"})).status_code == 200
        await slow[0].send(b'"}', more=False)
        await slow[0].call
        assert slow[0].status == 200
        await all_leave(slow[1:])
        assert service.lifecycle.in_flight == 0


async def test_requests_that_are_read_take_places(service_with: ServiceFactory) -> None:
    async with service_with(max_requests=2) as service:
        service.engine.gate.clear()
        held = [asyncio.create_task(service.post("/predict", {"text": text})) for text in ("a", "b c")]
        await reached(service.engine)
        await settled()
        refused = await service.post("/predict", {"text": "d"})
        assert (refused.status_code, refused.json()["kind"]) == (429, "overloaded")
        assert "SERVICE_MAX_REQUESTS" in refused.json()["error"] and "retry-after" in refused.headers
        service.engine.gate.set()
        assert [response.status_code for response in await asyncio.gather(*held)] == [200, 200]
        assert (await service.post("/predict", {"text": "d"})).status_code == 200


@pytest.mark.parametrize("first", [b"\n", b'"half a line'])
async def test_streams_have_places_of_their_own(service_with: ServiceFactory, first: bytes) -> None:
    async with service_with(max_requests=1, max_streams=3) as service:
        idle = await begun(service, 3, "/batch", b"application/x-ndjson", first=first)
        assert (await service.post("/predict", {"text": "a"})).status_code == 200
        assert (await service.post("/batch", {"texts": ["a"]})).status_code == 200
        [one_more] = await begun(service, 1, "/batch", b"application/x-ndjson", first=first)
        await one_more.call
        assert one_more.error() == (429, "overloaded")
        assert service.lifecycle.in_flight == 3
        await all_leave(idle)
        assert service.lifecycle.in_flight == 0


async def test_large_bodies_have_one_budget_and_small_ones_need_none(service_with: ServiceFactory) -> None:
    async with service_with(max_held_bytes=5_500) as service:
        held = await begun(service, 5, first=b'{"text": "' + b"a" * LARGE)
        [refused] = await begun(service, 1, first=b'{"text": "' + b"a" * LARGE)
        await refused.call
        assert refused.error() == (429, "overloaded")
        small = await begun(service, 3, first=b'{"text": "' + b"a" * 60_000)
        assert (await service.post("/predict", {"text": "a" * 60_000})).status_code == 200
        await held.pop().leave()
        [admitted] = await begun(service, 1, first=b'{"text": "' + b"a" * LARGE)
        await admitted.send(b'"}', more=False)
        await admitted.call
        assert admitted.status == 200
        await all_leave(held + small)


async def test_a_body_that_is_larger_than_the_budget_is_read_alone(service_with: ServiceFactory) -> None:
    async with service_with(max_held_bytes=1) as service:
        assert (await service.post("/predict", {"text": "a" * LARGE})).status_code == 200


async def test_answers_that_are_not_taken_hold_bytes_but_no_place(service_with: ServiceFactory) -> None:
    texts = [f"text number {i}" for i in range(256)]
    body = {"texts": texts, "spans": True}
    async with service_with(max_requests=1, max_held_bytes=1_000) as service:
        reader = Caller(service, "/batch")
        reader.taking.clear()
        await reader.send(json.dumps(body).encode(), more=False)
        while not reader.pieces:
            await asyncio.sleep(0)
        assert service.lifecycle.in_flight == 0 and len(reader.pieces[0]) == FREE_BYTES
        assert (await service.post("/predict", {"text": "a"})).status_code == 200
        refused = await service.post("/batch", body)
        assert (refused.status_code, refused.json()["kind"]) == (429, "overloaded")
        reader.taking.set()
        await reader.call
        whole = json.loads(b"".join(reader.pieces))
        assert len(whole["results"]) == 256 and len(reader.pieces) == 2
        assert (await service.post("/batch", body)).status_code == 200


async def test_long_lines_of_streams_count_in_the_budget(service_with: ServiceFactory) -> None:
    line = b'"' + b"a" * LARGE + b'"'
    async with service_with(max_held_bytes=1_500) as service:
        [other] = await begun(service, 1, first=b'{"text": "' + b"a" * LARGE)
        [stream] = await begun(service, 1, "/batch", b"application/x-ndjson", first=b'"short"\n' + line[:-5])
        await stream.send(line[-5:] + b"\n" + b'"short"\n')
        await other.leave()
        await stream.send(line + b"\n", more=False)
        await stream.call
        answers = [json.loads(answer) for answer in b"".join(stream.pieces).splitlines()]
        assert [answer.get("kind") for answer in answers] == [None, "overloaded", None, None]


async def test_a_burst_of_new_connections_does_not_hold_up_the_others(service: Service) -> None:
    order: list[str] = []

    async def get(name: str, extensions: dict[str, Any]) -> None:
        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                order.append(name)

        scope = post_scope("/nowhere", b"", method="GET", extensions=extensions)
        await service.app(scope, receive, send)

    calls = [get("new", {NEW: None}) for _ in range(100)]
    await asyncio.gather(*calls, get("known", {}))
    assert order.index("known") < 10 and len(order) == 101


@pytest.mark.parametrize("stream", [False, True])
def test_everything_is_given_back_once(stream: bool) -> None:
    lifecycle = ModelLifecycle(Settings(max_held_bytes=100), Metrics())
    capacity = Capacity(lifecycle)
    one, other = Holding(capacity, stream), Holding(capacity, stream)
    for holding in (one, other):
        holding.take_place()
        holding.hold(50)
    with pytest.raises(ServiceError):
        other.hold(51)
    assert (capacity.bytes, lifecycle.in_flight) == (100, 2)
    one.give_place()
    for _ in range(2):
        one.release()
    other.hold(1_000)  # nobody else holds any
    other.release()
    assert (capacity.requests, capacity.streams, capacity.bytes, lifecycle.in_flight) == (0, 0, 0, 0)


async def test_large_bodies_take_turns_of_the_event_loop() -> None:
    capacity, begun_at = Capacity(ModelLifecycle(Settings(), Metrics())), list[int]()
    turn = 0

    async def large() -> None:
        await capacity.turn()
        begun_at.append(turn)

    tasks = [asyncio.create_task(large()) for _ in range(5)]
    while not all(task.done() for task in tasks):
        turn += 1
        await asyncio.sleep(0)
    assert len(set(begun_at)) == 5, "others run between two of them"


def test_small_sizes_do_not_count() -> None:
    assert [counted(size) for size in (0, FREE_BYTES, FREE_BYTES + 1)] == [0, 0, 1]
