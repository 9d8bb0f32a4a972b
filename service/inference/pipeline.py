"""The way of a request through one loaded model: encoded off the event loop, admitted or refused as a whole, batched,
decoded.

A problem of one text stands in that text's place; a problem of the request is raised.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from opentelemetry import trace

from service.errors import ServiceError
from service.inference.batcher import Batcher, deadline_exceeded
from service.inference.engine import (
    Engine,
    EngineInfo,
    InferenceError,
    Logits,
    OnLong,
    Prediction,
    TextProblem,
    TextWindows,
    Tokenized,
)
from service.inference.queue import Lane, WindowResult
from service.settings import Settings
from service.telemetry import Metrics

tracer = trace.get_tracer("service")

CHUNK_CHARS = 50_000
"""Characters tokenised at once, some ten milliseconds."""

DECODED_AT_ONCE = 32
"""Answers made before others have their turn on the event loop, about a millisecond."""

CHARS_PER_TOKEN = 4
"""Of English under a byte-level BPE; only for the bound on what waits to be tokenised."""

SAMPLE_CHARS = 20_000
"""Longer texts are not kept as samples."""


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """How a request wants its texts to be classified."""

    on_long: OnLong | None = None
    """What becomes of long texts; None: what the model says."""
    timeout_ms: int | None = None
    """Time for the whole request; None: the settings' default."""
    spans: bool = False
    """Say what each window was about."""
    lane: Lane = "interactive"
    patient: bool = False
    """Wait for room in a full queue, until the time is up, instead of being refused."""


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


AnswerOrError = Answer | ServiceError


@dataclass
class Timing:
    """Milliseconds; the model's time includes waiting for a place in a batch."""

    started: float = field(default_factory=time.perf_counter)
    tokenize_ms: float = 0.0
    model_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        return (time.perf_counter() - self.started) * 1000


class Samples:
    """A few of the latest texts, in memory only: what another model is compared on before it takes over.

    Every text is kept until there are enough, then one in `EVERY` takes the place of one at random, so that they come
    from more than the last moment.
    """

    EVERY = 16

    def __init__(self, most: int) -> None:
        self._most = most
        self._texts: list[str] = []
        self._seen = 0

    def add(self, text: str) -> None:
        if not self._most or len(text) > SAMPLE_CHARS:
            return
        self._seen += 1
        if len(self._texts) < self._most:
            self._texts.append(text)
        elif self._seen % self.EVERY == 0:
            self._texts[random.randrange(self._most)] = text

    @property
    def texts(self) -> list[str]:
        return list(self._texts)


