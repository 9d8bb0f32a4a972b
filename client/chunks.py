"""Texts put together into requests that the service takes."""

from collections.abc import Iterable, Iterator

from client.models import Limits

CHUNK_CHARS = 50_000
"""Characters of one request: some seconds of work on two CPU cores, so that a lost request costs little, several are
under way at a time, and none waits for its deadline behind its own texts."""

BYTES_PER_CHAR = 6
"""At most, in JSON."""

FRAME_BYTES = 500
"""Of a request's body beside its texts."""

BETWEEN_TEXTS = 4
"""Characters that JSON needs around a text."""


class Chunker:
    """Collects texts until a request is full.

    Args:
        limits: of the service.
    """

    def __init__(self, limits: Limits) -> None:
        self._most = limits.max_texts
        self._chars = max(1, min(CHUNK_CHARS, (limits.max_body_bytes - FRAME_BYTES) // BYTES_PER_CHAR))
        self._texts: list[str] = []
        self._held = 0
        self._count = 0

    def add(self, text: str) -> list[str] | None:
        """The request that was full before this text, if so. A text larger than a request makes one of its own.

        Raises:
            TypeError: not a string.
        """
        if not isinstance(text, str):
            raise TypeError(f"text {self._count} is of type {type(text).__name__}, a str is expected")
        self._count += 1
        size = len(text) + BETWEEN_TEXTS
        full = (
            self.rest() if self._texts and (len(self._texts) == self._most or self._held + size > self._chars) else None
        )
        self._texts.append(text)
        self._held += size
        return full

    def rest(self) -> list[str] | None:
        """What has been collected since; None if nothing."""
        texts, self._texts, self._held = self._texts, [], 0
        return texts or None


def chunks(texts: Iterable[str], limits: Limits) -> Iterator[list[str]]:
    """All texts in order, request by request."""
    chunker = Chunker(limits)
    for text in texts:
        if full := chunker.add(text):
            yield full
    if rest := chunker.rest():
        yield rest
