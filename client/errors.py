"""What can go wrong for a caller: one class for each thing that the caller can do about it.

    ClientError
      ConfigurationError      the URL, key or an option cannot be used: correct it
      Unsupported             this way of asking does not exist here: ask another way
      NoAnswer                nothing (or only part of an answer) came back
        ConnectionFailed      refused, unknown host, TLS, cut: is it running, is the URL right?
        TimedOut              too slow: allow more time, or send less
      NotOurService           something else answers there: check the URL, or the proxy in between
        BrokenAnswer          the answer does not match openapi.yaml: versions differ, or a proxy cut it
      AnswerError             the service answered with an error (status, kind, request_id, details)
        Unauthorized          401, 403: give an API key
        TooLarge              413: send less
        BadText               422 for a lone text: it is empty, too long or not Unicode; another text may do
        BadRequest            other 4xx: the request is wrong, asking again is useless
        Overloaded            429, still after all retries: come back later, send less at a time
        Unavailable           502, 503, 504 of a proxy: starting, stopping, no instance; come back later
        DeadlineExceeded      504 of the service: not done within `timeout_ms`
        ServiceFault          500: the service's log has `request_id`

Every message says what was wrong, where, and what to do. No message contains a text or a key.
"""

from collections.abc import Mapping, Sequence
from typing import Any

TEXT_KINDS = frozenset({"empty_text", "invalid_text", "text_too_long"})
"""Kinds of error that one text causes and would cause again."""


class ClientError(Exception):
    """Any error that this package raises on purpose."""


class ConfigurationError(ClientError, ValueError):
    """The URL, the key or an option cannot be used."""


class Unsupported(ClientError):
    """The transport in use cannot do this, for instance `/info` through a SageMaker endpoint."""


class NoAnswer(ClientError):
    """Nothing, or only part of an answer, came back."""


class ConnectionFailed(NoAnswer):
    """No connection was made, or it was cut. `retry` is false if another try cannot help (an untrusted certificate)."""

    def __init__(self, message: str, *, retry: bool = True) -> None:
        super().__init__(message)
        self.retry = retry


class StreamCut(ConnectionFailed):
    """A stream ended before all texts were answered. The first `answered` texts were; the others can be sent again."""

    def __init__(self, message: str, answered: int) -> None:
        super().__init__(message)
        self.answered = answered


class TimedOut(NoAnswer):
    """No answer came in time. `connected` is false if there was not even a connection."""

    def __init__(self, message: str, *, connected: bool = True) -> None:
        super().__init__(message)
        self.connected = connected


class NotOurService(ClientError):
    """Another program, or a proxy's own page, answers at the URL."""


class BrokenAnswer(NotOurService):
    """The answer is not JSON, or does not have the shape that openapi.yaml gives it."""


class AnswerError(ClientError):
    """The service answered with an error.

    Attributes:
        status: the HTTP status.
        kind: the service's name for the error; "" if a proxy answered.
        request_id: the id of the request in the service's log; "" if a proxy answered.
        details: one object for each problem, where there are several.
        retry_after_s: seconds that the service asked to wait; None if it did not say.
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
        self.status, self.kind, self.request_id = status, kind, request_id
        self.details, self.retry_after_s = tuple(details), retry_after_s


class Unauthorized(AnswerError):
    """The status is 401 or 403."""


class TooLarge(AnswerError):
    """The status is 413."""


class BadRequest(AnswerError):
    """The status is another 4xx: the request is wrong."""


class BadText(BadRequest):
    """The status is 422 and the kind is one of `TEXT_KINDS`."""


class Overloaded(AnswerError):
    """The status is 429."""


class Unavailable(AnswerError):
    """The status is 503, or 502 or 504 from a proxy."""


class DeadlineExceeded(AnswerError):
    """The status is 504, from the service itself."""


class ServiceFault(AnswerError):
    """The status is 500."""


_BY_STATUS: Mapping[int, type[AnswerError]] = {
    **dict.fromkeys((401, 403), Unauthorized),
    413: TooLarge,
    429: Overloaded,
    **dict.fromkeys((502, 503, 504), Unavailable),
}


def error_class(status: int, kind: str) -> type[AnswerError]:
    """Return the class for an HTTP status and the service's kind of error ("" if a proxy answered)."""
    if kind in TEXT_KINDS:
        return BadText
    if status == 504 and kind == "deadline_exceeded":
        return DeadlineExceeded
    return _BY_STATUS.get(status, ServiceFault if status >= 500 else BadRequest)
