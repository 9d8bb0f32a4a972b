"""`Client` and `AsyncClient`: the operations of `client.flow` over a transport, in a thread or on an event loop."""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, aclosing
from types import TracebackType
from typing import TypeVar, Unpack

import httpx

from client.bulk import in_threads, on_loop
from client.errors import Unsupported
from client.flow import Core, Flow, Pace, Send, Wait, drive, drive_async
from client.models import Info, Limits, Outcome, Prediction
from client.settings import load_settings
from client.transport.bridge import from_any, to_thread
from client.transport.http import AsyncHttpTransport, AsyncTransport, HttpTransport, Transport, base_url, headers
from client.transport.retry import Clock, Retry
from client.transport.sagemaker import InThreads, endpoint_of
from client.transport.two_way import Target, exchange
from client.transport.wire import SERVICE, OptionFields, Options, Reply

T = TypeVar("T")

CONCURRENCY = 8
"""Requests at a time of `predict_many`; it starts with 4 and comes down while the service refuses."""

TIMEOUT_S = 60.0
READY_S = 120.0


class _Base:
    """What does not depend on how a flow is run."""

    def __init__(
        self,
        transport: Transport | AsyncTransport,
        api_key: str,
        tls: ssl.SSLContext | None,
        timeout_s: float,
        retry: Retry,
        clock: Clock,
    ) -> None:
        self._core = Core(transport.dialect, transport.where, timeout_s, retry, clock)
        self._api_key, self._tls, self._timeout_s = api_key, tls, timeout_s
        self._limits: Limits | None = None

    @property
    def url(self) -> str:
        """The service's, without a user's name and password."""
        return self._core.where

    def _target(self) -> Target:
        if self._core.dialect is not SERVICE:
            raise Unsupported(f"{self.url}: an endpoint cannot stream both ways; use predict_many")
        return Target(base_url(self.url), self.url, headers(self._api_key), self._tls, self._timeout_s)


def _several(texts: object) -> None:
    if isinstance(texts, str | bytes):
        raise TypeError("texts is one text; use predict, or pass a list of texts")


