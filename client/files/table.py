"""Rows of CSV, TSV, JSON Lines and Parquet files, read and written one after the other at constant memory.

A row that cannot be read keeps its place and says what is wrong with it. Bytes that are not UTF-8 pass unchanged.
"""

import csv
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from client.errors import ConfigurationError

FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "lines", ".ndjson": "lines", ".parquet": "parquet"}
DELIMITERS = {"csv": ",", "tsv": "\t"}

MAX_FIELD_CHARS = 16 * 2**20
"""Characters of one CSV cell, at most: a quote that is never closed takes in the rest of the file."""

FORMULA = re.compile(r"(?:\A(?![+-][\d.]+\Z)\s*|[;\t\r\n][^\S\t\r\n]*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")
"""The place of a formula in a cell, before its =, +, - or @ or their full-width forms: at the beginning of the cell,
unless that is a signed number, or where a spreadsheet that splits at semicolons begins another cell.
See https://owasp.org/www-community/attacks/CSV_Injection."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file."""

    values: Mapping[str, Any]  # by column, in the file's order
    text: str  # "" if there is a problem
    problem: str = ""  # why there is no text


class InputError(ConfigurationError):
    """A file cannot be read or written; the message says which, where and why."""


def format_of(path: Path) -> str:
    """Return the value of `FORMATS` for the name's ending. Raises InputError: there is none."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise InputError(f"{path}: {path.suffix or 'no ending'}; known are {', '.join(FORMATS)}") from None


class Source(ABC):
    """A file of rows."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def columns(self) -> list[str]:
        """Return the names of all columns."""

    @abstractmethod
    def rows(self, text_column: str) -> Iterator[Row]:
        """Yield the rows from the beginning. Raises InputError: the file breaks off where rows cannot be told apart."""

    def check_column(self, name: str) -> None:
        """Raises InputError: the column does not exist, or more than once."""
        columns = self.columns()
        if name not in columns:
            shown = ", ".join(map(repr, columns))
            raise InputError(f"{self.path}: no column {name!r}; there are {shown}; see --text-column")
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise InputError(f"{self.path}: column {twice[0]!r} stands in the header more than once")


def open_source(path: Path) -> Source:
    """Open a file of rows. Raises InputError: there is no such file, or its format is not what its ending says."""
    kind = format_of(path)
    try:
        with path.open("rb"):
            pass
        if kind == "parquet":
            from client.files.parquet import ParquetSource  # pyarrow takes half a second to import

            return ParquetSource(path)
        return LinesSource(path) if kind == "lines" else CsvSource(path, DELIMITERS[kind])
    except OSError as exc:
        raise InputError(f"{path}: {exc.strerror or exc}") from exc


def _opened(path: Path) -> io.TextIOWrapper:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


class CsvSource(Source):
    """A CSV or TSV file, whose first line names the columns."""

    def __init__(self, path: Path, delimiter: str) -> None:
        super().__init__(path)
        self._delimiter = delimiter
        with _opened(path) as file:
            try:
                self._header = next(self._reader(file), [])
            except csv.Error as exc:
                raise InputError(f"{path}: the first line names no columns: {exc}") from exc

    def _reader(self, file: io.TextIOWrapper) -> Iterator[list[str]]:
        csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARS))  # the whole process has one
        return csv.reader(file, delimiter=self._delimiter, strict=True)  # else a quote left open swallows rows

    def columns(self) -> list[str]:
        return list(self._header)

    def rows(self, text_column: str) -> Iterator[Row]:
        with _opened(self.path) as file:
            reader = self._reader(file)
            next(reader, None)
            number = 0
            try:
                for number, cells in enumerate(filter(None, reader), 1):
                    yield self._row(number, cells, text_column)
            except csv.Error as exc:
                hint = f"a quote out of place or never closed? The row after row {number} is where it begins"
                raise InputError(f"{self.path}: {exc}: {hint}") from exc

    def _row(self, number: int, cells: list[str], text_column: str) -> Row:
        width = len(self._header)
        values = dict(zip(self._header, cells + [""] * (width - len(cells)), strict=False))
        if len(cells) != width:
            more = "; the surplus is left out" if len(cells) > width else ""
            return Row(values, "", f"row {number} has {len(cells)} cells, the header has {width}{more}")
        return with_text(values, values[text_column])


class LinesSource(Source):
    """A JSON Lines file: one object a line, each with columns of its own."""

    def columns(self) -> list[str]:
        return list({name: None for row in self.rows("") for name in row.values})

    def rows(self, text_column: str) -> Iterator[Row]:
        with _opened(self.path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield self._row(number, line, text_column)

    def check_column(self, name: str) -> None:
        """Check nothing: each line may have columns of its own, and a line without the text says so."""

    def _row(self, number: int, line: str, text_column: str) -> Row:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as exc:
            return Row({}, "", f"line {number} is not JSON: {exc}")
        if not isinstance(value, dict):
            return Row({}, "", f"line {number} is no object; expected {{{text_column!r}: ...}}")
        if isinstance(text := value.get(text_column), str):
            return with_text(value, text)
        return Row(value, "", f"line {number} has no {'' if text is None else 'text as its '}{text_column!r}")


def with_text(values: Mapping[str, Any], text: str) -> Row:
    """Return a row, with a problem if its text has bytes that were not UTF-8."""
    if text.isascii() or not any("\udc80" <= c <= "\udcff" for c in text):
        return Row(values, text)
    return Row(values, "", "the text is not UTF-8")


def write_csv(
    path: Path,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    delimiter: str,
    spreadsheet_safe: bool = False,
) -> None:
    """Write rows; what a row lacks of the columns stays empty. `spreadsheet_safe`: no cell is a formula."""
    shown = without_formula if spreadsheet_safe else cell
    quoting: Literal[0, 1] = csv.QUOTE_ALL if spreadsheet_safe else csv.QUOTE_MINIMAL
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=quoting)
        writer.writerow(map(shown, columns))
        writer.writerows([shown(row.get(name)) for name in columns] for row in rows)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON Lines. Half a surrogate pair out of the input's own escapes stays an escape."""
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, default=str)
            try:
                line.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                line = json.dumps(row, default=str)
            file.write(line + "\n")


def cell(value: Any) -> str:
    """Return a value as CSV has it: strings as they are, nothing for null, JSON for lists and objects."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case dict() | list():
            return json.dumps(value, ensure_ascii=False, default=str)
        case str():  # half a surrogate pair, which only JSON's escapes can hold, becomes U+FFFD
            return value if value.isascii() else re.sub("[\ud800-\udc7f\udd00-\udfff]", "\ufffd", value)
    return str(value)


def without_formula(value: Any) -> str:
    """Return a value as `cell` does, with an apostrophe before each formula."""
    return FORMULA.sub(r"\g<0>'", cell(value))
