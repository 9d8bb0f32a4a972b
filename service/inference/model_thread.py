"""The thread that a model runs in, and the model's health, which is judged by its failures."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from service.inference.engine import EncodedWindow, Logits
from service.telemetry import logger

CLOSE_S = 2.0
"""Seconds that `close` waits for the call that is running."""

RunBlocking = Callable[[Callable[[], object]], Awaitable[object]]
"""Runs a blocking call elsewhere, one at a time."""


class BatchModel(Protocol):
    """The part of an engine that runs in the lanes' threads; see `service.inference.engine.Engine`."""

    def prepare_thread(self) -> None: ...

    def infer(self, windows: Sequence[EncodedWindow]) -> Sequence[Logits]: ...

    def probe(self) -> None: ...


class ModelThread:
    """Runs the calls of one model in a thread of its own, one at a time. Use it from one event loop only.

    After `doubt`, the next `recheck` finds out by a probe, a forward of one token, whether the model is healthy.

    Args:
        model: the model.
        stuck_s: seconds after which a running call counts as stuck, and a model whose probes fail as broken.
        run_blocking: replaces the thread in tests.
    """

    def __init__(self, model: BatchModel, stuck_s: float, run_blocking: RunBlocking | None = None) -> None:
        self.model = model
        self._stuck_s = stuck_s
        self._run_blocking = run_blocking
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model", initializer=model.prepare_thread)
        self._latest: Future[object] | None = None
        self._calls = asyncio.Lock()  # held while a call runs
        self._busy_since = math.inf  # when the running call began, on the loop's clock; infinite if there is none
        self._probing: asyncio.Task[None] | None = None
        self._in_doubt = False
        self._down = False
        self._failing_since = math.inf  # first failed probe without a success after it; infinite if there is none
        self._broken = False

    @property
    def healthy(self) -> bool:
        """True while no call is stuck and the latest probe or batch has succeeded."""
        return not self._down and not self._stuck

    @property
    def needs_restart(self) -> bool:
        """True while a call is stuck, which Python cannot end, or after probes have failed for `stuck_s`."""
        return self._stuck or self._broken

    @property
    def _stuck(self) -> bool:
        return asyncio.get_running_loop().time() - self._busy_since >= self._stuck_s

    @property
    def busy(self) -> bool:
        """True while a call runs in the thread, which may never end. Also valid after `close`."""
        return self._latest is not None and not self._latest.done()

    async def infer(self, windows: Sequence[EncodedWindow]) -> Sequence[Logits]:
        """Return the logits of each window. Raises any error of the model. After a success, health is not in doubt."""
        rows = await self._run(lambda: self.model.infer(windows))
        assert isinstance(rows, Sequence)
        if len(rows) != len(windows):
            raise RuntimeError(f"the engine gave {len(rows)} rows for {len(windows)} windows")
        self._succeeded()
        return rows

    def doubt(self, *, down: bool = False) -> None:
        """Let the next `recheck` probe the model. With `down`, the model counts as unhealthy until then."""
        self._in_doubt = True
        self._down = self._down or down

    async def recheck(self) -> None:
        """Probe the model if its health is in doubt and no batch is running, which would show the same.

        Simultaneous callers wait for one probe, which goes on if they stop waiting.
        """
        if self._probing is None or self._probing.done():
            if not (self._in_doubt or self._down):
                return
            self._probing = asyncio.get_running_loop().create_task(self._probe(), name="probe")
        await asyncio.shield(self._probing)

    async def close(self) -> None:
        """Stop the thread. A running call has `CLOSE_S` to end; after that the thread is left alone."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
            self._probing = None  # a cancelled task keeps its stack alive, and with it this model
        self._executor.shutdown(wait=False)
        deadline = asyncio.get_running_loop().time() + CLOSE_S
        while self.busy and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        if not self.busy:
            self._latest = None  # a failed call keeps its stack alive, too
            self._executor.shutdown(wait=True)  # the idle thread ends at once and releases the model

    async def _probe(self) -> None:
        if self._calls.locked():  # by a batch, which shows the same
            return
        try:
            await self._run(self.model.probe)
        except Exception as exc:
            now = asyncio.get_running_loop().time()
            self._failing_since = min(self._failing_since, now)
            self._broken = now - self._failing_since >= self._stuck_s
            self._in_doubt, self._down = False, True
            logger.error("the model fails on one token", exc_info=exc)
        else:
            self._succeeded()

    def _succeeded(self) -> None:
        self._in_doubt = self._down = self._broken = False
        self._failing_since = math.inf

    async def _run(self, call: Callable[[], object]) -> object:
        async with self._calls:
            self._busy_since = asyncio.get_running_loop().time()
            try:
                if self._run_blocking is not None:
                    return await self._run_blocking(call)
                self._latest = self._executor.submit(call)
                return await asyncio.wrap_future(self._latest)
            finally:
                self._busy_since = math.inf
