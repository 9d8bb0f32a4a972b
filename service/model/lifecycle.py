"""What a running service is: its state, its model, and how another model takes that one's place.

    loading --> ready --> draining
       |          |
       +--> failed (the process ends)

While it is ready, a reload may load another artifact beside the running model. It is checked as at start, both answer
the same recent texts, and then new requests go to the new model while those that the old one has are finished by it.
Whatever goes wrong before that leaves the running model where it is.
"""

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar
from weakref import WeakSet

from service.errors import EngineLoadError, ServiceError
from service.inference.admission import QueueLimits
from service.inference.batcher import Batcher
from service.inference.engine import Engine, Progress
from service.inference.pipeline import Pipeline, RequestOptions, Samples, Timing
from service.model.allocator import tune_allocator
from service.model.reload import Comparison, ReloadOptions, ReloadResult, check_answers, check_labels, compare
from service.settings import Settings
from service.telemetry import Metrics, log, logger

T = TypeVar("T")

LoadEngine = Callable[[Settings, Progress], Engine]

Status = Literal["loading", "ready", "draining", "failed"]


class ModelLifecycle:
    """One service's state. Created with the app, started and closed by its lifespan."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.status: Status = "loading"
        self.stage = "starting"
        """What loading is about now."""
        self.in_flight = 0
        """Requests whose body has been read and whose answer has not been made."""
        self.last_arrival = 0.0
        """When the latest request came, by `time.monotonic`."""
        self._pipeline: Pipeline | None = None
        self._load_engine: LoadEngine | None = None
        self._loader: threading.Thread | None = None
        self._reloading: asyncio.Task[ReloadResult] | None = None
        self._background_tasks: set[asyncio.Task[None]] = set()
        self._batchers: WeakSet[Batcher] = WeakSet()
        """Also those of models that are no longer served, or never were, as long as a thread is in them."""
        self._samples = Samples(settings.reload_samples)
        self._tokenizers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")

    async def start(self, load_engine: LoadEngine) -> None:
        """Load the engine in a thread and open for work. What `load_engine` raises leaves the status "failed"."""
        self._load_engine = load_engine
        try:
            engine = await self._loaded(self.settings)
        except BaseException:
            self.status = "failed"
            raise
        self._pipeline = self._pipeline_of(engine, engine.info.tokens_per_s)
        self._show_model(self._pipeline)
        if self.status == "loading":  # SIGTERM may have come first
            self.status = "ready"
            self.metrics.ready.set(1)
            log("ready", model=engine.info.name, version=engine.info.version)

    @property
    def loading(self) -> bool:
        """`load_engine` is running, although perhaps nobody waits for it any more."""
        return self._loader is not None and self._loader.is_alive()

    def drain(self) -> None:
        """Refuse new work; what was accepted goes on."""
        if self.status != "failed":
            self.status = "draining"
            self.metrics.ready.set(0)

    def give_up(self) -> None:
        """The time for accepted work is up: whoever still waits is told so."""
        for batcher in list(self._batchers):
            batcher.give_up()

    @property
    def busy(self) -> bool:
        """A thread is loading the engine or is in a model, although nobody waits for it any more."""
        return self.loading or any(batcher.busy for batcher in list(self._batchers))

    async def close(self) -> None:
        """Answer whoever still waits with an error and stop the threads."""
        self.drain()
        self.give_up()
        if self._reloading is not None:
            self._reloading.cancel()
            await asyncio.gather(self._reloading, return_exceptions=True)
        if self._pipeline is not None:
            await self._pipeline.batcher.close()
        await asyncio.gather(*self._background_tasks, return_exceptions=True)
        self._tokenizers.shutdown(wait=False)

    def current_pipeline(self) -> Pipeline:
        """Return the pipeline that new requests use.

        Raises:
            ServiceError: not_ready or draining.
        """
        if self.status == "draining":
            raise ServiceError(
                "draining", "the service is stopping; try again, another instance will answer", retry_after_s=1
            )
        if self.status != "ready" or self._pipeline is None:
            raise ServiceError("not_ready", f"the model is being loaded ({self.stage}); try again", retry_after_s=1)
        return self._pipeline

    def retry_after_s(self) -> float:
        """Seconds until what is in the batcher now will be done; 1 while there is none."""
        return self._pipeline.batcher.retry_after_s() if self._pipeline is not None else 1.0

    async def readiness(self) -> str:
        """ "ready", or why not. After a failed forward this runs a one-token forward."""
        if self.status == "ready" and self._pipeline is not None:
            return "ready" if await self._pipeline.batcher.recheck() else "unhealthy"
        return self.status

    async def reload(self, options: ReloadOptions) -> ReloadResult:
        """Put another model in the place of the running one; see the module. Goes on if the caller leaves.

        Raises:
            ServiceError: reload_refused, with the reason; the running model was kept. not_ready, draining.
        """
        self.current_pipeline()
        if self._reloading is not None and not self._reloading.done():
            raise ServiceError("reload_refused", "another reload is under way")
        self._reloading = asyncio.create_task(self._reload(options), name="reload")
        self._reloading.add_done_callback(self._reload_ended)
        return await asyncio.shield(self._reloading)

    def reload_soon(self) -> None:
        """As `reload`, of `SERVICE_MODEL_DIR`; what comes of it is logged. Does nothing but log unless ready."""

        async def reload() -> None:
            earlier = self._reloading
            try:
                await self.reload(ReloadOptions())
            except Exception as exc:
                if self._reloading is earlier:  # it never began; else its own end has been logged
                    logger.warning("no reload: %s", exc)

        task = asyncio.get_running_loop().create_task(reload())
        self._background_tasks.add(task)
        task.add_done_callback(self._background_tasks.discard)

    async def _reload(self, options: ReloadOptions) -> ReloadResult:
        started = time.perf_counter()
        running = self.current_pipeline()
        info = running.info
        settings = self.settings.model_copy(
            update={  # chosen at start, when nothing else used the processor
                "model_dir": Path(options.model_dir) if options.model_dir else self.settings.model_dir,
                "precision": info.precision,
                "max_batch_tokens": info.max_batch_tokens,
            }
        )
        try:
            engine = await self._loaded(settings)
        except EngineLoadError as exc:
            raise ServiceError("reload_refused", f"{exc}; the running model was kept") from exc
        check_labels(info, engine.info, options)
        same_size = engine.info.parameters == info.parameters
        candidate = self._pipeline_of(engine, running.batcher.load.tokens_per_s if same_size else 0.0)
        try:
            comparison = await self._compared(running, candidate)
            check_answers(comparison, options)
            self.current_pipeline()  # raises if the service began to stop meanwhile
        except BaseException:
            await candidate.batcher.close()
            raise
        self._pipeline = candidate
        self._show_model(candidate, previous=running)
        self._retire(running)
        return ReloadResult(info, candidate.info, comparison, time.perf_counter() - started)

    async def _compared(self, running: Pipeline, candidate: Pipeline) -> Comparison:
        """What both make of recent texts, a few at a time, behind the traffic."""
        texts = self._samples.texts
        few = min(16, self.settings.max_texts)
        work = RequestOptions(lane="bulk", patient=True, timeout_ms=self.settings.max_timeout_ms)
        old, new = [], []
        for start in range(0, len(texts), few):
            some = texts[start : start + few]
            old += await running.answers(some, work, Timing())
            new += await candidate.answers(some, work, Timing())
        return compare(old, new)

    def _reload_ended(self, task: "asyncio.Task[ReloadResult]") -> None:
        if task.cancelled():
            return
        error = task.exception()
        self.metrics.reloads.labels("refused" if error else "done").inc()
        if isinstance(error, ServiceError):
            logger.error("reload refused: %s", error)
        elif error is not None:
            logger.error("reload failed", exc_info=error)
        else:
            done = task.result()
            log(
                "reloaded",
                previous=done.previous.version,
                model=done.current.name,
                version=done.current.version,
                samples=done.comparison.samples,
                flip_rate=round(done.comparison.flip_rate, 4),
                mean_change=round(done.comparison.mean_change, 4),
                seconds=round(done.seconds, 3),
            )

    def _retire(self, pipeline: Pipeline) -> None:
        """Let it finish what it has, then free it."""

        async def retire() -> None:
            await pipeline.finished()
            await pipeline.batcher.close()

        task = asyncio.create_task(retire(), name="retire")
        self._background_tasks.add(task)
        task.add_done_callback(self._background_tasks.discard)

    def _pipeline_of(self, engine: Engine, tokens_per_s: float) -> Pipeline:
        s = self.settings
        limits = QueueLimits(
            max_items=s.max_queue_items,
            max_tokens=s.max_queue_tokens,
            max_batch_tokens=engine.info.max_batch_tokens,
            tokens_per_s=tokens_per_s,
            cache_items=s.cache_items,
            stuck_s=s.stuck_s,
        )
        batcher = Batcher(engine, limits, self.metrics)
        self._batchers.add(batcher)
        batcher.start()
        return Pipeline(engine, batcher, self._tokenizers, s, self.metrics, self._samples)

    def _show_model(self, pipeline: Pipeline, previous: Pipeline | None = None) -> None:
        self.metrics.start_labels(pipeline.info.labels)
        if previous is not None:
            self.metrics.model_info.remove(previous.info.name, previous.info.version)
        self.metrics.model_info.labels(pipeline.info.name, pipeline.info.version).set(1)

    async def _loaded(self, settings: Settings) -> Engine:
        load_engine = self._load_engine
        assert load_engine is not None

        def report(stage: str) -> None:
            self.stage = stage

        def load() -> Engine:
            engine = load_engine(settings, report)
            # Out of the garbage collector's sight: going through all of PyTorch's objects held the event loop for a
            # tenth of a second each time.
            gc.collect()
            gc.freeze()
            tune_allocator()
            return engine

        return await self._in_daemon_thread(load)

    async def _in_daemon_thread(self, call: Callable[[], T]) -> T:
        """As `asyncio.to_thread`, but in a thread that the process does not wait for when it ends."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result, error = None, None
            try:
                result = call()
            except BaseException as exc:
                error = exc
            with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
                loop.call_soon_threadsafe(settle, result, error)

        self._loader = threading.Thread(target=work, name="load", daemon=True)
        self._loader.start()
        return await future
