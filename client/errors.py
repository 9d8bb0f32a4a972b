"""What can go wrong for a caller: one class for each thing that the caller can do about it.

Every message says what was wrong, where, and what to do. No message contains a text or a key.
"""

from collections.abc import Mapping, Sequence
from typing import Any

TEXT_KINDS = frozenset({"empty_text", "invalid_text", "text_too_long"})
"""Kinds of error that one text causes and would cause again."""


class ClientError(Exception):
    """Any error that this package raises on purpose."""


class ConfigurationError(ClientError, ValueError):
    """The URL, the key or an option cannot be used: correct it."""


class Unsupported(ClientError):
    """The transport cannot do this, for instance `/info` through a SageMaker endpoint: ask another way."""


class NoAnswer(ClientError):
    """Nothing, or only part of an answer, came back."""


class ConnectionFailed(NoAnswer):
    """No connection was made, or it was cut: is the service running, and is the URL right? `retry` is false if another
    try cannot help (an untrusted certificate)."""

    def __init__(self, message: str, *, retry: bool = True) -> None:
        super().__init__(message)
        self.retry = retry


class StreamCut(ConnectionFailed):
    """A stream ended before all texts were answered. The first `answered` texts were; the others can be sent again."""

    def __init__(self, message: str, answered: int) -> None:
        super().__init__(message)
        self.answered = answered


class TimedOut(NoAnswer):
    """No answer came in time: allow more, or send less. `connected` is false if there was not even a connection."""

    def __init__(self, message: str, *, connected: bool = True) -> None:
        super().__init__(message)
        self.connected = connected


class NotOurService(ClientError):
    """Another program, or a proxy's own page, answers there: check the URL, and the proxy in between."""


class BrokenAnswer(NotOurService):
    """The answer does not have the shape of openapi.yaml: versions differ, or a proxy cut it."""


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
    """401, 403: give an API key."""


class TooLarge(AnswerError):
    """413: send less."""


class BadRequest(AnswerError):
    """Another 4xx: the request is wrong, and asking again is useless."""


class BadText(BadRequest):
    """422 for a lone text, of a kind in `TEXT_KINDS`: it is empty, too long or not Unicode; another text may do."""


class Overloaded(AnswerError):
    """429, still after all retries: come back later, send less at a time."""


class Unavailable(AnswerError):
    """503, or 502 and 504 of a proxy: it starts, stops or has no instance; come back later."""


class DeadlineExceeded(AnswerError):
    """504 of the service itself: the request was not done within `timeout_ms`."""


class ServiceFault(AnswerError):
    """500: the service's log has `request_id`."""


_BY_STATUS: Mapping[int, type[AnswerError]] = {401: Unauthorized, 403: Unauthorized, 413: TooLarge, 429: Overloaded} | (
    dict.fromkeys((502, 503, 504), Unavailable)
)


def error_class(status: int, kind: str) -> type[AnswerError]:
    """Return the class for an HTTP status and the service's kind of error ("" if a proxy answered)."""
    if kind in TEXT_KINDS:
        return BadText
    if status == 504 and kind == "deadline_exceeded":
        return DeadlineExceeded
    return _BY_STATUS.get(status, ServiceFault if status >= 500 else BadRequest)
