"""Texts and answers over one connection at the same time, against the real app on a socket and against a bad server."""

import asyncio
import itertools
import json
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from client import AsyncClient, Client, ConnectionFailed, StreamCut, TimedOut, Unauthorized, Unsupported
from client.transport import two_way
from client.transport.http import HttpTransport
from tests.support.fake_engine import expected_label
from tests.support.live_service import LiveService
from tests.support.scripted_server import LONE, RESULT, error, hang, http, scripted
from tests.unit.client.transport.test_sagemaker import endpoint

LINE = json.dumps(RESULT).encode() + b"\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def collected(client: AsyncClient, texts: Any, **options: Any) -> list[Any]:
    async def run() -> list[Any]:
        async with client:
            return [outcome async for outcome in client.stream(texts, **options)]

    return asyncio.run(run())


TEXTS = [f"{'x' * (i % 17)} word" if i % 50 else "" for i in range(1500)]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_each_text_has_its_answer_in_order(service: LiveService, asynchronous: bool) -> None:
    if asynchronous:
        found = collected(AsyncClient(service.url), TEXTS, top_k=1)
    else:
        found = list(Client(service.url).stream(iter(TEXTS), top_k=1))
    assert [outcome.ok for outcome in found] == [bool(text) for text in TEXTS]
    labels = [outcome.label for outcome in found if outcome.ok]
    assert labels == [expected_label(text) for text in TEXTS if text]
    assert all(len(outcome.scores) == 1 for outcome in found if outcome.ok)


def test_answers_come_while_texts_are_still_being_made(service: LiveService) -> None:
    answered = threading.Semaphore(0)

    def source() -> Iterator[str]:
        for i in range(5):
            yield f"text {i}"
            assert answered.acquire(timeout=30), "the next text waits for the answer to this one"

    for outcome in Client(service.url).stream(source()):
        assert outcome.ok
        answered.release()


def test_an_async_source_is_asked_while_answers_come(service: LiveService) -> None:
    async def run() -> int:
        answered = asyncio.Semaphore(0)

        async def source() -> AsyncIterator[str]:
            for i in range(5):
                yield f"text {i}"
                await asyncio.wait_for(answered.acquire(), 30)

        count = 0
        async with AsyncClient(service.url) as client:
            async for _ in client.stream(source()):
                count += 1
                answered.release()
        return count

    assert asyncio.run(run()) == 5


def test_more_than_all_buffers_hold_goes_through_and_who_stops_taking_stops_the_reading(service: LiveService) -> None:
    read = 0

    def source() -> Iterator[str]:
        nonlocal read
        for i in itertools.count():
            read += 1
            yield f"text {i} " + "word " * 400  # 2 KB; all of it would never end

    answers = Client(service.url).stream(source())
    for _ in range(3000):  # 6 MB, more than sockets hold: over httpx this would stand still
        assert next(answers).ok
    assert read < 3000 + 10_000, "read ahead is bounded by sockets and by the service"
    answers.close()  # type: ignore[attr-defined]


def test_a_blank_line_goes_out_while_there_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_way, "ALIVE_S", 0.01)
    blank = threading.Event()

    async def two(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n" + chunk(b"\n"))
        blank.set()
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(HEAD + chunk(LINE) + chunk(LINE) + chunk(b""))
        await writer.drain()

    def source() -> Iterator[str]:
        yield "first"
        assert blank.wait(30)
        yield "second"

    with scripted(two) as server:
        assert [outcome.ok for outcome in Client(server.url).stream(source())] == [True, True]


def test_no_texts_no_answers(service: LiveService) -> None:
    assert list(Client(service.url).stream([])) == []


@pytest.mark.parametrize("kind", [LookupError, ConnectionError, TimeoutError])
def test_the_sources_own_error_comes_out(service: LiveService, kind: type[Exception]) -> None:
    def source() -> Iterator[str]:
        yield "first"
        raise kind("the source broke")

    with pytest.raises(kind, match="the source broke"):
        list(Client(service.url).stream(source()))
    with pytest.raises(kind, match="the source broke"):
        collected(AsyncClient(service.url), source())


def test_the_sources_own_error_comes_out_at_once(service: LiveService) -> None:
    async def source(answered: asyncio.Event) -> AsyncIterator[str]:
        yield "first"
        await answered.wait()
        raise LookupError("the source broke")

    async def run() -> None:
        answered = asyncio.Event()
        async with asyncio.timeout(20), AsyncClient(service.url, timeout_s=1000) as client:
            async for _ in client.stream(source(answered)):
                answered.set()
                await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name() == "send texts"])

    with pytest.raises(LookupError, match="the source broke"):
        asyncio.run(run())


