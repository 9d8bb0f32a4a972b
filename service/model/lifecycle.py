"""The life of a service and of its models: load, replace, retire.

    loading --> ready --> draining
       |          |
       +--> failed (the process ends)

A service that is ready can reload: the new model is loaded beside the running one and passes the same start-up checks,
both models classify the same recent texts, and then new requests use the new model while the old one finishes those it
has. If anything goes wrong before that, the running model stays.
"""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal
from weakref import WeakSet

from service.errors import EngineLoadError, ServiceError
from service.inference.admission import QueueLimits
from service.inference.batcher import Batcher
from service.inference.engine import Engine, EngineInfo
from service.inference.model_thread import ModelThread
from service.inference.pipeline import Pipeline, RequestOptions, Timing
from service.inference.recent_texts import RecentTexts
from service.inference.tokenization import TokenizerThreads
from service.model.host import available_memory
from service.model.loader import EngineLoader, LoadEngine
from service.model.replacement import (
    ModelComparison,
    ReloadOptions,
    ReloadResult,
    check_answers,
    check_directory,
    check_labels,
    check_memory,
    compare,
)
from service.settings import Settings
from service.telemetry import Metrics, log, logger

COMPARED_AT_ONCE = 16
"""Number of texts that two models are compared on in one request."""

Status = Literal["loading", "ready", "draining", "failed"]


