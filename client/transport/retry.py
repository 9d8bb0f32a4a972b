"""When a call is sent again, and after which wait.

Classifying changes nothing in the service, so sending a call again is always safe; it is done only where it can help:

    no connection, or cut                    again after a growing, random wait
    429, 503; 502 and 504 of a proxy         again after Retry-After, or else the growing wait
    no answer in time                        not again: the work would be done twice
    other errors                             not again: the same would come back

All tries and waits together end within `total_s`.
"""

import asyncio
import email.utils
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from client.errors import AnswerError, ClientError, ConnectionFailed, Overloaded, TimedOut, Unavailable

MOST_DOUBLINGS = 64  # of the wait: a float cannot hold as many doublings as a patient caller may make tries


@dataclass(frozen=True)
class Retry:
    """How patient a client is.

    Raises:
        ValueError: a number is out of range.
    """

    total_s: float = 60.0  # seconds for one call, all its tries and waits together
    tries: int = 8  # at most
    first_wait_s: float = 0.25  # upper bound of the random wait after the first try; it doubles with each try
    most_wait_s: float = 8.0  # upper bound of all random waits; Retry-After may ask for more
    spread: float = 0.25  # Retry-After is stretched by up to this share, so that refused callers do not return together

    def __post_init__(self) -> None:
        if self.total_s <= 0 or self.tries < 1 or self.first_wait_s < 0 or self.most_wait_s < 0 or self.spread < 0:
            raise ValueError(f"{self}: seconds and tries must be positive")

    def wait_s(self, tries: int, error: ClientError, left_s: float, draw: Callable[[], float]) -> float | None:
        """Return the seconds to wait before the next try, or None if there is to be none.

        Args: the tries that were made, the latest one's error, what is left of `total_s`, a source of numbers 0 to 1.
        """
        if tries >= self.tries or not may_help(error):
            return None
        asked = error.retry_after_s if isinstance(error, AnswerError) else None
        if asked:
            wait = asked * (1 + self.spread * draw())
        else:  # Retry-After may also be 0, a date that has passed: asking again at once would be a storm
            doublings = min(tries - 1, MOST_DOUBLINGS)
            wait = min(self.most_wait_s, self.first_wait_s * 2.0**doublings) * draw()
        return wait if wait < left_s else None


NEVER = Retry(tries=1)
"""Try once."""


@dataclass(frozen=True)
class Clock:
    """Time and chance; tests replace them."""

    now: Callable[[], float] = time.monotonic  # seconds
    draw: Callable[[], float] = random.random  # a random number from 0 to 1
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep  # waits this many seconds


def may_help(error: ClientError) -> bool:
    """Return whether another try may succeed."""
    if isinstance(error, ConnectionFailed):
        return error.retry
    if isinstance(error, TimedOut):
        return not error.connected
    return isinstance(error, Overloaded | Unavailable)


def retry_after_s(header: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, None if it says nothing usable (RFC 9110, 10.2.3)."""
    if header is None or not header.strip():
        return None
    if header.strip().isdecimal():
        return float(header.strip()[:6])
    try:
        when = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
