"""A lane of the model: a thread that runs batches, and the task that takes them from the queue.

A model runs in one or several lanes, which share its weights and one queue. Each lane takes a batch as soon as it is
idle. Forming a batch never waits for more windows: windows that arrive while all lanes are busy form the next batch.

    lane   idle --> in the model --+-> answering --> idle
                         ^         |
                         +- halve <+   the model failed: each half runs again, until the culprit is alone

If the model runs out of memory, the token budget shrinks to half of the batch that failed, and doubles after every
`GOOD_BATCHES` good batches until it is whole. If the model fails on a single window for another reason, a probe decides
whether the model is healthy. If the lane's task itself fails, the requests of its batch get an error and the task is
started again. After `MAX_FAULTS` faults without a good batch in between, it is not started again and the service is
unhealthy. A call that is in the model for `stuck_s` also makes the service unhealthy. Only a restart of the process
helps then.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from service.errors import ServiceError
from service.inference.budget import TokenBudget
from service.inference.engine import ModelOutOfMemory
from service.inference.model_thread import ModelThread
from service.inference.queue import QueuedWindow, WindowResult
from service.telemetry import Metrics, logger

MAX_FAULTS = 3
"""Number of faults of a lane's task, without a good batch in between, after which it is not started again."""


class BatchSource(Protocol):
    """The part of the batcher that lanes use. Call it from the event loop's thread only."""

    @property
    def budget(self) -> TokenBudget: ...

    def next_batch(self) -> list[QueuedWindow]:
        """Return the windows that an idle lane runs next; empty if none wait."""

    async def arrival(self) -> None:
        """Wait until a window is queued."""

    def drop_abandoned(self, part: Sequence[QueuedWindow]) -> list[QueuedWindow]:
        """Discard the windows that no request waits for any more, and return the others."""

    def learn_rate(self, tokens: int, computed_tokens: int, seconds: float) -> None:
        """Learn the model's rate from one batch of a lane."""

    def finish(self, queued: QueuedWindow, result: WindowResult) -> None:
        """Give the result of a window to the requests that wait for it. Does nothing if it is finished already."""

    def lane_failed(self, batch: Sequence[QueuedWindow]) -> None:
        """Give an error to the requests of a batch whose lane has failed; if it is empty, to all that wait."""


class Lane:
    """One lane of a model; the module's docstring describes its states.

    Args:
        source: gives the batches and takes the results.
        thread: runs the model.
        metrics: counters to fill.
    """

    def __init__(self, source: BatchSource, thread: ModelThread, metrics: Metrics) -> None:
        self.thread = thread
        self.batch: list[QueuedWindow] = []
        """The windows that the lane has taken; empty while it is idle."""
        self.dead = False
        """True once the task is not started again."""
        self._source = source
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None
        self._faults = 0
        self._busy_since = 0.0  # end of the previous batch, or the time when a window arrived at the idle lane

    @property
    def healthy(self) -> bool:
        """True while the task runs and the model is neither stuck nor failing."""
        return self._task is not None and not self.dead and self.thread.healthy

    @property
    def needs_restart(self) -> bool:
        """True while only a restart of the process can make this lane healthy."""
        return self.dead or self.thread.needs_restart

    def start(self) -> None:
        """Start the task on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._work(), name="lane")
        self._task.add_done_callback(self._ended)

    async def end(self) -> None:
        """End the task. The model may still run its batch until the thread is closed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None  # a cancelled task keeps its stack alive, and with it this lane and its model

    async def recheck(self) -> None:
        """Probe the model if its health is in doubt."""
        if not self.dead:
            await self.thread.recheck()

    async def _work(self) -> None:
        while True:
            self.batch = self._source.next_batch()
            if self.batch:
                await self._run_batch()
                self.batch = []
            else:
                await self._source.arrival()
                self._busy_since = asyncio.get_running_loop().time()

    async def _run_batch(self) -> None:
        """Run the batch and, where it fails, its halves. Afterwards each of its windows is done or has failed."""
        parts = [self.batch]
        while parts:
            part = self._source.drop_abandoned(parts.pop())
            if not part:
                continue
            started = asyncio.get_running_loop().time()
            try:
                rows = await self.thread.infer([queued.window for queued in part])
            except Exception as exc:
                self._part_failed(part, exc)
                middle = len(part) // 2
                if middle:
                    parts += [part[middle:], part[:middle]]
                else:
                    self._window_failed(part[0], exc)
            else:
                self._part_succeeded(part, started)
                for queued, row in zip(part, rows, strict=True):
                    self._source.finish(queued, row)
        await self.thread.recheck()

    def _part_succeeded(self, part: Sequence[QueuedWindow], started: float) -> None:
        ended = asyncio.get_running_loop().time()
        tokens = sum(queued.window.tokens for queued in part)
        computed = sum(queued.window.computed_tokens for queued in part)
        # the time since the previous batch includes the work between two batches
        self._source.learn_rate(tokens, computed, max(ended - min(self._busy_since, started), 1e-6))
        self._busy_since = ended
        self._metrics.inference_seconds.observe(max(ended - started, 1e-6))
        self._metrics.batch_windows.observe(len(part))
        self._metrics.batch_tokens.observe(tokens)
        self._metrics.padding_tokens.inc(computed - tokens)
        self._faults = 0
        self._source.budget.batch_succeeded()

    def _part_failed(self, part: Sequence[QueuedWindow], exc: Exception) -> None:
        self._metrics.batch_failures.inc()
        self._source.budget.batch_failed()
        if isinstance(exc, ModelOutOfMemory):
            self._source.budget.out_of_memory(sum(queued.window.computed_tokens for queued in part))
        else:
            culprit = exc if len(part) == 1 else None  # one stack trace per culprit, not one per half
            logger.warning("a batch of %d windows failed: %s", len(part), type(exc).__name__, exc_info=culprit)

    def _window_failed(self, queued: QueuedWindow, exc: Exception) -> None:
        """Give the requests an error for a window on which the model fails even alone."""
        if isinstance(exc, ModelOutOfMemory):
            message = f"there is not enough memory for {queued.window.tokens} tokens"
        else:
            message = "the model failed on this text"
            self.thread.doubt()
        self._source.finish(queued, ServiceError("inference_failed", message))

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Start the task again after a fault, unless this was the `MAX_FAULTS`-th fault in a row."""
        if task.cancelled():
            return
        self._faults += 1
        self.dead = self._faults >= MAX_FAULTS
        outcome = "it stays down" if self.dead else "it is started again"
        logger.critical("a lane of the model has failed; %s", outcome, exc_info=task.exception())
        batch, self.batch = self.batch, []
        self.thread.doubt(down=True)
        self._source.lane_failed(batch)
        if not self.dead:
            self.start()
