"""A bounded queue in front of one model, and the worker that empties it in batches.

A job is one request's windows; it is admitted or refused as a whole, without waiting. A work is one window that the
model must see; equal windows of whatever jobs share one work. Every job gets exactly one answer.

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
the next batch. There are two lanes, each first in, first out. A batch is filled from the interactive lane, then from
the bulk lane, each entry that still fits the budget, the lane's oldest first; an entry larger than the budget runs
alone. While bulk waits, at most `MAX_PASSED_OVER` batches in a row are led by the interactive lane, and then one is
filled from the bulk lane first: bulk's oldest entry is in the model after at most that many other batches, and a short
text waits for at most one bulk batch beyond the one in the model.

What would not be done in time is refused at once instead of taking the place of what can be: without that, ten times
too much work makes a queue in which everything expires just before its turn, and hardly anything is answered.

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
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, Protocol

from service.engine import Item, Logits, ModelOutOfMemory
from service.errors import ServiceError
from service.telemetry import Metrics, logger

LOOKAHEAD = 512
"""Entries of a lane among which those that fit are sought."""

MAX_PASSED_OVER = 4
"""Batches led by the interactive lane in a row while bulk waits."""

TIMELY = 0.8
"""Share of a request's time that the queue may take by the measured rate; the rest is for what the estimate misses."""

FIRST_BATCHES = 3
"""At least half full, before their rate is believed, where the start measured none."""

CLOSE_S = 2.0
"""Seconds that a batch in the model has to end when the batcher is closed."""

GOOD_BATCHES = 16
MIN_BUDGET = 16
MAX_FAULTS = 3

Lane = Literal["interactive", "bulk"]

Result = Logits | ServiceError
"""What becomes of one window."""

Run = Callable[[Callable[[], object]], Awaitable[object]]
"""Runs a blocking call elsewhere, one at a time."""


class Model(Protocol):
    """The part of an engine that the batcher needs; see `service.engine.Engine`."""

    def infer(self, items: Sequence[Item]) -> Sequence[Logits]: ...

    def probe(self) -> None: ...


@dataclass(frozen=True)
class Limits:
    """Bounds on what is admitted and on one batch; see the settings of the same names."""

    max_items: int
    max_tokens: int
    max_batch_tokens: int
    tokens_per_s: float = 0.0
    """What the model is known to reach; 0: nothing is known before the first full batches."""
    cache_items: int = 0
    stuck_s: float = math.inf


@dataclass(eq=False, slots=True)
class _Work:
    item: Item
    lane: Lane
    queued_at: float
    waiting: "dict[_Job, list[int]]"
    """Places in the results of the jobs that wait for it."""


@dataclass(eq=False, slots=True)
class _Job:
    results: list[Result | None]
    done: "asyncio.Future[None]"
    remaining: int
    works: list[_Work] = field(default_factory=list)


