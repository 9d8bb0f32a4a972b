"""When to ask again, and how long to wait before: pure decisions, without a clock or a socket of their own.

Classifying changes nothing at the service, so asking again is always safe; it is done only where it can help:

    no connection, or cut                    again after a growing, random wait
    429, 503; 502 and 504 of a proxy         again after Retry-After, or else the growing wait
    no answer in time                        not again: the work would be done twice
    other errors                             not again: the same would come back

All tries together end within `total_s`.
"""

import email.utils
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from client.errors import AnswerError, ClientError, ConnectionFailed, Overloaded, TimedOut, Unavailable

MOST_DOUBLINGS = 64
"""Of the wait; a float has no room for as many as a patient caller may make."""


@dataclass(frozen=True)
class Retry:
    """How patient to be.

    Raises:
        ValueError: a number is out of range.
    """

    total_s: float = 60.0
    """Seconds for all tries and waits of one call."""
    tries: int = 8
    """At most so many."""
    first_wait_s: float = 0.25
    """Bound of the random wait after the first try; doubled each time."""
    most_wait_s: float = 8.0
    """Bound of the random waits; what Retry-After says may be more."""
    spread: float = 0.25
    """Retry-After is stretched by up to this share: callers who were refused together should not return together."""

    def __post_init__(self) -> None:
        if self.total_s <= 0 or self.tries < 1 or self.first_wait_s < 0 or self.most_wait_s < 0 or self.spread < 0:
            raise ValueError(f"{self}: seconds and tries must be positive")

    def wait_s(self, tries: int, error: ClientError, left_s: float, draw: Callable[[], float]) -> float | None:
        """Seconds to wait before the next try, or None if there is to be none.

        Args:
            tries: made so far, at least 1.
            error: of the latest.
            left_s: of `total_s`.
            draw: a random number from 0 to 1.
        """
        if tries >= self.tries or not may_help(error):
            return None
        asked = error.retry_after_s if isinstance(error, AnswerError) else None
        if asked:
            wait = asked * (1 + self.spread * draw())
        else:  # or asked for none: a date that has passed by this clock; to ask again at once would be a storm
            doublings = min(tries - 1, MOST_DOUBLINGS)
            wait = min(self.most_wait_s, self.first_wait_s * 2.0**doublings) * draw()
        return wait if wait < left_s else None


NEVER = Retry(tries=1)
"""One try."""


@dataclass(frozen=True)
class Clock:
    """Time and chance, replaced in tests."""

    now: Callable[[], float] = time.monotonic
    """Seconds."""
    draw: Callable[[], float] = random.random
    """From 0 to 1."""


def may_help(error: ClientError) -> bool:
    """Another try may succeed."""
    if isinstance(error, ConnectionFailed):
        return error.retry
    if isinstance(error, TimedOut):
        return not error.connected
    return isinstance(error, Overloaded | Unavailable)


def retry_after_s(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, section 10.2.3); None if it says nothing usable."""
    if header is None or not header.strip():
        return None
    if header.strip().isdecimal():
        return float(header.strip()[:6])
    try:
        when = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
