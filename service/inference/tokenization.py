"""Tokenising in a thread, with a bound on the texts that wait for it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager

from classifier import OnLong
from service.errors import ServiceError
from service.inference.engine import Engine, TextWindows, TokenizedText
from service.settings import Settings

CHUNK_CHARS = 50_000
"""Characters tokenised in one call, which takes about ten milliseconds."""

CHARS_PER_TOKEN = 4
"""Characters per token of English under a byte-level BPE. Only used to bound what waits to be tokenised."""


class Tokenization:
    """Tokenises texts in an executor.

    Args:
        engine: the engine whose tokenizer is used.
        executor: runs one call at a time.
        settings: limits.
        retry_after_s: returns the seconds after which a refused request may try again.
    """

    def __init__(
        self, engine: Engine, executor: Executor, settings: Settings, retry_after_s: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._executor = executor
        self._settings = settings
        self._retry_after_s = retry_after_s
        self._waiting_chars = 0
        self._room = asyncio.Event()  # set and cleared at once when fewer characters wait

    async def encode(
        self, texts: Sequence[str], on_long: OnLong | None, spans: bool, wait_for_room: bool
    ) -> list[TextWindows | ServiceError]:
        """Cut the texts of a request into windows; see `Engine.encode`.

        This is done a chunk at a time, so that a small request need not wait for all of a large one.

        Raises:
            ServiceError: overloaded, unless `wait_for_room`.
        """
        encoded: dict[int, TextWindows | ServiceError] = {}
        fitting: list[int] = []  # positions in `texts`
        for position, text in enumerate(texts):
            if error := self._too_large(text):
                encoded[position] = error
            else:
                fitting.append(position)
        async with self._bounded(sum(len(texts[position]) for position in fitting), wait_for_room):
            for chunk in _chunks(texts, fitting):
                results = await asyncio.get_running_loop().run_in_executor(
                    self._executor,
                    self._engine.encode,
                    [texts[position] for position in chunk],
                    on_long,
                    spans,
                )
                encoded.update(zip(chunk, results, strict=True))
        return [encoded[position] for position in range(len(texts))]

    async def tokenize(self, text: str) -> TokenizedText:
        """Return the tokens of one text.

        Raises:
            ServiceError: text_too_large, empty_text, invalid_text or overloaded.
        """
        if error := self._too_large(text):
            raise error
        async with self._bounded(len(text), wait_for_room=False):
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._engine.tokenize, text)

    def _too_large(self, text: str) -> ServiceError | None:
        limit = self._settings.max_text_chars
        if len(text) <= limit:
            return None
        return ServiceError("text_too_large", f"{len(text)} characters, the limit is {limit}")

    @asynccontextmanager
    async def _bounded(self, characters: int, wait_for_room: bool) -> AsyncIterator[None]:
        """Keep waiting texts within the queue's bound on tokens, which are estimated from their characters."""
        limit = self._settings.max_queue_tokens * CHARS_PER_TOKEN
        while self._waiting_chars and self._waiting_chars + characters > limit:
            if not wait_for_room:
                raise ServiceError(
                    "overloaded",
                    f"{self._waiting_chars} characters wait to be tokenised",
                    retry_after_s=self._retry_after_s(),
                )
            await self._room.wait()
        self._waiting_chars += characters
        try:
            yield
        finally:
            self._waiting_chars -= characters
            self._room.set()
            self._room.clear()


def _chunks(texts: Sequence[str], positions: Sequence[int]) -> Iterator[list[int]]:
    """Split the positions of texts into chunks of about `CHUNK_CHARS` characters."""
    chunk: list[int] = []
    size = 0
    for position in positions:
        chunk.append(position)
        size += len(texts[position])
        if size >= CHUNK_CHARS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
