"""Admission of requests to the queue: a request is admitted if there is room and its turn would come in time.

A request that could not be answered in time is refused at once, so that it does not take the place of one that can be.
Without this, a load of ten times the capacity would fill the queue with requests that expire just before their turn,
and hardly any request would be answered.

No request takes the queue from the others. It has at most its share of windows in the queue at a time, and the rest of
its windows enter as these are done, so that large requests take turns. A request that is larger than its share counts
as bulk, and bulk requests leave a part of the queue to the others.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from service.errors import ServiceError
from service.inference.queue import Priority, Queue

TIMELY = 0.8
"""Largest share of a request's time that its estimated wait may take. The rest allows for errors of the estimate."""

MAX_SHARE = 0.25
"""Largest part of the queue that the windows of one request may fill at a time."""

SHARE_BATCHES = 4
"""Largest number of full batches for each lane that one request may have in the queue at a time."""

RESERVED = 0.25
"""Part of the queue that bulk requests may not fill."""

FIRST_BATCHES = 3
"""Number of batches, each at least half full, over which the first rate is measured if none is known at the start."""


@dataclass(frozen=True)
class QueueLimits:
    """Bounds on the queue and on one batch."""

    max_windows: int
    """Windows waiting or in the model."""
    max_tokens: int
    """Tokens waiting or in the model."""
    max_batch_tokens: int
    """Tokens computed in one batch."""
    tokens_per_s: float = 0.0
    """Rate of the model measured at start; 0: not measured."""
    cache_windows: int = 0
    """Windows whose results are kept for equal windows to come."""
    stuck_s: float = math.inf
    """Seconds in the model after which a batch counts as stuck."""


class ModelRate:
    """The model's rate in tokens per second, learnt from its batches.

    Args:
        known: the rate measured at start, or 0.
    """

    def __init__(self, known: float) -> None:
        self.tokens_per_s = known
        """0 while the rate is unknown."""
        self._first: list[tuple[int, float]] = []  # tokens and seconds of the first batches, while the rate is unknown

    def learn(self, tokens: int, seconds: float, full: bool) -> None:
        """Learn from one batch.

        Full batches are at least as fast as small ones, so a small batch can raise the rate but only a full one can
        lower it. The first batches of a process are its slowest, so the first rate is that of `FIRST_BATCHES` together.

        Args:
            tokens: number of tokens of the batch.
            seconds: the time that the batch took.
            full: whether the batch filled at least half of the budget.
        """
        rate = self.tokens_per_s
        if rate and (full or tokens / seconds > rate):
            self.tokens_per_s = 0.8 * rate + 0.2 * tokens / seconds
        elif full and not rate:
            self._first.append((tokens, seconds))
            if len(self._first) == FIRST_BATCHES:
                self.tokens_per_s = sum(t for t, _ in self._first) / sum(s for _, s in self._first)

    def seconds(self, tokens: float, unknown: float) -> float:
        """Return the seconds that `tokens` tokens take, or `unknown` while the rate is unknown."""
        return tokens / self.tokens_per_s if self.tokens_per_s else unknown


class Admission:
    """Decides which requests are admitted to a queue. It reads the queue but does not change it.

    Args:
        queue: the windows waiting or in the model.
        limits: bounds.
        lanes: number of batches that the model runs at the same time.
    """

    def __init__(self, queue: Queue, limits: QueueLimits, lanes: int = 1) -> None:
        self._queue = queue
        self._limits = limits
        self._share_windows = max(1, int(MAX_SHARE * limits.max_windows))
        share_tokens = min(MAX_SHARE * limits.max_tokens, SHARE_BATCHES * lanes * limits.max_batch_tokens)
        self._share_tokens = int(share_tokens)
        self.rate = ModelRate(limits.tokens_per_s)

    def within_share(self, windows: int, tokens: int) -> bool:
        """Return whether one request may have so many windows and tokens in the queue at a time."""
        return windows <= self._share_windows and tokens <= self._share_tokens

    def retry_after_s(self) -> float:
        """Return the seconds until everything in the queue is done by estimate, or 1 while the rate is unknown."""
        return self.rate.seconds(self._queue.tokens, unknown=1.0)

    def check(self, windows: int, tokens: int, left_s: float, priority: Priority, unqueued: Iterable[int] = ()) -> None:
        """Check that a request may be queued.

        Args:
            windows: number of windows that it adds to the queue; windows that equal queued or cached ones add none.
            tokens: tokens of these windows.
            left_s: seconds until its deadline.
            priority: its priority.
            unqueued: for each other request, the tokens of its windows that have not entered the queue yet.

        Raises:
            ServiceError: overloaded.
        """
        queue = self._queue
        if queue.empty or not windows:  # an idle service admits any request: one refused now would always be refused
            return
        part = 1.0 - RESERVED if priority == "bulk" else 1.0
        max_windows, max_tokens = int(part * self._limits.max_windows), int(part * self._limits.max_tokens)
        first_windows, first_tokens = min(windows, self._share_windows), min(tokens, self._share_tokens)
        if queue.windows + first_windows > max_windows or queue.tokens + first_tokens > max_tokens:
            raise ServiceError(
                "overloaded",
                f"the queue holds {queue.windows} windows and {queue.tokens} tokens, the limits of {priority} requests "
                f"are {max_windows} and {max_tokens}; this request needs {first_windows} and {first_tokens}",
                retry_after_s=self.retry_after_s(),
            )
        until_done = queue.tokens_until_done(tokens, priority)
        if (beyond_share := tokens - self._share_tokens) > 0:  # while these enter the queue, others' windows do, too
            until_done += sum(min(beyond_share, other) for other in unqueued)
        wait_s = self.rate.seconds(until_done, unknown=0.0)
        if left_s > 0 and wait_s > TIMELY * left_s:
            raise ServiceError(
                "overloaded",
                f"the queue holds {queue.tokens} tokens: this request would be done in about {wait_s:.1f} s, "
                f"{left_s:.1f} s are allowed",
                retry_after_s=self.retry_after_s(),
            )
