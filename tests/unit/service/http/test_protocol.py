"""Bounds on what comes in: in virtual time without a socket, and over a real one in this process."""

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from service.app import create_app
from service.errors import STATUS
from service.http.bodies import NEW
from service.http.protocol import (
    BODY_IDLE_S,
    BODY_S,
    DISCARD_S,
    HEAD_S,
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    MAX_PIPELINED,
    PIECE_BYTES,
    TAKE_S,
)
from service.inference.engine import Prediction
from service.inference.pipeline import Answer, AnswerOrError
from service.settings import Settings
from tests.support.fake_engine import FakeEngine
from tests.support.raw_http import KEEP_ALIVE_S, App, Wire, connection
from tests.support.virtual_time import VIRTUAL_TIME

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return VIRTUAL_TIME


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def post(body: bytes, content_type: str = "application/json", path: str = "/batch") -> bytes:
    head = f"Host: x\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return f"POST {path} HTTP/1.1\r\n".encode() + head.encode()


STREAM = post(b"x" * 1_000_000, "application/x-ndjson; charset=utf-8")


async def read_body(receive: Any) -> bytes | None:
    """Return None if the caller left."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def answer(send: Any, body: bytes, status: int = 200) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the body's length."""
    body = await read_body(receive)
    if body is not None:
        await answer(send, str(len(body)).encode())


async def early(scope: Any, receive: Any, send: Any) -> None:
    """Refuse without reading the body."""
    await answer(send, b"no", 413)


