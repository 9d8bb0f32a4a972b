"""A bounded queue in front of one model, and the worker that empties it in batches.

    submitted --> refused                    the queue is full or closed: ServiceError at once, nothing is kept
        |
      queued ---> dropped                    its caller left, or its time was up, before the model saw it
        |
     in batch --> failed                     the model raises on it also when it is alone
        |
     answered

A job is one request's windows; it is admitted or refused as a whole, and its caller gets exactly one answer: when its
last window is done, or when its deadline passes. The queue's entries are windows. When the worker is free it starts
at once with the oldest entry and adds what fits the token budget, windows of like length first, so that a padded
batch wastes little; it never waits for more to come. An entry larger than the budget runs alone.

If the model raises on a batch, the batch is halved until the culprit is alone: it gets its error, the others their
answers. If the worker itself fails, every waiting caller is told, and `healthy` turns false for good.

All state belongs to the event loop's thread; only `infer` runs elsewhere, one call at a time.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from service.engine import Item, Logits
from service.errors import ServiceError
from service.telemetry import Metrics, logger

T = TypeVar("T")

LOOKAHEAD = 512
"""Queued entries among which a batch's companions are sought."""

Result = Logits | ServiceError
"""What becomes of one window."""


class Model(Protocol):
    """The part of an engine that the batcher needs; see `service.engine.Engine`."""

    def batch_cost(self, tokens: Sequence[int]) -> int: ...

    def infer(self, items: Sequence[Item]) -> Sequence[Logits]: ...

    def probe(self) -> None: ...


@dataclass(frozen=True)
class Limits:
    """Bounds on what is admitted and on one batch; see the settings of the same names."""

    max_items: int
    max_tokens: int
    max_batch_tokens: int


@dataclass(eq=False)
class _Job:
    results: list[Result | None]
    done: "asyncio.Future[None]"
    remaining: int
    deadline: float
    queued_items: int = 0
    queued_tokens: int = 0
    left: bool = False
    """Its caller is gone; what it had in the queue counts no more."""


@dataclass(eq=False, slots=True)
class _Entry:
    item: Item
    job: _Job
    index: int
    queued_at: float


@dataclass
class Load:
    """What is in the batcher now: waiting or in the model."""

    items: int = 0
    tokens: int = 0
    tokens_per_s: float = field(default=0.0)
    """Measured over recent batches; 0 before the first."""


def deadline_exceeded(timeout_s: float) -> ServiceError:
    """Time is up for a request that was allowed `timeout_s` seconds."""
    return ServiceError("deadline_exceeded", f"no answer within {timeout_s * 1000:.0f} ms; the work was dropped")


