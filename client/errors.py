"""What can go wrong for a caller, one branch for each thing that he can do about it.

    ClientError
      ConfigurationError      the URL, key or an option cannot be used: correct it
      Unsupported             this way of asking does not exist here: ask another way
      NoAnswer                nothing (or only part of an answer) came back
        ConnectionFailed      refused, unknown host, TLS, cut: is it running, is the URL right?
        TimedOut              too slow: allow more time, or send less
      NotOurService           something else answers there: check the URL, or the proxy in between
        BrokenAnswer          the service's address, but not its wire format: versions differ, or a proxy cut it
      AnswerError             the service answered with an error (status, kind, request_id, details)
        Unauthorized          401, 403: give an API key
        TooLarge              413: send less
        BadText               422 for a lone text: it is empty, too long or not Unicode; another text may do
        BadRequest            other 4xx: the request is wrong, asking again is useless
        Overloaded            429, still after all retries: come back later, send less at a time
        Unavailable           502, 503, 504 of a proxy: starting, stopping, no instance; come back later
        DeadlineExceeded      504 of the service: not done within `timeout_ms`
        ServiceFault          500: its log has `request_id`

Every message says what was wrong, where, and what to do. None holds a text or a key.
"""

from collections.abc import Mapping, Sequence
from typing import Any

TEXT_KINDS = frozenset({"empty_text", "invalid_text", "text_too_long"})
"""Kinds of error that concern one text and would come again for it."""


class ClientError(Exception):
    """Anything that this package raises on purpose."""


class ConfigurationError(ClientError, ValueError):
    """The URL, the key or an option cannot be used."""


class Unsupported(ClientError):
    """The transport in use has no such thing, for instance `/info` through a SageMaker endpoint."""


class NoAnswer(ClientError):
    """Nothing, or only part of an answer, came back."""


class ConnectionFailed(NoAnswer):
    """No connection, or one that was cut.

    Attributes:
        retry: another try may succeed; false for a certificate that is not trusted.
    """

    def __init__(self, message: str, *, retry: bool = True) -> None:
        super().__init__(message)
        self.retry = retry


class StreamCut(ConnectionFailed):
    """A stream ended before all texts were answered.

    Attributes:
        answered: how many were; the texts after these can be sent again.
    """

    def __init__(self, message: str, answered: int) -> None:
        super().__init__(message)
        self.answered = answered


class TimedOut(NoAnswer):
    """No answer in time.

    Attributes:
        connected: false if there was not even a connection.
    """

    def __init__(self, message: str, *, connected: bool = True) -> None:
        super().__init__(message)
        self.connected = connected


class NotOurService(ClientError):
    """What answers at the URL is something else: another program, or a proxy's own page."""


class BrokenAnswer(NotOurService):
    """The answer is not JSON, or not of the shape that openapi.yaml gives it."""


class AnswerError(ClientError):
    """The service answered with an error.

    Attributes:
        status: of HTTP.
        kind: the service's word for it; "" if a proxy answered.
        request_id: to look for in the service's log; "" if a proxy answered.
        details: one object a problem, where there are several.
        retry_after_s: seconds that the service asked to wait; None: it did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        kind: str = "",
        request_id: str = "",
        details: Sequence[Mapping[str, Any]] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.request_id = request_id
        self.details = tuple(details)
        self.retry_after_s = retry_after_s


class Unauthorized(AnswerError):
    """401 or 403."""


class TooLarge(AnswerError):
    """413."""


class BadRequest(AnswerError):
    """Another 4xx: the request is wrong."""


class BadText(BadRequest):
    """422 of a kind in `TEXT_KINDS`."""


class Overloaded(AnswerError):
    """429."""


class Unavailable(AnswerError):
    """503, or 502 or 504 of a proxy."""


class DeadlineExceeded(AnswerError):
    """504 of the service itself."""


class ServiceFault(AnswerError):
    """500."""


def error_class(status: int, kind: str) -> type[AnswerError]:
    """The branch for a status and the service's kind ("" if a proxy answered)."""
    if kind in TEXT_KINDS:
        return BadText
    if status == 504 and kind == "deadline_exceeded":
        return DeadlineExceeded
    by_status: Mapping[int, type[AnswerError]] = {
        401: Unauthorized,
        403: Unauthorized,
        413: TooLarge,
        429: Overloaded,
        502: Unavailable,
        503: Unavailable,
        504: Unavailable,
    }
    return by_status.get(status, ServiceFault if status >= 500 else BadRequest)
