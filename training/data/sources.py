"""Data that is not on this machine: fetched once, read like any other, named in messages by where it came from."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import fsspec

from training.errors import DataError, Problem


def name_of(source: str) -> str:
    """The last part of a path or URL, without a query: signed URLs carry a secret there."""
    return source.partition("?")[0].rstrip("/").rpartition("/")[2]


@contextmanager
def local_copy(source: str) -> Iterator[Path]:
    """A local path of a file or directory.

    Args:
        source: a local path, given back as it is; or anything fsspec opens (`s3://...` with s3fs installed,
            `https://...` with aiohttp), copied to a temporary place that goes when the context ends.

    Raises:
        DataError: it cannot be fetched. One raised within the context comes out with the source's name in place of
            the temporary one.
    """
    if "://" not in source:
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="data.") as directory:
        copy = Path(directory) / (name_of(source) or "data")
        try:
            files, path = fsspec.url_to_fs(source)
            files.get(path, str(copy), recursive=files.isdir(path))
        except Exception as exc:  # each file system raises its own
            raise DataError([Problem(source, 0, 0, "", f"cannot be fetched: {exc!r:.300}")]) from exc
        try:
            yield copy
        except DataError as exc:
            renamed = [replace(p, file=p.file.replace(str(copy), source.rstrip("/"))) for p in exc.problems]
            raise DataError(renamed) from exc
