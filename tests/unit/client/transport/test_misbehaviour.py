"""What a caller of Client, of AsyncClient and of the command line sees when the other end misbehaves."""

import asyncio
import io
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from client import (
    AnswerError,
    AsyncClient,
    BadRequest,
    BadText,
    BrokenAnswer,
    Client,
    ClientError,
    Clock,
    ConnectionFailed,
    DeadlineExceeded,
    NotOurService,
    Overloaded,
    Retry,
    ServiceFault,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from client.cli import main as command_line
from tests.support.scripted_server import INFO, LONE, RESULT, Answer, begin, error, hang, http, page, scripted

OK = http(200, LONE)
SECRET = "the text that nobody may see"


@dataclass
class Time:
    """A clock that only waiting moves."""

    now_s: float = 0.0
    waits: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now_s, lambda: 1.0, self.sleep)


Ask = Callable[..., Any]


def ask_sync(url: str, time: Time, **arguments: Any) -> Any:
    with Client(url, clock=time.clock, **arguments) as client:
        return client.predict(SECRET)


def ask_async(url: str, time: Time, **arguments: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(url, clock=time.clock, **arguments) as client:
            return await client.predict(SECRET)

    return asyncio.run(ask())


@pytest.fixture(params=[ask_sync, ask_async], ids=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Ask:
    chosen: Ask = request.param
    return chosen


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """`python -m client ...` without waiting; its last line of standard error, after the exit code."""
    time = Time()
    real = Client.__init__

    def quick(self: Client, *arguments: Any, **named: Any) -> None:
        real(self, *arguments, **named | {"clock": time.clock, "timeout_s": 0.3})

    monkeypatch.setattr(Client, "__init__", quick)

    def run(*arguments: str) -> str:
        code = command_line.main(arguments)
        return f"{code} {capsys.readouterr().err.strip()}"

    yield run


@dataclass(frozen=True)
class Case:
    """A server's answer, and the error that it becomes."""

    answer: Answer
    kind: type[ClientError]
    says: str  # after the URL
    requests: int = 1  # that the server gets
    code: int = 3  # of the command line

    def told(self, url: str) -> str:
        return f"{url}: {self.says}"


PROXY, CUT = "a proxy in between, not the service, answered", "the connection broke before the answer was complete ("
LATER, WAITS = "; come back later, or send less at a time", "; come back later; client.ready() waits for it"
CASES = {
    "429 for ever": Case(
        error(429, "overloaded", "the queue is full", Retry_After="2"),
        Overloaded,
        f"the queue is full (429 overloaded, request r1){LATER} (tried 3 times in 5.0 s)",
        requests=3,
    ),
    "429 for an hour": Case(
        error(429, "overloaded", "the queue is full", Retry_After="3600"),
        Overloaded,
        f"the queue is full (429 overloaded, request r1){LATER} (it asks to wait 3600 s)",
    ),
    "503 while starting": Case(
        error(503, "not_ready", "the model is being loaded; try again", Retry_After="1"),
        Unavailable,
        f"the model is being loaded; try again (503 not_ready, request r1){WAITS} (tried 3 times in 2.5 s)",
        requests=3,
    ),
    "502 page of a proxy": Case(
        page(502),
        Unavailable,
        f"{PROXY} 502: '502 Bad Gateway 502 Bad Gateway nginx'{WAITS} (tried 3 times in 0.8 s)",
        requests=3,
    ),
    "cut before an answer": Case(
        b"",
        ConnectionFailed,
        f"{CUT}Server disconnected without sending a response.) (tried 3 times in 0.8 s)",
        requests=3,
    ),
    "cut within an answer": Case(
        begin(b'{"label": "sp'),
        ConnectionFailed,
        f"{CUT}peer closed connection without sending complete message body "
        "(received 13 bytes, expected 5000)) (tried 3 times in 0.8 s)",
        requests=3,
    ),
    "hangs": Case(hang, TimedOut, "no answer within 0.3 s; allow more (timeout_s, timeout_ms), or send less at once"),
    "broken JSON": Case(
        http(200, '{"label": "sport", "sco'),
        BrokenAnswer,
        "the answer's JSON is broken (EOF while parsing a string at line 1 column 23): "
        '\'{"label": "sport", "sco\'; a proxy in between may have cut it',
    ),
    "another JSON": Case(
        http(200, {"choices": []}),
        BrokenAnswer,
        "an answer of another shape than expected (label: field required); "
        "is this the service, and of the client's version?",
    ),
    "HTML with 200": Case(
        page(200, "<html><body><h1>It works!</h1></body></html>"),
        NotOurService,
        "answers, but not in JSON: 'It works!'; check the URL, and proxies in between",
    ),
    "another server's 404": Case(
        http(404, {"detail": "Not Found"}),
        NotOurService,
        'answered 404, but not as the service does: \'{"detail": "Not Found"}\'; check the URL',
    ),
    "redirect": Case(
        http(307, "", Location="https://login.example/"),
        NotOurService,
        "redirects to https://login.example/ (307); use the service's own URL",
    ),
    "not HTTP": Case(b"SSH-2.0-OpenSSH_9.2\r\n", ConnectionFailed, CUT, requests=3),
    "401": Case(
        error(401, "unauthorized", "this service needs an API key"),
        Unauthorized,
        "this service needs an API key (401 unauthorized, request r1); give one of its keys: "
        "Client(api_key=...), --api-key or CLASSIFIER_API_KEY",
    ),
    "401 of a proxy": Case(
        page(401, "<h1>Authorization Required</h1>"),
        Unauthorized,
        f"{PROXY} 401: 'Authorization Required'; it wants other credentials",
    ),
    "413": Case(
        error(413, "text_too_large", "9 characters, the limit is 5"),
        TooLarge,
        "9 characters, the limit is 5 (413 text_too_large, request r1)",
        code=1,
    ),
    "413 of a proxy": Case(
        page(413, "<h1>Request Entity Too Large</h1>"),
        TooLarge,
        f"{PROXY} 413: 'Request Entity Too Large'; a body of 39 bytes is too large for it",
        code=1,
    ),
    "422 option": Case(
        error(422, "invalid_request", "top_k: must be 1 or more"),
        BadRequest,
        "top_k: must be 1 or more (422 invalid_request, request r1)",
    ),
    "422 text": Case(
        error(422, "empty_text", "the text is empty"), BadText, "the text is empty (422 empty_text, request r1)", code=1
    ),
    "500": Case(
        error(500, "internal", "internal error; the service's log has this request's id"),
        ServiceFault,
        "internal error; the service's log has this request's id (500 internal, request r1)",
    ),
    "504 of the service": Case(
        error(504, "deadline_exceeded", "no answer within 30000 ms; the work was dropped"),
        DeadlineExceeded,
        "no answer within 30000 ms; the work was dropped (504 deadline_exceeded, request r1)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_caller_is_told_what_was_wrong_and_what_to_do(ask: Ask, name: str) -> None:
    case = CASES[name]
    with scripted(case.answer) as server, pytest.raises(ClientError) as raised:
        ask(server.url, Time(), retry=Retry(tries=3), timeout_s=0.3 if case.kind is TimedOut else 10)
    assert type(raised.value) is case.kind
    assert str(raised.value).startswith(case.told(server.url)) and "\n" not in str(raised.value)
    if name != "not HTTP":  # that reason is httpx's parser's own
        assert str(raised.value) == case.told(server.url)
    assert len(server.requests) == case.requests
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("name", CASES)
def test_the_command_line_says_the_same(command: Callable[..., str], name: str) -> None:
    case = CASES[name]
    with scripted(case.answer) as server:
        told = command("predict", SECRET, "--url", server.url)
    assert told.startswith(f"{case.code} error: {case.told(server.url)}") and "\n" not in told


@pytest.fixture
def nobody() -> Iterator[str]:
    """A URL whose port is bound, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_connection_refused(ask: Ask, nobody: str) -> None:
    time = Time()
    with pytest.raises(ConnectionFailed) as raised:
        ask(nobody, time)
    assert len(time.waits) == 7
    assert str(raised.value).startswith(f"{nobody}: no connection (")
    assert "; is the service running there, and is the URL right? (tried 8 times in " in str(raised.value)


def test_connection_refused_on_the_command_line(command: Callable[..., str], nobody: str) -> None:
    assert command("predict", "x", "--url", nobody).startswith(f"3 error: {nobody}: no connection (")


def test_https_to_a_server_without(ask: Ask) -> None:
    with scripted(OK) as server, pytest.raises(ConnectionFailed) as raised:
        ask(server.url.replace("http:", "https:"), Time())
    assert "no TLS connection" in str(raised.value) and "http:// instead of https://" in str(raised.value)
    assert "tried" not in str(raised.value)


@pytest.mark.parametrize(
    "trouble",
    [
        error(429, "overloaded", Retry_After="3"),
        error(503, "draining", Retry_After="3"),
        page(502, Retry_After="3"),
        page(504, Retry_After="3"),
    ],
)
def test_trouble_that_passes_is_not_seen_and_the_wait_is_the_servers(ask: Ask, trouble: bytes) -> None:
    time = Time()
    with scripted(trouble, trouble, OK) as server:
        assert ask(server.url, time).label == "sport"
    assert time.waits == [3 * 1.25, 3 * 1.25], "Retry-After, stretched by the whole spread"


def test_a_dropped_connection_is_asked_again_after_a_growing_wait(ask: Ask) -> None:
    time = Time()
    with scripted(b"", begin(b"{"), b"", b"", b"", b"", OK) as server:
        assert ask(server.url, time).label == "sport"
    assert time.waits == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0]


def test_all_tries_together_have_a_bound(ask: Ask) -> None:
    time = Time()
    with scripted(error(503, "not_ready", Retry_After="4")) as server, pytest.raises(Unavailable) as raised:
        ask(server.url, time, retry=Retry(total_s=17, tries=100))
    assert time.waits == [5, 5, 5], "a fourth would end after 17 s"
    assert "(tried 4 times in 15.0 s)" in str(raised.value)


def test_the_key_goes_along_and_is_never_shown(ask: Ask) -> None:
    with scripted(OK) as server:
        ask(server.url, Time(), api_key="secret-key-0123456789")
    assert b"authorization: bearer secret-key-0123456789" in server.heads[0].lower()
    with scripted(error(401, "unauthorized")) as server, pytest.raises(Unauthorized) as raised:
        ask(server.url, Time(), api_key="secret-key-0123456789")
    assert "secret" not in str(raised.value)


def test_passwords_in_a_url_are_not_shown(ask: Ask) -> None:
    with scripted(error(500, "internal")) as server, pytest.raises(ServiceFault) as raised:
        ask(server.url.replace("//", "//user:hidden@"), Time())
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PROXY", "foo://127.0.0.1:9"),
        ("ALL_PROXY", "socks5://127.0.0.1:9"),
        ("NO_PROXY", "fe80::/10"),
        ("SSL_CERT_FILE", "/no/such/file.pem"),
    ],
)
def test_an_environment_that_cannot_be_used(
    command: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    said = command("predict", "x", "--url", "https://service.invalid")
    assert said.startswith("2 error: https://service.invalid: ") and "SSL_CERT_FILE" in said and "NO_PROXY" in said


def test_standard_input_that_is_not_utf8(command: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), "utf-8"))
    assert command("predict", "-").startswith("2 error: standard input is not UTF-8")


def test_an_error_carries_what_a_program_needs(ask: Ask) -> None:
    body = {"error": "e", "kind": "invalid_request", "request_id": "r9", "details": [{"field": "top_k"}]}
    with scripted(http(422, body)) as server, pytest.raises(AnswerError) as raised:
        ask(server.url, Time())
    found = raised.value
    assert (found.status, found.kind, found.request_id) == (422, "invalid_request", "r9")
    assert found.details == ({"field": "top_k"},) and found.retry_after_s is None


def test_texts_that_got_no_answer_for_a_passing_reason_are_asked_again() -> None:
    stopping = {"error": "stopping", "kind": "draining", "request_id": "r"}
    with (
        scripted(
            INFO,
            http(200, {"results": [RESULT, stopping, RESULT]}),
            http(200, {"results": [RESULT | {"label": "politics"}]}),
        ) as server,
        Client(server.url, clock=Time().clock) as client,
    ):
        labels = [getattr(o, "label", None) for o in client.predict_many(["a", "b", "c"])]
    assert labels == ["sport", "politics", "sport"]
    assert server.bodies[2] == b'{"texts":["b"]}'


def test_a_request_that_a_proxy_finds_too_large_is_halved() -> None:
    one = http(200, {"results": [RESULT]})
    with scripted(INFO, page(413), one, page(413), one, page(413)) as server, Client(server.url) as client:
        found = list(client.predict_many(["a", "b", "c"]))
    assert [outcome.ok for outcome in found] == [True, True, False]
    assert found[2].model_dump()["kind"] == "body_too_large"
