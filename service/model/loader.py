"""Loading a model in a thread while the service goes on."""

import asyncio
import gc
import threading
from collections.abc import Callable
from concurrent.futures import Future

from service.inference.engine import Engine, Progress
from service.model.host import LOADING, SERVING, bound_kernel_caches, tune_allocator
from service.settings import Settings

LoadEngine = Callable[[Settings, Progress], Engine]
"""Loads the engine that the settings describe and reports its progress. Blocks."""


class EngineLoader:
    """Loads engines, one at a time, in a daemon thread, for which the process does not wait when it ends."""

    def __init__(self, load_engine: LoadEngine) -> None:
        self.load_engine = load_engine
        self.stage = "starting"
        """The current stage of loading, in a few words."""
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """True while an engine is being loaded, even if the caller has left."""
        return self._thread is not None and self._thread.is_alive()

    async def load(self, settings: Settings, check: Callable[[], None] = lambda: None) -> Engine:
        """Return the engine that the settings describe, after a check in the same thread. Raises any error of both."""
        future: Future[Engine] = Future()

        def run() -> None:
            future.set_running_or_notify_cancel()  # from here on a caller who leaves cannot cancel it
            try:
                check()
                future.set_result(self._load(settings))
            except BaseException as exc:
                future.set_exception(exc)

        self._thread = threading.Thread(target=run, name="load", daemon=True)
        self._thread.start()
        return await asyncio.wrap_future(future)

    def _load(self, settings: Settings) -> Engine:
        tune_allocator(LOADING)
        bound_kernel_caches()
        try:
            engine = self.load_engine(settings, self._report)
            # The garbage collector does not look at frozen objects. Looking at all of PyTorch's objects stopped the
            # event loop for a tenth of a second each time.
            gc.collect()
            gc.freeze()
            return engine
        finally:  # after a failed reload, the running model goes on
            tune_allocator(SERVING)

    def _report(self, stage: str) -> None:
        self.stage = stage
