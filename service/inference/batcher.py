"""A bounded queue in front of one model, and the worker that empties it in batches.

A job is one request's windows; it is admitted or refused as a whole, without waiting. A work is one window that the
model must see; equal windows share one. Every job gets exactly one answer.

    job    submitted --> refused       the queue is full or closed, or by the measured rate its turn would come too
               |                       late: ServiceError at once, nothing is kept
               |
            waiting ---> left          its time is up (ServiceError deadline_exceeded), or its caller is gone
               |     \\-> failed        the batcher was closed, or its worker failed
            answered                   a result or an error for each window, in order

    work   queued -----> dropped       nobody waits for it any more: it never reaches the model
               |
            in batch --> failed        the model raises on it also when it is alone: an error for who waits for it
               |
             done                      its logits go to who waits for it, and into the cache if there is one

    worker  idle --> forming --> in the model --+-> answering --> idle
                                      ^         |
                                      +- halve <+   the model raised: each half again, until the culprit is alone

Forming never waits for more to come: work that finds the model idle starts at once, and what arrives meanwhile makes
the next batch. Which works make a batch is `service.inference.queue`'s matter, who is admitted
`service.inference.admission`'s.

If the model runs out of memory, the budget shrinks to half of what failed and doubles again after `GOOD_BATCHES`
batches without trouble. After any other failure of a lone window a one-token forward decides whether the model is
well (`healthy`). If the worker itself fails, every waiting job is told, the queue is emptied and the worker is started
again; after `MAX_FAULTS` faults without a good batch between them it stays down, and so does `healthy`. A batch that
has been in the model for `stuck_s` makes it false, too: whoever watches readiness must restart the process.

All state belongs to the event loop's thread; only the model runs elsewhere, one call at a time.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from service.errors import ServiceError
from service.inference.admission import Admission, QueueLimits
from service.inference.engine import EncodedWindow, Logits, ModelOutOfMemory
from service.inference.queue import Lane, Queue, QueuedRequest, QueuedWindow, WindowResult
from service.telemetry import Metrics, logger

CLOSE_S = 2.0
"""Seconds that a batch in the model has to end when the batcher is closed."""

GOOD_BATCHES = 16
MIN_BUDGET = 16
MAX_FAULTS = 3

RunBlocking = Callable[[Callable[[], object]], Awaitable[object]]
"""Runs a blocking call elsewhere, one at a time."""


class BatchModel(Protocol):
    """The part of an engine that the batcher needs; see `service.inference.engine.Engine`."""

    def infer(self, items: Sequence[EncodedWindow]) -> Sequence[Logits]: ...

    def probe(self) -> None: ...


@dataclass(frozen=True)
class QueueLoad:
    """What is in the batcher now: waiting or in the model."""

    items: int
    """Windows that jobs wait for."""
    tokens: int
    """Tokens that the model has to see for them; equal windows count once."""
    tokens_per_s: float
    """Measured over recent batches that were at least half full."""


def deadline_exceeded(timeout_s: float) -> ServiceError:
    """Time is up for a request that was allowed `timeout_s` seconds."""
    return ServiceError("deadline_exceeded", f"no answer within {timeout_s * 1000:.0f} ms; the work was dropped")


class Batcher:
    """See the module. Use `start`, then `submit` from any task of the same loop, then `close`.

    Args:
        model: what runs the batches.
        limits: bounds.
        metrics: counters to fill.
        run: for tests; by default a thread of its own.
    """

    def __init__(
        self, model: BatchModel, limits: QueueLimits, metrics: Metrics, run: RunBlocking | None = None
    ) -> None:
        self._model = model
        self._limits = limits
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._latest: Future[object] | None = None
        self._run_given = run
        self._queue = Queue()
        self._admission = Admission(self._queue, limits)
        self._cache: OrderedDict[Hashable, Logits] = OrderedDict()
        self._jobs: set[QueuedRequest] = set()
        self._arrived = asyncio.Event()
        self._freed = asyncio.Event()  # pulsed each time there is less in the batcher
        self._worker: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._probe_needed = False  # a text alone has failed, and nothing has succeeded since
        self._down = False  # the probe has failed, or the worker, and nothing has succeeded since
        self._faults = 0
        self._dead = False
        self._closed = False
        self._in_model_since = math.inf
        self._busy_since = 0.0  # end of the batch before, or when the worker woke up
        self._good_batches = 0
        self.budget = limits.max_batch_tokens
        """Tokens of the next batch."""

    @property
    def load(self) -> QueueLoad:
        """What is here now."""
        return QueueLoad(self._admission.items, self._queue.tokens, self._admission.rate.tokens_per_s)

    def start(self) -> None:
        """Start the worker on the running loop."""
        self._worker = asyncio.get_running_loop().create_task(self._work(), name="batcher")
        self._worker.add_done_callback(self._worker_ended)

    @property
    def healthy(self) -> bool:
        """The worker lives and is not stuck, and the model does not fail on one token."""
        if self._worker is None or self._dead or self._down:
            return False
        return asyncio.get_running_loop().time() - self._in_model_since < self._limits.stuck_s

    async def submit(
        self,
        items: Sequence[EncodedWindow],
        timeout_s: float,
        spent_s: float = 0.0,
        lane: Lane = "interactive",
        patient: bool = False,
    ) -> list[WindowResult]:
        """Classify the windows of one request.

        Args:
            items: at least one.
            timeout_s: seconds that the request was allowed.
            spent_s: seconds of them that are gone.
            lane: who goes first.
            patient: wait for room while there is time, instead of being refused.

        Returns:
            One result an item, in order.

        Raises:
            ServiceError: overloaded, draining or not_ready at once; deadline_exceeded later.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + max(timeout_s - spent_s, 0.0)
        if patient:
            await self._room_for(items, until, timeout_s, lane)
        self._admit(items, until - loop.time(), lane)
        now = loop.time()
        job = QueuedRequest([None] * len(items), loop.create_future(), len(items))
        self._jobs.add(job)
        self._admission.items += len(items)
        for index, item in enumerate(items):
            self._place(job, index, item, lane, now)
        self._show_load()
        reason = "departed"
        try:
            async with asyncio.timeout_at(until):
                await job.done
        except TimeoutError:
            reason = "deadline"
            raise deadline_exceeded(timeout_s) from None
        finally:
            self._leave(job, reason)
        return [result for result in job.results if result is not None]

    async def close(self) -> None:
        """Refuse new work, tell whoever still waits, end the worker. A batch in the model has `CLOSE_S` to end."""
        self._closed = True
        for task in (self._worker, self._probing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._worker = self._probing = None  # a cancelled task keeps its stack, and that this batcher and its model
        self._fail_waiting(ServiceError("draining", "the service stopped before this request was answered"))
        self._thread.shutdown(wait=False)
        deadline = asyncio.get_running_loop().time() + CLOSE_S
        while self.busy and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        if not self.busy:
            self._latest = None  # a failure keeps its stack, too

    @property
    def busy(self) -> bool:
        """The model's thread is still at something, perhaps for ever; also after `close`."""
        return self._latest is not None and not self._latest.done()

    def give_up(self) -> None:
        """Time is up: refuse new work and tell whoever still waits, while the connections are still open."""
        self._closed = True
        self._fail_waiting(ServiceError("draining", "the service stopped before this request was answered"))

    def retry_after_s(self) -> float:
        """Seconds until what is here now will be done; see `Admission`."""
        return self._admission.retry_after_s()

    async def recheck(self) -> bool:
        """Healthy? For readiness: where that is in doubt, a probe tells, unless the worker is gone for good."""
        idle = self._in_model_since == math.inf  # else the batch in the model is probe enough
        if (self._probe_needed or self._down) and idle and not self._dead and not self._closed:
            await self._probe()
        return self.healthy

    async def _room_for(self, items: Sequence[EncodedWindow], until: float, timeout_s: float, lane: Lane) -> None:
        """Wait until these would be admitted. Raises ServiceError deadline_exceeded."""
        try:
            async with asyncio.timeout_at(until):
                while True:
                    try:
                        return self._admit(items, until - asyncio.get_running_loop().time(), lane)
                    except ServiceError as exc:
                        if exc.kind != "overloaded":
                            raise
                    await self._freed.wait()
        except TimeoutError:
            raise deadline_exceeded(timeout_s) from None

    def _admit(self, items: Sequence[EncodedWindow], left_s: float, lane: Lane) -> None:
        if self._closed:
            raise ServiceError("draining", "the service is stopping", retry_after_s=1)
        if self._dead:
            raise ServiceError("not_ready", "the model's worker has failed; the service must be restarted")
        known = self._queue.find
        new = {
            id(item) if item.key is None else item.key: item.tokens
            for item in items
            if known(item.key) is None and item.key not in self._cache
        }
        self._admission.check(len(items), sum(new.values()), left_s, lane)

    def _place(self, job: QueuedRequest, index: int, item: EncodedWindow, lane: Lane, now: float) -> None:
        """Answer from the cache, join an equal window, or queue."""
        key = item.key
        if key is not None and key in self._cache:
            self._cache.move_to_end(key)
            self._metrics.shared.labels("cache").inc()
            self._admission.items -= 1
            job.settle(index, self._cache[key])
            return
        work = self._queue.find(key)
        if work is None:
            work = self._queue.add(item, lane, now)
            self._arrived.set()
        else:
            self._metrics.shared.labels("in_flight").inc()
            if lane == "interactive":
                self._queue.hurry(work)
        if job not in work.waiting:
            job.works.append(work)
        work.waiting.setdefault(job, []).append(index)

    def _leave(self, job: QueuedRequest, reason: str) -> None:
        """The caller has its answer or is gone: what only it waited for takes nobody's place."""
        job.done.cancel()  # no effect if it is done
        self._jobs.discard(job)
        for work in job.works:
            places = work.waiting.pop(job, None)
            if places is None:
                continue
            self._admission.items -= len(places)
            if not work.waiting and self._queue.withdraw(work):
                self._metrics.dropped.labels(reason).inc()
        self._show_load()

    async def _work(self) -> None:
        while True:
            batch = self._next_batch()
            if batch:
                await self._run(batch)
            else:
                self._arrived.clear()
                await self._arrived.wait()
                self._busy_since = asyncio.get_running_loop().time()

    def _next_batch(self) -> list[QueuedWindow]:
        batch = self._queue.next_batch(self.budget)
        now = asyncio.get_running_loop().time()
        for work in batch:
            self._metrics.queue_seconds.observe(now - work.queued_at)
        return batch

    async def _run(self, batch: list[QueuedWindow]) -> None:
        """Run a batch; halve it while it fails. Every work of it is done or has failed when this returns."""
        parts = [batch]
        while parts:
            part = self._still_wanted(parts.pop())
            if not part:
                continue
            try:
                rows = await self._infer(part)
            except Exception as exc:
                self._failed(part, exc)
                if len(part) > 1:
                    parts += [part[len(part) // 2 :], part[: len(part) // 2]]
                    continue
                memory = isinstance(exc, ModelOutOfMemory)
                self._probe_needed = self._probe_needed or not memory
                self._finish(part[0], ServiceError("inference_failed", _why(part[0], memory)))
            else:
                self._succeeded()
                for work, row in zip(part, rows, strict=True):
                    self._finish(work, row)
        if self._probe_needed:
            await self._probe()

    def _still_wanted(self, part: list[QueuedWindow]) -> list[QueuedWindow]:
        """Without what everybody has left since the batch was formed."""
        for work in part:
            if not work.waiting:
                self._queue.forget(work)
                self._metrics.dropped.labels("departed").inc()
        return [work for work in part if work.waiting]

    async def _infer(self, part: list[QueuedWindow]) -> Sequence[Logits]:
        loop = asyncio.get_running_loop()
        items = [work.item for work in part]
        tokens = sum(item.tokens for item in items)
        self._in_model_since = start = loop.time()
        try:
            rows = await self._run_elsewhere(lambda: self._model.infer(items))
        finally:
            self._in_model_since = math.inf
        assert isinstance(rows, Sequence)
        if len(rows) != len(items):
            raise RuntimeError(f"the engine gave {len(rows)} rows for {len(items)} windows")
        end = loop.time()
        seconds = max(end - start, 1e-6)
        computed = sum(item.computed for item in items)
        between = max(end - min(self._busy_since, start), 1e-6)  # what lies between two batches counts
        self._admission.rate.learn(tokens, between, full=2 * computed >= self.budget)
        self._busy_since = end
        self._metrics.inference_seconds.observe(seconds)
        self._metrics.batch_windows.observe(len(items))
        self._metrics.batch_tokens.observe(tokens)
        self._metrics.padding_tokens.inc(computed - tokens)
        return rows

    def _failed(self, part: list[QueuedWindow], exc: Exception) -> None:
        self._metrics.batch_failures.inc()
        self._good_batches = 0
        computed = sum(work.item.computed for work in part)
        if isinstance(exc, ModelOutOfMemory):
            self.budget = max(MIN_BUDGET, min(self.budget, computed) // 2)
            logger.warning("out of memory at %d tokens, the budget is %d now", computed, self.budget)
        else:
            culprit = exc if len(part) == 1 else None  # one stack trace a culprit, not one for each halving
            logger.warning("a batch of %d windows failed: %s", len(part), type(exc).__name__, exc_info=culprit)

    def _succeeded(self) -> None:
        self._probe_needed = self._down = False
        self._faults = 0
        self._good_batches += 1
        if self._good_batches >= GOOD_BATCHES and self.budget < self._limits.max_batch_tokens:
            self.budget = min(2 * self.budget, self._limits.max_batch_tokens)
            self._good_batches = 0

    def _finish(self, work: QueuedWindow, result: WindowResult) -> None:
        """Give the result to whoever waits for it."""
        self._queue.forget(work)
        for job, places in work.waiting.items():
            self._admission.items -= len(places)
            for index in places:
                job.settle(index, result)
        work.waiting.clear()
        self._show_load()
        key = work.item.key
        if self._limits.cache_items and key is not None and not isinstance(result, ServiceError):
            if all(map(math.isfinite, result)):
                self._cache[key] = result
            while len(self._cache) > self._limits.cache_items:
                self._cache.popitem(last=False)

    async def _probe(self) -> None:
        """After a failure: is it the text or the model? Who asks at the same time shares one probe."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.get_running_loop().create_task(self._probe_model(), name="probe")
        await asyncio.shield(self._probing)

    async def _probe_model(self) -> None:
        """Ready again only if a one-token forward works."""
        try:
            await self._run_elsewhere(self._model.probe)
            self._down = False
        except Exception as exc:
            self._down = True
            logger.error("the model fails on one token", exc_info=exc)
        self._probe_needed = False

    async def _run_elsewhere(self, call: Callable[[], object]) -> object:
        if self._run_given is not None:
            return await self._run_given(call)
        self._latest = self._thread.submit(call)
        return await asyncio.wrap_future(self._latest)

    def _fail_waiting(self, error: ServiceError) -> None:
        """Give `error` to every job that still waits, also where its windows are in the model, and forget all work."""
        self._queue.clear()
        for job in self._jobs:
            for work in job.works:
                work.waiting.clear()  # what comes of it concerns nobody
            job.works.clear()
            if not job.done.done():
                job.done.set_exception(error)
        self._admission.items = 0
        self._show_load()

    def _worker_ended(self, worker: "asyncio.Task[None]") -> None:
        if worker.cancelled() or self._closed:
            return
        self._faults += 1
        self._dead = self._faults >= MAX_FAULTS
        what = "it stays down" if self._dead else "it is started again"
        logger.critical("the batcher's worker has failed; %s", what, exc_info=worker.exception())
        self._fail_waiting(ServiceError("internal", "the model's worker has failed"))
        self._down = True
        if not self._dead:
            self.start()

    def _show_load(self) -> None:
        self._freed.set()  # whoever waits for room looks again
        self._freed.clear()
        load = self.load
        self._metrics.queue_windows.set(load.items)
        self._metrics.queue_tokens.set(load.tokens)


def _why(work: QueuedWindow, memory: bool) -> str:
    if memory:
        return f"there is not enough memory for {work.item.tokens} tokens"
    return "the model failed on this text"
