"""The public BBC News archive as one clean CSV: title, text, category, group, file.

D. Greene and P. Cunningham, "Practical Solutions to the Problem of Diagonal Dominance in Kernel Document Clustering",
ICML 2006. The texts are copyright of the BBC and offered for research.
"""

import csv
import hashlib
import io
import json
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.duplicates import find_groups, normalise
from training.data.files import replace_text
from training.errors import DataError, Problem

ARCHIVE_URLS = (
    "https://mlg.ucd.ie/files/datasets/bbc-fulltext.zip",
    "http://mlg.ucd.ie/files/datasets/bbc-fulltext.zip",
)
"""Tried in this order. The transport need not be trusted, because the content is checked."""
WORDS_SHA256 = "d9c87816b693a6c004f13872ddff56d4fa8acb31287537e36d6c8d4d833bacc6"
"""SHA-256 over category and words of the 2,225 articles, see `words_sha256`. The publisher gives no checksum of the
archive; this one was computed from a copy of the articles and does not depend on how the archive was packed."""
ARTICLES = {"business": 510, "entertainment": 386, "politics": 417, "sport": 511, "tech": 401}
"""Articles of each category, as the publisher describes the archive."""
MAX_ARCHIVE_BYTES = 64 * 1024 * 1024
MAX_ARTICLE_BYTES = 4 * 1024 * 1024
TIMEOUT_S = 60


@dataclass(frozen=True)
class Article:
    """One file of the archive: its first line is the title, the rest is the text."""

    category: str
    file: str
    title: str
    text: str


@dataclass(frozen=True)
class Prepared:
    """The CSV that `prepare` wrote."""

    output: Path
    rows: int
    groups: int
    sha256: str
    """SHA-256 of the archive."""

    def __str__(self) -> str:
        return f"wrote {self.output}: {self.rows} articles in {self.groups} groups; archive SHA-256 {self.sha256}"


def prepare(
    output: Path, *, archive: Path | None = None, sha256: str = "", urls: Sequence[str] = ARCHIVE_URLS
) -> Prepared:
    """Write the articles of the archive as one CSV, and its origin and hash to `NAME.source.json` beside it.

    Args:
        output: the CSV, which is written whole or not at all.
        archive: a local archive; None: fetch it from the first of `urls` that answers.
        sha256: required SHA-256 of the archive. Without it the articles must be those of BBC News.
        urls: URLs of the archive.

    Raises:
        DataError: the archive cannot be read, or its content is not the expected one. Nothing is written then.
        ConfigError: the output cannot be written.
    """
    raw, source = _fetch(urls) if archive is None else (_read(archive), archive.name)
    digest = hashlib.sha256(raw).hexdigest()
    if sha256 and digest != sha256.lower():
        raise DataError(Problem(source, f"its SHA-256 is {digest}, but {sha256.lower()} was required"))
    articles = _articles(source, raw)
    if not sha256:
        _check_content(source, articles)
    groups = find_groups([article.text for article in articles])
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["title", "text", "category", "group", "file"])
    writer.writerows([a.title, a.text, a.category, group, a.file] for a, group in zip(articles, groups, strict=True))
    prepared = Prepared(output, len(articles), len(set(groups)), digest)
    replace_text(output, buffer.getvalue())
    provenance = {"source": source, "sha256": digest, "rows": prepared.rows, "groups": prepared.groups}
    replace_text(output.with_name(output.name + ".source.json"), json.dumps(provenance, indent=2) + "\n")
    return prepared


def words_sha256(articles: Sequence[Article]) -> str:
    """Return the SHA-256 over category and words of the articles.

    It does not depend on their order, nor on case, white space, punctuation and the encoding of the archive.
    """
    rows = (f"{a.category}\0{normalise(a.title)}\0{normalise(a.text)}".encode() for a in articles)
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(row).digest() for row in rows))).hexdigest()


def _check_content(source: str, articles: Sequence[Article]) -> None:
    if words_sha256(articles) != WORDS_SHA256:
        counts = Counter(article.category for article in articles)
        found = ", ".join(f"{category} {counts[category]}" for category in sorted(counts))
        expected = ", ".join(f"{category} {count}" for category, count in ARTICLES.items())
        differ = "their words differ" if counts == ARTICLES else f"expected are {expected}"
        message = (
            f"this is not the BBC News archive: it has {found}; {differ}. If you trust this archive all the same, "
            f"pass it with --archive and its own --sha256"
        )
        raise DataError(Problem(source, message))


def _articles(source: str, raw: bytes) -> list[Article]:
    """Return the articles of `.../CATEGORY/NUMBER.txt`, in the order of their names; report all problems at once."""
    try:
        files = zipfile.ZipFile(io.BytesIO(raw))
    except zipfile.BadZipFile as exc:
        raise DataError(Problem(source, f"not a zip archive: {exc}")) from exc
    articles: list[Article] = []
    problems: list[Problem] = []
    for info in sorted(files.infolist(), key=lambda info: info.filename):
        parts = info.filename.split("/")
        hidden = any(part.startswith((".", "__")) for part in parts)
        if info.is_dir() or len(parts) < 2 or hidden or not info.filename.endswith(".txt"):
            continue
        where = f"{source}:{info.filename}"
        if info.file_size > MAX_ARTICLE_BYTES:
            problems.append(Problem(where, f"{info.file_size} bytes are too many for a news article"))
            continue
        try:
            title, _, text = _decode(files.read(info)).strip().partition("\n")
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as exc:
            problems.append(Problem(where, f"damaged: {exc}"))
            continue
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if title.strip() and lines:
            articles.append(Article(parts[-2], "/".join(parts[-2:]), title.strip(), "\n".join(lines)))
        else:
            problems.append(Problem(where, "needs a title in the first line and a text after it", line=1))
    if not articles and not problems:
        problems.append(Problem(source, "no CATEGORY/NAME.txt in the archive"))
    if problems:
        raise DataError(*problems)
    return articles


def _decode(raw: bytes) -> str:
    """Decode a file: the archive is ASCII with Latin-1 pound signs, but copies of it may have been saved as UTF-8."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _fetch(urls: Sequence[str]) -> tuple[bytes, str]:
    """Return the content of the first URL that answers, and that URL."""
    problems = []
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
                raw: bytes = response.read(MAX_ARCHIVE_BYTES + 1)
        except (urllib.error.URLError, OSError) as exc:
            problems.append(Problem(url, f"cannot be fetched: {exc}; download it elsewhere and pass it with --archive"))
            continue
        if len(raw) <= MAX_ARCHIVE_BYTES:
            return raw, url
        problems.append(Problem(url, f"more than {MAX_ARCHIVE_BYTES} bytes, which the BBC News archive has not"))
    raise DataError(*problems)


def _read(archive: Path) -> bytes:
    try:
        return archive.read_bytes()
    except OSError as exc:
        raise DataError(Problem(archive, f"cannot be read: {exc.strerror}")) from exc
