"""Labelled examples from files: reading and checking.

CSV, TSV, JSON Lines and Parquet. Every problem of every file is collected and reported at once, before anything is
trained. Directories are read in `folders.py`, splitting is in `splits.py`, near-duplicates are in `duplicates.py`.
"""

import codecs
import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import DataError, Problem

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
LABEL_COLUMNS = ("label", "category")
TITLE_COLUMNS = ("title",)
GROUP_COLUMNS = ("near_dup_group", "group")

csv.field_size_limit(100_000_000)  # the default of 131,072 characters is less than a long article's page


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text. `label` is "" only where unlabelled rows were asked to be kept."""

    text: str
    label: str
    group: str | None
    """Examples of one group tell the same story and stay on one side of a split; None where the file does not say."""
    row: int


@dataclass(frozen=True)
class Columns:
    """Which columns to read; an empty name means: find it by its usual names."""

    text: str = "text"
    label: str = ""
    title: str = ""
    group: str = ""
    use_title: bool = True
    """Put the title, where there is one, in front of the text."""


def read_examples(
    path: Path, columns: Columns | None = None, *, encoding: str = "utf-8", skip_unlabelled: bool = False
) -> list[Example]:
    """Read one file.

    Args:
        path: its suffix, one of `SUFFIXES`, decides the format.
        columns: the columns to read.
        encoding: of text files; a byte-order mark is accepted.
        skip_unlabelled: leave out rows with an empty label rather than report them.

    Raises:
        DataError: with every problem of the file.
    """
    columns = columns or Columns()
    records = list(_read_records(path, encoding))
    if not records:
        raise DataError([Problem(str(path), 0, 0, "", "the file has no data rows")])
    names = dict.fromkeys(name for record in records for name in record.values)
    if not names:
        raise DataError([record.problem(path, "", record.broken) for record in records])
    fields = _find_columns(path, names, columns)
    problems: list[Problem] = []
    examples: list[Example] = []
    for record in records:
        found = list(_check(path, record, fields))
        label = record.values.get(fields.label)
        if skip_unlabelled and not found and _is_blank(label):
            continue
        if not found and _is_blank(label):
            found = [record.problem(path, fields.label, "the label is empty")]
        problems += found
        if not found:
            examples.append(_example(record, fields))
    if problems:
        raise DataError(problems)
    return examples


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 over the (label, text) pairs, whatever their order: the same data gives the same value."""
    digest = hashlib.sha256()
    for row in sorted(hashlib.sha256(f"{e.label}\0{e.text}".encode()).digest() for e in examples):
        digest.update(row)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Record:
    row: int
    line: int
    values: Mapping[str, Any]
    broken: str = ""
    """What is wrong with the record as a whole; then `values` may be empty."""

    def problem(self, path: Path, field: str, message: str) -> Problem:
        return Problem(str(path), self.row, self.line, field, message)


@dataclass(frozen=True)
class _Fields:
    text: str
    label: str
    title: str | None
    group: str | None


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _check(path: Path, record: _Record, fields: _Fields) -> Iterator[Problem]:
    if record.broken:
        yield record.problem(path, "", record.broken)
        return
    text, label = record.values.get(fields.text), record.values.get(fields.label)
    if _is_blank(text):
        yield record.problem(path, fields.text, "the text is empty")
    elif not isinstance(text, str):
        yield record.problem(path, fields.text, f"must be text, is {type(text).__name__}: {text!r:.60}")
    if not isinstance(label, str | int | None) or isinstance(label, bool):
        yield record.problem(path, fields.label, f"must be a label, is {type(label).__name__}: {label!r:.60}")
    elif isinstance(label, str) and not label.isprintable() and "\n" not in label.strip():
        yield record.problem(path, fields.label, f"a label with characters that cannot be shown: {label!r:.60}")
    elif isinstance(label, str) and "\n" in label.strip():
        yield record.problem(path, fields.label, f"a label of several lines; a lost quote? {label.strip()!r:.60}")


