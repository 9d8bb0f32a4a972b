"""Through boto3 against something that looks like SageMaker's runtime in front of the real app."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from client import (
    AsyncClient,
    BadText,
    BrokenAnswer,
    Client,
    ConfigurationError,
    ConnectionFailed,
    Overloaded,
    Retry,
    SageMakerTransport,
    TextError,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from client.transport.sagemaker import endpoint_of
from tests.support.fake_engine import expected_label
from tests.support.live_service import LiveService
from tests.support.scripted_server import http, page, scripted

boto3 = pytest.importorskip("boto3")


def runtime_client(url: str) -> Any:
    from botocore.config import Config

    return boto3.client(
        "sagemaker-runtime",
        region_name="eu-west-1",
        endpoint_url=url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"total_max_attempts": 1}, proxies={}),
    )


@contextmanager
def endpoint(container: str = "http://127.0.0.1:9", **settings: Any) -> Iterator[SageMakerTransport]:
    runtime = _Runtime(container)
    try:
        yield SageMakerTransport("news", client=runtime, **settings)
    finally:
        runtime.close()


def test_a_clients_own_connection_to_aws_is_not_closed_for_it() -> None:
    runtime = _Runtime("http://127.0.0.1:9")
    Client(transport=SageMakerTransport("news", client=runtime)).close()
    assert not runtime._http.is_closed
    runtime.close()


class _Runtime:
    """boto3's client for the runtime, whose connection to AWS is replaced by one to the container itself."""

    def __init__(self, container: str) -> None:
        from botocore.exceptions import ClientError

        self._error = ClientError
        self._http = httpx.Client(base_url=container, trust_env=False)
        self.asked: list[dict[str, Any]] = []

    def invoke_endpoint(self, **arguments: Any) -> dict[str, Any]:
        self.asked.append(arguments)
        headers = {"Content-Type": arguments["ContentType"], "Accept": arguments["Accept"]}
        answer = self._http.post("/invocations", content=arguments["Body"], headers=headers)
        if answer.status_code != 200:
            raise self._error(
                {
                    "Error": {"Code": "ModelError", "Message": "Received client error from primary"},
                    "OriginalStatusCode": answer.status_code,
                    "OriginalMessage": answer.text,
                },
                "InvokeEndpoint",
            )
        return {"Body": _Body(answer.content)}

    def close(self) -> None:
        self._http.close()


class _Body:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self) -> bytes:
        return self._content


def test_one_text(service: LiveService) -> None:
    with endpoint(service.url) as transport:
        answer = Client(transport=transport).predict("a text", top_k=2)
    assert answer.label == expected_label("a text") and len(answer.scores) == 2
    assert answer.unsure is None and answer.tokens is None, "an endpoint does not say"


def test_many_texts_with_an_error_in_its_place(service: LiveService) -> None:
    texts = [f"text {'x' * (i % 9)}" if i % 10 else "" for i in range(700)]
    with endpoint(service.url) as transport:
        found = list(Client(transport=transport).predict_many(texts))
    assert [outcome.ok for outcome in found] == [bool(text) for text in texts]
    assert isinstance(found[0], TextError) and found[0].kind == "empty_text"
    assert [o.label for o in found if not isinstance(o, TextError)] == [expected_label(text) for text in texts if text]


def test_on_an_event_loop(service: LiveService) -> None:
    async def run(transport: SageMakerTransport) -> list[str]:
        async with AsyncClient(transport=transport) as client:
            one = await client.predict("a text")
            return [one.label, *[getattr(o, "label", "") async for o in client.predict_many(["a", "bb"])]]

    with endpoint(service.url) as transport:
        assert asyncio.run(run(transport)) == [expected_label(text) for text in ("a text", "a", "bb")]


