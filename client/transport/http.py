"""How calls travel: over httpx to the service, or through boto3 to a SageMaker endpoint. No retries here."""

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import httpx

from client.errors import BrokenAnswer, ClientError, ConfigurationError, ConnectionFailed, NotOurService, TimedOut
from client.transport.wire import SERVICE, Call, Dialect, Reply

CONNECT_S = 5.0
"""Seconds for a connection."""

MAX_ANSWER_BYTES = 256 * 2**20
"""Of one answer; far above what the service sends, so that a stray URL cannot fill the memory."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Transport(Protocol):
    """Carries calls; several threads may use it at a time."""

    dialect: Dialect
    where: str
    """The service's URL, for messages."""

    def send(self, call: Call, timeout_s: float) -> Reply:
        """The reply, whatever its status. Raises ClientError: there is none."""

    def close(self) -> None:
        """Give up connections."""


class AsyncTransport(Protocol):
    """The same for an event loop."""

    dialect: Dialect
    where: str

    async def send(self, call: Call, timeout_s: float) -> Reply:
        """The reply, whatever its status. Raises ClientError: there is none."""

    async def close(self) -> None:
        """Give up connections."""


def base_url(url: str) -> httpx.URL:
    """The service's URL without a slash at its end.

    Raises:
        ConfigurationError: it is none that can be asked.
    """
    try:
        parsed = httpx.URL(url.strip().rstrip("/"))
    except httpx.InvalidURL as exc:
        raise ConfigurationError(f"{url!r} is not a URL: {exc}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigurationError(f"{url!r} is not the URL of a service; for instance http://localhost:8080")
    return parsed


def shown(url: httpx.URL) -> str:
    """A URL for messages: without a user's name and password."""
    return str(url.copy_with(userinfo=b""))


def headers(api_key: str) -> dict[str, str]:
    """Sent with every call.

    Raises:
        ConfigurationError: the key cannot stand in a header.
    """
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise ConfigurationError("the API key has characters that cannot be sent; is a line break or quote part of it?")
    return {"User-Agent": "gpt2-classifier-client"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})


class _Http:
    """What both transports over httpx share."""

    dialect = SERVICE

    def __init__(self, url: str, api_key: str) -> None:
        self._base = base_url(url)
        self._headers = headers(api_key)
        self.where = shown(self._base)

    @property
    def environment(self) -> bool:
        """Take proxies from the environment; a service on this machine is never behind one."""
        return self._base.host not in LOOPBACK

    def request(self, http: httpx.Client | httpx.AsyncClient, call: Call, timeout_s: float) -> httpx.Request:
        more = {"Accept": call.accept} | ({"Content-Type": call.content_type} if call.method == "POST" else {})
        return http.build_request(
            call.method,
            f"{self._base}{call.path}",
            content=call.body or None,
            headers=self._headers | more,
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
        )


class HttpTransport(_Http):
    """Over httpx, in the caller's thread.

    Args:
        url: of the service.
        api_key: one of its keys; "": none.
        tls: certificates to trust for https; None: the usual ones.
        http: an httpx client of the caller's own, who closes it; None: one is made.
        connections: at most so many at a time, for the client made here.

    Raises:
        ConfigurationError: the URL or the key cannot be used.
    """

    def __init__(
        self,
        url: str,
        api_key: str = "",
        tls: ssl.SSLContext | None = None,
        http: httpx.Client | None = None,
        connections: int = 64,
    ) -> None:
        super().__init__(url, api_key)
        self._own = http is None
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        with _usable_environment(self.where):
            self._http = http or httpx.Client(verify=tls or True, trust_env=self.environment, limits=limits)

    def send(self, call: Call, timeout_s: float) -> Reply:
        request = self.request(self._http, call, timeout_s)
        until = time.monotonic() + timeout_s
        with _translated(self.where, timeout_s):
            response = self._http.send(request, stream=True)
            try:
                body = bytearray()
                for piece in response.iter_bytes():
                    body += piece
                    _check(self.where, len(body), until, timeout_s)
            finally:
                response.close()
        return Reply(response.status_code, bytes(body), {k.lower(): v for k, v in response.headers.items()})

    def close(self) -> None:
        if self._own:
            self._http.close()