def _example(record: _Record, fields: _Fields) -> Example:
    title = record.values.get(fields.title) if fields.title else None
    text = record.values[fields.text]
    label = record.values.get(fields.label)
    group = record.values.get(fields.group) if fields.group else None
    return Example(
        text=text if _is_blank(title) else f"{title}\n\n{text}",
        label="" if label is None else str(label).strip(),
        group=None if _is_blank(group) else str(group),
        row=record.row,
    )


def _find_columns(path: Path, names: Iterable[str], columns: Columns) -> _Fields:
    present = [str(name) for name in names]
    problems = []

    def find(what: str, wanted: str, usual: Sequence[str], needed: bool) -> str | None:
        for name in (wanted,) if wanted else usual:
            if name in present:
                return name
        if needed or wanted:
            expected = repr(wanted) if wanted else " or ".join(map(repr, usual))
            problems.append(
                Problem(
                    str(path), 0, 0, "", f"no {what} column {expected}; the file has {', '.join(map(repr, present))}"
                )
            )
        return None

    text = find("text", columns.text, ("text",), True)
    label = find("label", columns.label, LABEL_COLUMNS, True)
    title = find("title", columns.title, TITLE_COLUMNS, False) if columns.use_title else None
    group = find("group", columns.group, GROUP_COLUMNS, False)
    if problems or text is None or label is None:
        raise DataError(problems)
    return _Fields(text, label, title, group)


def _read_records(path: Path, encoding: str) -> Iterator[_Record]:
    if not path.is_file():
        raise DataError([Problem(str(path), 0, 0, "", "no such file")])
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _read_parquet(path)
    elif suffix in (".csv", ".tsv"):
        yield from _read_csv(path, decode(path, encoding), "\t" if suffix == ".tsv" else ",")
    elif suffix in (".jsonl", ".ndjson"):
        yield from _read_jsonl(decode(path, encoding))
    else:
        raise DataError(
            [Problem(str(path), 0, 0, "", f"unknown format {suffix!r}; one of {', '.join(SUFFIXES)} is needed")]
        )


def decode(path: Path, encoding: str) -> str:
    """A text file's content; DataError that names the line where it is not in this encoding."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding)
    except LookupError:
        raise DataError([Problem(str(path), 0, 0, "", f"Python knows no encoding {encoding!r}")]) from None
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        message = (
            f"byte 0x{raw[exc.start]:02x} at offset {exc.start} is not {encoding}; save the file as UTF-8, "
            "or name its encoding with --encoding (latin-1 and cp1252 are common)"
        )
        raise DataError([Problem(str(path), 0, line, "", message)]) from None


def _read_csv(path: Path, content: str, delimiter: str) -> Iterator[_Record]:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        twice = sorted({name for name in header if name and header.count(name) > 1})
        if twice:
            raise DataError([Problem(str(path), 0, 1, "", f"columns named twice: {', '.join(map(repr, twice))}")])
        row, line = 0, reader.line_num + 1
        for cells in reader:
            if cells:  # csv gives [] for an empty line
                row += 1
                if len(cells) == len(header):
                    yield _Record(row, line, dict(zip(header, cells, strict=True)))
                else:
                    message = f"{len(cells)} fields where the header has {len(header)}; an unquoted {delimiter!r}?"
                    yield _Record(row, line, dict.fromkeys(header), message)
            line = reader.line_num + 1
    except csv.Error as exc:  # where the rows went wrong, the rest of the file cannot be trusted
        raise DataError([Problem(str(path), 0, reader.line_num, "", f"not valid CSV: {exc}")]) from exc


def _read_jsonl(content: str) -> Iterator[_Record]:
    row = 0
    for line, raw in enumerate(content.split("\n"), start=1):
        if not raw.strip():
            continue
        row += 1
        try:
            values = json.loads(raw)
        except (ValueError, RecursionError) as exc:
            yield _Record(row, line, {}, f"not valid JSON: {exc}")
            continue
        if not isinstance(values, dict):
            yield _Record(row, line, {}, f"must be a JSON object, is {type(values).__name__}")
            continue
        yield _Record(row, line, values)


def _read_parquet(path: Path) -> Iterator[_Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as exc:
        raise DataError([Problem(str(path), 0, 0, "", f"not a readable Parquet file: {exc}")]) from exc
    for row, values in enumerate(table.to_pylist(), start=1):
        yield _Record(row, 0, values)
