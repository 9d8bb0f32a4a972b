"""The way of a request through one model: tokenised in a thread, admitted or refused as a whole, batched, decoded.

A problem of one text stands in that text's place in the results. A problem of the whole request is raised.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from opentelemetry import trace

from classifier import OnLong
from service.errors import ServiceError
from service.inference.batcher import Batcher
from service.inference.deadline import Deadline
from service.inference.engine import Engine, EngineInfo, Logits, Prediction, TextWindows, TokenizedText
from service.inference.queue import Priority, WindowResult
from service.inference.recent_texts import RecentTexts
from service.inference.tokenization import Tokenization
from service.settings import Settings
from service.telemetry import Metrics

tracer = trace.get_tracer("service")

DECODED_AT_ONCE = 32
"""Texts decoded before other tasks get a turn on the event loop: about a millisecond of work."""


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """Options for classifying the texts of a request."""

    on_long: OnLong | None = None
    """Treatment of texts longer than one window; None: as the model's artifact says."""
    timeout_ms: int | None = None
    """Time allowed for the whole request; None: `SERVICE_DEFAULT_TIMEOUT_MS`."""
    spans: bool = False
    """Also give the prediction for each window."""
    priority: Priority = "interactive"
    wait_for_room: bool = False
    """If the queue is full, wait until the deadline instead of being refused."""


@dataclass(frozen=True, slots=True)
class WindowAnswer:
    """The prediction for one window alone. `start` and `end` (exclusive) are characters of the text as it was sent."""

    start: int
    end: int
    tokens: int
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class Answer:
    """The prediction for one text, and how much of the text the model read."""

    prediction: Prediction
    tokens: int
    """Tokens of the whole text."""
    tokens_read: int
    windows: int
    spans: tuple[WindowAnswer, ...] = ()
    """One per window if the request asked for them."""

    @property
    def truncated(self) -> bool:
        return self.tokens_read < self.tokens


AnswerOrError = Answer | ServiceError


@dataclass
class Timing:
    """Durations of one request, in milliseconds."""

    started: float = field(default_factory=time.perf_counter)
    tokenize_ms: float = 0.0
    model_ms: float = 0.0
    """Time from the end of tokenising to the answer, including the wait in the queue."""

    @property
    def total_ms(self) -> float:
        return (time.perf_counter() - self.started) * 1000


STREAMED_AT_ONCE = 8
"""Number of chunks of all streams that are answered at the same time; the others wait for their turn."""


