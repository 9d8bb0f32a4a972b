"""The public BBC News archive as one clean CSV: title, text, category, group.

D. Greene and P. Cunningham, "Practical Solutions to the Problem of Diagonal Dominance in Kernel Document Clustering",
ICML 2006. The texts are copyright of the BBC and offered for research.
"""

import csv
import hashlib
import io
import json
import os
import urllib.error
import urllib.request
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from training.data.duplicates import find_groups
from training.errors import DataError, Problem

ARCHIVE_URL = "http://mlg.ucd.ie/files/datasets/bbc-fulltext.zip"
MAX_ARCHIVE_BYTES = 64 * 1024 * 1024
MAX_ARTICLE_BYTES = 4 * 1024 * 1024
TIMEOUT_S = 60


@dataclass(frozen=True)
class Article:
    """One file of the archive: its first line is the title, the rest the text."""

    category: str
    file: str
    title: str
    text: str


@dataclass(frozen=True)
class Summary:
    """What `prepare` did."""

    output: Path
    rows: int
    groups: int
    sha256: str

    def __str__(self) -> str:
        return f"wrote {self.output}: {self.rows} articles in {self.groups} groups; archive SHA-256 {self.sha256}"


def prepare(output: Path, *, archive: Path | None = None, sha256: str = "", url: str = ARCHIVE_URL) -> Summary:
    """Write the archive's articles as one CSV, and beside it `NAME.source.json` with the archive's origin and hash.

    The archive's publisher gives no checksum, so none is built in: the hash found is recorded, and can be demanded
    the next time.

    Args:
        output: the CSV. Written whole or not at all.
        archive: a local archive; fetched from `url` if None.
        sha256: refuse an archive with another hash.

    Raises:
        DataError: the archive cannot be had, has another hash, or holds articles that cannot be read.
    """
    if archive is None:
        raw, source = _fetch(url), url
    else:
        raw, source = _read(archive), archive.name
    digest = hashlib.sha256(raw).hexdigest()
    if sha256 and digest != sha256.lower():
        raise DataError([Problem(source, 0, 0, "", f"its SHA-256 is {digest}, {sha256.lower()} was asked for")])
    articles = _articles(source, raw)
    groups = find_groups([article.text for article in articles])
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["title", "text", "category", "group", "file"])
    writer.writerows([a.title, a.text, a.category, group, a.file] for a, group in zip(articles, groups, strict=True))
    summary = Summary(output, len(articles), len(set(groups)), digest)
    _write(output, buffer.getvalue())
    provenance = {"source": source, "sha256": digest, "rows": summary.rows, "groups": summary.groups}
    _write(output.with_name(output.name + ".source.json"), json.dumps(provenance, indent=2) + "\n")
    return summary


def _articles(source: str, raw: bytes) -> list[Article]:
    """The articles of `.../CATEGORY/NUMBER.txt`, in the order of their names; all problems reported at once."""
    try:
        files = zipfile.ZipFile(io.BytesIO(raw))
    except zipfile.BadZipFile as exc:
        raise DataError([Problem(source, 0, 0, "", f"not a zip archive: {exc}")]) from exc
    articles: list[Article] = []
    problems: list[Problem] = []
    for info in sorted(files.infolist(), key=lambda info: info.filename):
        parts = info.filename.split("/")
        hidden = any(part.startswith((".", "__")) for part in parts)
        if info.is_dir() or len(parts) < 2 or hidden or not info.filename.endswith(".txt") or parts[-1] == "README.TXT":
            continue
        where = f"{source}:{info.filename}"
        if info.file_size > MAX_ARTICLE_BYTES:
            problems.append(Problem(where, 0, 0, "", f"{info.file_size} bytes are no news article"))
            continue
        try:
            title, _, text = _decode(files.read(info)).strip().partition("\n")
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as exc:
            problems.append(Problem(where, 0, 0, "", f"damaged: {exc}"))
            continue
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not title.strip() or not lines:
            problems.append(Problem(where, 0, 1, "", "a title in the first line and a text after it are needed"))
            continue
        articles.append(Article(parts[-2], "/".join(parts[-2:]), title.strip(), "\n".join(lines)))
    if not articles and not problems:
        problems.append(Problem(source, 0, 0, "", "no CATEGORY/NAME.txt in the archive"))
    if problems:
        raise DataError(problems)
    return articles


def _decode(raw: bytes) -> str:
    """The archive is ASCII with a few Latin-1 pound signs; copies of it saved as UTF-8 are read as that."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            raw: bytes = response.read(MAX_ARCHIVE_BYTES + 1)
    except (urllib.error.URLError, OSError) as exc:
        message = f"cannot be fetched: {exc}; download it elsewhere and pass it with --archive"
        raise DataError([Problem(url, 0, 0, "", message)]) from exc
    if len(raw) > MAX_ARCHIVE_BYTES:
        raise DataError([Problem(url, 0, 0, "", f"more than {MAX_ARCHIVE_BYTES} bytes; not the BBC archive")])
    return raw


def _read(archive: Path) -> bytes:
    try:
        return archive.read_bytes()
    except OSError as exc:
        raise DataError([Problem(str(archive), 0, 0, "", f"cannot be read: {exc.strerror}")]) from exc


def _write(path: Path, content: str) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(content, encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as exc:
        with suppress(OSError):
            unfinished.unlink()
        raise DataError([Problem(str(path), 0, 0, "", f"cannot be written: {exc}")]) from exc
