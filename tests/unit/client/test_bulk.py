"""Many texts: cut into requests, in flight, in order; flows run without sockets and without time."""

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import AsyncClient, Client, Clock, Overloaded, Prediction, Retry, TextError, Unavailable
from client.chunks import BETWEEN_TEXTS, BYTES_PER_CHAR, FRAME_BYTES, Chunker, chunks
from client.errors import TimedOut
from client.flow import Core, Pace, Send, Wait, drive
from client.models import Limits
from client.transport.wire import SERVICE, Call, Options, Reply, encode
from tests.support.fast_service import result

TEXTS = st.lists(st.text(max_size=60), max_size=80)


@given(TEXTS, st.integers(1, 9), st.integers(600, 1500))
def test_requests_have_all_texts_in_order_and_fit(texts: list[str], most: int, body: int) -> None:
    limits = Limits(max_texts=most, max_body_bytes=body)
    found = list(chunks(texts, limits))
    assert [text for chunk in found for text in chunk] == texts
    for chunk in found:
        assert 1 <= len(chunk) <= most
        size = len(encode({"texts": chunk, **Options(3, "windows", 55_000, True, True).fields()}))
        assert size <= body or len(chunk) == 1


@given(TEXTS, st.integers(1, 9), st.integers(600, 1500))
def test_no_request_is_smaller_than_it_must_be(texts: list[str], most: int, body: int) -> None:
    limits = Limits(max_texts=most, max_body_bytes=body)
    room = (body - FRAME_BYTES) // BYTES_PER_CHAR
    found = list(chunks(texts, limits))
    for chunk, following in itertools.pairwise(found):
        size = sum(len(text) + BETWEEN_TEXTS for text in [*chunk, following[0]])
        assert len(chunk) == most or size > room


def test_half_a_surrogate_pair_can_be_sent() -> None:
    assert json.loads(encode({"text": "a\ud800é"})) == {"text": "a\ud800é"}
    assert encode("é") == '"é"'.encode()


@pytest.mark.parametrize("wrong", [5, None, b"bytes"])
def test_what_is_no_text_is_named_by_its_place(wrong: Any) -> None:
    chunker = Chunker(Limits())
    chunker.add("fine")
    with pytest.raises(TypeError, match=f"text 1 is of type {type(wrong).__name__}, a str is expected"):
        chunker.add(wrong)


class Fake:
    """A transport that answers as the service does; refuses where it is told to."""

    dialect = SERVICE
    where = "http://fake"

    def __init__(self, limits: Limits, refuse: Sequence[int] = ()) -> None:
        self.limits = limits
        self.refuse = set(refuse)
        self.calls = 0
        self.under_way = 0
        self.most_under_way = 0
        self.read_ahead = 0

    def answer(self, call: Call) -> Reply:
        if call.path == "/info":
            model = {"name": "fake", "version": "1", "labels": ["a"], "max_tokens": 9}
            return Reply(200, encode({"service": "1", "model": model, "limits": self.limits.model_dump()}))
        self.calls += 1
        if self.calls in self.refuse:
            return Reply(429, encode({"error": "full", "kind": "overloaded", "request_id": "r"}), {"retry-after": "1"})
        texts = json.loads(call.body)["texts"]
        return Reply(200, encode({"results": [result(text) for text in texts]}))

    def send(self, call: Call, timeout_s: float) -> Reply:
        return self.answer(call)

    def close(self) -> None:
        pass


class FakeAsync(Fake):
    async def send(self, call: Call, timeout_s: float) -> Reply:  # type: ignore[override]
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        for _ in range(1 + self.calls % 5):  # answers come in another order than the questions
            await asyncio.sleep(0)
        self.under_way -= 1
        return self.answer(call)

    async def close(self) -> None:  # type: ignore[override]
        pass


def check(texts: list[str], found: Sequence[Prediction | TextError]) -> None:
    wanted = [result(text) for text in texts]
    assert [outcome.ok for outcome in found] == ["label" in one for one in wanted]
    assert [getattr(outcome, "label", None) for outcome in found] == [one.get("label") for one in wanted]


@settings(deadline=None, max_examples=30)
@given(TEXTS, st.integers(1, 9), st.integers(1, 5), st.sets(st.integers(1, 20)))
def test_answers_keep_the_texts_order_whatever_is_refused(
    texts: list[str], most: int, concurrency: int, refuse: set[int]
) -> None:
    limits = Limits(max_texts=most)
    retry = Retry(tries=100, total_s=1e9)
    clock = Clock(lambda: 0.0, lambda: 1.0)
    with Client(transport=Fake(limits, list(refuse)), retry=retry, clock=clock, sleep=lambda _: None) as client:
        check(texts, list(client.predict_many(iter(texts), concurrency=concurrency)))

    async def on_loop() -> list[Any]:
        async def no_wait(_: float) -> None:
            await asyncio.sleep(0)

        transport = FakeAsync(limits, list(refuse))
        async with AsyncClient(transport=transport, retry=retry, clock=clock, sleep=no_wait) as client:
            found = [one async for one in client.predict_many(texts, concurrency=concurrency)]
        assert transport.most_under_way <= concurrency
        return found

    check(texts, asyncio.run(on_loop()))


