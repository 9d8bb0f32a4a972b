"""Files that are uploaded to the page."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from client import NEVER
from client.errors import ConnectionFailed
from client.files.classify import Summary
from client.files.table import InputError
from client.page.file import (
    MOST_ROWS,
    Busy,
    classify_file,
    columns_of,
    likely_column,
    prefix_for,
    read_labelled,
    save,
)
from tests.support.live_service import LiveService

TEXTS = ["a b", "", "c d e", "poison"]


@pytest.fixture
def url(service: LiveService) -> str:
    return service.url


def write(path: Path, texts: list[str], header: tuple[str, ...] = ("id", "text")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([*map(str, range(len(header) - 1)), text] for text in texts)
    return path


def test_columns_of_every_format(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", ["x"])
    (tmp_path / "a.tsv").write_text("\ufeffid\ttext\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"id": 1}\nbroken\n[]\n{"id": 2, "text": "a"}\n', encoding="utf-8")
    pq.write_table(pa.table({"id": [1], "text": ["a"]}), tmp_path / "a.parquet")
    for name in ("a.csv", "a.tsv", "a.jsonl", "a.parquet"):
        assert columns_of(tmp_path / name) == ["id", "text"]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.txt"])
def test_a_file_without_columns_says_so(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError):
        columns_of(tmp_path / name)


def test_the_column_is_guessed() -> None:
    assert (
        likely_column(["id", " Text "]) == 1
        and likely_column(["title", "body"]) == 1
        and likely_column(["x", "y"]) == 0
    )


def test_rows_keep_their_place_and_their_error(url: str, tmp_path: Path) -> None:
    source, told = write(tmp_path / "in.csv", TEXTS), []
    summary, output = classify_file(source, "text", url, "", lambda *now: told.append(now))
    assert summary.rows == 4 and sum(summary.failed.values()) == 2
    assert told[-1] == (4, 4)
    found = read_labelled(summary, output, "text")
    assert [row["label"] != "" for row in found.rows] == [True, False, True, False]
    assert [row["text"] for row in found.rows] == TEXTS and found.rows[1]["problem"]
    with output.open(encoding="utf-8", newline="") as file:
        assert [row["error_kind"] for row in csv.DictReader(file)] == ["", "empty_text", "", "inference_failed"]


def test_filters(url: str, tmp_path: Path) -> None:
    summary, output = classify_file(write(tmp_path / "in.csv", [*TEXTS, "unsure"]), "text", url, "", lambda *_: None)
    found = read_labelled(summary, output, "text")
    label = found.rows[0]["label"]
    assert len(found.filtered([], "all", 0.0)) == 5
    assert {row["label"] for row in found.filtered([label], "all", 0.0)} == {label}
    assert [row["row"] for row in found.filtered([], "failed", 0.0)] == [2, 4]
    assert [row["row"] for row in found.filtered([], "unsure", 0.0)] == [5]
    assert [row["row"] for row in found.filtered([], "all", 0.5)] == [1, 3, 5]


def test_the_download_has_no_formulas_and_the_page_finds_its_column(url: str, tmp_path: Path) -> None:
    summary, output = classify_file(
        write(tmp_path / "in.csv", ["=1+1"], ("id", "=text")), "=text", url, "", lambda *_: None
    )
    with output.open(encoding="utf-8", newline="") as file:
        assert next(csv.DictReader(file))["'=text"] == "'=1+1"
    assert read_labelled(summary, output, "=text").rows[0]["text"] == "'=1+1"


def test_columns_of_the_same_name_are_kept(url: str, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", ["a b"], ("prediction", "new_score", "text"))
    prefix = prefix_for(columns_of(source))
    assert prefix == "new_new_"
    summary, output = classify_file(source, "text", url, "", lambda *_: None)
    [row] = read_labelled(summary, output, "text", prefix).rows
    assert row["label"] and row["probability"]
    with output.open(encoding="utf-8", newline="") as file:
        assert next(csv.DictReader(file))["prediction"] == "0"


def test_what_the_file_cannot_go_on_from_is_the_error_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.page.file.PATIENT", NEVER)
    with pytest.raises(ConnectionFailed):
        classify_file(write(tmp_path / "in.csv", TEXTS), "text", "http://127.0.0.1:9", "", lambda *_: None)


def test_what_the_page_raises_to_stop_comes_through(url: str, tmp_path: Path) -> None:
    class Stop(BaseException):
        """As Streamlit's, when the visitor does something else."""

    def tell(*_: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        classify_file(write(tmp_path / "in.csv", TEXTS), "text", url, "", tell)


def test_no_more_rows_than_a_browser_can_bear(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    line = json.dumps({"text": "x" * 1000, "prediction": "a", "score": 0.5, "unsure": False, "error": None})
    output.write_text(f"{line}\n" * (MOST_ROWS + 5), encoding="utf-8")
    rows = read_labelled(Summary(rows=MOST_ROWS + 5), output, "text").rows
    assert len(rows) == MOST_ROWS and len(rows[0]["text"]) == 300
    assert rows[0] == {"row": 1, "text": "x" * 300, "label": "a", "probability": 0.5, "unsure": False, "problem": ""}


def test_one_file_at_a_time_and_the_next_one_after_an_error(url: str, tmp_path: Path) -> None:
    first, second = write(tmp_path / "first.csv", TEXTS), write(tmp_path / "second.csv", TEXTS)

    def ask_again(*_: object) -> None:
        with pytest.raises(Busy):
            classify_file(second, "text", url, "", lambda *_: None)

    classify_file(first, "text", url, "", ask_again)
    with pytest.raises(InputError):
        classify_file(first, "no such column", url, "", lambda *_: None)
    assert classify_file(second, "text", url, "", lambda *_: None)[0].rows == 4


@pytest.mark.parametrize("name", ["a.csv", "../../a.CSV", "a/b.csv"])
def test_an_upload_gets_a_name_of_the_pages_own(tmp_path: Path, name: str) -> None:
    assert save(b"text\n", name, tmp_path) == tmp_path / "upload.csv"


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "upload.csv").symlink_to("/dev/full")
    with pytest.raises(InputError, match="no room"):
        save(b"text\n" * 10_000, "a.csv", full)
