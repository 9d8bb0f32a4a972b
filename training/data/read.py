"""Reading and checking of labelled texts: CSV, TSV, JSON Lines, Parquet, and directories.

Every problem of every file is collected and reported at once, before anything is trained.
"""

import csv
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from training.config import DataConfig
from training.data.files import open_text, read_text
from training.errors import DataError, Problem

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
LABEL_COLUMNS = ("label", "category")
TITLE_COLUMNS = ("title",)
NEAR_DUPLICATE_COLUMN = "near_dup_group"
"""A column of this name holds near-duplicate groups that are known already, so that they need no search."""
GROUP_COLUMNS = (NEAR_DUPLICATE_COLUMN, "group")

_SURROGATE = re.compile("[\ud800-\udfff]")

csv.field_size_limit(100_000_000)  # the default of 131,072 characters is less than a long article's page


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text."""

    text: str
    label: str
    group: str | None
    """Examples of one group stay on one side of a split; None if the file does not say."""
    row: int
    """Data row in its file, counted from 1."""
    group_column: str = ""
    """Name of the column that gave the group; empty without a group."""
    titled: bool = False
    """True if `text` begins with the row's title and a blank line."""


def read_examples(path: Path, columns: DataConfig | None = None, *, skip_unlabelled: bool = False) -> list[Example]:
    """Read one file.

    Args:
        path: the file; its suffix, one of `SUFFIXES`, decides the format.
        columns: names of the columns, and the encoding of text files.
        skip_unlabelled: leave out rows with an empty label instead of reporting them.

    Raises:
        DataError: the file has problems, all of which it lists.
    """
    columns = columns or DataConfig()
    problems: list[Problem] = []
    examples: list[Example] = []
    fields = _find_columns(path, columns)
    for record in _read_records(path, columns.encoding):
        found = list(_check(path, record, fields))
        if not found and _is_blank(record.values.get(fields.label)):
            if skip_unlabelled:
                continue
            found = [record.problem(path, fields.label, "the label is empty")]
        problems += found
        if not found:
            examples.append(_example(record, fields))
    if problems:
        raise DataError(*problems)
    return examples


def read_each(files: Iterable[Path], read: Callable[[Path], Iterable[Example]]) -> list[Example]:
    """Read several files, in their order.

    Raises:
        DataError: files have problems, all of which it lists.
    """
    examples: list[Example] = []
    problems: list[Problem] = []
    for file in files:
        try:
            examples += read(file)
        except DataError as exc:
            problems += exc.problems
    if problems:
        raise DataError(*problems)
    return examples


def read_folder(path: Path, columns: DataConfig | None = None) -> list[Example]:
    """Read all files of a directory and its folders, in the order of their names; or one folder per label.

    Args:
        path: the directory. Names that begin with a dot or an underscore (`_SUCCESS`) are ignored.
        columns: names of the columns, which are looked for in each file by itself, and the encoding of text files.

    Raises:
        DataError: files have problems, all of which it lists. A file of unknown format is one, because it may be data.
    """
    if class_files(path) and not data_files(path):
        return read_class_folders(path, (columns or DataConfig()).encoding)
    files = _visible_files(path)
    if not files:
        raise DataError(Problem(path, "no files in this directory"))
    return read_each(files, lambda file: read_examples(file, columns))


def read_class_folders(path: Path, encoding: str = "utf-8") -> list[Example]:
    """Read a directory with one folder per label and one `.txt` file per text, as the BBC archive is laid out.

    Raises:
        DataError: files have problems, all of which it lists.
    """

    def read(file: Path) -> Iterator[Example]:
        text = read_text(file, encoding)
        if not text.strip():
            raise DataError(Problem(file, "the text is empty"))
        yield Example(text, file.parent.name, None, next(rows))

    rows = itertools.count(1)
    return read_each(class_files(path), read)


def data_files(path: Path) -> list[Path]:
    """Return the files of a directory and its folders whose suffix names a format."""
    return [file for file in _visible_files(path) if file.suffix.lower() in SUFFIXES]


def class_files(path: Path) -> list[Path]:
    """Return the `.txt` files in a directory's folders, without hidden ones."""
    return sorted(
        file
        for file in path.glob("*/*.txt")
        if file.is_file() and not file.name.startswith(".") and not file.parent.name.startswith((".", "__"))
    )


