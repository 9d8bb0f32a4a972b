"""HTTP calls to the service, by httpx. Nothing is retried here."""

import ssl
from base64 import b64encode
from contextlib import aclosing
from typing import Protocol

import httpx

from client.errors import BrokenAnswer, ClientError, ConfigurationError, ConnectionFailed, NotOurService, TimedOut
from client.models import Limits
from client.threads import in_thread
from client.transport.messages import JSON, Call, Reply, encode

CONNECT_S = 5.0  # seconds for a connection
CONNECTIONS = 64  # at a time
MAX_ANSWER_BYTES = 256 * 2**20  # far above what the service sends, so that a stray URL cannot fill the memory
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Transport(Protocol):
    """A way to send calls; several may be under way at a time."""

    @property
    def where(self) -> str:
        """The service's URL, for messages."""

    @property
    def limits(self) -> Limits | None:
        """The service's limits, None if `/info` tells them."""

    async def send(self, call: Call, timeout_s: float) -> Reply:
        """Return the reply, whatever its status. Raises ClientError: there is none."""

    async def close(self) -> None:
        """Close all connections."""


class HttpTransport:
    """Calls over httpx.

    Args:
        url: the service's URL; a user's name and password in it are sent by Basic authentication.
        api_key: one of the service's keys, "" for none.
        tls: certificates to trust for https; None for httpx's.
        http: an httpx client of the caller's own, which `close` leaves open; None to make one.

    Raises:
        ConfigurationError: the URL, the key or the environment's proxies or certificates cannot be used.
    """

    limits: Limits | None = None

    def __init__(
        self,
        url: str,
        api_key: str = "",
        tls: ssl.SSLContext | None = None,
        http: httpx.Client | httpx.AsyncClient | None = None,
    ) -> None:
        parsed = _parsed(url)
        self.base = parsed.copy_with(userinfo=b"")
        self.where = str(self.base)
        self.headers = _headers(parsed, api_key)
        self._own = http is None
        self.trust_env = self.base.host not in LOOPBACK  # a service on this machine is never behind a proxy
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        try:
            self.tls = tls or httpx.create_ssl_context(trust_env=self.trust_env)
            self._http = http or httpx.AsyncClient(verify=self.tls, trust_env=self.trust_env, limits=limits)
        except (ImportError, ValueError, OSError, httpx.InvalidURL) as exc:
            raise ConfigurationError(
                f"{self.where}: the environment's proxies or certificates cannot be used ({exc}); see HTTP_PROXY, "
                "HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
            ) from exc

    async def send(self, call: Call, timeout_s: float) -> Reply:
        if self._http.is_closed:
            raise ClientError(f"{self.where}: this client is closed; make another one")
        headers = self.headers | {"Accept": call.accept}
        if call.content is not None:
            headers["Content-Type"] = JSON
        request = self._http.build_request(
            "GET" if call.content is None else "POST",
            f"{self.base}{call.path}",
            content=None if call.content is None else encode(call.content),
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s / 2)),
        )
        try:
            return await self._sent(request)
        except httpx.RequestError as exc:
            raise _explained(self.where, timeout_s, exc) from exc

    async def _sent(self, request: httpx.Request) -> Reply:
        body = bytearray()
        if isinstance(http := self._http, httpx.Client):
            response = await in_thread(lambda: http.send(request))
            body += response.content
        else:
            response = await http.send(request, stream=True)
            async with aclosing(response):
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise NotOurService(f"{self.where}: an answer of more than {MAX_ANSWER_BYTES} bytes")
        return Reply(response.status_code, bytes(body), dict(response.headers))

    async def close(self) -> None:
        if self._own and isinstance(self._http, httpx.AsyncClient):
            await self._http.aclose()


def _parsed(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url.strip().rstrip("/"))
    except httpx.InvalidURL as exc:
        raise ConfigurationError(f"{url!r} is not a URL: {exc}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigurationError(f"{url!r} is not the URL of a service; for instance http://localhost:8080")
    if "?" in url or "#" in url:
        raise ConfigurationError(
            f"a ? or # in the URL for {parsed.host} would cut off the service's own paths; leave it out"
        )
    return parsed


def _headers(url: httpx.URL, api_key: str) -> dict[str, str]:
    """Return the headers of every call. The key has a header of its own where a user's password takes the usual one."""
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise ConfigurationError("the API key has characters that cannot be sent; is a line break or quote part of it?")
    headers = {"User-Agent": "gpt2-classifier-client"}
    if url.userinfo:
        headers["Authorization"] = f"Basic {b64encode(f'{url.username}:{url.password}'.encode()).decode()}"
        return headers | ({"X-API-Key": api_key} if api_key else {})
    return headers | ({"Authorization": f"Bearer {api_key}"} if api_key else {})


def refused(where: str, reason: object) -> ConnectionFailed:
    """Return the error for a connection that the operating system or TLS refused."""
    text = str(reason) or type(reason).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return ConnectionFailed(
            f"{where}: its certificate is not trusted ({text}); pass tls=ssl.create_default_context(cafile=...)",
            retry=False,
        )
    if "SSL" in text or "TLS" in text:
        return ConnectionFailed(f"{where}: no TLS connection ({text}); is it http:// instead of https://?", retry=False)
    return ConnectionFailed(f"{where}: no connection ({text}); is the service running there, and is the URL right?")


def unconnected(where: str) -> TimedOut:
    """Return the error for a connection that was not made in time."""
    return TimedOut(
        f"{where}: no connection within {CONNECT_S:g} s; is the host right, and does a firewall let it through?",
        connected=False,
    )


def slow(where: str, timeout_s: float) -> TimedOut:
    """Return the error for a connection without an answer."""
    return TimedOut(
        f"{where}: no answer within {timeout_s:.3g} s; allow more (timeout_s, timeout_ms), or send less at once"
    )


def cut(where: str, reason: object) -> ConnectionFailed:
    """Return the error for a connection that ended early."""
    return ConnectionFailed(
        f"{where}: the connection broke before the answer was complete ({str(reason) or type(reason).__name__})"
    )


def _explained(where: str, timeout_s: float, exc: httpx.RequestError) -> ClientError:
    """Return this package's error for httpx's; see https://www.python-httpx.org/exceptions/."""
    match exc:
        case httpx.ConnectTimeout():
            return unconnected(where)
        case httpx.TimeoutException():
            return slow(where, timeout_s)
        case httpx.ProxyError():
            return refused(where, f"proxy: {exc}")
        case httpx.ConnectError():
            return refused(where, _first_cause(exc))
        case httpx.UnsupportedProtocol() | httpx.LocalProtocolError():
            return ConfigurationError(f"{where}: {exc}")
        case httpx.DecodingError():
            return BrokenAnswer(f"{where}: the answer's compression is broken: {exc}")
    return cut(where, exc)


def _first_cause(exc: BaseException) -> BaseException:
    """Return the operating system's own error; those that wrap it say only that all attempts failed."""
    while (cause := exc.exceptions[0] if isinstance(exc, BaseExceptionGroup) else exc.__cause__) is not None:
        exc = cause
    return exc