def endless() -> Iterator[str]:
    i = 0
    while True:
        i += 1
        yield f"text {i}"


def test_an_endless_iterator_is_read_only_as_far_as_it_is_answered() -> None:
    read = 0

    def counted() -> Iterator[str]:
        nonlocal read
        for text in endless():
            read += 1
            yield text

    with Client(transport=Fake(Limits(max_texts=10))) as client:
        answers = client.predict_many(counted(), concurrency=2)
        for _ in range(100):
            next(answers)
        assert read <= 100 + 4 * 10
        answers.close()  # type: ignore[attr-defined]


def test_an_async_iterator_of_texts() -> None:
    async def source() -> Any:
        for i in range(25):
            yield f"{i}"

    async def run() -> int:
        async with AsyncClient(transport=FakeAsync(Limits(max_texts=4))) as client:
            return len([one async for one in client.predict_many(source())])

    assert asyncio.run(run()) == 25


def test_one_text_in_place_of_many_is_a_mistake_worth_a_word() -> None:
    with Client(transport=Fake(Limits())) as client, pytest.raises(TypeError, match="texts is one text"):
        client.predict_many("a text")


def test_an_option_that_does_not_exist() -> None:
    with Client(transport=Fake(Limits())) as client, pytest.raises(TypeError, match="topk"):
        client.predict("a", topk=1)  # type: ignore[call-arg]


def test_the_pace_halves_when_refused_and_recovers() -> None:
    pace = Pace(8)
    assert pace.limit == 4
    pace.refused()
    assert pace.limit == 2
    for _ in range(5):
        pace.refused()
    assert pace.limit == 1
    for _ in range(100):
        pace.answered()
    assert pace.limit == 8
    with pytest.raises(ValueError, match="concurrency is 0, 1 is the least"):
        Pace(0)


class Script:
    """Performs flows' steps: replies in turn, waits noted; time passes by waiting and by a second a reply."""

    def __init__(self, *replies: Reply | Exception) -> None:
        self.replies = list(replies)
        self.now_s = 0.0
        self.sent: list[Send] = []

    def __call__(self, step: Send | Wait) -> Reply | None:
        if isinstance(step, Wait):
            self.now_s += step.seconds
            return None
        self.sent.append(step)
        self.now_s += 1
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def core(self, retry: Retry | None = None, timeout_s: float = 60.0) -> Core:
        return Core(SERVICE, "http://fake", timeout_s, retry or Retry(), Clock(lambda: self.now_s, lambda: 1.0))


STATUS = Reply(503, encode({"status": "loading"}))
READY = Reply(200, encode({"status": "ready"}))


def test_ready_waits_and_says_how_long_it_took() -> None:
    script = Script(STATUS, STATUS, READY)
    assert drive(script.core().ready(60), script) == 4.0


def test_ready_ends_with_what_the_service_said_at_last() -> None:
    script = Script(STATUS)
    with pytest.raises(TimedOut) as raised:
        drive(script.core().ready(10), script)
    assert str(raised.value) == "http://fake was not ready within 10 s; at last: it says 'loading'"


def test_a_call_gets_no_more_time_than_is_left() -> None:
    script = Script(Reply(503, encode({"error": "e", "kind": "not_ready", "request_id": "r"}), {"retry-after": "20"}))
    with pytest.raises(Unavailable):
        drive(script.core(Retry(total_s=50, tries=9)).predict("a", Options()), script)
    assert [send.timeout_s for send in script.sent] == [50, 24]


def test_timeout_ms_is_the_services_and_some_seconds_are_added() -> None:
    script = Script(Reply(429, encode({"error": "e", "kind": "overloaded", "request_id": "r"})))
    with pytest.raises(Overloaded):
        drive(script.core(Retry(tries=1)).predict("a", Options(timeout_ms=2000)), script)
    assert script.sent[0].timeout_s == 7


def test_a_slow_request_is_halved_until_the_culprit_is_alone() -> None:
    late = Reply(504, encode({"error": "late", "kind": "deadline_exceeded", "request_id": "r"}))

    def service(step: Send | Wait) -> Reply | None:
        assert isinstance(step, Send)
        texts = json.loads(step.call.body)["texts"]
        return late if "slow" in texts else Reply(200, encode({"results": [result(text) for text in texts]}))

    core = Script(READY).core()
    found = drive(core.batch(["a", "b", "slow", "c", "d"], Options()), service)
    assert [outcome.ok for outcome in found] == [True, True, False, True, True]
    assert isinstance(found[2], TextError) and found[2].kind == "deadline_exceeded"
