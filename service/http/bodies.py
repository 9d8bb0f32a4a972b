"""Bodies of requests and answers: which form a body has, how it is read, and in which form to answer.

    Content-Type                                    one text is            the answer, if Accept does not decide
    application/json                                by the body's shape    application/json
    application/jsonlines and its other names       a line                 a line of the same
    text/csv                                        a row of one column    a row: label, score, error
    text/plain                                      the whole body         application/json

A line that cannot be read has an error in its place; the other lines are answered.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import Headers

from service.errors import ServiceError, invalid_request

T = TypeVar("T")

Form = Literal["json", "lines", "csv", "text"]

LINES = ("application/jsonlines", "application/x-ndjson", "application/jsonl", "application/x-jsonlines")
"""Names of newline-delimited JSON; SageMaker's name comes first."""

MEDIA_TYPES: Mapping[Form, tuple[str, ...]] = {
    "json": ("application/json",),
    "lines": LINES,
    "csv": ("text/csv",),
    "text": ("text/plain",),
}
"""Names of each form; answers declare the first one."""

csv.field_size_limit(1 << 30)  # the body is bounded already, and csv's default is below the longest text allowed

MAX_RANGES = 32
"""Media ranges of an Accept header that are read."""

STREAM_PATH = "/batch"

GONE = "service.gone"
"""ASGI extension of this service's own protocol: an asyncio.Event that is set when the connection breaks. ASGI's own
`http.disconnect` comes after all pieces of the body, and a stream leaves those unread while it has enough to do."""

NEW = "service.new"
"""ASGI extension of this service's own protocol: present if the request is the first one on its connection."""

HOLD = "service.hold"
"""ASGI extension of this service's own middleware: a function by which a stream tells how many bytes of long lines it
holds; it raises ServiceError overloaded if that is too much beside other requests."""

OWING = "service.owing"
"""ASGI extension of this service's own protocol: a function that a stream tells whether lines wait for their answer,
so that the protocol does not take their caller for a slow one."""


