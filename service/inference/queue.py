"""The windows that wait for the model, by priority, and the choice of the next batch.

Equal windows of any requests share one `QueuedWindow`, which stays in the queue until the model is done with it.
Windows of one priority are first in, first out. A batch is filled with the windows of each priority in turn, the
oldest first, with every window that still fits the token budget. A window larger than the budget runs alone. While
windows of a priority wait, at most `MAX_PASSED_OVER` batches in a row begin with windows of higher priorities, and the
next one begins with theirs. So a short text waits for at most one batch of longer texts besides the batches that are in
the model, and every priority gets its share of the batches.

The queue has no clock, no task and no lock. Only one thread may use it.
"""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from service.errors import ServiceError
from service.inference.engine import EncodedWindow, Logits

LOOKAHEAD = 512
"""Number of the oldest windows of each priority that are considered for a batch."""

MAX_PASSED_OVER = 4
"""Number of batches in a row that may begin with windows of higher priorities while windows of a priority wait."""

Priority = Literal["short", "interactive", "bulk"]
PRIORITIES: tuple[Priority, ...] = ("short", "interactive", "bulk")
"""From the highest to the lowest: requests of one short text, of one longer text, of several texts."""

WindowResult = Logits | ServiceError
"""The logits of one window, or the reason why there are none."""


@dataclass(eq=False, slots=True)
class QueuedWindow:
    """A window waiting for the model or in it, and the requests that want its result."""

    window: EncodedWindow
    priority: Priority
    queued_at: float
    requests: "dict[QueuedRequest, list[int]]"
    """The requests that wait for this window, each with the positions in its results that the window fills."""


@dataclass(eq=False, slots=True)
class QueuedRequest:
    """A request waiting for the results of its windows."""

    results: list[WindowResult | None]
    done: "asyncio.Future[None]"
    remaining: int
    """Number of results that are still missing."""
    priority: Priority
    unqueued: deque[tuple[EncodedWindow, list[int]]]
    """Windows that have not entered the queue yet, each with the positions in `results` that it fills."""
    unqueued_tokens: int
    queued_windows: set[QueuedWindow] = field(default_factory=set)
    queued_tokens: int = 0

    def settle(self, position: int, result: WindowResult) -> None:
        """Store the result of one window; the last one completes the request."""
        self.results[position] = result
        self.remaining -= 1
        if self.remaining == 0 and not self.done.done():
            self.done.set_result(None)


class Queue:
    """The windows that wait, by priority, and the windows that are in the model."""

    def __init__(self) -> None:
        self._passed_over: dict[Priority, int] = dict.fromkeys(PRIORITIES, 0)
        self.clear()

    def clear(self) -> None:
        """Forget all windows, including those in the model."""
        self._waiting: dict[Priority, OrderedDict[QueuedWindow, None]] = {p: OrderedDict() for p in PRIORITIES}
        self._tokens: dict[Priority, int] = dict.fromkeys(PRIORITIES, 0)  # of windows waiting and in the model
        self._held: set[QueuedWindow] = set()  # waiting and in the model
        self._by_key: dict[Hashable, QueuedWindow] = {}

    @property
    def empty(self) -> bool:
        """True while no window waits or is in the model."""
        return not self._held

    @property
    def windows(self) -> int:
        """Number of windows waiting and in the model."""
        return len(self._held)

    @property
    def tokens(self) -> int:
        """Tokens of all windows waiting and in the model."""
        return sum(self._tokens.values())

    def find(self, key: Hashable) -> QueuedWindow | None:
        """Return the queued window with this key, waiting or in the model."""
        return None if key is None else self._by_key.get(key)

    def add(self, window: EncodedWindow, priority: Priority, now: float) -> QueuedWindow:
        """Queue a window behind those of its priority. `now` becomes its `queued_at`."""
        queued = QueuedWindow(window, priority, now, {})
        self._waiting[priority][queued] = None
        self._tokens[priority] += window.tokens
        self._held.add(queued)
        if window.key is not None:
            self._by_key[window.key] = queued
        return queued

    def promote(self, queued: QueuedWindow, priority: Priority) -> None:
        """Put a window that waits behind those of `priority`, if that is higher than its own."""
        old = queued.priority
        if PRIORITIES.index(priority) < PRIORITIES.index(old) and queued in self._waiting[old]:
            del self._waiting[old][queued]
            self._tokens[old] -= queued.window.tokens
            self._tokens[priority] += queued.window.tokens
            queued.priority = priority
            self._waiting[priority][queued] = None

    def withdraw(self, queued: QueuedWindow) -> bool:
        """Remove a window that still waits. Return False if it is in the model already."""
        if queued not in self._waiting[queued.priority]:
            return False
        del self._waiting[queued.priority][queued]
        self.discard(queued)
        return True

    def discard(self, queued: QueuedWindow) -> None:
        """Remove a window that `next_batch` returned. Does nothing if it was removed before."""
        if queued not in self._held:
            return
        self._held.remove(queued)
        self._tokens[queued.priority] -= queued.window.tokens
        if queued.window.key is not None:
            del self._by_key[queued.window.key]

    def next_batch(self, budget: int, idle_lanes: int = 1) -> list[QueuedWindow]:
        """Return the windows that a lane runs next; empty if none wait.

        Args:
            budget: computed tokens that the batch may have, unless one window alone has more.
            idle_lanes: number of lanes that are idle, including this one. They share the windows that wait.
        """
        batch: list[QueuedWindow] = []
        room = budget if idle_lanes == 1 else min(budget, math.ceil(self._waiting_tokens() / idle_lanes))
        for priority in self._order():
            windows = self._waiting[priority]
            for queued in list(islice(windows, LOOKAHEAD)):
                if batch and room <= 0:
                    break
                if not batch or queued.window.computed_tokens <= room:
                    batch.append(queued)
                    room -= queued.window.computed_tokens
                    del windows[queued]
        return batch

    def _order(self) -> list[Priority]:
        """Return the priorities in the order in which the next batch is filled, and count who is passed over."""
        waiting = [priority for priority in PRIORITIES if self._waiting[priority]]
        starved = [priority for priority in waiting if self._passed_over[priority] >= MAX_PASSED_OVER]
        leads = (starved[-1:] or waiting[:1])[0] if waiting else PRIORITIES[0]
        for priority in PRIORITIES:
            if priority == leads or priority not in waiting:
                self._passed_over[priority] = 0
            elif PRIORITIES.index(priority) > PRIORITIES.index(leads):
                self._passed_over[priority] += 1
        return [leads, *(priority for priority in waiting if priority != leads)]

    def _waiting_tokens(self) -> int:
        """Return the computed tokens of the oldest windows that wait."""
        windows = (queued for waiting in self._waiting.values() for queued in islice(waiting, LOOKAHEAD))
        return sum(queued.window.computed_tokens for queued in windows)

    def tokens_until_done(self, tokens: int, priority: Priority) -> int:
        """Return the number of tokens to compute until `tokens` more tokens of this priority are done, with those."""
        rank = PRIORITIES.index(priority)
        ahead = sum(self._tokens[p] for p in PRIORITIES[: rank + 1]) + tokens
        share = MAX_PASSED_OVER / (MAX_PASSED_OVER + 1) if any(map(self._waiting.get, PRIORITIES[rank + 1 :])) else 1.0
        return round(ahead / share)
