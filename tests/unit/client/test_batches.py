"""Many texts: cut into requests, under way, in order; without sockets and without waiting."""

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import AsyncClient, Client, Clock, Overloaded, Prediction, Retry, TextError, Unavailable
from client.batches import BETWEEN_TEXTS, BYTES_PER_CHAR, FRAME_BYTES, Chunker, Pace, chunks
from client.errors import TimedOut
from client.models import Limits
from client.transport.messages import Call, Reply, encode
from tests.support.fast_service import result

ALL_OPTIONS = {"top_k": 3, "on_long": "windows", "timeout_ms": 55_000, "spans": True, "explain": True}
TEXTS = st.lists(st.text(max_size=60), max_size=80)


@given(TEXTS, st.integers(1, 9), st.integers(600, 1500))
def test_requests_have_all_texts_in_order_and_fit(texts: list[str], most: int, body: int) -> None:
    limits = Limits(max_texts=most, max_body_bytes=body)
    found = list(chunks(texts, limits))
    assert [text for chunk in found for text in chunk] == texts
    for chunk in found:
        assert 1 <= len(chunk) <= most
        assert len(encode({"texts": chunk, **ALL_OPTIONS})) <= body or len(chunk) == 1


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
    """A transport that answers as the service does, in another order than it was asked; refuses where it is told to."""

    where = "http://fake"

    def __init__(self, limits: Limits, refuse: Sequence[int] = ()) -> None:
        self.limits = limits
        self.refuse = set(refuse)
        self.calls = self.under_way = self.most_under_way = 0

    async def send(self, call: Call, timeout_s: float) -> Reply:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        for _ in range(1 + self.calls % 5):
            await asyncio.sleep(0)
        self.under_way -= 1
        self.calls += 1
        if self.calls in self.refuse:
            return Reply(429, encode({"error": "full", "kind": "overloaded", "request_id": "r"}), {"retry-after": "1"})
        assert call.content is not None
        return Reply(200, encode({"results": [result(text) for text in call.content["texts"]]}))

    async def close(self) -> None:
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

    async def no_wait(_: float) -> None:
        await asyncio.sleep(0)

    clock = Clock(lambda: 0.0, lambda: 1.0, no_wait)
    arguments: dict[str, Any] = {"retry": Retry(tries=100, total_s=1e9), "clock": clock}
    fake = Fake(limits, list(refuse))
    with Client(transport=fake, **arguments) as client:
        check(texts, list(client.predict_many(iter(texts), concurrency=concurrency)))
    assert fake.most_under_way <= concurrency

    async def on_loop() -> list[Any]:
        async with AsyncClient(transport=Fake(limits, list(refuse)), **arguments) as client:
            return [one async for one in client.predict_many(texts, concurrency=concurrency)]

    check(texts, asyncio.run(on_loop()))


def test_an_endless_iterator_is_read_only_as_far_as_it_is_answered() -> None:
    read = 0

    def counted() -> Iterator[str]:
        nonlocal read
        for read in itertools.count(1):
            yield f"text {read}"

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
        async with AsyncClient(transport=Fake(Limits(max_texts=4))) as client:
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
    """A transport that replies in turn, the last reply for ever; time passes by waiting, and by a second a reply."""

    where = "http://fake"
    limits: Limits | None = None

    def __init__(self, *replies: Reply | Exception) -> None:
        self.replies = list(replies)
        self.now_s = 0.0
        self.sent: list[tuple[Call, float]] = []

    async def send(self, call: Call, timeout_s: float) -> Reply:
        self.sent.append((call, timeout_s))
        self.now_s += 1
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def close(self) -> None:
        pass

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def client(self, retry: Retry | None = None) -> AsyncClient:
        return AsyncClient(transport=self, retry=retry, clock=Clock(lambda: self.now_s, lambda: 1.0, self.sleep))


def refusal(status: int, kind: str, **headers: str) -> Reply:
    return Reply(status, encode({"error": "e", "kind": kind, "request_id": "r"}), headers)


LOADING = Reply(503, encode({"status": "loading"}))
READY = Reply(200, encode({"status": "ready"}))


def test_ready_waits_and_says_how_long_it_took() -> None:
    assert asyncio.run(Script(LOADING, LOADING, READY).client().ready(60)) == 4.0


def test_ready_ends_with_what_the_service_said_at_last() -> None:
    with pytest.raises(TimedOut) as raised:
        asyncio.run(Script(LOADING).client().ready(10))
    assert str(raised.value) == "http://fake was not ready within 10 s; at last: it says 'loading'"


def test_a_call_gets_no_more_time_than_is_left() -> None:
    script = Script(refusal(503, "not_ready", **{"retry-after": "20"}))
    with pytest.raises(Unavailable):
        asyncio.run(script.client(Retry(total_s=50, tries=9)).predict("a"))
    assert [timeout_s for _, timeout_s in script.sent] == [50, 24]


def test_timeout_ms_is_the_services_and_some_seconds_are_added() -> None:
    script = Script(refusal(429, "overloaded"))
    with pytest.raises(Overloaded):
        asyncio.run(script.client(Retry(tries=1)).predict("a", timeout_ms=2000))
    assert script.sent[0][1] == 7


def many(script: Any, texts: Sequence[str], retry: Retry | None = None) -> list[Any]:
    async def run() -> list[Any]:
        return [one async for one in script.client(retry).predict_many(texts)]

    return asyncio.run(run())


def test_a_slow_request_is_halved_until_the_culprit_is_alone() -> None:
    class Slow(Script):
        limits = Limits()

        async def send(self, call: Call, timeout_s: float) -> Reply:
            assert call.content is not None
            texts = call.content["texts"]
            late = refusal(504, "deadline_exceeded")
            return late if "slow" in texts else Reply(200, encode({"results": [result(text) for text in texts]}))

    found = many(Slow(), ["a", "b", "slow", "c", "d"])
    assert [outcome.ok for outcome in found] == [True, True, False, True, True]
    assert isinstance(found[2], TextError) and found[2].kind == "deadline_exceeded"


def test_texts_that_are_sent_again_share_the_time_of_their_request() -> None:
    stopping = {"error": "stopping", "kind": "draining", "request_id": "r"}
    script = Script(Reply(200, encode({"results": [stopping]})))
    script.limits = Limits()
    with pytest.raises(Unavailable):
        many(script, ["a"], Retry(total_s=10, tries=1000))
    assert script.now_s <= 10 and all(sent + timeout_s <= 10 for sent, (_, timeout_s) in enumerate(script.sent))
