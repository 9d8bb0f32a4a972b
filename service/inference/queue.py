"""What waits for the model, in two lanes, and what of it the model sees next.

A job is one request's windows. A work is one window that the model must see; equal windows of whatever jobs share one
work, which stays known until the model is done with it.

Each lane is first in, first out. A batch is filled from the interactive lane, then from the bulk lane, each entry that
still fits the budget, the lane's oldest first; an entry larger than the budget runs alone. While bulk waits, at most
`MAX_PASSED_OVER` batches in a row are led by the interactive lane, and then one is filled from the bulk lane first:
bulk's oldest entry is in the model after at most that many other batches, and a short text waits for at most one bulk
batch beyond the one in the model.

State without clock, task or lock: one thread owns it.
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
"""Entries of a lane among which those that fit are sought."""

MAX_PASSED_OVER = 4
"""Batches led by the interactive lane in a row while bulk waits."""

Lane = Literal["interactive", "bulk"]

WindowResult = Logits | ServiceError
"""What becomes of one window."""


@dataclass(eq=False, slots=True)
class QueuedWindow:
    item: EncodedWindow
    lane: Lane
    queued_at: float
    waiting: "dict[QueuedRequest, list[int]]"
    """Places in the results of the jobs that wait for it."""


@dataclass(eq=False, slots=True)
class QueuedRequest:
    results: list[WindowResult | None]
    done: "asyncio.Future[None]"
    remaining: int
    works: list[QueuedWindow] = field(default_factory=list)

    def settle(self, index: int, result: WindowResult) -> None:
        """One window's result; the last one ends the job."""
        self.results[index] = result
        self.remaining -= 1
        if self.remaining == 0 and not self.done.done():
            self.done.set_result(None)


class Queue:
    """See the module."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, OrderedDict[QueuedWindow, None]]  # waiting; what follows is also in the model
        self._lane_tokens: dict[Lane, int]
        self._held: set[QueuedWindow]
        self._by_key: dict[Hashable, QueuedWindow]
        self._passed_over = 0
        self.clear()

    def clear(self) -> None:
        """Forget all works, also those in the model."""
        self._lanes = {"interactive": OrderedDict(), "bulk": OrderedDict()}
        self._lane_tokens = {"interactive": 0, "bulk": 0}
        self._held = set()
        self._by_key = {}

    @property
    def empty(self) -> bool:
        """No work waits, and none is in the model."""
        return not self._held

    @property
    def tokens(self) -> int:
        """Of all works, waiting or in the model."""
        return sum(self._lane_tokens.values())

    def find(self, key: Hashable) -> QueuedWindow | None:
        """The work for an equal window, waiting or in the model."""
        return None if key is None else self._by_key.get(key)

    def add(self, item: EncodedWindow, lane: Lane, now: float) -> QueuedWindow:
        """A new work at the lane's end; `now` is kept as it is."""
        work = QueuedWindow(item, lane, now, {})
        self._lanes[lane][work] = None
        self._lane_tokens[lane] += item.tokens
        self._held.add(work)
        if item.key is not None:
            self._by_key[item.key] = work
        return work

    def hurry(self, work: QueuedWindow) -> None:
        """Somebody of the interactive lane waits for it, too: if it waits among bulk, it does so no more."""
        if work in self._lanes["bulk"]:
            del self._lanes["bulk"][work]
            self._lane_tokens["bulk"] -= work.item.tokens
            self._lane_tokens["interactive"] += work.item.tokens
            work.lane = "interactive"
            self._lanes["interactive"][work] = None

    def withdraw(self, work: QueuedWindow) -> bool:
        """Take out what is not in the model yet. False: it is."""
        if work not in self._lanes[work.lane]:
            return False
        del self._lanes[work.lane][work]
        self.forget(work)
        return True

    def forget(self, work: QueuedWindow) -> None:
        """What `next_batch` gave needs the model no more; nothing happens if it is forgotten already."""
        if work not in self._held:
            return
        self._held.remove(work)
        self._lane_tokens[work.lane] -= work.item.tokens
        if work.item.key is not None:
            del self._by_key[work.item.key]

    def next_batch(self, budget: int) -> list[QueuedWindow]:
        """What the model sees next, in at most `budget` computed tokens unless one entry alone has more; empty if
        nothing waits."""
        interactive, bulk = self._lanes["interactive"], self._lanes["bulk"]
        bulk_leads = bool(bulk) and (not interactive or self._passed_over >= MAX_PASSED_OVER)
        self._passed_over = self._passed_over + 1 if bulk and not bulk_leads else 0
        batch: list[QueuedWindow] = []
        room = budget
        for lane in (bulk, interactive) if bulk_leads else (interactive, bulk):
            for work in list(islice(lane, LOOKAHEAD)):
                if batch and room <= 0:
                    break
                if not batch or work.item.computed <= room:
                    batch.append(work)
                    room -= work.item.computed
                    del lane[work]
        return batch

    def tokens_until_done(self, tokens: int, lane: Lane) -> int:
        """Tokens that the model sees until so many more of this lane are done, these included."""
        if lane == "bulk":
            return self.tokens + tokens
        share = MAX_PASSED_OVER / (MAX_PASSED_OVER + 1) if self._lanes["bulk"] else 1.0
        return round((self._lane_tokens["interactive"] + tokens) / share)
