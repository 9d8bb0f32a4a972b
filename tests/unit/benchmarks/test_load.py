"""The load generator against a server of a few lines in the same process."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.tools.http1 import Lost, get, post
from benchmarks.tools.load import FAILED, UNSENT, Load, Outcome, Pool, closed_loop, metrics, open_loop

HOST = "127.0.0.1"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Answer = Callable[[bytes], Awaitable[bytes | None]]


class Server:
    """Answers each request with what `answer` gives for its body; None closes the connection instead."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.bodies: list[bytes] = []
        self.connections = 0
        self.port = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = [line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")]
                body = await reader.readexactly(int(length[0].split()[1])) if length else b""
                self.bodies.append(body)
                answer = await self.answer(body)
                if answer is None:
                    return
                writer.write(answer)
        except asyncio.IncompleteReadError:
            pass  # the client has closed
        finally:
            writer.close()


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Server]:
    server = Server(answer)
    listener = await asyncio.start_server(server.talk, HOST, 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


async def always_ok(_body: bytes) -> bytes:
    return OK


REQUESTS = [post("/predict", b"a"), post("/predict", b"b"), post("/predict", b"c")]


def test_closed_loop_asks_in_order_and_keeps_connections() -> None:
    async def scenario() -> tuple[Load, Server]:
        async with serving(always_ok) as server:
            return await closed_loop(server.port, REQUESTS, clients=1, count=7), server

    load, server = asyncio.run(scenario())
    assert server.bodies == [b"a", b"b", b"c", b"a", b"b", b"c", b"a"]
    assert server.connections == 1
    assert load.summary()["statuses"] == {"200": 7}
    assert load.summary()["throughput_per_s"] > 0


def test_closed_loop_never_has_more_under_way_than_clients() -> None:
    waiting = 0
    most = 0

    async def scenario() -> Server:
        gate = asyncio.Event()

        async def together(_body: bytes) -> bytes:
            nonlocal waiting, most
            waiting += 1
            most = max(most, waiting)
            if waiting == 3:  # all three clients are here: let them go
                gate.set()
            await gate.wait()
            waiting -= 1
            return OK

        async with serving(together) as server:
            await closed_loop(server.port, REQUESTS, clients=3, count=30)
            return server

    server = asyncio.run(scenario())
    assert most == 3
    assert len(server.bodies) == 30
    assert server.connections == 3


def test_closed_loop_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="needs an end"):
        asyncio.run(closed_loop(1, REQUESTS, clients=1))


def test_open_loop_counts_latency_from_the_scheduled_time() -> None:
    async def scenario() -> Load:
        async with serving(always_ok) as server:
            return await open_loop(server.port, REQUESTS, [-5.0, -3.0, 0.0])

    outcomes = sorted(outcome.latency_s for outcome in asyncio.run(scenario()).outcomes)
    assert outcomes[0] < 3
    assert 3 <= outcomes[1] < 5
    assert outcomes[2] >= 5


def test_open_loop_does_not_wait_for_answers_and_counts_what_it_could_not_send() -> None:
    async def scenario() -> Load:
        gate = asyncio.Event()

        async def held(body: bytes) -> bytes:
            if body == b"b":  # the second of two: both are here although neither was answered
                gate.set()
            await gate.wait()
            return OK

        async with serving(held) as server:
            return await open_loop(server.port, REQUESTS, [0.0] * 6, max_in_flight=2)

    statuses = [outcome.status for outcome in asyncio.run(scenario()).outcomes]
    assert statuses.count(200) + statuses.count(UNSENT) == 6
    assert statuses.count(200) >= 2
    assert statuses.count(UNSENT) >= 1


def test_cut_connection_is_a_failure_and_the_next_request_gets_another() -> None:
    async def scenario() -> Load:
        async def cuts_once(body: bytes) -> bytes | None:
            return None if body == b"a" else OK

        async with serving(cuts_once) as server:
            return await open_loop(server.port, REQUESTS, [0.0, 0.0, 0.0], max_in_flight=3)

    assert sorted(outcome.status for outcome in asyncio.run(scenario()).outcomes) == [FAILED, 200, 200]


def test_refused_connection_is_a_failure() -> None:
    async def scenario() -> Load:
        async with serving(always_ok) as server:
            port = server.port
        return await open_loop(port, REQUESTS, [0.0])

    assert asyncio.run(scenario()).summary()["statuses"] == {"failed": 1}


def test_chunked_answer_is_read_whole_and_the_connection_stays() -> None:
    async def scenario() -> tuple[list[bytes], int]:
        async def chunked(body: bytes) -> bytes:
            return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=1\r\nde\r\n0\r\n\r\n"

        async with serving(chunked) as server:
            pool = Pool(server.port)
            answers = [(await pool.ask(post("/", b"x"))).body for _ in range(2)]
            pool.close()
            return answers, server.connections

    assert asyncio.run(scenario()) == ([b"abcde", b"abcde"], 1)


def test_get_has_no_body() -> None:
    assert get("/metrics") == b"GET /metrics HTTP/1.1\r\nHost: benchmark\r\n\r\n"


def test_refusals_without_retry_after_are_counted() -> None:
    async def scenario() -> Load:
        async def busy(body: bytes) -> bytes:
            extra = b"Retry-After: 3\r\n" if body == b"a" else b""
            return b"HTTP/1.1 429 Too Many Requests\r\n" + extra + b"Content-Length: 0\r\n\r\n"

        async with serving(busy) as server:
            return await closed_loop(server.port, REQUESTS, clients=1, count=3)

    load = asyncio.run(scenario())
    assert load.summary()["statuses"] == {"429": 3}
    assert load.summary()["without_retry_after"] == 2
    assert load.outcomes[0].retry_after == "3"


def test_summary_is_about_answers_with_status_200() -> None:
    load = Load([Outcome(200, 0.1), Outcome(200, 0.3), Outcome(429, 9.0, "1"), Outcome(UNSENT, 0.0)], seconds=2.0)
    summary = load.summary()
    assert summary["throughput_per_s"] == 1.0
    assert summary["p50_ms"] == pytest.approx(200)
    assert summary["max_ms"] == pytest.approx(300)
    assert summary["statuses"] == {"unsent": 1, "200": 2, "429": 1}


def test_a_kept_connection_that_the_server_closed_is_not_the_requests_failure() -> None:
    async def scenario() -> None:
        places: dict[bytes, bool] = {}

        async def once_a_connection(body: bytes) -> bytes | None:
            known = body in places
            places[body] = True
            return OK if body == b"a" or known else None  # b comes over the connection of a, then over a new one

        async with serving(once_a_connection) as server:
            pool = Pool(server.port)
            assert (await pool.ask(post("/", b"a"))).status == 200
            assert (await pool.ask(post("/", b"b"))).status == 200
            assert (server.connections, server.bodies) == (2, [b"a", b"b", b"b"])
            with pytest.raises(Lost):
                await Pool(server.port).ask(post("/", b"c"))
            pool.close()

    asyncio.run(scenario())


def test_metrics_are_found_by_name_and_are_nan_otherwise() -> None:
    page = b'# TYPE classifier_a counter\nclassifier_a_sum 1.5\nclassifier_a_bucket{le="1"} 3\n'

    async def scenario() -> tuple[float, ...]:
        async def answer(_body: bytes) -> bytes:
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page)

        async with serving(answer) as server:
            return await metrics(server.port, "a_sum", "b_total")

    found = asyncio.run(scenario())
    assert found[0] == 1.5 and math.isnan(found[1])
