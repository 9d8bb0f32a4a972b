"""A bounded queue in front of the lanes of one model.

A request is admitted or refused as a whole, without waiting, and gets exactly one answer.

    request  submitted --> refused       the queue is full or closed, or by the measured rate the request's turn would
                 |                       come too late: ServiceError at once, nothing is kept
                 |
              waiting ---> left          its deadline has passed (ServiceError deadline_exceeded), or its caller is gone
                 |     \\-> failed        the batcher was closed, or the lane of its batch failed
              answered                   a result or an error for each window, in order

    window   unqueued                    its request has its share of windows in the queue
                 |
             queued -----> dropped       no request waits for it any more: it never reaches the model
                 |
              in batch --> failed        the model fails on it even alone: an error for the requests that wait for it
                 |
               done                      its logits go to the requests that wait for it, and into the cache

`service.inference.lane` runs the batches, `service.inference.queue` chooses the windows of a batch, and
`service.inference.admission` decides which requests are admitted. Only the event loop's thread reads and changes the
state; the model runs in the lanes' threads.
"""

import asyncio
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from service.errors import ServiceError
from service.inference.admission import Admission, QueueLimits
from service.inference.budget import TokenBudget
from service.inference.cache import ResultCache
from service.inference.deadline import Deadline
from service.inference.engine import EncodedWindow
from service.inference.lane import Lane
from service.inference.model_thread import BatchModel, ModelThread, RunBlocking
from service.inference.queue import Priority, Queue, QueuedRequest, QueuedWindow, WindowResult
from service.telemetry import Metrics

SHORT_TOKENS = 64
"""Most tokens of a short text: a headline or a message. It does not wait for the articles that came before it."""

PROBE_S = 1.5
"""Seconds that a health check waits for a probe. Kubernetes and SageMaker give the check itself 2 s."""


@dataclass(frozen=True)
class QueueLoad:
    """The contents of the queue now, and the speed at which it empties."""

    windows: int
    """Results that requests wait for."""
    tokens: int
    """Tokens of these windows; equal windows in the queue count once."""
    tokens_per_s: float
    """Rate of recent batches that were at least half full."""


