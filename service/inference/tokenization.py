"""Tokenising in threads, with a bound on the texts that wait for it."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from classifier import OnLong
from service.errors import ServiceError
from service.inference.admission import RESERVED
from service.inference.engine import Engine, TextWindows, TokenizedText
from service.settings import Settings

T = TypeVar("T")

CHUNK_CHARS = 50_000
"""Characters tokenised in one call, which takes about ten milliseconds."""

SMALL_CHARS = 10_000
"""Characters up to which a chunk is small. The longest text takes half a second in characters of several tokens, and
small ones do not wait for it."""

CHARS_PER_TOKEN = 4
"""Characters per token of English under a byte-level BPE. Only used to bound what waits to be tokenised."""


class TokenizerThreads(ThreadPoolExecutor):
    """The two threads in which the texts of all pipelines are tokenised, and how long their calls have been running."""

    def __init__(self) -> None:
        super().__init__(max_workers=2, thread_name_prefix="encode")
        self._running_since: dict[int, float] = {}  # by thread

    @property
    def running_s(self) -> float:
        """Seconds for which the oldest of the running calls has been running; 0 if there is none."""
        now = time.monotonic()
        return now - min(self._running_since.copy().values(), default=now)

    def submit(self, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        def timed() -> T:
            thread = threading.get_ident()
            self._running_since[thread] = time.monotonic()
            try:
                return call(*args, **kwargs)
            finally:
                del self._running_since[thread]

        return super().submit(timed)


class Tokenization:
    """Tokenises texts in an executor. Chunks that are not small are tokenised one at a time.

    Args:
        engine: the engine whose tokenizer is used.
        executor: has at least two threads.
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
        self._large = asyncio.Lock()
        self._waiting_chars = 0
        self._room = asyncio.Event()  # set and cleared at once when fewer characters wait

    async def encode(
        self, texts: Sequence[str], on_long: OnLong | None, spans: bool, wait_for_room: bool
    ) -> list[TextWindows | ServiceError]:
        """Cut the texts of a request into windows; see `Engine.encode`.

        This is done a chunk at a time, so that a small request need not wait for all of a large one and a large one
        does not take the room of the others.

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
        for chunk in _chunks(texts, fitting):
            chunk_texts = [texts[position] for position in chunk]
            encode = partial(self._engine.encode, chunk_texts, on_long, spans)
            results = await self._run(encode, sum(map(len, chunk_texts)), wait_for_room)
            encoded.update(zip(chunk, results, strict=True))
            wait_for_room = True  # the request is accepted, and only one chunk of it waits at a time
        return [encoded[position] for position in range(len(texts))]

    async def tokenize(self, text: str) -> TokenizedText:
        """Return the tokens of one text.

        Raises:
            ServiceError: text_too_large, empty_text, invalid_text or overloaded.
        """
        if error := self._too_large(text):
            raise error
        return await self._run(partial(self._engine.tokenize, text), len(text), wait_for_room=False)

    def _too_large(self, text: str) -> ServiceError | None:
        limit = self._settings.max_text_chars
        if len(text) <= limit:
            return None
        return ServiceError("text_too_large", f"{len(text)} characters, the limit is {limit}")

    async def _run(self, call: Callable[[], T], characters: int, wait_for_room: bool) -> T:
        async with self._bounded(characters, wait_for_room):
            loop = asyncio.get_running_loop()
            if characters <= SMALL_CHARS:
                return await loop.run_in_executor(self._executor, call)
            await self._large.acquire()
            work = loop.run_in_executor(self._executor, call)
            work.add_done_callback(lambda _: self._large.release())  # not before, even if the caller leaves
            return await asyncio.shield(work)

    @asynccontextmanager
    async def _bounded(self, characters: int, wait_for_room: bool) -> AsyncIterator[None]:
        """Keep waiting texts within the queue's bound on tokens, which are estimated from their characters."""
        limit = (
            self._settings.max_queue_tokens * CHARS_PER_TOKEN * (1.0 if characters <= SMALL_CHARS else 1.0 - RESERVED)
        )
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
