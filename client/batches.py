"""Many texts as requests: how they are cut, and how many requests are under way."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

from client.models import Limits

CHUNK_CHARS = 50_000
"""Characters of one request: some seconds of work on two CPU cores. A lost request then costs little, several are under
way at a time, and no text waits for its deadline behind the others of its request."""

BYTES_PER_CHAR = 6  # at most, in JSON
FRAME_BYTES = 500  # of a request's body beside its texts
BETWEEN_TEXTS = 4  # characters that JSON needs around a text


class Chunker:
    """Collects texts until a request is full."""

    def __init__(self, limits: Limits) -> None:
        self._max_texts = limits.max_texts
        self._max_chars = max(1, min(CHUNK_CHARS, (limits.max_body_bytes - FRAME_BYTES) // BYTES_PER_CHAR))
        self._texts: list[str] = []
        self._chars = self._count = 0

    def add(self, text: str) -> list[str] | None:
        """Add a text. Return the request that was full before it, if so; a text larger than that is a request alone.
        Raises TypeError: it is not a string."""
        if not isinstance(text, str):
            raise TypeError(f"text {self._count} is of type {type(text).__name__}, a str is expected")
        self._count += 1
        size = len(text) + BETWEEN_TEXTS
        full = len(self._texts) == self._max_texts or self._chars + size > self._max_chars
        request = self.rest() if full else None
        self._texts.append(text)
        self._chars += size
        return request

    def rest(self) -> list[str] | None:
        """Return the texts since the last full request, None if there are none."""
        texts, self._texts, self._chars = self._texts, [], 0
        return texts or None


def chunks(texts: Iterable[str], limits: Limits) -> Iterator[list[str]]:
    """Cut texts into requests, in order."""
    chunker = Chunker(limits)
    for text in texts:
        if full := chunker.add(text):
            yield full
    if rest := chunker.rest():
        yield rest


async def async_chunks(texts: Iterable[str] | AsyncIterable[str], limits: Limits) -> AsyncIterator[list[str]]:
    """Cut texts of either kind of iterable into requests, in order."""
    if not isinstance(texts, AsyncIterable):
        for chunk in chunks(texts, limits):
            yield chunk
        return
    chunker = Chunker(limits)
    async for text in texts:
        if full := chunker.add(text):
            yield full
    if rest := chunker.rest():
        yield rest


class Pace:
    """How many requests may be under way: one more after each round that went well, half when the service is full."""

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"concurrency is {most}, 1 is the least")
        self._most, self._limit = most, float(min(most, 4))

    @property
    def limit(self) -> int:
        return int(self._limit)

    def answered(self) -> None:
        self._limit = min(self._most, self._limit + 1 / self._limit)

    def refused(self) -> None:
        self._limit = max(1.0, self._limit / 2)
