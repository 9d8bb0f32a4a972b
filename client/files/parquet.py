"""Parquet files, by pyarrow: read and written by row groups."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from client.errors import ConfigurationError
from client.files.table import InputError, Row, Source, cell, with_text

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    raise ConfigurationError("Parquet needs pyarrow (`pip install pyarrow`)") from None

ROWS = 1024  # read at once
GROUP_ROWS = 8192  # of a row group that is written
TYPES = {float: pa.float64(), bool: pa.bool_(), int: pa.int64(), str: pa.string()}


class ParquetSource(Source):
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self.schema = pq.read_schema(path)
        except pa.ArrowException as exc:
            raise InputError(f"{path}: not a Parquet file: {exc}") from exc

    def columns(self) -> list[str]:
        return list(self.schema.names)

    def batches(self, rows: int) -> Iterator[Any]:
        """Yield record batches of at most so many rows."""
        done = 0
        with pq.ParquetFile(self.path) as file:
            batches = file.iter_batches(batch_size=rows)
            while True:
                try:
                    batch = next(batches, None)
                except (pa.ArrowException, OSError) as exc:
                    raise InputError(f"{self.path}: cannot be read after row {done}: {exc}") from exc
                if batch is None:
                    return
                done += batch.num_rows
                yield batch

    def rows(self, text_column: str) -> Iterator[Row]:
        number = 0
        for batch in self.batches(ROWS):
            for cells in zip(*map(_values, batch.columns), strict=True):
                number += 1
                values = dict(zip(batch.schema.names, cells, strict=True))
                text = values[text_column]
                if isinstance(text, str):
                    yield with_text(values, text)
                else:
                    what = "is null" if text is None else f"is of type {type(text).__name__}"
                    yield Row(values, "", f"row {number}: {text_column!r} {what}, a string is expected")


def _values(column: Any) -> list[Any]:
    """Return a column's values; bytes that are not UTF-8 become surrogates, as in `client.files.table`."""
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise
        raw = column.cast(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
        return [value if value is None else value.decode("utf-8", "surrogateescape") for value in raw.to_pylist()]
    return values


def write_parquet(
    path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], added: Mapping[str, type]
) -> None:
    """Write rows whose own columns become strings; the added ones have types."""
    schema = pa.schema([(name, TYPES[added.get(name, str)]) for name in columns])
    remaining = iter(rows)
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(remaining, GROUP_ROWS)):
            arrays = [pa.array([_cell(row.get(f.name), f.type) for row in group], f.type) for f in schema]
            writer.write_table(pa.table(arrays, schema=schema))


def _cell(value: Any, kind: Any) -> Any:
    return value if value is None or kind != pa.string() else cell(value).encode("utf-8", "replace").decode()


def merge(source: ParquetSource, results: Iterator[Mapping[str, Any]], added: Mapping[str, type], path: Path) -> None:
    """Write the source's columns as they are, and the results beside them."""
    fields = [pa.field(name, TYPES[kind]) for name, kind in added.items()]
    schema = pa.schema([*source.schema, *fields], source.schema.metadata)
    with pq.ParquetWriter(path, schema) as writer:
        for batch in source.batches(GROUP_ROWS):
            rows = list(islice(results, batch.num_rows))
            columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in fields]
            writer.write_batch(pa.record_batch([*batch.columns, *columns], schema=schema))