class Client(_Base, AbstractContextManager["Client"]):
    """Asks a service, from any thread; several threads may share one.

        with Client("http://localhost:8080") as client:
            print(client.predict("Shares fell.").label)

    Args:
        url: of the service, or sagemaker://ENDPOINT[?region=REGION]; None: `CLASSIFIER_URL`, else http://localhost:8080.
        api_key: one of the service's keys; None: `CLASSIFIER_API_KEY`, else none.
        timeout_s: seconds for one answer; with `timeout_ms`, that and some seconds.
        retry: when to ask again; `client.NEVER` for one try.
        tls: certificates to trust for https; None: the usual ones.
        http: an httpx client of your own, for proxies or the like (`stream` does not use it).
        transport: another way to carry calls, in place of `url`, `tls` and `http`.
        clock: time and chance.
        sleep: how to wait, in seconds.

    Raises:
        ConfigurationError: the URL or the key cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry: Retry | None = None,
        tls: ssl.SSLContext | None = None,
        http: httpx.Client | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        settings = load_settings()
        key = settings.api_key if api_key is None else api_key
        address = settings.url if url is None else url
        transport = transport or endpoint_of(address) or HttpTransport(address, key, tls, http)
        super().__init__(transport, key, tls, timeout_s, retry or Retry(), clock or Clock())
        self._transport: Transport = transport
        self._sleep = sleep

    def predict(
        self,
        text: str,
        **options: Unpack[OptionFields],
    ) -> Prediction:
        """Classify one text.

        Args:
            text: not empty.
            **options: how, see `OptionFields`.

        Raises:
            BadText: it is empty, not Unicode, or too long where `on_long` is "error".
            ClientError: another branch of it, see `client.errors`.
        """
        return self._run(self._core.predict(text, Options(**options)))

    def predict_many(
        self,
        texts: Iterable[str],
        *,
        concurrency: int = CONCURRENCY,
        **options: Unpack[OptionFields],
    ) -> Iterator[Outcome]:
        """Classify any number of texts, several requests at a time; for `list(...)` or a loop.

        Requests are cut to the service's limits. A refused one is sent again, fewer go at a time while the service is
        full, and one that is too large or too slow is halved. Reads `texts` as they are answered and holds only what
        is under way; for texts that arrive one by one `stream` answers sooner.

        Args:
            texts: in the order of the answers.
            concurrency: requests at a time, at most.
            **options: how, see `OptionFields`; `timeout_ms` is for each request.

        Yields:
            One a text: a Prediction, or a TextError in the place of a text that has no answer (`outcome.ok` tells).

        Raises:
            ClientError: what is not one text's fault, after all answers before it.
            TypeError: a text is not a str.
        """
        _several(texts)
        asked, pace = Options(**options), Pace(concurrency)
        if self._limits is None:
            self._limits = self._run(self._core.limits())
        return in_threads(texts, self._limits, pace, lambda chunk: self._run(self._core.batch(chunk, asked, pace)))

    def stream(
        self,
        texts: Iterable[str],
        **options: Unpack[OptionFields],
    ) -> Iterator[Outcome]:
        """Classify texts while they come in, over one connection; each answer as soon as it is there.

        Texts are read in a thread of their own, a few ahead of what was sent, and no faster than the answers are taken.
        Nothing is sent twice: if the connection breaks, `StreamCut.answered` says where to go on. `predict_many` is the
        one for many texts that are there already. Connects directly, not by a proxy.

        Args:
            texts: any number.
            **options: how, see `OptionFields`.

        Yields:
            As `predict_many`.

        Raises:
            StreamCut: it ended before all texts had their answer.
            ClientError: the service refused it, or nobody answers.
            Unsupported: the service is a SageMaker endpoint.
        """
        _several(texts)
        target, asked = self._target(), Options(**options)
        return to_thread(lambda: exchange(target, from_any(texts), asked))

    def info(self) -> Info:
        """Model and limits. Raises ClientError."""
        return self._run(self._core.info())

    def ready(self, timeout_s: float = READY_S) -> float:
        """Wait until the service answers predictions; the seconds that it took.

        Raises:
            TimedOut: it was not within `timeout_s`; the message says what it was at last.
            ClientError: waiting will not help.
        """
        return self._run(self._core.ready(timeout_s))

    def metrics(self) -> str:
        """The service's figures in Prometheus' text format; `client.cli.watch` reads them. Raises ClientError."""
        return self._run(self._core.metrics())

    def close(self) -> None:
        """Give up connections."""
        self._transport.close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        return drive(flow, self._perform)

    def _perform(self, step: Send | Wait) -> Reply | None:
        if isinstance(step, Wait):
            self._sleep(step.seconds)
            return None
        return self._transport.send(step.call, step.timeout_s)


class AsyncClient(_Base, AbstractAsyncContextManager["AsyncClient"]):
    """`Client` for an event loop of asyncio; arguments, answers and errors are the same.

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
        http: httpx.AsyncClient | None = None,
        transport: AsyncTransport | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        settings = load_settings()
        key = settings.api_key if api_key is None else api_key
        address = settings.url if url is None else url
        if transport is None:
            endpoint = endpoint_of(address)
            transport = InThreads(endpoint) if endpoint else AsyncHttpTransport(address, key, tls, http)
        super().__init__(transport, key, tls, timeout_s, retry or Retry(), clock or Clock())
        self._transport, self._sleep = transport, sleep

    async def predict(
        self,
        text: str,
        **options: Unpack[OptionFields],
    ) -> Prediction:
        """Classify one text; see `Client.predict`."""
        return await self._run(self._core.predict(text, Options(**options)))

    async def predict_many(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        concurrency: int = CONCURRENCY,
        **options: Unpack[OptionFields],
    ) -> AsyncGenerator[Outcome]:
        """Classify any number of texts, `async for` by `async for`; see `Client.predict_many`.

        An ordinary iterable is read on the event loop.
        """
        _several(texts)
        asked, pace = Options(**options), Pace(concurrency)
        if self._limits is None:
            self._limits = await self._run(self._core.limits())
        ask = lambda chunk: self._run(self._core.batch(chunk, asked, pace))  # noqa: E731
        async with aclosing(on_loop(texts, self._limits, pace, ask)) as answered:
            async for outcomes in answered:
                for outcome in outcomes:
                    yield outcome

    async def stream(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        **options: Unpack[OptionFields],
    ) -> AsyncGenerator[Outcome]:
        """Classify texts while they come in, over one connection; see `Client.stream`."""
        _several(texts)
        asked = Options(**options)
        async with aclosing(from_any(texts)) as source, aclosing(exchange(self._target(), source, asked)) as answers:
            async for outcome in answers:
                yield outcome

    async def info(self) -> Info:
        """Model and limits; see `Client.info`."""
        return await self._run(self._core.info())

    async def ready(self, timeout_s: float = READY_S) -> float:
        """Wait until the service answers predictions; see `Client.ready`."""
        return await self._run(self._core.ready(timeout_s))

    async def metrics(self) -> str:
        """The service's figures; see `Client.metrics`."""
        return await self._run(self._core.metrics())

    async def close(self) -> None:
        """Give up connections."""
        await self._transport.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        return await drive_async(flow, self._perform)

    async def _perform(self, step: Send | Wait) -> Reply | None:
        if isinstance(step, Wait):
            await self._sleep(step.seconds)
            return None
        return await self._transport.send(step.call, step.timeout_s)
