"""Who is let into the queue: as long as there is room, and as long as its turn comes in time.

What would not be done in time is refused at once instead of taking the place of what can be: without that, ten times
too much work makes a queue in which everything expires just before its turn, and hardly anything is answered.
"""

import math
from dataclasses import dataclass

from service.errors import ServiceError
from service.inference.queue import Lane, Queue

TIMELY = 0.8
"""Share of a request's time that the queue may take by the measured rate; the rest is for what the estimate misses."""

FIRST_BATCHES = 3
"""At least half full, before their rate is believed, where the start measured none."""


@dataclass(frozen=True)
class QueueLimits:
    """Bounds on what is admitted and on one batch; see the settings of the same names."""

    max_items: int
    max_tokens: int
    max_batch_tokens: int
    tokens_per_s: float = 0.0
    """What the model is known to reach; 0: nothing is known before the first full batches."""
    cache_items: int = 0
    stuck_s: float = math.inf


class ModelRate:
    """Tokens a second of the model, learnt from its batches.

    Args:
        known: what is known before the first one, or 0.
    """

    def __init__(self, known: float) -> None:
        self.tokens_per_s = known
        """0 as long as nothing is known."""
        self._first: list[tuple[int, float]] = []  # tokens and seconds of the first batches, until a rate is known

    def learn(self, tokens: int, seconds: float, full: bool) -> None:
        """From one batch. What a small one reaches, full ones reach, too: a low estimate recovers, and none lowers it
        but full ones. The first batches of a process are its slowest: one of them alone says nothing.
        """
        rate = self.tokens_per_s
        if rate and (full or tokens / seconds > rate):
            self.tokens_per_s = 0.8 * rate + 0.2 * tokens / seconds
        elif full and not rate:
            self._first.append((tokens, seconds))
            if len(self._first) == FIRST_BATCHES:
                self.tokens_per_s = sum(t for t, _ in self._first) / sum(s for _, s in self._first)

    def seconds(self, tokens: int, unknown: float) -> float:
        """That so many tokens take; `unknown` before there is a rate."""
        return tokens / self.tokens_per_s if self.tokens_per_s else unknown


class Admission:
    """Decides over a queue that it only looks at.

    Args:
        queue: what waits or is in the model.
        limits: bounds.
    """

    def __init__(self, queue: Queue, limits: QueueLimits) -> None:
        self._queue = queue
        self._limits = limits
        self.rate = ModelRate(limits.tokens_per_s)
        self.items = 0
        """Windows that jobs wait for; kept by the batcher."""

    def retry_after_s(self) -> float:
        """Seconds until what is here now will be done, by the measured rate; 1 before there is one."""
        return self.rate.seconds(self._queue.tokens, unknown=1.0)

    def check(self, items: int, tokens: int, left_s: float, lane: Lane) -> None:
        """May a request come in?

        Args:
            items: its windows.
            tokens: those that the model would see for it and does not see for others.
            left_s: seconds until its deadline.
            lane: where it would wait.

        Raises:
            ServiceError: overloaded.
        """
        limits, held = self._limits, self._queue.tokens
        if not self.items:  # takes any request, however large: refusing it would be refusing it for ever
            return
        if self.items + items > limits.max_items or held + tokens > limits.max_tokens:
            raise ServiceError(
                "overloaded",
                f"the queue holds {self.items} windows and {held} tokens, the limits are {limits.max_items} and "
                f"{limits.max_tokens}; this request needs {items} and {tokens}",
                retry_after_s=self.retry_after_s(),
            )
        wait_s = self.rate.seconds(self._queue.tokens_until_done(tokens, lane), unknown=0.0)
        if tokens and left_s > 0 and wait_s > TIMELY * left_s:
            raise ServiceError(
                "overloaded",
                f"the queue holds {held} tokens: this request would be done in about {wait_s:.1f} s, "
                f"{left_s:.1f} s are allowed",
                retry_after_s=self.retry_after_s(),
            )
