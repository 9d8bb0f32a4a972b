"""`Client` in awkward places: interrupted, forked, within a running event loop, given up; and its iterators."""

import asyncio
import gc
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from client import AsyncClient, Client, Retry, TimedOut
from client.threads import in_thread, read_in_thread
from client.transport.messages import Call, Reply
from tests.support.fake_engine import expected_label
from tests.support.live_service import LiveService
from tests.support.scripted_server import LONE, hang, http, scripted


def test_ctrl_c_ends_the_call_and_leaves_the_client_usable() -> None:
    gone = threading.Event()

    async def wait_for_the_end(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        # An interruption before the main thread waits would find nothing to cancel yet.
        while sys._current_frames()[threading.main_thread().ident or 0].f_code.co_name != "wait":
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGINT)
        await reader.read()
        gone.set()

    with scripted(wait_for_the_end, http(200, LONE)) as server, Client(server.url) as client:
        with pytest.raises(KeyboardInterrupt):
            client.predict("a")
        assert gone.wait(30), "the connection is closed, so that the service drops the work"
        assert client.predict("a").label == "sport"


def test_ctrl_c_ends_an_iteration_and_its_requests(service: LiveService) -> None:
    def interrupted(count: int = 0) -> Iterator[str]:
        while True:
            count += 1
            if count == 1000:
                os.kill(os.getpid(), signal.SIGINT)
            yield f"text {count}"

    with Client(service.url) as client:
        for ask in (client.predict_many, client.stream):
            with pytest.raises(KeyboardInterrupt):
                for _ in ask(interrupted()):
                    pass
        assert client.predict("a text").label == expected_label("a text")


def test_within_a_running_event_loop(service: LiveService) -> None:
    async def cell() -> list[str]:
        with Client(service.url) as client:
            found = [client.predict("a text"), *client.predict_many(["b"]), *client.stream(["c"])]
        return [getattr(one, "label", "") for one in found]

    assert asyncio.run(cell()) == [expected_label(text) for text in ("a text", "b", "c")]


def test_from_several_threads(service: LiveService) -> None:
    with Client(service.url) as client:
        found: dict[str, str] = {}
        texts = [f"{'x' * i} text" for i in range(20)]
        threads = [threading.Thread(target=lambda t=t: found.update({t: client.predict(t).label})) for t in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {text: expected_label(text) for text in texts}


def test_a_forked_child_has_connections_of_its_own(service: LiveService) -> None:
    with Client(service.url) as client:
        client.predict("a text")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(60)
                labels = [client.predict("b").label, *(getattr(o, "label", "") for o in client.stream(["c"]))]
                code = 0 if labels == [expected_label("b"), expected_label("c")] else 2
                client.close()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.predict("d").label == expected_label("d"), "the parent's connection is as it was"


def test_a_client_that_nobody_closes_is_closed_when_it_is_forgotten() -> None:
    closed = threading.Event()

    class Transport:
        where, limits = "http://fake", None

        async def send(self, call: Call, timeout_s: float) -> Reply:
            raise AssertionError

        async def close(self) -> None:
            closed.set()

    client = Client(transport=Transport())
    del client
    gc.collect()
    assert closed.wait(30)


def test_an_iteration_that_nobody_ends_is_ended_when_it_is_forgotten() -> None:
    ended = threading.Event()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from tests.unit.client.transport.test_two_way import HEAD, LINE, chunk

        writer.write(HEAD + chunk(LINE))
        await reader.read()
        ended.set()

    def endless() -> Iterator[str]:
        while True:
            yield "text"

    with scripted(one) as server, Client(server.url) as client:
        answers = client.stream(endless())
        next(answers)
        del answers
        gc.collect()
        assert ended.wait(30)


def test_many_texts_are_read_in_the_calling_thread(service: LiveService) -> None:
    with sqlite3.connect(":memory:") as database, Client(service.url) as client:
        texts = (text for (text,) in database.execute("values ('a'), ('bb')"))
        labels = [getattr(outcome, "label", "") for outcome in client.predict_many(texts)]
    database.close()
    assert labels == [expected_label("a"), expected_label("bb")]


def test_an_iterable_that_blocks_is_read_in_one_thread() -> None:
    def source() -> Iterator[str]:
        database = sqlite3.connect(":memory:")
        yield from (text for (text,) in database.execute("values ('a'), ('bb')"))
        database.close()

    async def run() -> list[str]:
        return [text async for text in read_in_thread(source())]

    assert asyncio.run(run()) == ["a", "bb"]


def test_a_blocking_call_that_nobody_waits_for_holds_up_nothing() -> None:
    release = threading.Event()

    async def run() -> None:
        async with asyncio.timeout(0.01):
            await in_thread(release.wait)

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(run())
    assert time.monotonic() - began < 20
    release.set()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_httpx_client_of_either_kind_is_used_and_left_open(asynchronous: bool) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url == "http://service/predict" and request.headers["x-mine"] == "1"
        return httpx.Response(200, json=LONE)

    own: Any = (httpx.AsyncClient if asynchronous else httpx.Client)(
        transport=httpx.MockTransport(answer), headers={"x-mine": "1"}
    )
    with Client("http://service", http=own) as client:
        assert client.predict("a").label == "sport"

    async def ask() -> str:
        async with AsyncClient("http://service", http=own) as client:
            return (await client.predict("a")).label

    assert asyncio.run(ask()) == "sport" and not own.is_closed


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a byte now and then, for ever: no single read of it takes long."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while not reader.at_eof():
        writer.write(b"{")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("trouble", [hang, drip])
def test_the_total_bounds_the_whole_call(trouble: Any) -> None:
    began = time.monotonic()
    with (
        scripted(trouble) as server,
        Client(server.url, retry=Retry(total_s=0.3)) as client,
        pytest.raises(TimedOut, match=r"no answer within 0\.3 s"),
    ):
        client.predict("a")
    assert time.monotonic() - began < 20


def test_the_total_bounds_a_transport_that_does_not_look_at_the_time() -> None:
    class Endless:
        where, limits = "http://fake", None

        async def send(self, call: Call, timeout_s: float) -> Reply:
            await asyncio.Event().wait()
            raise AssertionError

        async def close(self) -> None:
            pass

    with Client(transport=Endless(), retry=Retry(total_s=0.1)) as client, pytest.raises(TimedOut):
        client.predict("a")
