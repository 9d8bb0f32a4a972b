"""A sample of recent texts, on which a new model is compared with the running one before it replaces it."""

import random

MAX_CHARS = 20_000
"""Longer texts are not kept."""

REPLACE_EVERY = 16
"""When the sample is full, one text in this many replaces a random one, so that the sample covers a longer time."""


class RecentTexts:
    """A bounded sample of recent texts, kept in memory only.

    Args:
        limit: number of texts; 0 keeps none.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._texts: list[str] = []
        self._seen = 0

    @property
    def texts(self) -> list[str]:
        """A copy of the sample."""
        return list(self._texts)

    def add(self, text: str) -> None:
        """Consider a text for the sample."""
        if not self._limit or len(text) > MAX_CHARS:
            return
        self._seen += 1
        if len(self._texts) < self._limit:
            self._texts.append(text)
        elif self._seen % REPLACE_EVERY == 0:
            self._texts[random.randrange(self._limit)] = text