def slow(seconds: float, seen: list[Any] | None = None) -> App:
    """Echo after a while; add what became of each request to `seen`."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = await read_body(receive)
        departure = asyncio.ensure_future(receive())
        done, _ = await asyncio.wait({departure}, timeout=seconds)
        departure.cancel()
        if seen is not None:
            seen.append("left" if done or body is None else body)
        if body is not None and not done:
            await answer(send, str(len(body)).encode())

    return app


def streaming(seconds: float) -> App:
    """Answer each line after so many seconds, and say while a line waits for its answer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        owing = scope["extensions"]["service.owing"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more, rest = True, b""
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message.get("more_body", False)
            *lines, rest = (rest + message["body"]).split(b"\n")
            for line in lines:
                owing(True)
                await asyncio.sleep(seconds)
                await send({"type": "http.response.body", "body": line + b"!\n", "more_body": True})
                owing(False)
        await send({"type": "http.response.body", "body": b""})

    return app


async def wire_with(app: App, data: bytes) -> Wire:
    """Return a connection to the app on which these bytes were sent."""
    wire = Wire(app)
    await wire.send(data)
    return wire


def statuses(wire: Wire) -> list[int]:
    return [answer.status for answer in wire.answers]


def error_kind(wire: Wire) -> str:
    """Return the kind of the last answer, which announces the end."""
    last = wire.answers[-1]
    document = json.loads(last.body)
    assert last.closes and last.whole and last.status == STATUS[document["kind"]]
    return str(document["kind"])


class TestTime:
    async def test_a_caller_who_connects_and_sends_nothing_is_let_go_without_a_word(self) -> None:
        wire = Wire(echo)
        assert await wire.ended() == pytest.approx(HEAD_S, abs=0.5)
        assert wire.answers == []

    @pytest.mark.parametrize("before", [b"", GET])
    async def test_a_head_has_its_time_however_it_drips(self, before: bytes) -> None:
        wire = await wire_with(echo, before)
        for byte in GET[:-1]:
            await wire.send(bytes([byte]))
            await asyncio.sleep(0.9)
            if wire.ended_at is not None:
                break
        assert await wire.ended() == pytest.approx(HEAD_S, abs=0.5)
        assert error_kind(wire) == "request_timeout" and len(wire.answers) == 1 + bool(before)

    @pytest.mark.parametrize("lonely", [b"", b"\r\n"])
    async def test_a_kept_connection_ends_whatever_line_breaks_come(self, lonely: bytes) -> None:
        wire = await wire_with(echo, GET)
        assert await wire.drip(lonely, 5.0) == pytest.approx(KEEP_ALIVE_S, abs=0.5)
        assert statuses(wire) == [200]

    @pytest.mark.parametrize(
        ("sent", "then", "every_s", "ended_at"),
        [
            (post(b"x" * 10) + b"xx", b"", 0.5, BODY_IDLE_S),
            (post(b"x" * 1000), b"x", BODY_IDLE_S / 2 + 0.3, BODY_S),
            (CHUNKED, b"0", 1.5, BODY_IDLE_S),
        ],
        ids=["stops", "trickles", "only the sizes of chunks come"],
    )
    async def test_a_body_without_progress_is_cut(
        self, sent: bytes, then: bytes, every_s: float, ended_at: float
    ) -> None:
        wire = await wire_with(echo, sent)
        assert await wire.drip(then, every_s) == pytest.approx(ended_at, abs=0.5)
        assert error_kind(wire) == "request_timeout"

    async def test_an_answer_may_take_the_service_as_long_as_it_takes(self) -> None:
        wire = await wire_with(slow(1_000.0), post(b"xx") + b"xx")
        await asyncio.sleep(1_001.0)
        assert statuses(wire) == [200] and wire.ended_at is None

    async def test_an_early_answer_is_the_only_one_if_the_body_never_comes(self) -> None:
        wire = await wire_with(early, post(b"x" * 10))
        assert statuses(wire) == [413]
        assert await wire.ended() == pytest.approx(BODY_IDLE_S, abs=0.5)
        assert statuses(wire) == [413]

    @pytest.mark.parametrize("request_head", [post(b"x" * 10_000), STREAM])
    async def test_the_rest_of_a_body_that_was_answered_is_taken_for_a_while(self, request_head: bytes) -> None:
        wire = await wire_with(early, request_head)
        assert await wire.drip(b"x\n", 1.7) == pytest.approx(DISCARD_S, abs=2.0)
        assert statuses(wire) == [413]

    async def test_after_an_early_answer_and_its_body_the_connection_goes_on(self) -> None:
        wire = await wire_with(early, post(b"x" * 10))
        await asyncio.sleep(BODY_IDLE_S / 2)
        await wire.send(b"x" * 10 + GET)
        assert statuses(wire) == [413, 413]
        assert await wire.ended() == pytest.approx(BODY_IDLE_S / 2 + KEEP_ALIVE_S, abs=0.5)


def large(size: int) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await answer(send, b"y" * size)

    return app


class TestAnswersThatAreNotTaken:
    @pytest.mark.parametrize("size", [10, 1_000_000])
    async def test_whoever_reads_nothing_is_cut_off(self, size: int) -> None:
        wire = Wire(large(size))
        wire.taking = False
        await wire.send(GET)
        assert await wire.ended() <= KEEP_ALIVE_S + TAKE_S + 1
        assert wire.aborted

    @pytest.mark.parametrize("connection", [b"", b"Connection: close\r\n"])
    @pytest.mark.parametrize("seconds", [0.98 * TAKE_S, 1.1 * TAKE_S])
    async def test_whoever_reads_slowly_gets_all_in_time_or_is_cut_off(self, connection: bytes, seconds: float) -> None:
        wire = Wire(large(1_000_000))
        wire.taking = False
        await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + connection + b"\r\n")
        for _ in range(100):
            await asyncio.sleep(seconds / 100)
            wire.take(10_100)
        assert wire.aborted is (seconds > TAKE_S)
        if not wire.aborted:
            assert [len(a.body) for a in wire.answers] == [1_000_000]
            await asyncio.sleep(KEEP_ALIVE_S + 1)
            assert wire.ended_at is not None and not wire.aborted

    async def test_the_time_is_for_the_whole_answer_though_it_comes_in_pieces(self) -> None:
        async def pieces(scope: Any, receive: Any, send: Any) -> None:
            await read_body(receive)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(10):
                await send({"type": "http.response.body", "body": b"y" * 100_000, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        wire = Wire(pieces)
        wire.taking = False
        await wire.send(GET)
        for _ in range(10):
            await asyncio.sleep(TAKE_S / 8)
            wire.take(110_000)
        assert wire.aborted and len(wire.answers[0].body) < 1_000_000

    async def test_each_answer_has_its_own_time(self) -> None:
        wire = Wire(large(200_000))
        wire.taking = False
        for _ in range(10):
            await wire.send(GET)
            await asyncio.sleep(TAKE_S / 2)
            wire.take(300_000)
        assert [len(a.body) for a in wire.answers] == [200_000] * 10 and not wire.aborted

    async def test_a_stream_that_is_not_read_is_cut_off_although_it_sends(self) -> None:
        wire = Wire(streaming(0.0))
        wire.taking = False
        await wire.send(STREAM)
        ended_at = await wire.drip(b"x" * 1_000 + b"\n", 1.0)
        assert wire.aborted and 2 * TAKE_S < ended_at < 3 * TAKE_S  # full after 65 lines


class TestStreams:
    @pytest.mark.parametrize("path", ["/batch", "/batch?a=b", "http://x/batch", "/%62atch"])
    async def test_are_known_however_their_path_is_written(self, path: str) -> None:
        wire = await wire_with(streaming(0), post(b"first\n", "application/x-ndjson", path) + b"first\n")
        assert [answer.body for answer in wire.answers] == [b"first!\n"]

    async def test_a_stream_goes_on_as_long_as_lines_come(self) -> None:
        wire = await wire_with(streaming(0.0), STREAM)
        for _ in range(1_000):
            await wire.send(b"line\n")
            await asyncio.sleep(BODY_IDLE_S - 1)
        assert wire.ended_at is None and wire.answers[0].body == b"line!\n" * 1_000

    async def test_a_caller_in_lock_step_waits_as_long_as_the_answer_takes(self) -> None:
        wire = await wire_with(streaming(5 * BODY_S), STREAM)
        for sent in range(1, 10):
            await wire.send(b"line\n")
            await asyncio.sleep(5 * BODY_S + BODY_IDLE_S - 1)
            assert wire.answers[0].body == b"line!\n" * sent and wire.ended_at is None

    async def test_a_caller_who_is_owed_nothing_is_cut_without_a_second_answer(self) -> None:
        wire = await wire_with(streaming(100.0), STREAM)
        await wire.send(b"line\n")
        assert await wire.ended() == pytest.approx(100.0 + BODY_IDLE_S, abs=0.5)
        assert [(a.status, a.body, a.whole) for a in wire.answers] == [(200, b"line!\n", False)]

    async def test_a_line_that_trickles_is_cut(self) -> None:
        wire = await wire_with(streaming(0.0), STREAM + b"first\n")
        await asyncio.sleep(BODY_IDLE_S / 2)
        await wire.send(b"second\n")
        assert await wire.drip(b" ", 3.0) == pytest.approx(BODY_IDLE_S / 2 + BODY_S, abs=3.0)

    @pytest.mark.parametrize("then", [b"\n", b" \r\n", b"\n\n\n"])
    async def test_a_stream_of_blank_lines_is_cut(self, then: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        app = create_app(settings=Settings(), load_engine=lambda *_: FakeEngine())
        monkeypatch.setattr(app.state.lifecycle, "current_pipeline", lambda: None)
        wire = await wire_with(app, STREAM)
        assert await wire.drip(then, 5.0) == pytest.approx(BODY_S, abs=5.0)

    async def test_the_service_says_what_it_owes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def classify(texts: list[str], *_: Any) -> list[AnswerOrError]:
            await asyncio.sleep(5 * BODY_IDLE_S)
            return [Answer(Prediction((("sport", 1.0),), False), 1, 1, 1) for _ in texts]

        app = create_app(settings=Settings(), load_engine=lambda *_: FakeEngine())
        runtime = app.state.lifecycle
        pipeline = SimpleNamespace(classify=classify, stream_turns=asyncio.Semaphore(1))
        monkeypatch.setattr(runtime, "current_pipeline", lambda: pipeline)
        wire = await wire_with(app, STREAM)
        for sent in range(1, 4):
            await wire.send(b'"the match"\n')
            await asyncio.sleep(6 * BODY_IDLE_S - 1)
            assert len(wire.answers[0].body.splitlines()) == sent and wire.ended_at is None
        assert await wire.ended() == pytest.approx(3 * 6 * BODY_IDLE_S - 3 + 1, abs=0.6)


async def test_the_first_request_on_a_connection_is_marked() -> None:
    marked: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        marked.append(NEW in scope["extensions"])
        await echo(scope, receive, send)

    for _ in range(2):
        wire = await wire_with(app, GET + post(b"xx") + b"xx")
        await wire.send(GET)
    assert marked == [True, False, False] * 2


class TestPipelines:
    async def test_a_fault_never_enters_an_answer_that_is_under_way(self) -> None:
        wire = await wire_with(slow(30.0), post(b"xx") + b"xx" + GET)
        await wire.send(b"no HTTP\r\n\r\n")
        await wire.send(GET)  # too late
        assert await wire.ended() == pytest.approx(60.0, abs=0.5)
        assert [(a.status, a.body, a.closes) for a in wire.answers] == [(200, b"2", False), (200, b"0", True)]

    @pytest.mark.parametrize(
        ("answer_s", "second", "ended_at", "answered"),
        [
            (30.0, b"GET / HT", 30.0, [200]),
            (HEAD_S / 2, b"GET / HT", HEAD_S, [200, 408]),
            (3 * BODY_S, post(b"xx") + b"x", 3 * BODY_S + BODY_IDLE_S, [200, 408]),
        ],
        ids=["the answer takes longer than a head may", "a head after the answer", "a body from its turn on"],
    )
    async def test_an_unfinished_second_request_has_its_time(
        self, answer_s: float, second: bytes, ended_at: float, answered: list[int]
    ) -> None:
        wire = await wire_with(slow(answer_s), GET + second)
        assert await wire.ended() == pytest.approx(ended_at, abs=0.5)
        assert statuses(wire) == answered and wire.answers[-1].closes

    async def test_a_request_that_breaks_before_its_turn_never_has_it(self) -> None:
        seen: list[Any] = []
        wire = await wire_with(slow(30.0, seen), GET + post(b"yy") + b"yy" + CHUNKED + b"no chunk\r\n")
        assert await wire.ended() == pytest.approx(60.0, abs=0.5)
        assert [(a.status, a.body) for a in wire.answers] == [(200, b"0"), (200, b"2")]
        assert seen == [b"", b"yy"]

    async def test_requests_in_wait_are_bounded_and_those_that_fit_are_answered(self) -> None:
        wire = await wire_with(slow(1.0), GET * 200)
        await wire.ended()
        assert statuses(wire) == [200] * (1 + MAX_PIPELINED) and wire.answers[-1].closes

    async def test_a_departure_is_told_to_the_request_that_is_under_way(self) -> None:
        seen: list[Any] = []
        wire = await wire_with(slow(1_000.0, seen), GET + GET)
        await wire.leave()
        assert seen == ["left"]

    async def test_an_answer_that_has_begun_is_broken_off_if_its_request_breaks(self) -> None:
        wire = Wire(streaming(0.0))
        head = b"POST /batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/jsonl\r\n"
        await wire.send(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\na\n\r\n")
        await wire.send(b"no chunk\r\n")
        await wire.ended()
        assert [(a.status, a.body, a.whole) for a in wire.answers] == [(200, b"a!\n", False)]

    async def test_an_application_that_answers_later_is_not_heard(self) -> None:
        async def late(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(BODY_IDLE_S)
            await answer(send, b"late")

        wire = Wire(late)
        wire.taking = False
        await wire.send(CHUNKED + b"no chunk\r\n")
        await asyncio.sleep(BODY_IDLE_S + 1)
        wire.take(10_000)
        assert statuses(wire) == [400]


TOO_MUCH = {
    "whole, in one read": b"GET / HTTP/1.1\r\nX-Long: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n",
    "endless": b"GET / HTTP/1.1\r\nX-Long: " + b"y" * (MAX_HEAD_BYTES + PIECE_BYTES),
    "one field": b"GET / HTTP/1.1\r\nX-Long: " + b"y" * 200_000 + b"\r\n\r\n",
    "path": b"GET /" + b"y" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "long fields": b"GET / HTTP/1.1\r\n" + (b"X-A: " + b"y" * 1000 + b"\r\n") * (MAX_HEAD_BYTES // 1000 + 1),
    "fields": b"GET / HTTP/1.1\r\n" + b"a:\r\n" * (MAX_FIELDS + 1) + b"\r\n",
    "endless trailer": CHUNKED + b"1\r\nx\r\n0\r\nX-Long: " + b"y" * (MAX_HEAD_BYTES + PIECE_BYTES),
    "trailer": CHUNKED + b"1\r\nx\r\n0\r\nX-Long: " + b"y" * 200_000 + b"\r\n\r\n",
    "trailers": CHUNKED + b"1\r\nx\r\n0\r\n" + b"a:\r\n" * MAX_FIELDS + b"\r\n",
    "extension": CHUNKED + b"1;extension=" + b"y" * 200_000 + b"\r\nx\r\n0\r\n\r\n",
}


class TestSizes:
    @pytest.mark.parametrize("request_head", TOO_MUCH.values(), ids=TOO_MUCH)
    @pytest.mark.parametrize("step", [1_000, 256_000])
    async def test_what_is_no_body_is_bounded_in_whatever_pieces_it_comes(self, request_head: bytes, step: int) -> None:
        wire = Wire(echo)
        for start in range(0, len(request_head), step):
            if wire.ended_at is None:
                await wire.send(request_head[start : start + step])
        assert await wire.ended() < 1
        assert error_kind(wire) == "headers_too_large" and len(wire.answers) == 1

    async def test_as_much_as_is_allowed_passes(self) -> None:
        wire = await wire_with(
            echo, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: " + b"y" * 30_000 + b"\r\n" + b"a:\r\n" * 98 + b"\r\n"
        )
        await wire.send(CHUNKED + b"1\r\nx\r\n" * 100_000 + b"0\r\nX-T: 1\r\n\r\n")
        assert [a.body for a in wire.answers] == [b"0", b"100000"]

    async def test_trailers_do_not_become_headers(self) -> None:
        async def names(scope: Any, receive: Any, send: Any) -> None:
            await read_body(receive)
            await answer(send, b" ".join(name for name, _ in scope["headers"]))

        wire = await wire_with(names, CHUNKED + b"1\r\nx\r\n0\r\nX-API-Key: secret\r\n\r\n" + GET)
        assert [a.body for a in wire.answers] == [b"host transfer-encoding", b"host"]


FORBIDDEN = {
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "the same Host twice": b"GET / HTTP/1.0\r\nHost: a\r\nhost: a\r\n\r\n",
    "a Host with a path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "a Host with a user": b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
    "HTTP/1.0 with chunks": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    "another version": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}
"""Requests that a proxy in front may understand in another way (RFC 9112, sections 3.2, 6.1 and 6.3)."""


@pytest.mark.parametrize("request_head", FORBIDDEN.values(), ids=FORBIDDEN)
async def test_what_has_two_meanings_is_refused_and_never_reaches_the_application(request_head: bytes) -> None:
    seen: list[Any] = []
    wire = await wire_with(slow(0.0, seen), request_head)
    assert await wire.ended() < 1
    assert error_kind(wire) == "bad_request" and len(wire.answers) == 1 and not seen


async def test_hosts_of_every_form_and_http_1_0_without_one_pass() -> None:
    wire = Wire(echo)
    for host in (b"a.example:8080", b"[::1]:8080", b"127.0.0.1", b"a%20b", b""):
        await wire.send(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    await wire.send(b"GET / HTTP/1.0\r\n\r\n")
    assert statuses(wire) == [200] * 6


async def test_an_offered_upgrade_is_answered_like_any_request(caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire(echo)
    for protocol in (b"h2c", b"websocket"):
        offer = b"Host: x\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nUpgrade: " + protocol + b"\r\n\r\n"
        await wire.send(b"GET / HTTP/1.1\r\n" + offer)
        await wire.send(b"POST / HTTP/1.1\r\nContent-Length: 20000\r\n" + offer + b"x" * 12_000)
        await wire.send(b"x" * 8_000 + GET)
        chunks = b"2\r\nxx\r\n0\r\n\r\n"
        await wire.send(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + offer[:30])
        await wire.send(offer[30:] + chunks[:5])
        await wire.send(chunks[5:])
    await wire.send(GET)
    assert statuses(wire) == [200] * 9 and wire.ended_at is None
    assert [answer.body for answer in wire.answers] == [b"0", b"20000", b"0", b"2"] * 2 + [b"0"]
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not warned, "uvicorn says something about an upgrade it does not know"


async def refused(reader: asyncio.StreamReader, kind: str) -> None:
    """The rest of the connection is one error of this kind, and then it ends."""
    answer = await asyncio.wait_for(reader.read(), 30)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {STATUS[kind]} ".encode()) and b"connection: close" in head.lower()
    error = json.loads(body)
    assert error["kind"] == kind and f"x-request-id: {error['request_id']}".encode() in head


async def answered(reader: asyncio.StreamReader) -> int:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    assert head.startswith(b"HTTP/1.1 200 ")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return int(await reader.readexactly(length))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestSockets:
    """The same over a socket, whose transport is asyncio's."""

    async def test_ordinary_requests_pass_one_after_the_other(self) -> None:
        async with connection(echo) as (reader, writer):
            for size in (0, 5, 500_000):
                writer.write(post(b"x" * size) + b"x" * size)
                assert await answered(reader) == size

    async def test_pipelined_requests_pass(self) -> None:
        async with connection(echo) as (reader, writer):
            writer.write((post(b"xx") + b"xx") * 3)
            assert [await answered(reader) for _ in range(3)] == [2, 2, 2]

    async def test_large_bodies_do_not_count_as_heads(self) -> None:
        async with connection(echo) as (reader, writer):
            for _ in range(3):
                size = 2 * MAX_HEAD_BYTES
                writer.write(post(b"x" * size))
                for _ in range(2):
                    writer.write(b"x" * MAX_HEAD_BYTES)
                    await writer.drain()
                assert await answered(reader) == size

    @pytest.mark.parametrize(
        "garbage", [b"\x16\x03\x01\x02\x00", b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n"]
    )
    async def test_what_is_not_http_gets_the_one_error_shape(self, garbage: bytes) -> None:
        async with connection(echo) as (reader, writer):
            writer.write(garbage)
            await refused(reader, "bad_request")
