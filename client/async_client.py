"""`AsyncClient`: all operations of the client. `client.client.Client` runs them from ordinary code."""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, suppress
from itertools import count
from typing import Any, Unpack

import httpx
from pydantic import ValidationError

from client.batches import Pace, async_chunks
from client.errors import (
    AnswerError,
    BadText,
    BrokenAnswer,
    ClientError,
    DeadlineExceeded,
    NoAnswer,
    Overloaded,
    TimedOut,
    TooLarge,
    Unsupported,
)
from client.models import Batch, Info, Limits, Outcome, Prediction, Readiness, TextError
from client.settings import load_settings
from client.threads import read_in_thread
from client.transport.http import HttpTransport, Transport, slow
from client.transport.messages import Call, OptionFields, Reply, encode, failure, given, read, text_failure
from client.transport.retry import Clock, Retry, may_help
from client.transport.sagemaker import endpoint_of
from client.transport.two_way import TwoWayStream

CONCURRENCY = 8
"""Requests at a time of `predict_many`; it begins with 4, and sends fewer at a time while the service refuses."""

TIMEOUT_S = 60.0
READY_S = 120.0
SLACK_S = 5.0  # beyond the service's own deadline, so that its answer to a missed one arrives
POLL_S = 0.5  # between two questions whether the service is ready

PASSING = frozenset({"draining", "not_ready", "overloaded", "internal"})
"""Kinds of error that a text among others may have although nothing is wrong with it: it is sent again."""


