"""Rows of CSV, TSV, JSON Lines and Parquet, read and written one after the other; never a whole file in memory.

A row that cannot be read keeps its place, with what is wrong with it. Bytes that are not UTF-8 pass through unchanged.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from client.errors import ConfigurationError

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".parquet": "parquet",
}

MAX_FIELD_CHARS = 16 * 2**20
"""Of one CSV cell. A quote that is never closed takes in the rest of the file; it should not take in the memory."""

NOT_UTF8 = "the text is not UTF-8"


@dataclass(frozen=True, slots=True)
class Row:
    """One record."""

    values: Mapping[str, Any]
    """By column, in the file's order."""
    text: str
    """"" if there is a problem."""
    problem: str = ""
    """Why there is no text."""


class InputError(ConfigurationError):
    """A file cannot be read or written; the message says which, where and why."""


def format_of(path: Path) -> str:
    """Raises InputError: the name's ending says nothing."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise InputError(f"{path}: {path.suffix or 'no ending'}; known are {', '.join(FORMATS)}") from None


class Source(Protocol):
    """A file of rows."""

    def rows(self) -> Iterator[Row]:
        """From the beginning. Raises InputError if the file breaks off in a way that hides where rows begin."""

    def columns(self) -> list[str]:
        """All that any row has."""

    def share(self) -> float:
        """Of the file that has been read, 0 to 1."""


def open_source(path: Path, text_column: str) -> Source:
    """Raises InputError: no such file, or no such column."""
    kind = format_of(path)
    try:
        if kind == "parquet":
            from client.files.parquet import ParquetSource  # pyarrow takes half a second to import

            return ParquetSource(path, text_column)
        if kind == "lines":
            return _Lines(path, text_column)
        return _Csv(path, text_column, "\t" if kind == "tsv" else ",")
    except OSError as exc:
        raise InputError(f"{path}: {exc.strerror or exc}") from exc


def missing_column(path: Path, column: str, columns: Iterable[str]) -> InputError:
    return InputError(f"{path}: no column {column!r}; there are {', '.join(map(repr, columns))}; see --text-column")


class _File:
    """A text file whose reading position is known."""

    def __init__(self, path: Path, text_column: str) -> None:
        self.path, self.text_column = path, text_column
        self._bytes = path.stat().st_size
        self._raw: BinaryIO | None = None

    def opened(self) -> io.TextIOWrapper:
        self._raw = self.path.open("rb")
        return io.TextIOWrapper(self._raw, "utf-8-sig", errors="surrogateescape", newline="")

    def share(self) -> float:
        if self._raw is None or not self._bytes:
            return 0.0
        return 1.0 if self._raw.closed else min(1.0, self._raw.tell() / self._bytes)


class _Csv(_File):
    def __init__(self, path: Path, text_column: str, delimiter: str) -> None:
        super().__init__(path, text_column)
        self._delimiter = delimiter
        with self.opened() as file:
            self._header = next(self._reader(file), [])
        if text_column not in self._header:
            raise missing_column(path, text_column, self._header)
        twice = sorted({name for name in self._header if self._header.count(name) > 1})
        if twice:
            raise InputError(f"{path}: column {twice[0]!r} stands in the header more than once")

    def _reader(self, file: io.TextIOWrapper) -> Iterator[list[str]]:
        csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARS))  # the whole process has one
        return csv.reader(file, delimiter=self._delimiter)

    def columns(self) -> list[str]:
        return list(self._header)

    def rows(self) -> Iterator[Row]:
        with self.opened() as file:
            reader = self._reader(file)
            next(reader, None)
            number = 0
            try:
                for cells in reader:
                    if cells:
                        number += 1
                        yield self._row(number, cells)
            except csv.Error as exc:
                hint = f"a quote that is never closed? The row after row {number} is where it begins"
                raise InputError(f"{self.path}: {exc}: {hint}") from exc

    def _row(self, number: int, cells: list[str]) -> Row:
        width = len(self._header)
        values = dict(zip(self._header, cells + [""] * (width - len(cells)), strict=False))
        if len(cells) != width:
            more = "; the surplus is left out" if len(cells) > width else ""
            return Row(values, "", f"row {number} has {len(cells)} cells, the header has {width}{more}")
        return with_text(values, values[self.text_column])


class _Lines(_File):
    def columns(self) -> list[str]:
        found: dict[str, None] = {}
        for row in self.rows():
            found.update(dict.fromkeys(row.values))
        return list(found)

    def rows(self) -> Iterator[Row]:
        with self.opened() as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield self._row(number, line)

    def _row(self, number: int, line: str) -> Row:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as exc:
            return Row({}, "", f"line {number} is not JSON: {exc}")
        if not isinstance(value, dict):
            return Row({}, "", f"line {number} is no object; expected {{{self.text_column!r}: ...}}")
        text = value.get(self.text_column)
        if not isinstance(text, str):
            what = "has no" if text is None else "has no text as its"
            return Row(value, "", f"line {number} {what} {self.text_column!r}")
        return with_text(value, text)


def with_text(values: Mapping[str, Any], text: str) -> Row:
    """A row, unless its text has bytes that were not UTF-8."""
    if text.isascii() or not any("\udc80" <= c <= "\udcff" for c in text):
        return Row(values, text)
    return Row(values, "", NOT_UTF8)


class Sink(Protocol):
    """A file being written."""

    def write(self, values: Mapping[str, Any]) -> None:
        """One row; what it lacks of the columns stays empty."""

    def close(self) -> None:
        """Everything is in the file."""


def open_sink(path: Path, kind: str, columns: Sequence[str], added: Mapping[str, type]) -> Sink:
    """A new file of a format.

    Args:
        path: where; what stands there is lost.
        kind: a value of `FORMATS`.
        columns: the rows' own and those that are added.
        added: the types of the latter, for the formats that have types; all others are strings there.
    """
    if kind == "parquet":
        from client.files.parquet import ParquetSink

        return ParquetSink(path, columns, added)
    if kind == "lines":
        return _LinesSink(path)
    return _CsvSink(path, columns, "\t" if kind == "tsv" else ",")


def cell(value: Any) -> str:
    """A value as CSV has it: strings as they are, nothing for null, JSON for lists and objects."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _writable(value)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _writable(text: str) -> str:
    """Half a surrogate pair, which only JSON's escapes can hold, becomes U+FFFD."""
    return text if text.isascii() else re.sub("[\ud800-\udc7f\udd00-\udfff]", "\ufffd", text)


class _CsvSink:
    def __init__(self, path: Path, columns: Sequence[str], delimiter: str) -> None:
        self._file = path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._writer = csv.writer(self._file, delimiter=delimiter, lineterminator="\n")
        self._columns = list(columns)
        self._writer.writerow(self._columns)

    def write(self, values: Mapping[str, Any]) -> None:
        self._writer.writerow([cell(values.get(name)) for name in self._columns])

    def close(self) -> None:
        self._file.close()


class _LinesSink:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", errors="surrogateescape", newline="")

    def write(self, values: Mapping[str, Any]) -> None:
        self._file.write(as_json(values) + "\n")

    def close(self) -> None:
        self._file.close()


def as_json(values: Mapping[str, Any]) -> str:
    """One line. Half a surrogate pair out of the input's own escapes stays an escape."""
    line = json.dumps(values, ensure_ascii=False, default=str)
    try:
        line.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        line = json.dumps(values, default=str)
    return line