class Batcher:
    """See the module. Use `start`, then `submit` from any task of the same loop, then `close`."""

    def __init__(self, model: Model, limits: Limits, metrics: Metrics) -> None:
        self._model = model
        self._limits = limits
        self._metrics = metrics
        self._queue: deque[_Entry] = deque()
        self._jobs: set[_Job] = set()  # whose callers wait
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._worker: asyncio.Task[None] | None = None
        self._probe_needed = False
        self._dead: BaseException | None = None
        self._closed = False
        self.load = Load()

    def start(self) -> None:
        """Start the worker on the running loop."""
        self._worker = asyncio.get_running_loop().create_task(self._work(), name="batcher")
        self._worker.add_done_callback(self._worker_ended)

    @property
    def healthy(self) -> bool:
        """The worker lives, and the last forward did not fail as a whole."""
        return self._worker is not None and self._dead is None and not self._probe_needed

    async def submit(self, items: Sequence[Item], timeout_s: float, spent_s: float = 0.0) -> list[Result]:
        """Classify the windows of one request.

        Args:
            items: at least one.
            timeout_s: seconds that the request was allowed.
            spent_s: seconds of them that are gone.

        Returns:
            One result an item, in order.

        Raises:
            ServiceError: overloaded, draining or not_ready at once; deadline_exceeded later.
        """
        tokens = sum(item.tokens for item in items)
        self._admit(len(items), tokens)
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadline = now + max(timeout_s - spent_s, 0.0)
        job = _Job([None] * len(items), loop.create_future(), len(items), deadline, len(items), tokens)
        self._jobs.add(job)
        self._queue.extend(_Entry(item, job, index, now) for index, item in enumerate(items))
        self.load.items += len(items)
        self.load.tokens += tokens
        self._arrived.set()
        self._show_load()
        try:
            async with asyncio.timeout_at(job.deadline):
                await job.done
        except TimeoutError:
            raise deadline_exceeded(timeout_s) from None
        finally:
            self._leave(job)
        return [result for result in job.results if result is not None]

    async def close(self) -> None:
        """Refuse new work, tell whoever still waits, end the worker. Waits for a batch that is in the model."""
        self._closed = True
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._fail_waiting(ServiceError("draining", "the service stopped before this request was answered"))
        await asyncio.to_thread(self._thread.shutdown)  # waits for the model's thread, not on the loop's

    def _leave(self, job: _Job) -> None:
        """The caller has its answer or is gone: what is left of the job in the queue takes nobody's place."""
        job.done.cancel()  # no effect if it is done
        self._jobs.discard(job)
        if job.queued_items:
            job.left = True
            self.load.items -= job.queued_items
            self.load.tokens -= job.queued_tokens
            self._show_load()

    def retry_after_s(self) -> float:
        """Seconds until what is here now will be done, by the measured rate; 1 before there is one."""
        return self.load.tokens / self.load.tokens_per_s if self.load.tokens_per_s else 1.0

    def _admit(self, items: int, tokens: int) -> None:
        if self._closed:
            raise ServiceError("draining", "the service is stopping", retry_after_s=1)
        if self._dead is not None:
            raise ServiceError("not_ready", "the model's worker has failed; the service must be restarted")
        limits = self._limits
        # An empty batcher takes any request, however large: refusing it would be refusing it for ever.
        if self.load.items and (
            self.load.items + items > limits.max_items or self.load.tokens + tokens > limits.max_tokens
        ):
            raise ServiceError(
                "overloaded",
                f"the queue holds {self.load.items} windows and {self.load.tokens} tokens, the limits are "
                f"{limits.max_items} and {limits.max_tokens}; this request needs {items} and {tokens}",
                retry_after_s=self.retry_after_s(),
            )

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._next_batch()
            if batch:
                await self._run(batch)
            elif not self._queue:
                self._arrived.clear()

    def _next_batch(self) -> list[_Entry]:
        """The oldest live entry and what fits beside it; expired and left entries are dropped on the way."""
        now = asyncio.get_running_loop().time()
        while self._queue and not self._alive(self._queue[0], now):
            self._drop(self._queue.popleft(), now)
        if not self._queue:
            return []
        oldest = self._queue.popleft()
        ahead = [self._queue.popleft() for _ in range(min(LOOKAHEAD, len(self._queue)))]
        alive = []
        for entry in ahead:
            if self._alive(entry, now):
                alive.append(entry)
            else:
                self._drop(entry, now)
        batch = [oldest]
        budget = self._limits.max_batch_tokens
        lengths = [oldest.item.tokens]
        for entry in sorted(alive, key=lambda e: abs(e.item.tokens - oldest.item.tokens)):  # stable: FIFO within
            if self._model.batch_cost([*lengths, entry.item.tokens]) > budget:
                break
            batch.append(entry)
            lengths.append(entry.item.tokens)
        taken = set(map(id, batch))
        self._queue.extendleft(entry for entry in reversed(alive) if id(entry) not in taken)
        for entry in batch:
            entry.job.queued_items -= 1
            entry.job.queued_tokens -= entry.item.tokens
            self._metrics.queue_seconds.observe(now - entry.queued_at)
        return batch

    async def _run(self, batch: list[_Entry]) -> None:
        """Run a batch; halve it while it fails. Every entry of it is answered when this returns."""
        parts = [batch]
        while parts:
            part = parts.pop()
            try:
                rows = await self._infer(part)
            except Exception as exc:
                self._metrics.batch_failures.inc()
                logger.warning("a batch of %d windows failed", len(part), exc_info=exc)
                if len(part) > 1:
                    parts += [part[len(part) // 2 :], part[: len(part) // 2]]
                    continue
                self._probe_needed = True
                self._answer(part[0], ServiceError("inference_failed", "the model failed on this text"))
            else:
                self._probe_needed = False
                for entry, row in zip(part, rows, strict=True):
                    self._answer(entry, row)
        if self._probe_needed:
            await self._probe()

    async def _infer(self, part: list[_Entry]) -> Sequence[Logits]:
        loop = asyncio.get_running_loop()
        items = [entry.item for entry in part]
        tokens = sum(item.tokens for item in items)
        start = loop.time()
        rows = await self._in_thread(lambda: self._model.infer(items))
        if len(rows) != len(items):
            raise RuntimeError(f"the engine gave {len(rows)} rows for {len(items)} windows")
        seconds = max(loop.time() - start, 1e-6)
        rate = self.load.tokens_per_s
        self.load.tokens_per_s = tokens / seconds if not rate else 0.8 * rate + 0.2 * tokens / seconds
        self._metrics.inference_seconds.observe(seconds)
        self._metrics.batch_items.observe(len(items))
        self._metrics.batch_tokens.observe(tokens)
        return rows

    async def _probe(self) -> None:
        """After a failure: is it the text or the model? Ready again only if a one-token forward works."""
        try:
            await self._in_thread(self._model.probe)
            self._probe_needed = False
        except Exception as exc:
            logger.error("the model fails on one token", exc_info=exc)

    async def recheck(self) -> bool:
        """Readiness calls this while the model is unhealthy: probe again, unless the worker is gone."""
        if self._dead is None and self._probe_needed and not self._closed:
            await self._probe()
        return self.healthy

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _alive(self, entry: _Entry, now: float) -> bool:
        return not entry.job.done.done() and now < entry.job.deadline

    def _drop(self, entry: _Entry, now: float) -> None:
        self._metrics.dropped.labels("deadline" if now >= entry.job.deadline else "departed").inc()
        if not entry.job.left:
            entry.job.queued_items -= 1
            entry.job.queued_tokens -= entry.item.tokens
            self._release(entry)

    def _answer(self, entry: _Entry, result: Result) -> None:
        self._release(entry)
        job = entry.job
        job.results[entry.index] = result
        job.remaining -= 1
        if job.remaining == 0 and not job.done.done():
            job.done.set_result(None)

    def _release(self, entry: _Entry) -> None:
        self.load.items -= 1
        self.load.tokens -= entry.item.tokens
        self._show_load()

    def _fail_waiting(self, error: ServiceError) -> None:
        """Give `error` to every caller that still waits, also those whose windows are in the model."""
        self._queue.clear()
        for job in self._jobs:
            if not job.done.done():
                job.done.set_exception(error)

    def _worker_ended(self, worker: "asyncio.Task[None]") -> None:
        if worker.cancelled():
            return
        self._dead = worker.exception() or RuntimeError("the worker returned")
        logger.critical("the batcher's worker has failed", exc_info=self._dead)
        self._fail_waiting(ServiceError("internal", "the model's worker has failed"))

    def _show_load(self) -> None:
        self._metrics.queue_items.set(self.load.items)
        self._metrics.queue_tokens.set(self.load.tokens)
