"""What a running service is: its state, its engine and batcher, and the way of a request through them.

    loading --> ready --> draining
       |          |
       +--> failed (the process ends)

A request: encoded off the event loop, admitted or refused as a whole, batched, decoded. A problem of one text stands
in that text's place; a problem of the request is raised.
"""

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from service.batcher import Batcher, Lane, Limits, deadline_exceeded
from service.engine import Encoded, Engine, InferenceError, OnLong, Prediction, TextProblem, Tokenized
from service.errors import ServiceError
from service.memory import tune_allocator
from service.settings import Settings
from service.telemetry import Metrics, log

T = TypeVar("T")

CHUNK_CHARS = 50_000
"""Characters tokenised at once, some ten milliseconds."""

DECODED_AT_ONCE = 32
"""Answers made before others have their turn on the event loop, about a millisecond."""

CHARS_PER_TOKEN = 4
"""Of English under a byte-level BPE; only for the bound on what waits to be tokenised."""

Status = Literal["loading", "ready", "draining", "failed"]


@dataclass(frozen=True, slots=True)
class Work:
    """How a request wants its texts to be classified."""

    on_long: OnLong | None = None
    """What becomes of long texts; None: what the model says."""
    timeout_ms: int | None = None
    """Time for the whole request; None: the settings' default."""
    spans: bool = False
    """Say what each window was about."""
    lane: Lane = "interactive"


@dataclass(frozen=True, slots=True)
class WindowAnswer:
    """What the model made of one window alone, and the characters of the text as it was sent that it read."""

    start: int
    end: int
    tokens: int
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class Answer:
    """One text's prediction and what was read for it."""

    prediction: Prediction
    tokens: int
    tokens_read: int
    windows: int
    spans: tuple[WindowAnswer, ...] = ()
    """One a window, if asked for."""

    @property
    def truncated(self) -> bool:
        return self.tokens_read < self.tokens


Outcome = Answer | ServiceError


@dataclass
class Timing:
    """Milliseconds; the model's time includes waiting for a place in a batch."""

    started: float = field(default_factory=time.perf_counter)
    tokenize_ms: float = 0.0
    model_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        return (time.perf_counter() - self.started) * 1000