def media_type(headers: Mapping[str, str]) -> str:
    """Return the declared Content-Type without its parameters, in lower case; "" if there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def is_stream(scope: Mapping[str, Any]) -> bool:
    """Return whether a request is answered line by line while its body is read. Such a body may have any length."""
    return scope["path"] == STREAM_PATH and media_type(Headers(raw=scope["headers"])) in LINES


def body_form(headers: Mapping[str, str], *accepted: Form) -> Form:
    """Return the form of a body by its Content-Type.

    Raises:
        ServiceError: unsupported_media_type, unless the form is one of `accepted`.
    """
    declared = media_type(headers)
    for form in accepted:
        if declared in MEDIA_TYPES[form] or (form == "json" and declared.endswith("+json")):
            return form
    shown = f"{declared[:100]!r}" if declared else "missing"
    known = ", ".join(name for form in accepted for name in MEDIA_TYPES[form])
    raise ServiceError(
        "unsupported_media_type", f"Content-Type is {shown}; this path reads {known} or any type that ends with +json"
    )


async def read_json(request: Request, validate: Callable[[Any], T]) -> T:
    """Read a body that must be declared as JSON.

    Args:
        request: the request.
        validate: makes a wire model of the JSON value, for instance `PredictRequest.model_validate`; raises pydantic's
            ValidationError or a ServiceError.

    Raises:
        ServiceError: unsupported_media_type, body_too_large, invalid_json, invalid_request.
    """
    if request.scope["path"] == STREAM_PATH:  # the error names lines, too, which do not come here
        body_form(request.headers, "json", "lines")
    else:
        body_form(request.headers, "json")
    return parse_json(await request.body(), validate)


def parse_json(content: bytes, validate: Callable[[Any], T], what: str = "the body") -> T:
    """Make a wire model of JSON text.

    pydantic's own parser is not used: it refuses unpaired surrogates, which here are an error of one text only.

    Raises:
        ServiceError: invalid_json, invalid_request.
    """
    if not content:
        raise ServiceError("invalid_request", f"{what} is empty; JSON is expected")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise ServiceError("invalid_json", f"{what} is not valid JSON: {exc}") from exc
    try:
        return validate(value)
    except ValidationError as exc:
        raise invalid_request(exc.errors()) from exc


def parse_line(line: bytes, validate: Callable[[Any], T]) -> T | ServiceError:
    """Return the wire model of a line of JSON, or the error that it has. A string stands for `{"text": string}`."""
    if not line.strip():
        return ServiceError("invalid_json", "the line is blank")

    def validate_line(value: Any) -> T:
        return validate({"text": value} if isinstance(value, str) else value)

    try:
        return parse_json(line, validate_line, "the line")
    except ServiceError as exc:
        return exc


def split_lines(body: bytes) -> Iterator[bytes]:
    """Yield all lines, also blank ones. A line break at the end of the body does not begin another line."""
    for line in io.BytesIO(body):
        yield line.removesuffix(b"\n")


def read_rows(body: bytes) -> Iterator[str | ServiceError]:
    """Yield the text of each row of a CSV body, or an error for a row of several columns.

    Raises:
        ServiceError: invalid_body; it may be raised after some rows were yielded.
    """
    count = 0
    try:
        for count, row in enumerate(csv.reader(io.StringIO(read_text(body), newline=""), strict=True), 1):
            if len(row) == 1:
                yield row[0]
            elif not row:
                yield ""  # a blank line keeps its place, and its error says that it is empty
            else:
                problem = f"row {count} has {len(row)} columns, one is expected; quote a text that has commas"
                yield ServiceError("invalid_request", problem)
    except csv.Error as exc:
        raise ServiceError("invalid_body", f"the body is not CSV: row {count + 1}: {exc}") from exc
    if not count:
        raise ServiceError("invalid_body", "the body has no row")


def read_text(body: bytes) -> str:
    """Decode a body of UTF-8, with or without a byte order mark.

    Raises:
        ServiceError: invalid_body.
    """
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ServiceError("invalid_body", f"the body is not UTF-8: byte {exc.start}") from exc


def write_csv(rows: Iterable[tuple[str, float | None, str]]) -> bytes:
    """Return a CSV row for each (label, score, kind of error); score None is an empty cell."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows((label, "" if score is None else f"{score:.6g}", error) for label, score, error in rows)
    return file.getvalue().encode()


def answer_form(accept: str | None, body: Form, default: str | None = None) -> Form:
    """Return the form to answer in, by RFC 9110, section 12.5.1: highest q-value first, more specific range first.

    Args:
        accept: the Accept header.
        body: the form of the request's body.
        default: the Accept header of callers who send none (`SERVICE_DEFAULT_ACCEPT`).

    Raises:
        ServiceError: not_acceptable, if the header allows no form.
    """
    own: Form = "json" if body == "text" else body
    if default and (accept is None or accept.strip() in ("", "*/*")):
        accept = default
    if accept is None or not accept.strip():
        return own
    quality = {
        form: max(_quality(accept, media) for media in MEDIA_TYPES[form])
        for form in (own, *(form for form in MEDIA_TYPES if form != own))
    }
    best = max(quality, key=quality.__getitem__)  # the first of several equal ones
    if not quality[best]:
        known = ", ".join(types[0] for types in MEDIA_TYPES.values())
        raise ServiceError("not_acceptable", f"Accept is {accept[:100]!r}; this path answers in {known}")
    return best


def _quality(accept: str, media: str) -> float:
    """Return the q-value that the header gives to a media type: that of the most specific range that includes it."""
    main = media.partition("/")[0]
    found: tuple[int, float] = (-1, 0.0)
    for part in accept.split(",")[:MAX_RANGES]:
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        specific = {media: 2, f"{main}/*": 1, "*/*": 0}.get(name, -1)
        if specific > found[0]:
            found = (specific, _q_value(parameters))
    return found[1]


def _q_value(parameters: Sequence[str]) -> float:
    """Return the parameter q of a media range, between 0 and 1; 1 if there is none, 0 if it is no number."""
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
