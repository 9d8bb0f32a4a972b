"""Tokenising off the event loop, over the fake engine."""

import threading
from collections.abc import Iterator

import pytest

from service.inference.engine import TokenizedText
from tests.support.app import ServiceFactory
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio


class Slow(FakeEngine):
    """An engine whose tokenizer waits until the test lets it go."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def tokenize(self, text: str) -> TokenizedText:
        assert self.released.wait(30)
        return super().tokenize(text)


@pytest.fixture
def engine() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.released.set()


async def test_tokenize_has_a_deadline(service_with: ServiceFactory) -> None:
    async with service_with(default_timeout_ms=50) as service:
        answer = await service.post("/tokenize", {"text": "a word"})
    assert (answer.status_code, answer.json()["kind"]) == (504, "deadline_exceeded")
    assert "no answer within 50 ms" in answer.json()["error"]


async def test_tokenize_answers_in_time(service_with: ServiceFactory, engine: Slow) -> None:
    engine.released.set()
    async with service_with() as service:
        answer = await service.post("/tokenize", {"text": "a word"})
    assert answer.status_code == 200 and answer.json()["count"] == 2
