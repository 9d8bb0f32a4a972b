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
from training.data.bbc import prepare
from training.data.read import read_examples
from training.errors import DataError

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


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "bbc-fulltext.zip"
    path.write_bytes(archive())
    return path


def test_archive_becomes_one_clean_csv(local: Path, tmp_path: Path) -> None:
    summary = prepare(tmp_path / "out" / "bbc.csv", archive=local)
    with summary.output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["category"], row["file"], row["title"]) for row in rows] == [
        ("business", "business/001.txt", "Firm's profit up"),
        ("business", "business/002.txt", "Bridge"),
        ("sport", "sport/001.txt", "Bridge again"),
    ]
    assert rows[0]["text"] == "Profits rose to £5m.\nShares fell."
    assert rows[1]["group"] == rows[2]["group"] != rows[0]["group"]
    assert (summary.rows, summary.groups) == (3, 2)
    assert [e.label for e in read_examples(summary.output)] == ["business", "business", "sport"]


def test_origin_and_checksum_are_recorded(local: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "bbc.csv", archive=local)
    recorded = json.loads((tmp_path / "bbc.csv.source.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256(local.read_bytes()).hexdigest()
    assert recorded == {"source": "bbc-fulltext.zip", "sha256": digest, "rows": 3, "groups": 2}
    prepare(tmp_path / "bbc.csv", archive=local, sha256=digest.upper())


def test_another_checksum_is_refused_and_nothing_written(local: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"its SHA-256 is .*, 00 was asked for"):
        prepare(tmp_path / "bbc.csv", archive=local, sha256="00")
    assert [path.name for path in tmp_path.iterdir()] == [local.name]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "not a zip archive"),
        (archive({"readme.md": b"x"}), "no CATEGORY/NAME.txt"),
        (archive({"bbc/sport/1.txt": b"title only"}), "bbc/sport/1.txt.*a title in the first line and a text after it"),
    ],
)
def test_unusable_archives_say_why(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "bbc.csv", archive=tmp_path / "a.zip")
    assert not (tmp_path / "bbc.csv").exists()


def test_missing_archive_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        prepare(tmp_path / "bbc.csv", archive=tmp_path / "none.zip")


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path != "/bbc.zip":
            self.send_error(404)
            return
        content = archive()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

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


def test_archive_is_fetched(host: str, tmp_path: Path) -> None:
    assert prepare(tmp_path / "bbc.csv", url=f"{host}/bbc.zip").rows == 3


def test_failed_fetch_says_how_to_go_on(host: str, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"cannot be fetched: .*404.*; download it elsewhere and pass it with --archive"
    ):
        prepare(tmp_path / "bbc.csv", url=f"{host}/gone.zip")


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
        with pytest.raises(DataError, match="cannot be written"):
            prepare(output, archive=local)
