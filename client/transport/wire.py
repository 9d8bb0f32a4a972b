"""What goes over the wire and what comes back, without a socket: calls built, answers read, errors told apart.

`Dialect` is how one kind of server is asked; `SERVICE` is the service's own, `client.transport.sagemaker` has another.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypedDict, TypeVar

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
from client.models import Batch, Limits, OnLong, Outcome, Prediction, ServiceError, TextError
from client.transport.retry import retry_after_s

Answer = TypeVar("Answer", bound=BaseModel)

JSON = "application/json"
LINES = "application/x-ndjson"

SHOWN_CHARS = 120
"""Of an answer that is not understood."""

NEEDS_KEY = "give one of its keys: Client(api_key=...), --api-key or CLASSIFIER_API_KEY"
HINTS: Mapping[type[AnswerError], str] = {
    Unauthorized: NEEDS_KEY,
    Overloaded: "come back later, or send less at a time",
    Unavailable: "come back later; client.ready() waits for it",
}


class OptionFields(TypedDict, total=False):
    """How texts are to be classified; what is not given is left to the service."""

    top_k: int | None
    """Answer with the k most probable labels; None: all."""
    on_long: OnLong | None
    """Texts longer than the model reads at once: overlapping "windows" over all of it, "truncate" to its beginning, or
    "error"; None: what the model says, usually "windows"."""
    timeout_ms: int | None
    """Milliseconds after which the service drops the work; None: its default."""
    spans: bool
    """Also each window's place in the text and its own label."""
    explain: bool
    """Also each sentence's share in the answer."""


@dataclass(frozen=True)
class Options:
    """`OptionFields` with their defaults."""

    top_k: int | None = None
    on_long: OnLong | None = None
    timeout_ms: int | None = None
    spans: bool = False
    explain: bool = False

    def fields(self) -> dict[str, Any]:
        """Those that were set, by their name on the wire."""
        return {name: value for name, value in vars(self).items() if value is not None and value is not False}


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    path: str
    """Below the service's URL, with its slash."""
    body: bytes = b""
    content_type: str = JSON
    accept: str = JSON
    timeout_ms: int | None = None
    """What the service was told."""


@dataclass(frozen=True)
class Reply:
    """One answer, of any status."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""


def encode(value: Any) -> bytes:
    """JSON in UTF-8. Half a surrogate pair, which UTF-8 cannot hold, travels as an escape: the service says which text
    has it."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


class Dialect(Protocol):
    """How a kind of server is asked. `read_*` get replies of status 200 and raise BrokenAnswer."""

    def predict(self, text: str, options: Options) -> Call:
        """Classify one text."""

    def read_prediction(self, reply: Reply, where: str) -> Prediction:
        """Its answer."""

    def batch(self, texts: Sequence[str], options: Options) -> Call:
        """Classify several texts."""

    def read_batch(self, reply: Reply, where: str, count: int) -> list[Outcome]:
        """`count` answers, in order."""

    def info(self) -> Call:
        """Raises Unsupported if there is no such thing."""

    def ready(self) -> Call:
        """Raises Unsupported if there is no such thing."""

    def metrics(self) -> Call:
        """Raises Unsupported if there is no such thing."""

    def limits(self) -> Limits | None:
        """None: /info says."""


class _Service:
    """The service's own paths: openapi.yaml."""

    def predict(self, text: str, options: Options) -> Call:
        body = encode({"text": text, **options.fields()})
        return Call("POST", "/predict", body, timeout_ms=options.timeout_ms)

    def read_prediction(self, reply: Reply, where: str) -> Prediction:
        return read(Prediction, reply.body, where)

    def batch(self, texts: Sequence[str], options: Options) -> Call:
        body = encode({"texts": list(texts), **options.fields()})
        return Call("POST", "/batch", body, timeout_ms=options.timeout_ms)

    def read_batch(self, reply: Reply, where: str, count: int) -> list[Outcome]:
        answer = read(Batch, reply.body, where)
        found = {"model": answer.model}
        return counted([one.model_copy(update=found) if one.ok else one for one in answer.results], where, count)

    def info(self) -> Call:
        return Call("GET", "/info")

    def ready(self) -> Call:
        return Call("GET", "/readyz")

    def metrics(self) -> Call:
        return Call("GET", "/metrics", accept="text/plain")

    def limits(self) -> Limits | None:
        return None


