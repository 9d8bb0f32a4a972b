"""A bounded queue in front of one model, and the worker that empties it in batches.

A request is admitted or refused as a whole, without waiting, and gets exactly one answer.

    request  submitted --> refused       the queue is full or closed, or by the measured rate the request's turn would
                 |                       come too late: ServiceError at once, nothing is kept
                 |
              waiting ---> left          its deadline has passed (ServiceError deadline_exceeded), or its caller is gone
                 |     \\-> failed        the batcher was closed, or its worker failed
              answered                   a result or an error for each window, in order

    window   queued -----> dropped       no request waits for it any more: it never reaches the model
                 |
              in batch --> failed        the model fails on it even alone: an error for the requests that wait for it
                 |
               done                      its logits go to the requests that wait for it, and into the cache

    worker   idle --> forming --> in the model --+-> answering --> idle
                                       ^         |
                                       +- halve <+   the model failed: each half runs again, until the culprit is alone

Forming a batch never waits for more windows: if the model is idle, a window is computed at once, and windows that
arrive while the model is busy form the next batch. `service.inference.queue` chooses the windows of a batch, and
`service.inference.admission` decides which requests are admitted.

If the model runs out of memory, the token budget shrinks to half of the batch that failed, and doubles after every
`GOOD_BATCHES` good batches until it is whole. If the model fails on a single window for another reason, a probe decides
whether the model is healthy. If the worker itself fails, every waiting request gets an error, the queue is emptied and
the worker is started again. After `MAX_FAULTS` faults without a good batch in between, it is not started again and the
service is unhealthy. A batch that is in the
model for `stuck_s` also makes the service unhealthy. The process must then be restarted from outside.

Only the event loop's thread reads and changes the state; the model runs in another thread.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import ServiceError
from service.inference.admission import Admission, QueueLimits
from service.inference.budget import TokenBudget
from service.inference.cache import ResultCache
from service.inference.deadline import Deadline
from service.inference.engine import EncodedWindow, ModelOutOfMemory
from service.inference.model_thread import BatchModel, ModelThread, RunBlocking
from service.inference.queue import Lane, Queue, QueuedRequest, QueuedWindow, WindowResult
from service.telemetry import Metrics, logger

MAX_FAULTS = 3
"""Number of faults of the worker, without a good batch in between, after which it is not started again."""


@dataclass(frozen=True)
class QueueLoad:
    """The contents of the queue now, and the speed at which it empties."""

    windows: int
    """Results that requests wait for."""
    tokens: int
    """Tokens waiting or in the model; equal windows count once."""
    tokens_per_s: float
    """Rate of recent batches that were at least half full."""


class Batcher:
    """Collects the windows of requests into batches for one model; the module's docstring describes the states.

    Call `start`, then `submit` from any task of the same loop, then `close`.

    Args:
        model: runs the batches.
        limits: bounds of the queue and of a batch.
        metrics: counters to fill.
        run_blocking: replaces the model's thread in tests.
    """

    def __init__(
        self, model: BatchModel, limits: QueueLimits, metrics: Metrics, run_blocking: RunBlocking | None = None
    ) -> None:
        self._metrics = metrics
        self.model_thread = ModelThread(model, limits.stuck_s, run_blocking)
        self._queue = Queue()
        self._admission = Admission(self._queue, limits)
        self._cache = ResultCache(limits.cache_windows)
        self._requests: set[QueuedRequest] = set()
        self._arrived = asyncio.Event()
        self._freed = asyncio.Event()  # set and cleared at once each time there is less in the queue
        self._worker: asyncio.Task[None] | None = None
        self._faults = 0
        self._dead = False  # the worker is not started again
        self._closed = False
        self._busy_since = 0.0  # end of the previous batch, or the time when the worker woke up
        self.budget = TokenBudget(limits.max_batch_tokens)

    @property
    def load(self) -> QueueLoad:
        """The present load of the queue."""
        return QueueLoad(self._admission.windows, self._queue.tokens, self._admission.rate.tokens_per_s)

    @property
    def healthy(self) -> bool:
        """True while the worker runs and the model is neither stuck nor failing."""
        return self._worker is not None and not self._dead and self.model_thread.healthy

    def start(self) -> None:
        """Start the worker on the running loop."""
        self._worker = asyncio.get_running_loop().create_task(self._work(), name="batcher")
        self._worker.add_done_callback(self._worker_ended)

    async def submit(
        self,
        windows: Sequence[EncodedWindow],
        deadline: Deadline,
        lane: Lane = "interactive",
        wait_for_room: bool = False,
    ) -> list[WindowResult]:
        """Return the results for the windows of one request, in order.

        Args:
            windows: at least one.
            deadline: the deadline of the request.
            lane: the lane in which the windows wait.
            wait_for_room: if the queue is full, wait until the deadline instead of being refused.

        Raises:
            ServiceError: overloaded, draining or not_ready at once; deadline_exceeded, draining or internal later.
        """
        async with deadline.enforced():
            while True:
                try:
                    self._admit(windows, deadline.left_s, lane)
                    break
                except ServiceError as exc:
                    if not wait_for_room or exc.kind != "overloaded":
                        raise
                await self._freed.wait()
            loop = asyncio.get_running_loop()
            request = QueuedRequest([None] * len(windows), loop.create_future(), len(windows))
            self._requests.add(request)
            self._admission.windows += len(windows)
            for position, window in enumerate(windows):
                self._enqueue(request, position, window, lane)
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
        """Refuse new requests, answer all waiting ones with an error, and end the worker and the model's thread."""
        self._closed = True
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
            self._worker = None  # a cancelled task keeps its stack alive, and with it this batcher and its model
        self.give_up()
        await self.model_thread.close()

    def retry_after_s(self) -> float:
        """Return the seconds until everything in the queue is done by estimate."""
        return self._admission.retry_after_s()

    async def recheck(self) -> bool:
        """Return whether the service is healthy. If that is in doubt, a probe of the model decides."""
        if not self._dead and not self._closed:
            await self.model_thread.recheck()
        return self.healthy

    def _admit(self, windows: Sequence[EncodedWindow], left_s: float, lane: Lane) -> None:
        if self._closed:
            raise ServiceError("draining", "the service is stopping", retry_after_s=1)
        if self._dead:
            raise ServiceError("not_ready", "the model's worker has failed; the service must be restarted")
        added = {
            id(window) if window.key is None else window.key: window.tokens
            for window in windows
            if self._queue.find(window.key) is None and window.key not in self._cache
        }
        self._admission.check(len(windows), sum(added.values()), left_s, lane)

    def _enqueue(self, request: QueuedRequest, position: int, window: EncodedWindow, lane: Lane) -> None:
        """Answer a window from the cache, join an equal one that is queued, or queue it."""
        cached = self._cache.get(window.key)
        if cached is not None:
            self._metrics.shared.labels("cache").inc()
            self._admission.windows -= 1
            request.settle(position, cached)
            return
        queued = self._queue.find(window.key)
        if queued is None:
            queued = self._queue.add(window, lane, asyncio.get_running_loop().time())
            self._arrived.set()
        else:
            self._metrics.shared.labels("in_flight").inc()
            if lane == "interactive":
                self._queue.promote(queued)
        if request not in queued.requests:
            request.queued_windows.append(queued)
        queued.requests.setdefault(request, []).append(position)

    def _leave(self, request: QueuedRequest, reason: str) -> None:
        """Forget a request that was answered or whose caller has left, and drop windows that only it waited for."""
        request.done.cancel()  # no effect if it is done
        self._requests.discard(request)
        for queued in request.queued_windows:
            positions = queued.requests.pop(request, None)
            if positions is None:
                continue
            self._admission.windows -= len(positions)
            if not queued.requests and self._queue.withdraw(queued):
                self._metrics.dropped.labels(reason).inc()
        self._show_load()

    async def _work(self) -> None:
        while True:
            batch = self._next_batch()
            if batch:
                await self._run_batch(batch)
            else:
                self._arrived.clear()
                await self._arrived.wait()
                self._busy_since = asyncio.get_running_loop().time()

    def _next_batch(self) -> list[QueuedWindow]:
        batch = self._queue.next_batch(self.budget.tokens)
        now = asyncio.get_running_loop().time()
        for queued in batch:
            self._metrics.queue_seconds.observe(now - queued.queued_at)
        return batch

    async def _run_batch(self, batch: list[QueuedWindow]) -> None:
        """Run a batch and, where it fails, its halves. Afterwards each of its windows is done or has failed."""
        parts = [batch]
        while parts:
            part = self._drop_abandoned(parts.pop())
            if not part:
                continue
            started = asyncio.get_running_loop().time()
            try:
                rows = await self.model_thread.infer([queued.window for queued in part])
            except Exception as exc:
                self._batch_failed(part, exc)
                middle = len(part) // 2
                if middle:
                    parts += [part[middle:], part[:middle]]
                else:
                    self._window_failed(part[0], exc)
            else:
                self._batch_succeeded(part, started)
                for queued, row in zip(part, rows, strict=True):
                    self._finish(queued, row)
        await self.model_thread.recheck()

    def _drop_abandoned(self, part: list[QueuedWindow]) -> list[QueuedWindow]:
        """Discard the windows of `part` that no request waits for any more, and return the others."""
        for queued in part:
            if not queued.requests:
                self._queue.discard(queued)
                self._metrics.dropped.labels("departed").inc()
        return [queued for queued in part if queued.requests]

    def _batch_succeeded(self, part: list[QueuedWindow], started: float) -> None:
        ended = asyncio.get_running_loop().time()
        tokens = sum(queued.window.tokens for queued in part)
        computed = sum(queued.window.computed_tokens for queued in part)
        between = max(ended - min(self._busy_since, started), 1e-6)  # includes the work between two batches
        self._admission.rate.learn(tokens, between, full=2 * computed >= self.budget.tokens)
        self._busy_since = ended
        self._metrics.inference_seconds.observe(max(ended - started, 1e-6))
        self._metrics.batch_windows.observe(len(part))
        self._metrics.batch_tokens.observe(tokens)
        self._metrics.padding_tokens.inc(computed - tokens)
        self._faults = 0
        self.budget.batch_succeeded()

    def _batch_failed(self, part: list[QueuedWindow], exc: Exception) -> None:
        self._metrics.batch_failures.inc()
        self.budget.batch_failed()
        if isinstance(exc, ModelOutOfMemory):
            self.budget.out_of_memory(sum(queued.window.computed_tokens for queued in part))
        else:
            culprit = exc if len(part) == 1 else None  # one stack trace per culprit, not one per half
            logger.warning("a batch of %d windows failed: %s", len(part), type(exc).__name__, exc_info=culprit)

    def _window_failed(self, queued: QueuedWindow, exc: Exception) -> None:
        """Give the requests an error for a window on which the model fails even alone."""
        if isinstance(exc, ModelOutOfMemory):
            message = f"there is not enough memory for {queued.window.tokens} tokens"
        else:
            message = "the model failed on this text"
            self.model_thread.doubt()
        self._finish(queued, ServiceError("inference_failed", message))

    def _finish(self, queued: QueuedWindow, result: WindowResult) -> None:
        """Give the result of a window to the requests that wait for it, and cache it."""
        self._queue.discard(queued)
        for request, positions in queued.requests.items():
            self._admission.windows -= len(positions)
            for position in positions:
                request.settle(position, result)
        queued.requests.clear()
        self._show_load()
        if not isinstance(result, ServiceError):
            self._cache.put(queued.window.key, result)

    def _fail_waiting(self, error: ServiceError) -> None:
        """Fail every unanswered request with `error`, also those being computed, and empty the queue."""
        self._queue.clear()
        for request in self._requests:
            for queued in request.queued_windows:
                queued.requests.clear()
            request.queued_windows.clear()
            if not request.done.done():
                request.done.set_exception(error)
        self._admission.windows = 0
        self._show_load()

    def _worker_ended(self, worker: "asyncio.Task[None]") -> None:
        """Start the worker again after a fault, unless this was the `MAX_FAULTS`-th fault in a row."""
        if worker.cancelled() or self._closed:
            return
        self._faults += 1
        self._dead = self._faults >= MAX_FAULTS
        outcome = "it stays down" if self._dead else "it is started again"
        logger.critical("the batcher's worker has failed; %s", outcome, exc_info=worker.exception())
        self._fail_waiting(ServiceError("internal", "the model's worker has failed"))
        self.model_thread.doubt(down=True)
        if not self._dead:
            self.start()

    def _show_load(self) -> None:
        self._freed.set()
        self._freed.clear()
        self._metrics.queue_windows.set(self._admission.windows)
        self._metrics.queue_tokens.set(self._queue.tokens)