def _visible_files(path: Path) -> list[Path]:
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
    )


def fingerprint(examples: Iterable[Example]) -> str:
    """Return the SHA-256 over the (label, text) pairs, which does not depend on their order."""
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
    """The reason why the record as a whole cannot be read; `values` may then be empty."""

    def problem(self, path: Path, field: str, message: str) -> Problem:
        return Problem(path, message, self.row, self.line, field)


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
    elif surrogate := _SURROGATE.search(text):
        yield record.problem(path, fields.text, f"is not valid Unicode: a half character at {surrogate.start()}")
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
        label="" if label is None else sys.intern(str(label).strip()),
        group=None if _is_blank(group) else sys.intern(str(group)),
        row=record.row,
        group_column="" if _is_blank(group) else str(fields.group),
        titled=not _is_blank(title),
    )


def _find_columns(path: Path, columns: DataConfig) -> _Fields:
    """Return the columns of a file, which any of its records may be the first to have."""
    present: dict[str, None] = {}
    rows = 0
    for record in _read_records(path, columns.encoding):
        present.update(dict.fromkeys(record.values))
        rows += 1
    if not rows:
        raise DataError(Problem(path, "the file has no data rows"))
    if not present:
        raise DataError(*(record.problem(path, "", record.broken) for record in _read_records(path, columns.encoding)))
    problems = []

    def find(what: str, wanted: str, usual: Sequence[str], needed: bool) -> str | None:
        for name in (wanted,) if wanted else usual:
            if name in present:
                return name
        if needed or wanted:
            expected = repr(wanted) if wanted else " or ".join(map(repr, usual))
            found = ", ".join(map(repr, present))
            problems.append(Problem(path, f"no {what} column {expected}; the file has {found}"))
        return None

    text = find("text", columns.text_column, ("text",), True)
    label = find("label", columns.label_column, LABEL_COLUMNS, True)
    title = find("title", columns.title_column, TITLE_COLUMNS, False) if columns.use_title else None
    group = find("group", columns.group_column, GROUP_COLUMNS, False)
    if problems or text is None or label is None:
        raise DataError(*problems)
    return _Fields(text, label, title, group)


def _read_records(path: Path, encoding: str) -> Iterator[_Record]:
    """Yield the records of a file one after another, so that memory holds no second copy of it."""
    if not path.is_file():
        raise DataError(Problem(path, "no such file"))
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _read_parquet(path)
    elif suffix in (".csv", ".tsv"):
        with open_text(path, encoding, newline="") as file:
            yield from _read_csv(path, file, "\t" if suffix == ".tsv" else ",")
    elif suffix in (".jsonl", ".ndjson"):
        with open_text(path, encoding, newline="\n") as file:
            yield from _read_jsonl(file)
    else:
        raise DataError(Problem(path, f"unknown format {suffix!r}; one of {', '.join(SUFFIXES)} is needed"))


def _read_csv(path: Path, file: TextIO, delimiter: str) -> Iterator[_Record]:
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        twice = sorted({name for name in header if name and header.count(name) > 1})
        if twice:
            raise DataError(Problem(path, f"columns named twice: {', '.join(map(repr, twice))}", line=1))
        row, line = 0, reader.line_num + 1
        for cells in reader:
            if cells:  # csv gives [] for an empty line
                row += 1
                if len(cells) == len(header):
                    yield _Record(row, line, dict(zip(header, cells, strict=True)))
                else:
                    message = f"number of fields is {len(cells)} where the header has {len(header)}"
                    if len(cells) > len(header):
                        message += f"; an unquoted {delimiter!r}?"
                    yield _Record(row, line, dict.fromkeys(header), message)
            line = reader.line_num + 1
    except csv.Error as exc:  # where the rows went wrong, the rest of the file cannot be trusted
        raise DataError(Problem(path, f"not valid CSV: {exc}", line=reader.line_num)) from exc


def _read_jsonl(file: TextIO) -> Iterator[_Record]:
    row = 0
    for line, raw in enumerate(file, start=1):
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

    row = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1000):
            for values in batch.to_pylist():
                row += 1
                yield _Record(row, 0, values)
    except (pyarrow.ArrowException, OSError) as exc:
        raise DataError(Problem(path, f"not a readable Parquet file: {exc}")) from exc