SERVICE: Dialect = _Service()


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
"""Of the kinds that a text among others may get; of all others it is 422."""


def raised(error: TextError, where: str) -> AnswerError:
    """The exception for a text's error."""
    status = STATUS.get(error.kind, 422)
    return error_class(status, error.kind)(
        f"{where}: {error.error} ({error.kind}, request {error.request_id})",
        status=status,
        kind=error.kind,
        request_id=error.request_id,
        details=error.details or (),
    )


def counted(outcomes: list[Outcome], where: str, count: int) -> list[Outcome]:
    """Raises BrokenAnswer unless there is one outcome a text."""
    if len(outcomes) != count:
        raise BrokenAnswer(f"{where}: {len(outcomes)} results came for {count} texts; client and service do not match")
    return outcomes


def read(kind: type[Answer], body: bytes | str, where: str) -> Answer:
    """An answer of status 200.

    Raises:
        NotOurService: it is not JSON at all.
        BrokenAnswer: JSON that breaks off, or of another shape.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as exc:
        problem = exc.errors(include_url=False, include_input=False)[0]
    raw = body if isinstance(body, bytes) else body.encode()
    if problem["type"] != "json_invalid":
        place = ".".join(str(part) for part in problem["loc"]) or "the answer"
        raise BrokenAnswer(
            f"{where}: an answer of another shape than expected ({place}: {problem['msg'].lower()}); is this the "
            "service, and of the client's version?"
        )
    if raw.lstrip()[:1] in (b"{", b"["):
        raise BrokenAnswer(
            f"{where}: the answer's JSON is broken ({problem['msg'].removeprefix('Invalid JSON: ')}): {_shown(raw)}; "
            "a proxy in between may have cut it"
        )
    raise NotOurService(f"{where}: answers, but not in JSON: {_shown(raw)}; check the URL, and proxies in between")


def failure(reply: Reply, where: str, sent_bytes: int = 0) -> ClientError:
    """What a reply of another status than 200 means.

    Args:
        reply: the answer.
        where: the service's URL, for the message.
        sent_bytes: of the body it answers.
    """
    after = retry_after_s(reply.headers.get("retry-after"))
    try:
        error = ServiceError.model_validate_json(reply.body)
    except ValidationError:
        return _not_the_services(reply, where, sent_bytes, after)
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


def _not_the_services(reply: Reply, where: str, sent_bytes: int, after: float | None) -> ClientError:
    """A status without the service's error shape: a proxy in between, or another program altogether."""
    status, shown = reply.status, _shown(reply.body)
    if 300 <= status < 400:
        target = reply.headers.get("location", "another place")[:SHOWN_CHARS]
        return NotOurService(f"{where}: redirects to {target} ({status}); use the service's own URL")
    said = f"a proxy in between, not the service, answered {status}: {shown}"
    kind = error_class(status, "")
    if status in (401, 403):
        return kind(f"{where}: {said}; it wants other credentials", status=status)
    if kind is TooLarge:
        return kind(f"{where}: {said}; a body of {sent_bytes} bytes is too large for it", status=status)
    if kind in HINTS:
        return kind(f"{where}: {said}; {HINTS[kind]}", status=status, retry_after_s=after)
    return NotOurService(f"{where}: answered {status}, but not as the service does: {shown}; check the URL")


def _shown(body: bytes) -> str:
    """The beginning of an answer on one line, markup left out."""
    text = re.sub(r"<[^>]*>", " ", body[:2000].decode("utf-8", "replace"))
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return repr(text[:SHOWN_CHARS] + ("..." if len(text) > SHOWN_CHARS else "")) if text else "nothing"
