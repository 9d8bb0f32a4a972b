"""Parquet for `client.files.table`, by pyarrow: read and written by row groups."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from client.errors import ConfigurationError
from client.files.table import InputError, Row, cell, missing_column, with_text

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    raise ConfigurationError("Parquet needs pyarrow (`pip install pyarrow`)") from None

ROWS = 1024
"""Read at once."""

GROUP_ROWS = 8192
"""Of a row group that is written."""

TYPES = {float: pa.float64(), bool: pa.bool_(), int: pa.int64(), str: pa.string()}


class ParquetSource:
    """A file of rows; raises InputError as `open_source` does."""

    def __init__(self, path: Path, text_column: str) -> None:
        self._path, self._text_column = path, text_column
        self._done, self._all = 0, 1
        try:
            with pq.ParquetFile(path) as file:
                self.schema, self._all = file.schema_arrow, file.metadata.num_rows
        except pa.ArrowException as exc:
            raise InputError(f"{path}: not a Parquet file: {exc}") from exc
        if text_column not in self.schema.names:
            raise missing_column(path, text_column, self.schema.names)
        twice = sorted({name for name in self.schema.names if self.schema.names.count(name) > 1})
        if twice:
            raise InputError(f"{path}: there is more than one column {twice[0]!r}")

    def columns(self) -> list[str]:
        return list(self.schema.names)

    def share(self) -> float:
        return self._done / self._all if self._all else 1.0

    def batches(self) -> Iterator[Any]:
        """Record batches of at most `ROWS`."""
        self._done = 0
        with pq.ParquetFile(self._path) as file:
            batches = file.iter_batches(batch_size=ROWS)
            while True:
                try:
                    batch = next(batches, None)
                except (pa.ArrowException, OSError) as exc:
                    raise InputError(f"{self._path}: cannot be read after row {self._done}: {exc}") from exc
                if batch is None:
                    return
                self._done += batch.num_rows
                yield batch

    def rows(self) -> Iterator[Row]:
        number = 0
        for batch in self.batches():
            for values in _records(batch):
                number += 1
                text = values[self._text_column]
                if isinstance(text, str):
                    yield with_text(values, text)
                else:
                    what = "is null" if text is None else f"is of type {type(text).__name__}"
                    yield Row(values, "", f"row {number}: {self._text_column!r} {what}, a string is expected")


def _records(batch: Any) -> Iterator[dict[str, Any]]:
    columns = {name: _values(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _values(column: Any) -> list[Any]:
    """As Python's; bytes among strings that are not UTF-8 as `client.files.table` has them."""
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise
        raw = column.cast(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
        return [value if value is None else value.decode("utf-8", "surrogateescape") for value in raw.to_pylist()]
    return values


class ParquetSink:
    """A file being written out of rows whose own columns become strings."""

    def __init__(self, path: Path, columns: Sequence[str], added: Mapping[str, type]) -> None:
        self._schema = pa.schema([(name, TYPES[added.get(name, str)]) for name in columns])
        self._writer = pq.ParquetWriter(path, self._schema)
        self._rows: list[Mapping[str, Any]] = []

    def write(self, values: Mapping[str, Any]) -> None:
        self._rows.append(values)
        if len(self._rows) == GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = [
                pa.array([self._value(row.get(field.name), field.type) for row in self._rows], field.type)
                for field in self._schema
            ]
            self._writer.write_table(pa.table(columns, schema=self._schema))
            self._rows = []

    @staticmethod
    def _value(value: Any, kind: Any) -> Any:
        if value is None or kind != pa.string():
            return value
        return cell(value).encode("utf-8", "replace").decode()

    def close(self) -> None:
        self._flush()
        self._writer.close()


def merge(source: ParquetSource, results: Iterator[Mapping[str, Any]], added: Mapping[str, type], path: Path) -> None:
    """The source's columns as they are, and the results' beside them."""
    fields = [pa.field(name, TYPES[kind]) for name, kind in added.items()]
    schema = source.schema
    for field in fields:
        schema = schema.append(field)
    with pq.ParquetWriter(path, schema) as writer:
        held: list[Any] = []
        for batch in source.batches():
            rows = [next(results) for _ in range(batch.num_rows)]
            columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in fields]
            held.append(pa.record_batch([*batch.columns, *columns], schema=schema))
            if sum(one.num_rows for one in held) >= GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(held))
                held = []
        if held:
            writer.write_table(pa.Table.from_batches(held))