def test_a_refused_stream_says_why() -> None:
    with scripted(error(401, "unauthorized", "this service needs an API key")) as server:
        with pytest.raises(Unauthorized, match="this service needs an API key"):
            list(Client(server.url).stream(["a"]))
        with pytest.raises(Unauthorized, match="this service needs an API key"):
            collected(AsyncClient(server.url), ["a"])


def test_a_stream_that_breaks_says_how_many_were_answered() -> None:
    async def two(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + chunk(LINE) + chunk(LINE))
        await writer.drain()

    with scripted(two) as server:
        found: list[Any] = []
        with pytest.raises(StreamCut) as raised:
            found.extend(Client(server.url).stream(["a", "b", "c"]))
    assert raised.value.answered == 2
    assert str(raised.value).startswith(f"{server.url}: the connection broke before the answer was complete (")
    assert str(raised.value).endswith("; 2 texts were answered, send the others again")


def test_an_answer_that_ends_too_soon_is_no_success() -> None:
    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(HEAD + chunk(LINE) + chunk(b""))
        await writer.drain()

    with scripted(one) as server, pytest.raises(StreamCut) as raised:
        list(Client(server.url).stream(["a", "b"]))
    assert raised.value.answered == 1 and "(the service ended it)" in str(raised.value)


def test_a_stream_without_answers_times_out() -> None:
    with scripted(hang) as server, pytest.raises(TimedOut, match=r"no answer to the next text within 0\.2 s"):
        list(Client(server.url, timeout_s=0.2).stream(["a"]))


def test_nobody_there() -> None:
    with scripted(hang) as server:
        url = server.url
    with pytest.raises(ConnectionFailed, match="is the service running there"):
        list(Client(url).stream(["a"]))


def test_an_endpoint_cannot_stream() -> None:
    with endpoint() as transport, pytest.raises(Unsupported, match="use predict_many"):
        list(Client(transport=transport).stream(["a"]))


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"0\r\n\r\n")
    writer.write(HEAD + chunk(LINE) + chunk(b""))
    await writer.drain()


def authorization(head: bytes) -> list[bytes]:
    return [line for line in head.lower().split(b"\r\n") if line.startswith((b"authorization:", b"x-api-key:"))]


def test_a_stream_sends_the_same_credentials_as_predict() -> None:
    with scripted(http(200, LONE), answered) as server:
        client = Client(server.url.replace("//", "//user:p%40ss@"), api_key="key-0123456789")
        client.predict("a")
        list(client.stream(["a"]))
        client.close()
    asked, streamed = map(authorization, server.heads)
    assert asked == streamed == [b"authorization: basic dxnlcjpwqhnz", b"x-api-key: key-0123456789"]


def test_a_stream_over_a_given_transport_takes_no_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSIFIER_API_KEY", "environment-0123456789")
    with scripted(answered) as server, Client(transport=HttpTransport(server.url)) as client:
        assert [outcome.ok for outcome in client.stream(["a"])] == [True]
    assert authorization(server.heads[0]) == []


@pytest.mark.parametrize("given", [True, False])
def test_a_stream_trusts_the_certificates_that_predict_trusts(monkeypatch: pytest.MonkeyPatch, given: bool) -> None:
    import httpx

    of_httpx, own, used = ssl.create_default_context(), ssl.create_default_context(), []
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: of_httpx)

    async def connect(*_: object, **arguments: Any) -> None:
        used.append(arguments["ssl"])
        raise OSError("no connection")

    monkeypatch.setattr(asyncio, "open_connection", connect)
    with Client("https://service.invalid", tls=own if given else None) as client, pytest.raises(ConnectionFailed):
        list(client.stream(["a"]))
    assert used == [own if given else of_httpx]