def test_errors_of_a_text(service: LiveService) -> None:
    with endpoint(service.url) as transport:
        with pytest.raises(BadText, match="SageMaker endpoint news: the text is empty"):
            Client(transport=transport).predict("")
        with pytest.raises(TooLarge, match="the limit is 200000"):
            Client(transport=transport).predict("x" * 200_001)


def test_options_of_the_endpoint(service: LiveService) -> None:
    long = "word " * 60
    with endpoint(service.url) as transport:
        client = Client(transport=transport)
        assert client.predict(long, on_long="truncate").label == expected_label(long)
        for options in ({"spans": True}, {"explain": True}, {"timeout_ms": 5}, {"on_long": "error"}):
            with pytest.raises(Unsupported, match=next(iter(options))):
                client.predict("a", **options)
        for call in (client.info, client.ready, client.metrics):
            with pytest.raises(Unsupported, match=r"SageMaker"):
                call()


def aws_error(status: int, code: str, message: str, **more: Any) -> bytes:
    """As the runtime API answers."""
    return http(status, {"message": message, "Message": message, **more}, x_amzn_errortype=code)


def asked(answer: bytes, **arguments: Any) -> Any:
    with (
        scripted(answer) as server,
        Client(
            transport=SageMakerTransport("news", client=runtime_client(server.url)),
            retry=Retry(tries=2, first_wait_s=0),
        ) as client,
    ):
        found = client.predict("a", **arguments)
        assert server.requests == [b"POST /endpoints/news/invocations HTTP/1.1"]
        return found


def test_the_real_wire_of_boto3() -> None:
    answer = http(200, '[{"label": "sport", "score": 0.9}]', kind="application/jsonlines")
    assert asked(answer).label == "sport"


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (
            aws_error(
                424,
                "ModelError",
                "Received client error (429) from primary",
                OriginalStatusCode=429,
                OriginalMessage=json.dumps({"error": "the queue is full", "kind": "overloaded", "request_id": "r"}),
            ),
            Overloaded,
            "the queue is full (429 overloaded, request r); come back later, or send less at a time (tried 2 times",
        ),
        (aws_error(429, "ThrottlingException", "Rate exceeded"), Overloaded, "ThrottlingException: Rate exceeded"),
        (aws_error(503, "ServiceUnavailable", "Try later"), Unavailable, "ServiceUnavailable: Try later"),
        (aws_error(403, "AccessDeniedException", "not authorized"), Unauthorized, "need sagemaker:InvokeEndpoint"),
        (
            aws_error(400, "ValidationError", "Endpoint news of account 1 not found."),
            ConfigurationError,
            "Endpoint news of account 1 not found.; check the endpoint's name and region",
        ),
        (
            aws_error(424, "ModelError", "Received server error (0) from primary. Your invocation timed out"),
            TimedOut,
            "no answer within 60 s",
        ),
        (page(502), Unavailable, "502: Bad Gateway"),
        (http(200, '{"predictions": []}'), BrokenAnswer, "does the endpoint run this service's image?"),
        (b"", ConnectionFailed, "the connection broke before the answer was complete"),
    ],
)
def test_errors_of_the_runtime(answer: bytes, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as raised:
        asked(answer)
    assert says in str(raised.value) and str(raised.value).startswith("SageMaker endpoint news: ")


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        client = runtime_client(f"http://127.0.0.1:{taken.getsockname()[1]}")
        with (
            Client(transport=SageMakerTransport("news", client=client), retry=Retry(tries=1)) as asking,
            pytest.raises(ConnectionFailed, match="no connection"),
        ):
            asking.predict("a")


def test_urls_of_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    assert endpoint_of("http://localhost:8080") is None
    with Client("sagemaker://news?region=eu-west-1") as client:
        assert client.url == "SageMaker endpoint news"
    with pytest.raises(ConfigurationError, match=r"for instance sagemaker://news\?region=eu-west-1"):
        Client("sagemaker://news")
    with pytest.raises(ConfigurationError, match="names no endpoint"):
        Client("sagemaker://")