@dataclass
class Load:
    """What is in the batcher now: waiting or in the model."""

    items: int = 0
    """Windows that jobs wait for."""
    tokens: int = 0
    """Tokens that the model has to see for them; equal windows count once."""
    tokens_per_s: float = 0.0
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

    def __init__(self, model: Model, limits: Limits, metrics: Metrics, run: Run | None = None) -> None:
        self._model = model
        self._limits = limits
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._latest: Future[object] | None = None
        self._run_elsewhere = run or self._in_thread
        self._lanes: dict[Lane, OrderedDict[_Work, None]] = {"interactive": OrderedDict(), "bulk": OrderedDict()}
        self._lane_tokens: dict[Lane, int] = {"interactive": 0, "bulk": 0}  # queued or in the model
        self._by_key: dict[Hashable, _Work] = {}  # queued or in the model
        self._cache: OrderedDict[Hashable, Logits] = OrderedDict()
        self._jobs: set[_Job] = set()
        self._arrived = asyncio.Event()
        self._freed = asyncio.Event()  # pulsed each time there is less in the batcher
        self._worker: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._probe_needed = False  # a text alone has failed, and nothing has succeeded since
        self._down = False  # the probe has failed, or the worker, and nothing has succeeded since
        self._passed_over = 0
        self._faults = 0
        self._dead = False
        self._closed = False
        self._in_model_since = math.inf
        self._busy_since = 0.0  # end of the batch before, or when the worker woke up
        self._good_batches = 0
        self._first: list[tuple[int, float]] = []  # tokens and seconds of the first batches, until a rate is known
        self.budget = limits.max_batch_tokens
        """Tokens of the next batch."""
        self.load = Load(tokens_per_s=limits.tokens_per_s)

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
        items: Sequence[Item],
        timeout_s: float,
        spent_s: float = 0.0,
        lane: Lane = "interactive",
        patient: bool = False,
    ) -> list[Result]:
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
        job = _Job([None] * len(items), loop.create_future(), len(items))
        self._jobs.add(job)
        self.load.items += len(items)
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
        self._fail_waiting(ServiceError("draining", "the service stopped before this request was answered"))
        self._thread.shutdown(wait=False)
        deadline = asyncio.get_running_loop().time() + CLOSE_S
        while self.busy and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)

    @property
    def busy(self) -> bool:
        """The model's thread is still at something, perhaps for ever; also after `close`."""
        return self._latest is not None and not self._latest.done()

    def give_up(self) -> None:
        """Time is up: refuse new work and tell whoever still waits, while the connections are still open."""
        self._closed = True
        self._fail_waiting(ServiceError("draining", "the service stopped before this request was answered"))

    def retry_after_s(self) -> float:
        """Seconds until what is here now will be done, by the measured rate; 1 before there is one."""
        return self.load.tokens / self.load.tokens_per_s if self.load.tokens_per_s else 1.0

    async def recheck(self) -> bool:
        """Healthy? For readiness: where that is in doubt, a probe tells, unless the worker is gone for good."""
        idle = self._in_model_since == math.inf  # else the batch in the model is probe enough
        if (self._probe_needed or self._down) and idle and not self._dead and not self._closed:
            await self._probe()
        return self.healthy

    def _wait_s(self, tokens: int, lane: Lane) -> float:
        """Seconds until so many more tokens of this lane are done, by the measured rate; 0 before there is one."""
        if not self.load.tokens_per_s:
            return 0.0
        ahead = self.load.tokens
        if lane == "interactive":
            share = MAX_PASSED_OVER / (MAX_PASSED_OVER + 1) if self._lanes["bulk"] else 1.0
            ahead = round((self._lane_tokens["interactive"] + tokens) / share) - tokens
        return (ahead + tokens) / self.load.tokens_per_s

    async def _room_for(self, items: Sequence[Item], until: float, timeout_s: float, lane: Lane) -> None:
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

    def _admit(self, items: Sequence[Item], left_s: float, lane: Lane) -> None:
        if self._closed:
            raise ServiceError("draining", "the service is stopping", retry_after_s=1)
        if self._dead:
            raise ServiceError("not_ready", "the model's worker has failed; the service must be restarted")
        new = {id(item) if item.key is None else item.key: item.tokens for item in items if not self._known(item.key)}
        tokens, limits = sum(new.values()), self._limits
        # An empty batcher takes any request, however large: refusing it would be refusing it for ever.
        if self.load.items and (
            self.load.items + len(items) > limits.max_items or self.load.tokens + tokens > limits.max_tokens
        ):
            raise ServiceError(
                "overloaded",
                f"the queue holds {self.load.items} windows and {self.load.tokens} tokens, the limits are "
                f"{limits.max_items} and {limits.max_tokens}; this request needs {len(items)} and {tokens}",
                retry_after_s=self.retry_after_s(),
            )
        wait_s = self._wait_s(tokens, lane)
        if self.load.items and tokens and left_s > 0 and wait_s > TIMELY * left_s:
            raise ServiceError(
                "overloaded",
                f"the queue holds {self.load.tokens} tokens: this request would be done in about {wait_s:.1f} s, "
                f"{left_s:.1f} s are allowed",
                retry_after_s=self.retry_after_s(),
            )

    def _known(self, key: Hashable) -> bool:
        return key is not None and (key in self._by_key or key in self._cache)

    def _place(self, job: _Job, index: int, item: Item, lane: Lane, now: float) -> None:
        """Answer from the cache, join an equal window, or queue."""
        key = item.key
        if key is not None and key in self._cache:
            self._cache.move_to_end(key)
            self._metrics.shared.labels("cache").inc()
            self._give(job, index, self._cache[key])
            return
        work = None if key is None else self._by_key.get(key)
        if work is None:
            work = _Work(item, lane, now, {})
            self._lanes[lane][work] = None
            if key is not None:
                self._by_key[key] = work
            self.load.tokens += item.tokens
            self._lane_tokens[lane] += item.tokens
            self._arrived.set()
        else:
            self._metrics.shared.labels("in_flight").inc()
            if lane == "interactive" and work in self._lanes["bulk"]:  # now somebody waits for it who goes first
                del self._lanes["bulk"][work]
                self._lane_tokens["bulk"] -= item.tokens
                self._lane_tokens[lane] += item.tokens
                work.lane = lane
                self._lanes[lane][work] = None
        if job not in work.waiting:
            job.works.append(work)
        work.waiting.setdefault(job, []).append(index)

    def _leave(self, job: _Job, reason: str) -> None:
        """The caller has its answer or is gone: what only it waited for takes nobody's place."""
        job.done.cancel()  # no effect if it is done
        self._jobs.discard(job)
        for work in job.works:
            places = work.waiting.pop(job, None)
            if places is None:
                continue
            self.load.items -= len(places)
            if not work.waiting and work in self._lanes[work.lane]:
                del self._lanes[work.lane][work]
                self._forget(work)
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

    def _next_batch(self) -> list[_Work]:
        """What the model sees next; see the module for the rules."""
        interactive, bulk = self._lanes["interactive"], self._lanes["bulk"]
        bulk_leads = bool(bulk) and (not interactive or self._passed_over >= MAX_PASSED_OVER)
        self._passed_over = self._passed_over + 1 if bulk and not bulk_leads else 0
        batch: list[_Work] = []
        room = self.budget
        for lane in (bulk, interactive) if bulk_leads else (interactive, bulk):
            for work in list(islice(lane, LOOKAHEAD)):
                if batch and room <= 0:
                    break
                if not batch or work.item.computed <= room:
                    batch.append(work)
                    room -= work.item.computed
                    del lane[work]
        now = asyncio.get_running_loop().time()
        for work in batch:
            self._metrics.queue_seconds.observe(now - work.queued_at)
        return batch

    async def _run(self, batch: list[_Work]) -> None:
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

    def _still_wanted(self, part: list[_Work]) -> list[_Work]:
        """Without what everybody has left since the batch was formed."""
        for work in part:
            if not work.waiting:
                self._forget(work)
                self._metrics.dropped.labels("departed").inc()
        return [work for work in part if work.waiting]

    async def _infer(self, part: list[_Work]) -> Sequence[Logits]:
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
        self._measure(items, max(end - min(self._busy_since, start), 1e-6))  # what lies between two batches counts
        self._busy_since = end
        self._metrics.inference_seconds.observe(seconds)
        self._metrics.batch_items.observe(len(items))
        self._metrics.batch_tokens.observe(tokens)
        self._metrics.padding_tokens.inc(sum(item.computed for item in items) - tokens)
        return rows

    def _measure(self, items: Sequence[Item], seconds: float) -> None:
        """Learn the rate. What a small batch reaches, full ones reach, too: a low estimate recovers, and none lowers it
        but full ones. The first batches of a process are its slowest: one of them alone says nothing.
        """
        tokens, rate = sum(item.tokens for item in items), self.load.tokens_per_s
        full = 2 * sum(item.computed for item in items) >= self.budget
        if rate and (full or tokens / seconds > rate):
            self.load.tokens_per_s = 0.8 * rate + 0.2 * tokens / seconds
        elif full and not rate:
            self._first.append((tokens, seconds))
            if len(self._first) == FIRST_BATCHES:
                self.load.tokens_per_s = sum(t for t, _ in self._first) / sum(s for _, s in self._first)

    def _failed(self, part: list[_Work], exc: Exception) -> None:
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

    def _finish(self, work: _Work, result: Result) -> None:
        """Give the result to whoever waits for it."""
        self._forget(work)
        for job, places in work.waiting.items():
            self.load.items -= len(places)
            for index in places:
                self._settle(job, index, result)
        work.waiting.clear()
        self._show_load()
        key = work.item.key
        if self._limits.cache_items and key is not None and not isinstance(result, ServiceError):
            if all(map(math.isfinite, result)):
                self._cache[key] = result
            while len(self._cache) > self._limits.cache_items:
                self._cache.popitem(last=False)

    def _give(self, job: _Job, index: int, result: Result) -> None:
        """As `_settle`, for what never became work."""
        self.load.items -= 1
        self._settle(job, index, result)

    @staticmethod
    def _settle(job: _Job, index: int, result: Result) -> None:
        job.results[index] = result
        job.remaining -= 1
        if job.remaining == 0 and not job.done.done():
            job.done.set_result(None)

    def _forget(self, work: _Work) -> None:
        """It needs the model no more."""
        self.load.tokens -= work.item.tokens
        self._lane_tokens[work.lane] -= work.item.tokens
        if work.item.key is not None:
            del self._by_key[work.item.key]

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

    async def _in_thread(self, call: Callable[[], object]) -> object:
        self._latest = self._thread.submit(call)
        return await asyncio.wrap_future(self._latest)

    def _fail_waiting(self, error: ServiceError) -> None:
        """Give `error` to every job that still waits, also where its windows are in the model, and forget all work."""
        for lane in self._lanes.values():
            lane.clear()
        self._by_key.clear()
        for job in self._jobs:
            job.works.clear()
            if not job.done.done():
                job.done.set_exception(error)
        self.load.items = self.load.tokens = 0
        self._lane_tokens = {"interactive": 0, "bulk": 0}
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
        self._metrics.queue_items.set(self.load.items)
        self._metrics.queue_tokens.set(self.load.tokens)


def _why(work: _Work, memory: bool) -> str:
    if memory:
        return f"there is not enough memory for {work.item.tokens} tokens"
    return "the model failed on this text"