class AsyncClient(AbstractAsyncContextManager["AsyncClient"]):
    """Asks a service from an asyncio event loop; arguments, answers and errors are those of `client.Client`.

    async with AsyncClient("http://localhost:8080") as client:
        print((await client.predict("Shares fell.")).label)
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry: Retry | None = None,
        tls: ssl.SSLContext | None = None,
        http: httpx.Client | httpx.AsyncClient | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
    ) -> None:
        if transport is None:
            settings = load_settings()
            address, key = settings.url if url is None else url, settings.api_key if api_key is None else api_key
            transport = endpoint_of(address) or HttpTransport(address, key, tls, http)
        self._transport, self._limits = transport, transport.limits
        self._timeout_s, self._retry, self._clock = timeout_s, retry or Retry(), clock or Clock()

    @property
    def url(self) -> str:
        """The service's URL, without a user's name and password."""
        return self._transport.where

    async def predict(self, text: str, **options: Unpack[OptionFields]) -> Prediction:
        """Classify one text; see `Client.predict`."""
        reply = await self._ask(Call("/predict", {"text": text, **given(options)}))
        return read(Prediction, reply.body, self.url)

    async def predict_many(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        concurrency: int = CONCURRENCY,
        **options: Unpack[OptionFields],
    ) -> AsyncGenerator[Outcome]:
        """Classify any number of texts; see `Client.predict_many`. An ordinary iterable is read on the event loop."""
        check_several(texts)
        asked, pace, limits = given(options), Pace(concurrency), await self.limits()
        pending: deque[asyncio.Task[list[Outcome]]] = deque()
        try:
            async for chunk in async_chunks(texts, limits):
                while pending and (len(pending) >= pace.limit or pending[0].done()):
                    for outcome in await pending.popleft():
                        yield outcome
                pending.append(asyncio.create_task(self.batch(chunk, asked, pace)))
                await asyncio.sleep(0)  # lets it leave before the next texts are read
            while pending:
                for outcome in await pending.popleft():
                    yield outcome
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def stream(
        self, texts: Iterable[str] | AsyncIterable[str], **options: Unpack[OptionFields]
    ) -> AsyncGenerator[Outcome]:
        """Classify texts while they come in, over one connection; see `Client.stream`."""
        check_several(texts)
        if not isinstance(self._transport, HttpTransport):
            raise Unsupported(f"{self.url}: an endpoint cannot stream both ways; use predict_many")
        stream = TwoWayStream(self._transport, given(options), self._timeout_s)
        async with AsyncExitStack() as stack:
            if not isinstance(texts, AsyncIterable):
                texts = await stack.enter_async_context(aclosing(read_in_thread(texts)))
            outcomes = await stack.enter_async_context(aclosing(stream.outcomes(aiter(texts))))
            async for outcome in outcomes:
                yield outcome

    async def info(self) -> Info:
        """Return the model and the limits; see `Client.info`."""
        return read(Info, (await self._ask(Call("/info"))).body, self.url)

    async def metrics(self) -> str:
        """Return the service's metrics; see `Client.metrics`."""
        return (await self._ask(Call("/metrics", accept="text/plain"))).body.decode("utf-8", "replace")

    async def ready(self, timeout_s: float = READY_S) -> float:
        """Wait until the service answers predictions; see `Client.ready`."""
        began, state = self._clock.now(), "no answer yet"
        while (left_s := began + timeout_s - self._clock.now()) > 0:
            try:
                reply = await self._send(Call("/readyz"), min(SLACK_S, left_s))
                if reply.status == 200:
                    read(Readiness, reply.body, self.url)  # another program's 200 does not mean ready
                    return self._clock.now() - began
                state = self._not_ready(reply)
            except NoAnswer as exc:
                if not may_help(exc) and not isinstance(exc, TimedOut):
                    raise
                state = str(exc)
            await self._clock.sleep(min(POLL_S, max(0.0, began + timeout_s - self._clock.now())))
        raise TimedOut(f"{self.url} was not ready within {timeout_s:g} s; at last: {state}")

    def _not_ready(self, reply: Reply) -> str:
        """Return what a service says that is not ready yet. Raises ClientError: waiting will not help."""
        with suppress(ValidationError):
            if reply.status == 503:
                return f"it says {Readiness.model_validate_json(reply.body).status!r}"
        error = failure(reply, self.url)
        if not may_help(error):
            raise error
        return str(error)

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def limits(self) -> Limits:
        """Return the service's limits, which are asked for once."""
        if self._limits is None:
            self._limits = (await self.info()).limits
        return self._limits

    async def batch(self, texts: Sequence[str], options: Mapping[str, Any], pace: Pace) -> list[Outcome]:
        """Return the outcomes of one request's texts.

        A request that is too large or too slow is sent again in two halves, until the culprit is alone. Texts whose
        error is not their own are sent again within the time of the request.
        """
        until = self._clock.now() + self._retry.total_s
        try:
            outcomes = await self._batch(texts, options, until, pace)
        except (TooLarge, DeadlineExceeded, BadText) as exc:
            if len(texts) == 1:
                return [TextError(error=str(exc), kind=exc.kind or "body_too_large", request_id=exc.request_id)]
            half = len(texts) // 2
            first = await self.batch(texts[:half], options, pace)
            return first + await self.batch(texts[half:], options, pace)
        for tries in count(1):
            failed = {i: one for i, one in enumerate(outcomes) if not one.ok and one.kind in PASSING}
            if not failed:
                break
            error = text_failure(next(iter(failed.values())), f"{self.url}: {len(failed)} of {len(texts)} texts")
            await self._wait(tries, error, until)
            again = await self._batch([texts[i] for i in failed], options, until, pace)
            for i, outcome in zip(failed, again, strict=True):
                outcomes[i] = outcome
        return outcomes

    async def _batch(self, texts: Sequence[str], options: Mapping[str, Any], until: float, pace: Pace) -> list[Outcome]:
        reply = await self._ask(Call("/batch", {"texts": texts, **options}), until, pace)
        answer = read(Batch, reply.body, self.url)
        if len(answer.results) != len(texts):
            raise BrokenAnswer(
                f"{self.url}: {len(answer.results)} results came for {len(texts)} texts; client and service differ"
            )
        return [one.model_copy(update={"model": answer.model}) if one.ok else one for one in answer.results]

    async def _ask(self, call: Call, until: float | None = None, pace: Pace | None = None) -> Reply:
        """Return the reply of status 200, after as many tries as it takes. Raises the error of the last try.

        All tries and waits end at `until` by the clock, or `Retry.total_s` from now; `pace` is told how it went.
        """
        told_ms = (call.content or {}).get("timeout_ms")
        timeout_s = self._timeout_s if told_ms is None else told_ms / 1000 + SLACK_S
        until = self._clock.now() + self._retry.total_s if until is None else until
        tries = 0
        while True:
            tries += 1
            error: ClientError
            try:
                reply = await self._send(call, max(0.001, min(timeout_s, until - self._clock.now())))
                if reply.status == 200:
                    if pace is not None:
                        pace.answered()
                    return reply
                error = failure(reply, self.url, len(encode(call.content)))
            except NoAnswer as exc:
                error = exc
            if pace is not None and isinstance(error, Overloaded):
                pace.refused()
            await self._wait(tries, error, until)

    async def _send(self, call: Call, timeout_s: float) -> Reply:
        """Return the reply, whatever its status, within this many seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._transport.send(call, timeout_s)
        except TimeoutError:
            raise slow(self.url, timeout_s) from None

    async def _wait(self, tries: int, error: ClientError, until: float) -> None:
        """Wait before the next try. Raises the error: there is to be none."""
        left_s = until - self._clock.now()
        wait_s = self._retry.wait_s(tries, error, left_s, self._clock.draw)
        if wait_s is not None:
            await self._clock.sleep(wait_s)
            return
        if tries > 1:
            spent = self._retry.total_s - left_s
            error.args = (f"{error.args[0]} (tried {tries} times in {spent:.1f} s)", *error.args[1:])
        elif isinstance(error, AnswerError) and error.retry_after_s is not None:
            error.args = (f"{error.args[0]} (it asks to wait {error.retry_after_s:g} s)", *error.args[1:])
        raise error


def check_several(texts: object) -> None:
    """Raises TypeError: one text stands in the place of many, whose letters would each be classified."""
    if isinstance(texts, str | bytes):
        raise TypeError("texts is one text; use predict, or pass a list of texts")
