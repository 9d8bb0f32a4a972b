"""The windows that wait for the model, in two lanes, and the choice of the next batch.

Equal windows of any requests share one `QueuedWindow`, which stays in the queue until the model is done with it. Each
lane is first in, first out. A batch is filled from the interactive lane and then from the bulk lane, each from its
oldest window on, with every window that still fits the token budget. A window larger than the budget runs alone. While
bulk windows wait, at most `MAX_PASSED_OVER` batches in a row begin with the interactive lane, and the next one is
filled from the bulk lane first. So the oldest bulk window waits for at most that many other batches, and a short
interactive text waits for at most one bulk batch besides the batch that is in the model.

The queue has no clock, no task and no lock. Only one thread may use it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from service.errors import ServiceError
from service.inference.engine import EncodedWindow, Logits

LOOKAHEAD = 512
"""Number of windows at the head of a lane that are considered for a batch."""

MAX_PASSED_OVER = 4
"""Number of batches in a row that may begin with the interactive lane while bulk windows wait."""

Lane = Literal["interactive", "bulk"]

WindowResult = Logits | ServiceError
"""The logits of one window, or the reason why there are none."""


@dataclass(eq=False, slots=True)
class QueuedWindow:
    """A window waiting for the model or in it, and the requests that want its result."""

    window: EncodedWindow
    lane: Lane
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
    queued_windows: list[QueuedWindow] = field(default_factory=list)

    def settle(self, position: int, result: WindowResult) -> None:
        """Store the result of one window; the last one completes the request."""
        self.results[position] = result
        self.remaining -= 1
        if self.remaining == 0 and not self.done.done():
            self.done.set_result(None)


class Queue:
    """Two lanes of waiting windows, and the windows that are in the model."""

    def __init__(self) -> None:
        self._passed_over = 0
        self.clear()

    def clear(self) -> None:
        """Forget all windows, including those in the model."""
        self._lanes: dict[Lane, OrderedDict[QueuedWindow, None]] = {"interactive": OrderedDict(), "bulk": OrderedDict()}
        self._lane_tokens: dict[Lane, int] = {"interactive": 0, "bulk": 0}  # of windows waiting and in the model
        self._held: set[QueuedWindow] = set()  # waiting and in the model
        self._by_key: dict[Hashable, QueuedWindow] = {}

    @property
    def empty(self) -> bool:
        """True while no window waits or is in the model."""
        return not self._held

    @property
    def tokens(self) -> int:
        """Tokens of all windows waiting and in the model."""
        return sum(self._lane_tokens.values())

    def find(self, key: Hashable) -> QueuedWindow | None:
        """Return the queued window with this key, waiting or in the model."""
        return None if key is None else self._by_key.get(key)

    def add(self, window: EncodedWindow, lane: Lane, now: float) -> QueuedWindow:
        """Put a window at the end of a lane. `now` becomes its `queued_at`."""
        queued = QueuedWindow(window, lane, now, {})
        self._lanes[lane][queued] = None
        self._lane_tokens[lane] += window.tokens
        self._held.add(queued)
        if window.key is not None:
            self._by_key[window.key] = queued
        return queued

    def promote(self, queued: QueuedWindow) -> None:
        """Move a window that waits in the bulk lane to the end of the interactive lane."""
        if queued in self._lanes["bulk"]:
            del self._lanes["bulk"][queued]
            self._lane_tokens["bulk"] -= queued.window.tokens
            self._lane_tokens["interactive"] += queued.window.tokens
            queued.lane = "interactive"
            self._lanes["interactive"][queued] = None

    def withdraw(self, queued: QueuedWindow) -> bool:
        """Remove a window that still waits. Return False if it is in the model already."""
        if queued not in self._lanes[queued.lane]:
            return False
        del self._lanes[queued.lane][queued]
        self.discard(queued)
        return True

    def discard(self, queued: QueuedWindow) -> None:
        """Remove a window that `next_batch` returned. Does nothing if it was removed before."""
        if queued not in self._held:
            return
        self._held.remove(queued)
        self._lane_tokens[queued.lane] -= queued.window.tokens
        if queued.window.key is not None:
            del self._by_key[queued.window.key]

    def next_batch(self, budget: int) -> list[QueuedWindow]:
        """Return the windows that the model sees next; empty if none wait.

        Args:
            budget: computed tokens that the batch may have, unless one window alone has more.
        """
        interactive, bulk = self._lanes["interactive"], self._lanes["bulk"]
        bulk_first = bool(bulk) and (not interactive or self._passed_over >= MAX_PASSED_OVER)
        self._passed_over = self._passed_over + 1 if bulk and not bulk_first else 0
        batch: list[QueuedWindow] = []
        room = budget
        for lane in (bulk, interactive) if bulk_first else (interactive, bulk):
            for queued in list(islice(lane, LOOKAHEAD)):
                if batch and room <= 0:
                    break
                if not batch or queued.window.computed_tokens <= room:
                    batch.append(queued)
                    room -= queued.window.computed_tokens
                    del lane[queued]
        return batch

    def tokens_until_done(self, tokens: int, lane: Lane) -> int:
        """Return the number of tokens to compute until `tokens` more tokens in this lane are done, including those."""
        if lane == "bulk":
            return self.tokens + tokens
        share = MAX_PASSED_OVER / (MAX_PASSED_OVER + 1) if self._lanes["bulk"] else 1.0
        return round((self._lane_tokens["interactive"] + tokens) / share)
