"""Calls to the service and the meaning of its replies, without a socket. The contract is openapi.yaml."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict, TypeVar

from pydantic import BaseModel, ValidationError

from client.errors import (
    AnswerError,
    BrokenAnswer,
    ClientError,
    NotOurService,
    Overloaded,
    TooLarge,
    Unauthorized,
    Unavailable,
    error_class,
)
from client.models import OnLong, ServiceError, TextError
from client.transport.retry import retry_after_s

Answer = TypeVar("Answer", bound=BaseModel)

JSON = "application/json"
LINES = "application/x-ndjson"
SHOWN_CHARS = 120  # of an answer that is not understood

HINTS: dict[type[AnswerError], str] = {
    Unauthorized: "give one of its keys: Client(api_key=...), --api-key or CLASSIFIER_API_KEY",
    Overloaded: "come back later, or send less at a time",
    Unavailable: "come back later; client.ready() waits for it",
}
STATUS: Mapping[str, int] = {
    "draining": 503,
    "not_ready": 503,
    "overloaded": 429,
    "deadline_exceeded": 504,
    "inference_failed": 500,
    "internal": 500,
    "text_too_large": 413,
    "body_too_large": 413,
}
"""HTTP statuses of the kinds of error that one text among several may have; all other kinds have 422."""


class OptionFields(TypedDict, total=False):
    """How texts are classified. The service decides what is not given."""

    top_k: int | None
    """Answer with the k most probable labels; None for all."""
    on_long: OnLong | None
    """How to read texts longer than the model reads at once: "windows" that overlap and cover the text, "truncate" to
    the beginning, or "error"; None for the model's own setting, usually "windows"."""
    timeout_ms: int | None
    """Milliseconds after which the service drops the work; None for the service's default."""
    spans: bool
    """Also return each window's place in the text and its label."""
    explain: bool
    """Also return each sentence's share in the answer."""


def given(options: OptionFields) -> dict[str, Any]:
    """Return the options that are set. Raises TypeError if `options` contains an unknown name."""
    for name in options:
        if name not in OptionFields.__annotations__:
            raise TypeError(f"there is no option {name!r}; there are {', '.join(OptionFields.__annotations__)}")
    return {name: value for name, value in options.items() if value is not None and value is not False}


@dataclass(frozen=True)
class Call:
    """One request: a POST of a JSON object, or a GET without one."""

    path: str  # below the service's URL, with its slash
    content: Mapping[str, Any] | None = None
    accept: str = JSON


@dataclass(frozen=True)
class Reply:
    """One response of any status."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case


def encode(value: Any) -> bytes:
    """Return JSON in UTF-8. Half a surrogate pair, which UTF-8 cannot hold, becomes an escape: the service names the
    text that has it."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def read(kind: type[Answer], body: bytes, where: str) -> Answer:
    """Read an answer of status 200.

    Raises:
        NotOurService: it is not JSON at all.
        BrokenAnswer: it is JSON that breaks off, or of another shape.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as exc:
        problem = exc.errors(include_url=False, include_input=False)[0]
    if problem["type"] != "json_invalid":
        place = ".".join(str(part) for part in problem["loc"]) or "the answer"
        raise BrokenAnswer(
            f"{where}: an answer of another shape than expected ({place}: {problem['msg'].lower()}); is this the "
            "service, and of the client's version?"
        )
    if body.lstrip()[:1] in (b"{", b"["):
        raise BrokenAnswer(
            f"{where}: the answer's JSON is broken ({problem['msg'].removeprefix('Invalid JSON: ')}): {_shown(body)}; "
            "a proxy in between may have cut it"
        )
    raise NotOurService(f"{where}: answers, but not in JSON: {_shown(body)}; check the URL, and proxies in between")


def failure(reply: Reply, where: str, sent_bytes: int = 0) -> ClientError:
    """Return the error that a reply of another status than 200 means; `sent_bytes` is the size of the sent body."""
    after = retry_after_s(reply.headers.get("retry-after"))
    try:
        error = ServiceError.model_validate_json(reply.body)
    except ValidationError:
        return _foreign(reply, where, sent_bytes, after)
    kind = error_class(reply.status, error.kind)
    hint = f"; {HINTS[kind]}" if kind in HINTS else ""
    return kind(
        f"{where}: {error.error} ({reply.status} {error.kind}, request {error.request_id}){hint}",
        status=reply.status,
        kind=error.kind,
        request_id=error.request_id,
        details=error.details or (),
        retry_after_s=after,
    )


def text_failure(error: TextError, where: str) -> ClientError:
    """Return the error of one text among several as the service would report it for that text alone."""
    return failure(Reply(STATUS.get(error.kind, 422), error.model_dump_json().encode()), where)


def _foreign(reply: Reply, where: str, sent_bytes: int, after: float | None) -> ClientError:
    """Return the error for a reply that is not the service's: a proxy in between, or another program, sent it."""
    status, shown = reply.status, _shown(reply.body)
    if 300 <= status < 400:
        target = reply.headers.get("location", "another place")[:SHOWN_CHARS]
        return NotOurService(f"{where}: redirects to {target} ({status}); use the service's own URL")
    hints = HINTS | {
        Unauthorized: "it wants other credentials",
        TooLarge: f"a body of {sent_bytes} bytes is too large for it",
    }
    kind = error_class(status, "")
    if kind not in hints:
        return NotOurService(f"{where}: answered {status}, but not as the service does: {shown}; check the URL")
    said = f"a proxy in between, not the service, answered {status}: {shown}"
    return kind(f"{where}: {said}; {hints[kind]}", status=status, retry_after_s=after)


def _shown(body: bytes) -> str:
    """Return the beginning of an answer on one line, without markup."""
    text = re.sub(r"<[^>]*>", " ", body[:2000].decode("utf-8", "replace"))
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return repr(text[:SHOWN_CHARS] + ("..." if len(text) > SHOWN_CHARS else "")) if text else "nothing"