class Batcher:
    """Queues the windows of requests for the lanes of one model; the module's docstring describes the states.

    Call `start`, then `submit` from any task of the same loop, then `close`.

    Args:
        model: runs the batches.
        limits: bounds of the queue and of a batch.
        metrics: counters to fill.
        lanes: number of batches that the model runs at the same time.
        run_blocking: replaces the lanes' threads in tests.
    """

    def __init__(
        self,
        model: BatchModel,
        limits: QueueLimits,
        metrics: Metrics,
        lanes: int = 1,
        run_blocking: RunBlocking | None = None,
    ) -> None:
        self._metrics = metrics
        self.lanes = [Lane(self, ModelThread(model, limits.stuck_s, run_blocking), metrics) for _ in range(lanes)]
        self._queue = Queue()
        self._admission = Admission(self._queue, limits, lanes)
        self._cache = ResultCache(limits.cache_windows)
        self._requests: set[QueuedRequest] = set()
        self._missing = 0  # results that requests wait for
        self._unqueued_tokens = 0  # of windows that have not entered the queue yet
        self._arrived = asyncio.Event()
        self._freed = asyncio.Event()  # set and cleared at once each time there is less in the queue
        self._closed = False
        self.budget = TokenBudget(limits.max_batch_tokens)

    @property
    def load(self) -> QueueLoad:
        """The present load of the queue."""
        tokens = self._queue.tokens + self._unqueued_tokens
        return QueueLoad(self._missing, tokens, self._admission.rate.tokens_per_s)

    @property
    def healthy(self) -> bool:
        """True while every lane works and the model is neither stuck nor failing."""
        return bool(self.lanes) and all(lane.healthy for lane in self.lanes)

    @property
    def needs_restart(self) -> bool:
        """True while only a restart of the process can make every lane healthy."""
        return any(lane.needs_restart for lane in self.lanes)

    def start(self) -> None:
        """Start the lanes on the running loop."""
        for lane in self.lanes:
            lane.start()

    async def submit(
        self,
        windows: Sequence[EncodedWindow],
        deadline: Deadline,
        priority: Priority = "interactive",
        wait_for_room: bool = False,
    ) -> list[WindowResult]:
        """Return the results for the windows of one request, in order.

        Args:
            windows: at least one.
            deadline: the deadline of the request.
            priority: the priority in which the windows wait; at most `SHORT_TOKENS` interactive tokens are short.
            wait_for_room: if the queue is full, wait until the deadline instead of being refused.

        Raises:
            ServiceError: overloaded, draining or not_ready at once; deadline_exceeded, draining or internal later.
        """
        distinct: dict[Hashable, tuple[EncodedWindow, list[int]]] = {}
        for position, window in enumerate(windows):
            key = id(window) if window.key is None else window.key
            distinct.setdefault(key, (window, []))[1].append(position)
        tokens = sum(window.tokens for window, _ in distinct.values())
        if not self._admission.within_share(len(distinct), tokens):
            priority = "bulk"
        elif priority == "interactive" and tokens <= SHORT_TOKENS:
            priority = "short"
        async with deadline.enforced():
            while True:
                try:
                    self._admit([window for window, _ in distinct.values()], deadline.left_s, priority)
                    break
                except ServiceError as exc:
                    if not wait_for_room or exc.kind != "overloaded":
                        raise
                await self._freed.wait()
            count, done = len(windows), asyncio.get_running_loop().create_future()
            request = QueuedRequest([None] * count, done, count, priority, deque(distinct.values()), tokens)
            self._requests.add(request)
            self._missing += count
            self._unqueued_tokens += tokens
            self._fill(request)
            self._show_load()
            try:
                await request.done
            finally:
                self._leave(request, "departed" if deadline.left_s > 0 else "deadline")
        return [result for result in request.results if result is not None]

    def give_up(self) -> None:
        """Refuse new requests and answer all waiting ones with an error, while their connections are still open."""
        self._closed = True
        self._fail_waiting(ServiceError("draining", "the service stopped before this request was answered"))

    async def close(self) -> None:
        """Refuse new requests, answer all waiting ones with an error, and end the lanes and their threads."""
        self._closed = True
        await asyncio.gather(*(lane.end() for lane in self.lanes))
        self.give_up()
        await asyncio.gather(*(lane.thread.close() for lane in self.lanes))
        self.lanes.clear()  # each lane refers to this batcher, and such a cycle would keep the model in memory

    def retry_after_s(self) -> float:
        """Return the seconds until everything in the queue is done by estimate."""
        return self._admission.retry_after_s()

    async def recheck(self) -> bool:
        """Return whether the service is healthy. If that is in doubt, a probe decides, which has `PROBE_S` seconds."""
        try:
            async with asyncio.timeout(PROBE_S):
                if not self._closed:
                    await asyncio.gather(*(lane.recheck() for lane in self.lanes))
        except TimeoutError:
            return False
        return self.healthy

    def _admit(self, windows: Sequence[EncodedWindow], left_s: float, priority: Priority) -> None:
        if self._closed:
            raise ServiceError("draining", "the service is stopping", retry_after_s=1)
        if all(lane.dead for lane in self.lanes):
            raise ServiceError("not_ready", "every lane of the model has failed; the service must be restarted")
        added = [
            window.tokens
            for window in windows
            if self._queue.find(window.key) is None and window.key not in self._cache
        ]
        others = (request.unqueued_tokens for request in self._requests) if priority == "bulk" else ()
        self._admission.check(len(added), sum(added), left_s, priority, others)

    def _fill(self, request: QueuedRequest) -> None:
        """Queue further windows of a request, as many as its share has room for, but at least one."""
        while request.unqueued:
            window, positions = request.unqueued[0]
            queued = len(request.queued_windows)
            if queued and not self._admission.within_share(queued + 1, request.queued_tokens + window.tokens):
                return
            request.unqueued.popleft()
            request.unqueued_tokens -= window.tokens
            self._unqueued_tokens -= window.tokens
            self._enqueue(request, window, positions)

    def _enqueue(self, request: QueuedRequest, window: EncodedWindow, positions: list[int]) -> None:
        """Answer a window from the cache, join an equal one that is queued, or queue it."""
        cached = self._cache.get(window.key)
        if cached is not None:
            self._metrics.shared.labels("cache").inc(len(positions))
            self._settle(request, positions, cached)
            return
        queued = self._queue.find(window.key)
        if queued is None:
            queued = self._queue.add(window, request.priority, asyncio.get_running_loop().time())
            self._metrics.shared.labels("in_flight").inc(len(positions) - 1)
            self._arrived.set()
        else:
            self._metrics.shared.labels("in_flight").inc(len(positions))
            self._queue.promote(queued, request.priority)
        queued.requests[request] = positions
        request.queued_windows.add(queued)
        request.queued_tokens += window.tokens

    def _settle(self, request: QueuedRequest, positions: list[int], result: WindowResult) -> None:
        self._missing -= len(positions)
        for position in positions:
            request.settle(position, result)

    def _leave(self, request: QueuedRequest, reason: str) -> None:
        """Forget a request that was answered or whose caller has left, and drop windows that only it waited for."""
        request.done.cancel()  # no effect if it is done
        self._requests.discard(request)
        self._missing -= request.remaining
        self._unqueued_tokens -= request.unqueued_tokens
        dropped = len(request.unqueued)
        for queued in request.queued_windows:
            del queued.requests[request]
            dropped += not queued.requests and self._queue.withdraw(queued)
        self._metrics.dropped.labels(reason).inc(dropped)
        self._show_load()

    def next_batch(self) -> list[QueuedWindow]:
        """Return the windows that an idle lane runs next: its share of those that wait, within the budget."""
        batch = self._queue.next_batch(self.budget.tokens, sum(not lane.batch for lane in self.lanes))
        now = asyncio.get_running_loop().time()
        for queued in batch:
            self._metrics.queue_seconds.observe(now - queued.queued_at)
        return batch

    async def arrival(self) -> None:
        """Wait until a window is queued."""
        self._arrived.clear()
        await self._arrived.wait()

    def drop_abandoned(self, part: Sequence[QueuedWindow]) -> list[QueuedWindow]:
        """Discard the windows of `part` that no request waits for any more, and return the others."""
        for queued in part:
            if not queued.requests:
                self._queue.discard(queued)
                self._metrics.dropped.labels("departed").inc()
        return [queued for queued in part if queued.requests]

    def learn_rate(self, tokens: int, computed_tokens: int, seconds: float) -> None:
        """Learn the rate of all lanes from one batch of one lane."""
        full = 2 * computed_tokens >= self.budget.tokens
        self._admission.rate.learn(tokens * len(self.lanes), seconds, full)

    def finish(self, queued: QueuedWindow, result: WindowResult) -> None:
        """Give the result of a window to the requests that wait for it, and cache it."""
        self._queue.discard(queued)
        if not isinstance(result, ServiceError):
            self._cache.put(queued.window.key, result)
        waiting, queued.requests = queued.requests, {}
        for request, positions in waiting.items():
            request.queued_windows.remove(queued)
            request.queued_tokens -= queued.window.tokens
            self._settle(request, positions, result)
            self._fill(request)
        self._show_load()

    def lane_failed(self, batch: Sequence[QueuedWindow]) -> None:
        """Give an error to the requests of a batch whose lane has failed.

        All waiting requests get it if the batch is empty, because then the queue itself is at fault, or if no lane is
        left.
        """
        error = ServiceError("internal", "the model's lane has failed")
        for queued in batch:
            self.finish(queued, error)
        if not batch or all(lane.dead for lane in self.lanes):
            self._fail_waiting(error)

    def _fail_waiting(self, error: ServiceError) -> None:
        """Fail every unanswered request with `error`, also those being computed, and empty the queue."""
        self._queue.clear()
        for request in self._requests:
            for queued in request.queued_windows:
                queued.requests.clear()
            request.queued_windows.clear()
            request.unqueued.clear()
            request.remaining = request.unqueued_tokens = 0
            if not request.done.done():
                request.done.set_exception(error)
        self._missing = self._unqueued_tokens = 0
        self._show_load()

    def _show_load(self) -> None:
        self._freed.set()
        self._freed.clear()
        self._metrics.queue_windows.set(self.load.windows)
        self._metrics.queue_tokens.set(self.load.tokens)