class ModelLifecycle:
    """The state of one service. It is created with the app, and started and closed by the app's lifespan."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.status: Status = "loading"
        self.in_flight = 0
        """Requests whose body has been read and whose answer is not made yet."""
        self.last_arrival = 0.0
        """Time of the latest request, on `time.monotonic`'s clock."""
        self._pipeline: Pipeline | None = None
        self._loader: EngineLoader | None = None
        self._reloading: asyncio.Task[ReloadResult] | None = None
        self._background_tasks: set[asyncio.Task[None]] = set()
        self._batchers: WeakSet[Batcher] = WeakSet()  # also of retired models, as long as requests wait for them
        self._model_threads: WeakSet[ModelThread] = WeakSet()  # also of retired models, as long as they run
        self._recent_texts = RecentTexts(settings.reload_samples)
        self._tokenizers = TokenizerThreads()

    async def start(self, load_engine: LoadEngine) -> None:
        """Load the first model and become ready. Raises any error of `load_engine`; the status is then "failed"."""
        self._loader = EngineLoader(load_engine)
        try:
            engine = await self._loader.load(self.settings)
        except BaseException:
            self.status = "failed"
            raise
        self._pipeline = self._make_pipeline(engine, engine.info)
        self._show_model(self._pipeline.info)
        if self.status == "loading":  # SIGTERM may have come first
            self.status = "ready"
            log("ready", model=engine.info.name, version=engine.info.version)

    @property
    def stage(self) -> str:
        """The current stage of loading, in a few words."""
        return self._loader.stage if self._loader is not None else "starting"

    @property
    def loading(self) -> bool:
        """True while a model is being loaded, even if the caller has left."""
        return self._loader is not None and self._loader.busy

    @property
    def busy(self) -> bool:
        """True while a thread loads or runs a model or tokenises, even if the callers have left."""
        running = any(thread.busy for thread in list(self._model_threads)) or self._tokenizers.running_s > 0
        return self.loading or running

    def drain(self) -> None:
        """Refuse new requests. Accepted requests go on."""
        if self.status != "failed":
            self.status = "draining"

    def give_up(self) -> None:
        """Answer all waiting requests with an error, because their time is up."""
        for batcher in list(self._batchers):
            batcher.give_up()

    async def close(self) -> None:
        """Answer all waiting requests with an error and stop the threads."""
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
        """Return the seconds until everything in the queue is done by estimate, or 1 while there is no model."""
        return self._pipeline.batcher.retry_after_s() if self._pipeline is not None else 1.0

    async def readiness(self) -> str:
        """Return "ready", "unhealthy" or another status. If the model's health is in doubt, a probe decides."""
        if self.status == "ready" and self._pipeline is not None:
            healthy = await self._pipeline.batcher.recheck() and not self.needs_restart
            return "ready" if healthy else "unhealthy"
        return self.status

    @property
    def needs_restart(self) -> bool:
        """True while the model or its tokenizer is in a state that only a restart of the process can end."""
        if self._tokenizers.running_s >= self.settings.stuck_s:
            return True
        return self._pipeline is not None and self._pipeline.batcher.needs_restart

    async def reload(self, options: ReloadOptions) -> ReloadResult:
        """Replace the running model. The reload goes on if the caller leaves.

        Raises:
            ServiceError: reload_refused, if the running model was kept; not_ready, also during another reload;
                draining.
        """
        self.current_pipeline()
        if self._reloading is not None and not self._reloading.done():
            raise ServiceError("not_ready", "another reload is under way; try again when it has ended", retry_after_s=5)
        self._reloading = asyncio.create_task(self._reload(options), name="reload")
        self._reloading.add_done_callback(self._reload_ended)
        return await asyncio.shield(self._reloading)

    def reload_soon(self) -> None:
        """Begin to reload the model of `SERVICE_MODEL_DIR` and log the outcome. Never raises."""

        async def reload() -> None:
            earlier = self._reloading
            try:
                await self.reload(ReloadOptions())
            except Exception as exc:
                if self._reloading is earlier:  # the reload never began; otherwise `_reload_ended` has logged this
                    logger.warning("no reload: %s", exc)

        self._in_background(asyncio.get_running_loop().create_task(reload()))

    async def _reload(self, options: ReloadOptions) -> ReloadResult:
        started = time.perf_counter()
        running = self.current_pipeline()
        assert self._loader is not None
        # These stay as they were chosen at start, because traffic would disturb a new measurement.
        chosen = {name: getattr(running.info, name) for name in ("lanes", "threads", "precision", "max_batch_tokens")}
        model_dir = Path(options.model_dir) if options.model_dir else self.settings.model_dir

        def check() -> None:
            if options.model_dir:
                check_directory(model_dir, self.settings.model_dir.absolute().parent)
            if running.info.device == "cpu":  # a GPU whose memory runs out raises an error
                check_memory(model_dir, running.info.precision, available_memory())

        try:
            settings = self.settings.model_copy(update={**chosen, "model_dir": model_dir})
            engine = await self._loader.load(settings, check)
        except EngineLoadError as exc:
            raise ServiceError("reload_refused", f"{exc}; the running model was kept") from exc
        check_labels(running.info, engine.info, options)
        same_size = engine.info.parameters == running.info.parameters
        info = replace(
            engine.info,
            precision_trials=running.info.precision_trials,
            lane_trials=running.info.lane_trials,
            budget_trials=running.info.budget_trials,
            tokens_per_s=running.info.tokens_per_s if same_size else 0.0,
        )
        candidate = self._make_pipeline(engine, info, running.batcher.load.tokens_per_s if same_size else 0.0)
        try:
            comparison = await self._compare(running, candidate)
            check_answers(comparison, options)
            self.current_pipeline()  # raises if the service began to stop meanwhile
        except BaseException:
            await candidate.batcher.close()
            raise
        self._pipeline = candidate
        self._show_model(info, previous=running.info)
        self._in_background(asyncio.create_task(_retire(running), name="retire"))
        return ReloadResult(running.info, info, comparison, time.perf_counter() - started)

    async def _compare(self, running: Pipeline, candidate: Pipeline) -> ModelComparison:
        """Let both models classify the recent texts as bulk work, behind the traffic."""
        texts = self._recent_texts.texts
        size = min(COMPARED_AT_ONCE, self.settings.max_texts)
        options = RequestOptions(priority="bulk", wait_for_room=True, timeout_ms=self.settings.max_timeout_ms)
        old, new = [], []
        for start in range(0, len(texts), size):
            chunk = texts[start : start + size]
            old += await running.classify(chunk, options, Timing(), counted=False)
            new += await candidate.classify(chunk, options, Timing(), counted=False)
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
                samples=done.comparison.texts,
                flip_rate=round(done.comparison.flip_rate, 4),
                mean_change=round(done.comparison.mean_change, 4),
                seconds=round(done.seconds, 3),
            )

    def _in_background(self, task: "asyncio.Task[None]") -> None:
        """Keep a reference to a task until it ends; the event loop itself holds tasks only weakly."""
        self._background_tasks.add(task)
        task.add_done_callback(self._background_tasks.discard)

    def _make_pipeline(self, engine: Engine, info: EngineInfo, tokens_per_s: float | None = None) -> Pipeline:
        """Start a batcher over an engine.

        Args:
            engine: the engine.
            info: the description of its model for `/info`.
            tokens_per_s: the rate that admission begins with; None: the one in `info`.
        """
        settings = self.settings
        limits = QueueLimits(
            max_windows=settings.max_queue_items,
            max_tokens=settings.max_queue_tokens,
            max_batch_tokens=info.max_batch_tokens,
            tokens_per_s=info.tokens_per_s if tokens_per_s is None else tokens_per_s,
            cache_windows=settings.cache_items,
            stuck_s=settings.stuck_s,
        )
        batcher = Batcher(engine, limits, self.metrics, info.lanes)
        self._batchers.add(batcher)
        self._model_threads.update(lane.thread for lane in batcher.lanes)
        batcher.start()
        return Pipeline(engine, batcher, info, self._tokenizers, settings, self.metrics, self._recent_texts)

    def _show_model(self, info: EngineInfo, previous: EngineInfo | None = None) -> None:
        self.metrics.start_labels(info.labels)
        if previous is not None:
            self.metrics.model_info.remove(previous.name, previous.version)
        self.metrics.model_info.labels(info.name, info.version).set(1)


async def _retire(pipeline: Pipeline) -> None:
    """Let a replaced pipeline finish its requests, then free it."""
    await pipeline.finished()
    await pipeline.batcher.close()
