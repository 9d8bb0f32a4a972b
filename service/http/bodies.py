"""Bodies and answers in other forms than one JSON value: lines of JSON, CSV and plain text; and which to answer in.

    Content-Type                                    one text is            its answer is, if Accept does not say
    application/json                                by the body's shape    application/json
    application/jsonlines and its other names       a line                 a line of the same
    text/csv                                        a row of one column    a row: label, score, error
    text/plain                                      the whole body         application/json

A line that cannot be read is an error in its place; the others are not touched by it.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from service.errors import ServiceError

Format = Literal["json", "lines", "csv", "text"]

LINES = ("application/jsonlines", "application/x-ndjson", "application/jsonl", "application/x-jsonlines")
"""Names of newline-delimited JSON; SageMaker's comes first."""

MEDIA_TYPES: Mapping[Format, tuple[str, ...]] = {
    "json": ("application/json",),
    "lines": LINES,
    "csv": ("text/csv",),
    "text": ("text/plain",),
}
"""The first of each is what answers are declared as."""

csv.field_size_limit(1 << 30)  # the body is bounded already; the default is below the longest text allowed

MAX_RANGES = 32
"""Media ranges of an Accept header that are looked at."""


def media_type(headers: Mapping[str, str]) -> str:
    """The declared type without its parameters, in lower case; "" if there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def format_of(declared: str) -> Format:
    """Raises ServiceError unsupported_media_type."""
    for name, types in MEDIA_TYPES.items():
        if declared in types or (name == "json" and declared.endswith("+json")):
            return name
    shown = f"{declared[:100]!r}" if declared else "missing"
    known = ", ".join(types[0] for types in MEDIA_TYPES.values())
    raise ServiceError("unsupported_media_type", f"Content-Type is {shown}; this path reads {known}")


def answer_format(accept: str | None, came: Format, default: str | None = None) -> Format:
    """The form to answer in, by RFC 9110, section 12.5.1: the highest q-value, the more specific range first.

    Args:
        accept: the header.
        came: the body's form.
        default: SageMaker's setting for callers who do not say.

    Raises:
        ServiceError: not_acceptable, if nothing that the header allows can be given.
    """
    own: Format = "json" if came == "text" else came
    if default and (accept is None or accept.strip() in ("", "*/*")):
        accept = default
    if accept is None or not accept.strip():
        return own
    offers: list[Format] = [own, *(name for name in MEDIA_TYPES if name != own)]
    best: tuple[float, int, Format] | None = None
    for order, offer in enumerate(offers):
        quality = max((_quality(accept, media) for media in MEDIA_TYPES[offer]), default=0.0)
        if quality > 0 and (best is None or (quality, -order) > (best[0], -best[1])):
            best = (quality, order, offer)
    if best is None:
        known = ", ".join(types[0] for types in MEDIA_TYPES.values())
        raise ServiceError("not_acceptable", f"Accept is {accept[:100]!r}; this path answers in {known}")
    return best[2]


def _quality(accept: str, media: str) -> float:
    """The q-value that the header gives to a media type: that of the most specific range that holds it."""
    main = media.partition("/")[0]
    found: tuple[int, float] = (-1, 0.0)
    for part in accept.split(",")[:MAX_RANGES]:
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        specific = {media: 2, f"{main}/*": 1, "*/*": 0}.get(name, -1)
        if specific > found[0]:
            found = (specific, _q(parameters))
    return found[1]


def _q(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0


def read_rows(form: Format, body: bytes) -> Iterator[str | ServiceError]:
    """The texts of a CSV or plain text body, read row by row; lines of JSON are read by their schema.

    Raises:
        ServiceError: invalid_body, the body as a whole cannot be read. For CSV perhaps only at a later row.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ServiceError("invalid_body", f"the body is not UTF-8: byte {exc.start}") from exc
    if form == "text":
        yield text
        return
    count = 0
    try:
        for count, row in enumerate(csv.reader(io.StringIO(text, newline=""), strict=True), 1):
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


def split_lines(body: bytes) -> Iterator[bytes]:
    """All lines; a blank one keeps its place, but a line break at the end begins no line."""
    for line in io.BytesIO(body):
        yield line.removesuffix(b"\n")


def write_csv(rows: Sequence[tuple[str, float | None, str]]) -> bytes:
    """(label, score, error) a row; score None is empty."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows((label, "" if score is None else f"{score:.6g}", error) for label, score, error in rows)
    return file.getvalue().encode()


def write_lines(values: Sequence[object]) -> bytes:
    """One JSON value a line."""
    return b"".join(json.dumps(value, ensure_ascii=False).encode() + b"\n" for value in values)
