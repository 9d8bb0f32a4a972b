"""Access to files: remote ones are copied once, text is decoded, output is replaced in one step."""

import codecs
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import fsspec

from training.errors import ConfigError, DataError, Problem


def name_of(source: str) -> str:
    """Return the last part of a path or URL without its query, which carries the secret of a signed URL."""
    return source.partition("?")[0].rstrip("/").rpartition("/")[2]


@contextmanager
def local_copy(source: str) -> Iterator[Path]:
    """Give a local path of a file or directory.

    Args:
        source: a local path, which is returned as it is; or a URL that fsspec opens (`s3://...` with s3fs installed,
            `https://...` with aiohttp), which is copied to a temporary directory until the context ends.

    Raises:
        DataError: the source cannot be fetched. A DataError raised within the context names the source instead of
            the temporary copy.
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
            raise DataError(Problem(source, f"cannot be fetched: {exc!r:.300}")) from exc
        try:
            yield copy
        except DataError as exc:
            shown = source.rstrip("/")
            raise DataError(*(replace(p, file=str(p.file).replace(str(copy), shown)) for p in exc.problems)) from exc


def read_text(path: Path, encoding: str) -> str:
    """Return the content of a text file; a byte-order mark of UTF-8 is dropped.

    Raises:
        DataError: the encoding does not exist, or the file is not in it; the message names the line.
    """
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding)
    except LookupError:
        raise DataError(Problem(path, f"Python knows no encoding {encoding!r}")) from None
    except UnicodeDecodeError as exc:
        message = (
            f"byte 0x{raw[exc.start]:02x} at offset {exc.start} is not {encoding}; save the file as UTF-8, "
            "or name its encoding with --encoding (latin-1 and cp1252 are common)"
        )
        raise DataError(Problem(path, message, line=raw.count(b"\n", 0, exc.start) + 1)) from None


@contextmanager
def open_text(path: Path, encoding: str, newline: str) -> Iterator[TextIO]:
    """Open a text file for reading, as `read_text` would read it; `newline` is that of `open`.

    Raises:
        DataError: as `read_text`; wrong bytes are found where they are read.
    """
    try:
        is_utf8 = codecs.lookup(encoding).name == "utf-8"
        file = path.open(encoding="utf-8-sig" if is_utf8 else encoding, newline=newline)
    except LookupError:
        raise DataError(Problem(path, f"Python knows no encoding {encoding!r}")) from None
    with file:
        try:
            yield file
        except UnicodeDecodeError:
            read_text(path, encoding)  # finds the line and the offset
            raise


def replace_text(path: Path, content: str) -> None:
    """Write a text file whole or not at all; it is on the disk when this returns. Makes its directory if needed.

    Raises:
        ConfigError: the file cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as exc:
        with suppress(OSError):
            unfinished.unlink()
        raise ConfigError(f"{path} cannot be written: {exc}") from exc
