"""`Client`: `AsyncClient` for ordinary code, run on an event loop in the background."""

import os
import ssl
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from typing import Unpack

import httpx

from client.async_client import CONCURRENCY, READY_S, TIMEOUT_S, AsyncClient, check_several
from client.batches import Pace, chunks
from client.models import Info, Outcome, Prediction
from client.threads import iterate, submit, wait
from client.transport.http import Transport
from client.transport.messages import OptionFields, given
from client.transport.retry import Clock, Retry


class Client(AbstractContextManager["Client"]):
    """Asks a service, from any thread; several threads may share one.

        with Client("http://localhost:8080") as client:
            print(client.predict("Shares fell.").label)

    It also works where an event loop runs already (in a notebook), and after a fork, where the child gets connections
    of its own. Ctrl-C ends the call that is under way and leaves the client usable.

    Args:
        url: the service's URL, or sagemaker://ENDPOINT[?region=REGION]; None for `CLASSIFIER_URL`, else
            http://localhost:8080.
        api_key: one of the service's keys; None for `CLASSIFIER_API_KEY`, else none.
        timeout_s: seconds for one answer; with the option `timeout_ms`, that and some seconds.
        retry: when a call is sent again; `client.NEVER` for one try.
        tls: certificates to trust for https; None for httpx's.
        http: an httpx client of your own, for proxies or the like (`stream` does not use it).
        transport: another way to send calls, in place of `url`, `api_key`, `tls` and `http`.
        clock: time and chance; tests replace them.

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
        http: httpx.Client | httpx.AsyncClient | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._connect = partial(
            AsyncClient,
            url,
            api_key=api_key,
            timeout_s=timeout_s,
            retry=retry,
            tls=tls,
            http=http,
            transport=transport,
            clock=clock,
        )
        self._begin()

    def _begin(self) -> None:
        self._pid, self._connected = os.getpid(), self._connect()
        self._closing = weakref.finalize(self, _close, self._connected, self._pid)
        self._closing.atexit = False

    @property
    def _client(self) -> AsyncClient:
        """This process's own client: a forked child cannot use its parent's connections."""
        if self._pid != os.getpid():
            self._begin()
        return self._connected

    @property
    def url(self) -> str:
        """The service's URL, without a user's name and password."""
        return self._connected.url

    def predict(self, text: str, **options: Unpack[OptionFields]) -> Prediction:
        """Classify one text.

        Args:
            text: not empty.
            **options: see `OptionFields`.

        Raises:
            BadText: the text is empty, not Unicode, or too long where `on_long` is "error".
            ClientError: another class of `client.errors`.
        """
        return wait(submit(self._client.predict(text, **options)))

    def predict_many(
        self, texts: Iterable[str], *, concurrency: int = CONCURRENCY, **options: Unpack[OptionFields]
    ) -> Iterator[Outcome]:
        """Classify any number of texts, several requests at a time; for `list(...)` or a loop.

        Requests are cut to the service's limits. A refused one is sent again, fewer go at a time while the service is
        full, and one that is too large or too slow is halved. `texts` is read in the calling thread as texts are
        answered, and only what is under way is held; for texts that arrive one by one `stream` answers sooner.

        Args:
            texts: in the order of the answers.
            concurrency: requests at a time, at most.
            **options: see `OptionFields`; `timeout_ms` is for each request.

        Yields:
            One outcome a text: a Prediction, or a TextError in the place of a text without an answer (`outcome.ok`
            tells which).

        Raises:
            ClientError: an error that is not one text's own, after all answers before it.
            TypeError: a text is not a str.
        """
        check_several(texts)
        client, asked, pace = self._client, given(options), Pace(concurrency)
        limits = wait(submit(client.limits()))

        def outcomes() -> Iterator[Outcome]:
            pending: deque[Future[list[Outcome]]] = deque()
            try:
                for chunk in chunks(texts, limits):
                    while pending and (len(pending) >= pace.limit or pending[0].done()):
                        yield from wait(pending.popleft())
                    pending.append(submit(client.batch(chunk, asked, pace)))
                while pending:
                    yield from wait(pending.popleft())
            finally:
                for future in pending:
                    future.cancel()

        return outcomes()

    def stream(self, texts: Iterable[str], **options: Unpack[OptionFields]) -> Iterator[Outcome]:
        """Classify texts while they come in, over one connection; each answer comes as soon as it is there.

        `texts` is read in a thread of its own, no faster than it is sent and than the answers are taken. Nothing is
        sent twice: if the connection breaks, `StreamCut.answered` says where to go on. Use `predict_many` for many
        texts that are there already. The connection goes directly to the service, never through a proxy.

        Args:
            texts: any number.
            **options: see `OptionFields`.

        Yields:
            One outcome a text, as `predict_many`.

        Raises:
            StreamCut: the stream ended before all texts had their answer.
            ClientError: the service refused the stream, or does not answer.
            Unsupported: the service is a SageMaker endpoint.
        """
        check_several(texts)
        return iterate(self._client.stream(texts, **options))

    def info(self) -> Info:
        """Return the model and the limits. Raises ClientError."""
        return wait(submit(self._client.info()))

    def ready(self, timeout_s: float = READY_S) -> float:
        """Wait until the service answers predictions; return the seconds that it took.

        Raises:
            TimedOut: it was not ready within `timeout_s`; the message has its last answer.
            ClientError: waiting will not help.
        """
        return wait(submit(self._client.ready(timeout_s)))

    def metrics(self) -> str:
        """Return the service's metrics in Prometheus' text format. Raises ClientError."""
        return wait(submit(self._client.metrics()))

    def close(self) -> None:
        """Close all connections."""
        if self._pid == os.getpid() and self._closing.detach():
            wait(submit(self._connected.close()))

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(client: AsyncClient, pid: int) -> None:
    """Close a client that nobody closed, but not that of a parent process."""
    if pid == os.getpid():
        submit(client.close())
