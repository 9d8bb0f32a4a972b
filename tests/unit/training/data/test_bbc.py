import csv
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.unit.training.data.test_duplicates import STORY
from training.data import bbc
from training.data.bbc import ARTICLES, Article, Prepared, prepare, words_sha256
from training.data.read import read_examples
from training.errors import ConfigError, DataError

FILES = {
    "bbc/README.TXT": b"Consists of 2225 documents",
    "bbc/business/001.txt": "Firm's profit up\n\nProfits rose to £5m.\n\nShares fell.\n".encode("latin-1"),
    "bbc/business/002.txt": f"Bridge\n{STORY}\n".encode(),
    "bbc/sport/001.txt": f"Bridge again\n{STORY} More.\n".encode(),
    "__MACOSX/bbc/sport/._001.txt": b"junk",
    "bbc/sport/": b"",
}


def archive(files: dict[str, bytes] = FILES) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        for name, content in files.items():
            written.writestr(name, content)
    return buffer.getvalue()


def prepared(output: Path, archive: Path) -> Prepared:
    """Prepare an archive of other articles, which needs its own checksum."""
    return prepare(output, archive=archive, sha256=hashlib.sha256(archive.read_bytes()).hexdigest())


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "bbc-fulltext.zip"
    path.write_bytes(archive())
    return path


def test_archive_becomes_one_clean_csv(local: Path, tmp_path: Path) -> None:
    made = prepared(tmp_path / "out" / "bbc.csv", local)
    with made.output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["category"], row["file"], row["title"]) for row in rows] == [
        ("business", "business/001.txt", "Firm's profit up"),
        ("business", "business/002.txt", "Bridge"),
        ("sport", "sport/001.txt", "Bridge again"),
    ]
    assert rows[0]["text"] == "Profits rose to £5m.\nShares fell."
    assert rows[1]["group"] == rows[2]["group"] != rows[0]["group"]
    assert (made.rows, made.groups) == (3, 2)
    assert [e.label for e in read_examples(made.output)] == ["business", "business", "sport"]


def test_origin_and_checksum_are_recorded(local: Path, tmp_path: Path) -> None:
    prepared(tmp_path / "bbc.csv", local)
    recorded = json.loads((tmp_path / "bbc.csv.source.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256(local.read_bytes()).hexdigest()
    assert recorded == {"source": "bbc-fulltext.zip", "sha256": digest, "rows": 3, "groups": 2}
    prepare(tmp_path / "bbc.csv", archive=local, sha256=digest.upper())


def test_another_checksum_is_refused_and_nothing_written(local: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"its SHA-256 is .*, but 00 was required"):
        prepare(tmp_path / "bbc.csv", archive=local, sha256="00")
    assert [path.name for path in tmp_path.iterdir()] == [local.name]


def test_other_articles_than_the_bbcs_are_refused_and_nothing_written(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = r"not the BBC News archive: it has business 2, sport 1; expected are business 510"
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "bbc.csv", archive=local)
    monkeypatch.setattr(bbc, "ARTICLES", {"business": 2, "sport": 1})
    with pytest.raises(DataError, match="it has business 2, sport 1; their words differ"):
        prepare(tmp_path / "bbc.csv", archive=local)
    assert [path.name for path in tmp_path.iterdir()] == [local.name]


def test_articles_are_known_by_their_words_however_they_are_packed() -> None:
    one, two = Article("sport", "1.txt", "A title", "First line.\nIt won £5."), Article("tech", "2.txt", "B", "x y")
    again = [Article("tech", "3.txt", "B", "x  y"), Article("sport", "1.txt", "A title", "First line. It won #5.")]
    assert words_sha256([one, two]) == words_sha256(again)
    assert words_sha256([one, two]) != words_sha256([one, Article("sport", "2.txt", "B", "x y")])
    assert words_sha256([one, two]) != words_sha256([one, two, two])


def test_the_real_articles_are_accepted(shared: Path, tmp_path: Path) -> None:
    with (shared / "data" / "bbc" / "bbc_original.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    texts = {f"bbc/{row['file']}": f"{row['title']}\n\n{row['text']}\n".encode("latin-1") for row in rows}
    (tmp_path / "a.zip").write_bytes(archive(texts))
    made = prepare(tmp_path / "bbc.csv", archive=tmp_path / "a.zip")
    assert made.rows == sum(ARTICLES.values()) == 2225
    with made.output.open(newline="", encoding="utf-8") as file:
        assert [row["text"] for row in csv.DictReader(file)] == [row["text"] for row in rows]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "not a zip archive"),
        (archive({"readme.md": b"x"}), "no CATEGORY/NAME.txt"),
        (archive({"bbc/sport/1.txt": b"title only"}), "bbc/sport/1.txt.*needs a title in the first line and a text"),
        (None, "cannot be read: No such file"),
    ],
)
def test_unusable_archives_say_why(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "bbc.csv", archive=tmp_path / "a.zip")
    assert not (tmp_path / "bbc.csv").exists()


CONTENT = archive()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/bbc.zip" else 404)
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_archive_is_fetched_from_the_first_place_that_answers(host: str, tmp_path: Path) -> None:
    urls = (f"{host}/gone.zip", f"{host}/bbc.zip")
    made = prepare(tmp_path / "bbc.csv", sha256=hashlib.sha256(CONTENT).hexdigest(), urls=urls)
    recorded = json.loads((tmp_path / "bbc.csv.source.json").read_text(encoding="utf-8"))
    assert made.rows == 3 and recorded["source"] == f"{host}/bbc.zip"


def test_fetched_archive_of_other_content_is_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not the BBC News archive"):
        prepare(tmp_path / "bbc.csv", urls=[f"{host}/bbc.zip"])
    assert list(tmp_path.iterdir()) == []


def test_failed_fetch_says_how_to_go_on(host: str, tmp_path: Path) -> None:
    message = r"cannot be fetched: .*404.*; download it elsewhere and pass it with --archive"
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "bbc.csv", urls=[f"{host}/gone.zip"])


def test_damaged_member_and_unwritable_output_are_explained(tmp_path: Path, local: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("bbc/sport/1.txt", b"title\n" + b"text " * 1000)
    content = bytearray(buffer.getvalue())
    content[40:60] = bytes(20)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        prepare(tmp_path / "bbc.csv", archive=tmp_path / "a.zip")
    (tmp_path / "directory").mkdir()
    for output in (tmp_path / "directory", local / "bbc.csv"):
        with pytest.raises(ConfigError, match="cannot be written"):
            prepared(output, local)