class Runtime:
    """One service's state. Created with the app, started and closed by its lifespan."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.status: Status = "loading"
        self.in_flight = 0
        """Requests whose body has been read and whose answer has not been made."""
        self.last_arrival = 0.0
        """When the latest request came, by `time.monotonic`."""
        self._engine: Engine | None = None
        self._batcher: Batcher | None = None
        self._loader: threading.Thread | None = None
        self._encoding_chars = 0
        self._tokenizers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")

    async def start(self, load_engine: Callable[[Settings], Engine]) -> None:
        """Load the engine in a thread and open for work. What `load_engine` raises leaves the status "failed"."""
        try:
            engine = await self._in_daemon_thread(lambda: _loaded(load_engine, self.settings))
        except BaseException:
            self.status = "failed"
            raise
        s = self.settings
        limits = Limits(
            max_items=s.max_queue_items,
            max_tokens=s.max_queue_tokens,
            max_batch_tokens=engine.info.max_batch_tokens,
            tokens_per_s=engine.info.tokens_per_s,
            cache_items=s.cache_items,
            stuck_s=s.stuck_s,
        )
        batcher = Batcher(engine, limits, self.metrics)
        batcher.start()
        self._engine, self._batcher = engine, batcher
        self.metrics.start_labels(engine.info.labels)
        self.metrics.model_info.labels(engine.info.name, engine.info.version).set(1)
        if self.status == "loading":  # SIGTERM may have come first
            self.status = "ready"
            self.metrics.ready.set(1)
            log("ready", model=engine.info.name, version=engine.info.version)

    @property
    def loading(self) -> bool:
        """`load_engine` is running, although perhaps nobody waits for it any more."""
        return self._loader is not None and self._loader.is_alive()

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

    def drain(self) -> None:
        """Refuse new work; what was accepted goes on."""
        if self.status != "failed":
            self.status = "draining"
            self.metrics.ready.set(0)

    def give_up(self) -> None:
        """The time for accepted work is up: whoever still waits is told so."""
        if self._batcher is not None:
            self._batcher.give_up()

    @property
    def busy(self) -> bool:
        """A thread is loading the engine or is in the model, although nobody waits for it any more."""
        return self.loading or (self._batcher is not None and self._batcher.busy)

    async def close(self) -> None:
        """Answer whoever still waits with an error and stop the threads."""
        self.drain()
        if self._batcher is not None:
            await self._batcher.close()
        self._tokenizers.shutdown(wait=False)

    @property
    def engine(self) -> Engine:
        """Raises ServiceError "not_ready" or "draining" unless work may begin."""
        return self._open()[0]

    async def readiness(self) -> str:
        """ "ready", or why not. After a failed forward this runs a one-token forward."""
        if self.status == "ready" and self._batcher is not None and not self._batcher.healthy:
            return "ready" if await self._batcher.recheck() else "unhealthy"
        return self.status

    async def classify(self, texts: Sequence[str], work: Work, timing: Timing) -> list[Outcome]:
        """One outcome a text, in order.

        Args:
            texts: at least one.
            work: how.
            timing: filled in.

        Raises:
            ServiceError: the request as a whole cannot be answered.
        """
        engine, batcher = self._open()
        if len(texts) > self.settings.max_texts:
            raise ServiceError(
                "too_many_texts", f"{len(texts)} texts in one request, the limit is {self.settings.max_texts}"
            )
        allowed_s = self._timeout_s(work.timeout_ms)
        try:
            async with asyncio.timeout(allowed_s):
                outcomes, encoded = await self._encode(engine, texts, work)
        except TimeoutError:
            raise deadline_exceeded(allowed_s) from None
        encoded_at = time.perf_counter()
        timing.tokenize_ms = (encoded_at - timing.started) * 1000
        if encoded:
            items = [item for text in encoded.values() for item in text.items]
            results = iter(await batcher.submit(items, allowed_s, timing.tokenize_ms / 1000, work.lane))
            for done, (place, text) in enumerate(encoded.items(), 1):
                outcomes[place] = _decode(engine, text, [next(results) for _ in text.items])
                if done % DECODED_AT_ONCE == 0:
                    await asyncio.sleep(0)  # others' turn
        timing.model_ms = (time.perf_counter() - encoded_at) * 1000
        finished = [outcomes[place] for place in range(len(texts))]
        self._count(finished)
        return finished

    async def tokenize(self, text: str) -> Tokenized:
        """Raises ServiceError: text_too_large, or what is wrong with the text."""
        engine, _ = self._open()
        if len(text) > self.settings.max_text_chars:
            raise _text_too_large(len(text), self.settings.max_text_chars)
        self._admit_characters(len(text))
        self._encoding_chars += len(text)
        try:
            tokens = await asyncio.get_running_loop().run_in_executor(self._tokenizers, engine.tokenize, text)
        finally:
            self._encoding_chars -= len(text)
        if isinstance(tokens, TextProblem):
            raise ServiceError(tokens.kind, tokens.message)
        return tokens

    def _open(self) -> tuple[Engine, Batcher]:
        if self.status == "draining":
            raise ServiceError(
                "draining", "the service is stopping; try again, another instance will answer", retry_after_s=1
            )
        if self.status != "ready" or self._engine is None or self._batcher is None:
            raise ServiceError("not_ready", "the model is being loaded; try again", retry_after_s=1)
        return self._engine, self._batcher

    def _timeout_s(self, timeout_ms: int | None) -> float:
        most = self.settings.max_timeout_ms
        if timeout_ms is not None and timeout_ms > most:
            raise ServiceError("invalid_request", f"timeout_ms: {timeout_ms} is above the limit of {most}")
        return (timeout_ms or self.settings.default_timeout_ms) / 1000

    async def _encode(
        self, engine: Engine, texts: Sequence[str], work: Work
    ) -> tuple[dict[int, Outcome], dict[int, Encoded]]:
        """By place: errors of texts that cannot be encoded, and the encoded others."""
        problems: dict[int, Outcome] = {}
        fitting: dict[int, str] = {}
        most = self.settings.max_text_chars
        for place, text in enumerate(texts):
            if len(text) > most:
                problems[place] = _text_too_large(len(text), most)
            else:
                fitting[place] = text
        encoded: dict[int, Encoded] = {}
        characters = sum(map(len, fitting.values()))
        self._admit_characters(characters)
        self._encoding_chars += characters
        try:
            for chunk in _chunks(fitting):
                results = await asyncio.get_running_loop().run_in_executor(
                    self._tokenizers, engine.encode, [fitting[place] for place in chunk], work.on_long, work.spans
                )
                for place, result in zip(chunk, results, strict=True):
                    if isinstance(result, TextProblem):
                        problems[place] = ServiceError(result.kind, result.message)
                    else:
                        encoded[place] = result
        finally:
            self._encoding_chars -= characters
        return problems, encoded

    def _admit_characters(self, characters: int) -> None:
        """The queue's bound holds before tokenising, too, where the tokens can only be guessed at."""
        limit = self.settings.max_queue_tokens * CHARS_PER_TOKEN
        if self._encoding_chars and self._encoding_chars + characters > limit:
            retry_after_s = self._batcher.retry_after_s() if self._batcher else 1.0
            raise ServiceError(
                "overloaded", f"{self._encoding_chars} characters wait to be tokenised", retry_after_s=retry_after_s
            )

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, ServiceError):
                self.metrics.text_failures.labels(outcome.kind).inc()
            else:
                self.metrics.texts.inc()
                self.metrics.tokens.inc(outcome.tokens_read)
                self.metrics.truncated.inc(outcome.truncated)
                self.metrics.unsure.inc(outcome.prediction.unsure)
                self.metrics.predictions.labels(outcome.prediction.label).inc()


def _text_too_large(characters: int, limit: int) -> ServiceError:
    return ServiceError("text_too_large", f"{characters} characters, the limit is {limit}")


def _loaded(load_engine: Callable[[Settings], Engine], settings: Settings) -> Engine:
    """The engine. What loading left behind is put out of the garbage collector's sight: going through all of PyTorch's
    objects held the event loop for a tenth of a second each time."""
    engine = load_engine(settings)
    gc.collect()
    gc.freeze()
    tune_allocator()
    return engine


def _chunks(texts: Mapping[int, str]) -> Iterator[list[int]]:
    """Places of texts in stretches of about `CHUNK_CHARS`, so that a small request waits for a stretch of a large
    one, not for all of it."""
    chunk: list[int] = []
    size = 0
    for place, text in texts.items():
        chunk.append(place)
        size += len(text)
        if size >= CHUNK_CHARS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _decode(engine: Engine, text: Encoded, results: Sequence[object]) -> Outcome:
    logits = []
    for result in results:
        if isinstance(result, ServiceError):
            return result
        logits.append(result)
    try:
        prediction = engine.decode(text, logits)  # type: ignore[arg-type]
        spans = tuple(
            WindowAnswer(*span, item.tokens, engine.decode(Encoded((item,), item.tokens, item.tokens), [row]))  # type: ignore[list-item]
            for span, item, row in zip(text.spans, text.items, logits, strict=bool(text.spans))
        )
    except InferenceError as exc:
        return ServiceError("inference_failed", str(exc))
    return Answer(prediction, text.tokens, text.tokens_read, len(text.items), spans)