class Pipeline:
    """One model and its queue.

    Args:
        engine: the loaded model.
        batcher: around the same engine, started.
        tokenizers: where texts are encoded, one call at a time.
        samples: takes texts that were classified.
    """

    def __init__(
        self,
        engine: Engine,
        batcher: Batcher,
        tokenizers: Executor,
        settings: Settings,
        metrics: Metrics,
        samples: Samples,
    ) -> None:
        self.engine = engine
        self.batcher = batcher
        self._tokenizers = tokenizers
        self._settings = settings
        self._metrics = metrics
        self._samples = samples
        self._users = 0
        self._unused = asyncio.Event()  # pulsed when there are none
        self._encoding_chars = 0
        self._room = asyncio.Event()  # pulsed when fewer characters wait to be tokenised

    @property
    def info(self) -> EngineInfo:
        return self.engine.info

    async def classify(self, texts: Sequence[str], work: RequestOptions, timing: Timing) -> list[AnswerOrError]:
        """As `answers`, and counted."""
        outcomes = await self.answers(texts, work, timing)
        self._count(texts, outcomes)
        return outcomes

    async def answers(self, texts: Sequence[str], work: RequestOptions, timing: Timing) -> list[AnswerOrError]:
        """One outcome a text, in order.

        Args:
            texts: at least one.
            work: how.
            timing: filled in.

        Raises:
            ServiceError: the request as a whole cannot be answered.
        """
        self.check_count(len(texts))
        allowed_s = self._timeout_s(work.timeout_ms)
        self._users += 1
        try:
            return await self._answers(texts, work, timing, allowed_s)
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()
                self._unused.clear()

    async def finished(self) -> None:
        """Wait until nobody waits for an answer."""
        while self._users:
            await self._unused.wait()

    async def _answers(
        self, texts: Sequence[str], work: RequestOptions, timing: Timing, allowed_s: float
    ) -> list[AnswerOrError]:
        try:
            with tracer.start_as_current_span("tokenize", attributes={"texts": len(texts)}):
                async with asyncio.timeout(allowed_s):
                    outcomes, encoded = await self._encode(texts, work)
        except TimeoutError:
            raise deadline_exceeded(allowed_s) from None
        encoded_at = time.perf_counter()
        timing.tokenize_ms = (encoded_at - timing.started) * 1000
        if encoded:
            items = [item for text in encoded.values() for item in text.items]
            spent_s = timing.tokenize_ms / 1000
            with tracer.start_as_current_span("model", attributes={"windows": len(items)}):
                results = iter(await self.batcher.submit(items, allowed_s, spent_s, work.lane, work.patient))
            for done, (place, text) in enumerate(encoded.items(), 1):
                outcomes[place] = self._decode(text, [next(results) for _ in text.items])
                if done % DECODED_AT_ONCE == 0:
                    await asyncio.sleep(0)  # others' turn
        timing.model_ms = (time.perf_counter() - encoded_at) * 1000
        return [outcomes[place] for place in range(len(texts))]

    def check_count(self, texts: int) -> None:
        """Raises ServiceError too_many_texts."""
        most = self._settings.max_texts
        if texts > most:
            raise ServiceError("too_many_texts", f"{texts} texts in one request, the limit is {most}")

    async def tokenize(self, text: str) -> Tokenized:
        """Raises ServiceError: text_too_large, or what is wrong with the text."""
        most = self._settings.max_text_chars
        if len(text) > most:
            raise _text_too_large(len(text), most)
        async with self._counted(len(text)):
            tokens = await asyncio.get_running_loop().run_in_executor(self._tokenizers, self.engine.tokenize, text)
        if isinstance(tokens, TextProblem):
            raise ServiceError(tokens.kind, tokens.message)
        return tokens

    @property
    def max_texts(self) -> int:
        return self._settings.max_texts

    def allowed_ms(self, work: RequestOptions) -> int:
        """Milliseconds for the whole request. Raises ServiceError invalid_request if too many are asked for."""
        return round(self._timeout_s(work.timeout_ms) * 1000)

    def _timeout_s(self, timeout_ms: int | None) -> float:
        most = self._settings.max_timeout_ms
        if timeout_ms is not None and timeout_ms > most:
            raise ServiceError("invalid_request", f"timeout_ms: {timeout_ms} is above the limit of {most}")
        return (timeout_ms or self._settings.default_timeout_ms) / 1000

    async def _encode(
        self, texts: Sequence[str], work: RequestOptions
    ) -> tuple[dict[int, AnswerOrError], dict[int, TextWindows]]:
        """By place: errors of texts that cannot be encoded, and the encoded others."""
        problems: dict[int, AnswerOrError] = {}
        fitting: dict[int, str] = {}
        most = self._settings.max_text_chars
        for place, text in enumerate(texts):
            if len(text) > most:
                problems[place] = _text_too_large(len(text), most)
            else:
                fitting[place] = text
        encoded: dict[int, TextWindows] = {}
        async with self._counted(sum(map(len, fitting.values())), work.patient):
            for chunk in _chunks(fitting):
                results = await asyncio.get_running_loop().run_in_executor(
                    self._tokenizers, self.engine.encode, [fitting[place] for place in chunk], work.on_long, work.spans
                )
                for place, result in zip(chunk, results, strict=True):
                    if isinstance(result, TextProblem):
                        problems[place] = ServiceError(result.kind, result.message)
                    else:
                        encoded[place] = result
        return problems, encoded

    @asynccontextmanager
    async def _counted(self, characters: int, patient: bool = False) -> AsyncIterator[None]:
        """The queue's bound holds before tokenising, too, where the tokens can only be guessed at."""
        limit = self._settings.max_queue_tokens * CHARS_PER_TOKEN
        while self._encoding_chars and self._encoding_chars + characters > limit:
            if not patient:
                raise ServiceError(
                    "overloaded",
                    f"{self._encoding_chars} characters wait to be tokenised",
                    retry_after_s=self.batcher.retry_after_s(),
                )
            await self._room.wait()
        self._encoding_chars += characters
        try:
            yield
        finally:
            self._encoding_chars -= characters
            self._room.set()  # whoever waits looks again
            self._room.clear()

    def _decode(self, text: TextWindows, results: Sequence[WindowResult]) -> AnswerOrError:
        logits: list[Logits] = []
        for result in results:
            if isinstance(result, ServiceError):
                return result
            logits.append(result)
        decode = self.engine.decode
        try:
            prediction = decode(text, logits)
            spans = tuple(
                WindowAnswer(*span, item.tokens, decode(TextWindows((item,), item.tokens, item.tokens), [row]))
                for span, item, row in zip(text.spans, text.items, logits, strict=bool(text.spans))
            )
        except InferenceError as exc:
            return ServiceError("inference_failed", str(exc))
        return Answer(prediction, text.tokens, text.tokens_read, len(text.items), spans)

    def _count(self, texts: Sequence[str], outcomes: Sequence[AnswerOrError]) -> None:
        metrics = self._metrics
        for text, outcome in zip(texts, outcomes, strict=True):
            if isinstance(outcome, ServiceError):
                metrics.text_failures.labels(outcome.kind).inc()
                continue
            prediction = outcome.prediction
            metrics.texts.inc()
            metrics.tokens.inc(outcome.tokens_read)
            metrics.windows.inc(outcome.windows)
            metrics.truncated.inc(outcome.truncated)
            metrics.unsure.inc(prediction.unsure)
            metrics.predictions.labels(prediction.label).inc()
            metrics.confidence.observe(prediction.score)
            self._samples.add(text)


def _text_too_large(characters: int, limit: int) -> ServiceError:
    return ServiceError("text_too_large", f"{characters} characters, the limit is {limit}")


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