class Pipeline:
    """Answers requests with one model and its batcher.

    Args:
        engine: the loaded model.
        batcher: a started batcher over that engine.
        info: the description of the model for `/info`.
        tokenizers: the executor in which texts are tokenised, one call at a time.
        settings: limits.
        metrics: counters to fill.
        recent_texts: gets a sample of the texts that are classified.
    """

    def __init__(
        self,
        engine: Engine,
        batcher: Batcher,
        info: EngineInfo,
        tokenizers: Executor,
        settings: Settings,
        metrics: Metrics,
        recent_texts: RecentTexts,
    ) -> None:
        self.engine = engine
        self.batcher = batcher
        self.info = info
        self._tokenization = Tokenization(engine, tokenizers, settings, batcher.retry_after_s)
        self._settings = settings
        self._metrics = metrics
        self._recent_texts = recent_texts
        self.stream_turns = asyncio.Semaphore(STREAMED_AT_ONCE)
        """Taken by each chunk of a stream while it is answered, so that many streams leave time to other requests."""
        self._requests = 0
        self._idle = asyncio.Event()  # set and cleared at once when the last request has been answered

    @property
    def max_texts(self) -> int:
        return self._settings.max_texts

    async def classify(
        self,
        texts: Sequence[str],
        options: RequestOptions,
        timing: Timing,
        *,
        deadline: Deadline | None = None,
        counted: bool = True,
    ) -> list[AnswerOrError]:
        """Classify the texts of one request.

        Args:
            texts: at least one.
            options: options for all of them.
            timing: its durations are filled in.
            deadline: the deadline of a request that began earlier; without it, the request begins here.
            counted: whether to count the texts in the metrics and consider them for the sample of recent texts.

        Returns:
            One answer or error per text, in order.

        Raises:
            ServiceError: the request as a whole cannot be answered.
        """
        self.check_count(len(texts))
        deadline = deadline or self.deadline(options.timeout_ms)
        with self._in_use():
            with tracer.start_as_current_span("tokenize", attributes={"texts": len(texts)}):
                async with deadline.enforced():
                    encoded = await self._tokenization.encode(
                        texts, options.on_long, options.spans, options.wait_for_room
                    )
            timing.tokenize_ms = timing.total_ms
            windows = [window for text in encoded if isinstance(text, TextWindows) for window in text.windows]
            results: Iterator[WindowResult] = iter(())
            if windows:
                with tracer.start_as_current_span("model", attributes={"windows": len(windows)}):
                    results = iter(
                        await self.batcher.submit(windows, deadline, options.priority, options.wait_for_room)
                    )
            answers: list[AnswerOrError] = []
            for text in encoded:
                if isinstance(text, TextWindows):
                    answers.append(self._decode(text, list(islice(results, len(text.windows)))))
                else:
                    answers.append(text)
                if len(answers) % DECODED_AT_ONCE == 0:
                    await asyncio.sleep(0)
            timing.model_ms = timing.total_ms - timing.tokenize_ms
        if counted:
            self._count(texts, answers)
        return answers

    async def tokenize(self, text: str) -> TokenizedText:
        """Return the tokens of one text.

        Raises:
            ServiceError: text_too_large, empty_text, invalid_text, overloaded or deadline_exceeded.
        """
        async with self.deadline(None).enforced():
            return await self._tokenization.tokenize(text)

    async def finished(self) -> None:
        """Wait until no request is in this pipeline."""
        while self._requests:
            await self._idle.wait()

    def check_count(self, texts: int) -> None:
        """Raise ServiceError too_many_texts if one request may not have so many texts."""
        if texts > self.max_texts:
            raise ServiceError("too_many_texts", f"{texts} texts in one request, the limit is {self.max_texts}")

    def deadline(self, timeout_ms: int | None, spent_s: float = 0.0) -> Deadline:
        """Return the deadline of a request that asks for `timeout_ms` milliseconds and began `spent_s` seconds ago.

        Raises:
            ServiceError: invalid_request, if it asks for more than the limit.
        """
        limit = self._settings.max_timeout_ms
        if timeout_ms is not None and timeout_ms > limit:
            raise ServiceError("invalid_request", f"timeout_ms: {timeout_ms} is above the limit of {limit}")
        return Deadline.after((timeout_ms or self._settings.default_timeout_ms) / 1000, spent_s)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Count one request, for `finished`."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()
                self._idle.clear()

    def _decode(self, text: TextWindows, results: Sequence[WindowResult]) -> AnswerOrError:
        """Make the answer for a text from the results of its windows."""
        logits: list[Logits] = []
        for result in results:
            if isinstance(result, ServiceError):
                return result
            logits.append(result)
        try:
            prediction = self.engine.decode(text, logits)
            spans = tuple(
                WindowAnswer(
                    start,
                    end,
                    window.tokens,
                    self.engine.decode(TextWindows((window,), window.tokens, window.tokens), [row]),
                )
                for (start, end), window, row in zip(text.spans, text.windows, logits, strict=bool(text.spans))
            )
        except ServiceError as exc:
            return exc
        return Answer(prediction, text.tokens, text.tokens_read, len(text.windows), spans)

    def _count(self, texts: Sequence[str], answers: Sequence[AnswerOrError]) -> None:
        metrics = self._metrics
        for text, answer in zip(texts, answers, strict=True):
            if isinstance(answer, ServiceError):
                metrics.text_failures.labels(answer.kind).inc()
                continue
            metrics.texts.inc()
            metrics.tokens.inc(answer.tokens_read)
            metrics.windows.inc(answer.windows)
            metrics.truncated.inc(answer.truncated)
            metrics.unsure.inc(answer.prediction.unsure is True)
            metrics.predictions.labels(answer.prediction.label).inc()
            metrics.confidence.observe(answer.prediction.score)
            self._recent_texts.add(text)