class AsyncHttpTransport(_Http):
    """Over httpx, on an event loop of asyncio; arguments and errors as `HttpTransport`."""

    def __init__(
        self,
        url: str,
        api_key: str = "",
        tls: ssl.SSLContext | None = None,
        http: httpx.AsyncClient | None = None,
        connections: int = 64,
    ) -> None:
        super().__init__(url, api_key)
        self._own = http is None
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        with _usable_environment(self.where):
            self._http = http or httpx.AsyncClient(verify=tls or True, trust_env=self.environment, limits=limits)

    async def send(self, call: Call, timeout_s: float) -> Reply:
        request = self.request(self._http, call, timeout_s)
        until = time.monotonic() + timeout_s
        with _translated(self.where, timeout_s):
            response = await self._http.send(request, stream=True)
            try:
                body = bytearray()
                async for piece in response.aiter_bytes():
                    body += piece
                    _check(self.where, len(body), until, timeout_s)
            finally:
                await response.aclose()
        return Reply(response.status_code, bytes(body), {k.lower(): v for k, v in response.headers.items()})

    async def close(self) -> None:
        if self._own:
            await self._http.aclose()


@contextmanager
def _usable_environment(where: str) -> Iterator[None]:
    """httpx reads proxies and certificates from the environment when a client is made."""
    try:
        yield
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as exc:
        raise ConfigurationError(
            f"{where}: the environment's proxies or certificates cannot be used ({exc}); see HTTP_PROXY, HTTPS_PROXY, "
            "ALL_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
        ) from exc


def _check(where: str, size: int, until: float, timeout_s: float) -> None:
    if size > MAX_ANSWER_BYTES:
        raise NotOurService(f"{where}: an answer of more than {MAX_ANSWER_BYTES} bytes; check the URL")
    if time.monotonic() > until:
        raise TimedOut(f"{where}: the answer had begun but was not whole within {timeout_s:g} s")


def refused(where: str, reason: object) -> ConnectionFailed:
    """There is no connection, for a reason of the operating system's or of TLS's."""
    text = str(reason) or type(reason).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return ConnectionFailed(
            f"{where}: its certificate is not trusted ({text}); pass tls=ssl.create_default_context(cafile=...)",
            retry=False,
        )
    if "SSL" in text or "TLS" in text:
        return ConnectionFailed(f"{where}: no TLS connection ({text}); is it http:// instead of https://?", retry=False)
    return ConnectionFailed(f"{where}: no connection ({text}); is the service running there, and is the URL right?")


def slow(where: str, timeout_s: float) -> TimedOut:
    """There is a connection, and no answer."""
    return TimedOut(
        f"{where}: no answer within {timeout_s:.3g} s; allow more (timeout_s, timeout_ms), or send less at once"
    )


def cut(where: str, reason: object) -> ConnectionFailed:
    """There was a connection."""
    return ConnectionFailed(
        f"{where}: the connection broke before the answer was complete ({str(reason) or type(reason).__name__})"
    )


_TRANSLATION: tuple[tuple[type[Exception], Callable[[str, float, Exception], ClientError]], ...] = (
    (
        httpx.ConnectTimeout,
        lambda where, _, __: TimedOut(
            f"{where}: no connection within {CONNECT_S:g} s; is the host right, and does a firewall let it through?",
            connected=False,
        ),
    ),
    (
        httpx.TimeoutException,
        lambda where, timeout_s, _: slow(where, timeout_s),
    ),
    (httpx.ProxyError, lambda where, _, exc: refused(where, f"proxy: {exc}")),
    (httpx.ConnectError, lambda where, _, exc: refused(where, exc)),
    (httpx.UnsupportedProtocol, lambda where, _, exc: ConfigurationError(f"{where}: {exc}")),
    (httpx.LocalProtocolError, lambda where, _, exc: ConfigurationError(f"{where}: {exc}")),
    (httpx.TransportError, lambda where, _, exc: cut(where, exc)),
    (httpx.DecodingError, lambda where, _, exc: BrokenAnswer(f"{where}: the answer's compression is broken: {exc}")),
    (httpx.RequestError, lambda where, _, exc: cut(where, exc)),
)
"""httpx's exceptions, the more special first: https://www.python-httpx.org/exceptions/"""


@contextmanager
def _translated(where: str, timeout_s: float) -> Iterator[None]:
    try:
        yield
    except httpx.RequestError as exc:
        for kind, made in _TRANSLATION:
            if isinstance(exc, kind):
                raise made(where, timeout_s, exc) from exc
        raise
