"""`/tokenize` over the fake engine."""

import threading

import pytest

from service.api.tokenize import TokenizeResponse
from tests.support.app import Service, ServiceFactory, longest_turn_of

pytestmark = pytest.mark.anyio


async def test_tokenize(service_with: ServiceFactory) -> None:
    async with service_with(max_text_chars=500) as service:
        body = (await service.post("/tokenize", {"text": "two words"})).json()
        assert body["tokens"] == [
            {"id": 0, "text": "two", "start": 0, "end": 3},
            {"id": 1, "text": "words", "start": 4, "end": 9},
        ]
        assert (body["cleaned"], body["count"], body["windows"], body["would_truncate"]) == ("two words", 2, 1, False)
        assert (await service.post("/tokenize", {"text": "word " * 60})).json()["windows"] == 2
        assert (await service.post("/tokenize", {"text": ""})).json()["kind"] == "empty_text"
        assert (await service.post("/tokenize", {"text": "x" * 501})).json()["kind"] == "text_too_large"


async def test_of_many_tokens_the_first_are_listed_and_others_have_their_turn(service: Service) -> None:
    response, longest_s = await longest_turn_of(service.post("/tokenize", {"text": "é " * 99_999 + '"'}))
    body = TokenizeResponse.model_validate_json(response.content)
    assert [token.start for token in body.tokens] == list(range(0, 20_000, 2))
    assert (body.count, body.windows, len(body.cleaned)) == (100_000, 2, 19_999)
    assert len(response.content) < 1_000_000
    assert longest_s < 0.1, "a turn for each 1,000 tokens"


async def test_the_default_deadline_holds(service_with: ServiceFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    may_tokenize = threading.Event()
    async with service_with(default_timeout_ms=20) as service:
        monkeypatch.setattr(service.engine, "tokenize", lambda *_: may_tokenize.wait(30))
        try:
            response = await service.post("/tokenize", {"text": "a"})
            assert (response.status_code, response.json()["kind"]) == (504, "deadline_exceeded")
            assert "within 20 ms" in response.json()["error"]
        finally:
            may_tokenize.set()
