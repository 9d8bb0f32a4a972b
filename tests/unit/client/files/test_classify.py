"""`python -m client classify`: formats, bad rows, and runs that are killed and started again."""

import csv
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from classifier.calibration import Calibration
from client.cli.main import main
from client.files.results import Results, fingerprint
from client.files.table import MAX_FIELD_CHARS, open_source, without_formula
from tests.support import ROOT
from tests.support.fast_service import fast_service, result
from tests.support.live_service import live_service
from tests.support.scripted_server import INFO, error, http, scripted

Capture = pytest.CaptureFixture[str]
ROWS = 2000
TEXTS = [f'{"word " * (i % 23)}{i}, "quoted"\nand more' if i % 40 else "" for i in range(ROWS)]


@pytest.fixture(scope="module")
def fast() -> Iterator[str]:
    with fast_service() as url:
        yield url


def write(path: Path, texts: list[str]) -> Path:
    """The texts in the format of the name's ending."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts)), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([("id", "text"), *enumerate(texts)])
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def classify(url: str, source: Path, output: Path, *more: str) -> int:
    return main(["classify", str(source), "--output", str(output), "--url", url, *more])


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("came", ["csv", "jsonl", "parquet"])
def test_every_row_has_its_own_answer_in_every_format(fast: str, tmp_path: Path, came: str, ending: str) -> None:
    source = write(tmp_path / f"in.{came}", TEXTS[:300])
    assert classify(fast, source, tmp_path / f"out.{ending}", "--all-scores") == 1, "there are empty texts"
    rows = read(tmp_path / f"out.{ending}")
    assert [row["text"] for row in rows] == TEXTS[:300] and [str(row["id"]) for row in rows[:3]] == ["0", "1", "2"]
    for row, text in zip(rows, TEXTS, strict=False):
        wanted = result(text)
        if "error" in wanted:
            assert (row["error_kind"], row["error"], row["prediction"] or None) == ("empty_text", wanted["error"], None)
            continue
        assert row["prediction"] == wanted["label"] and float(row["score"]) == pytest.approx(wanted["score"], rel=1e-4)
        assert not row["error_kind"] and str(row["unsure"]).lower() == str(wanted["unsure"]).lower()
        assert sorted(float(row[f"score_{name}"]) for name in ("business", "politics", "sport")) == [0.25, 0.3333, 0.5]
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"in.{came}", f"out.{ending}"], "nothing is left over"


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_the_cell_of_unsure_is_empty_if_the_model_has_no_threshold(tmp_path: Path, ending: str) -> None:
    with live_service() as service:
        service.engine.info = replace(service.engine.info, calibration=Calibration())
        source = write(tmp_path / f"in.{ending}", ["an unsure one", "another"])
        assert classify(service.url, source, tmp_path / f"out.{ending}") == 0
    rows = read(tmp_path / f"out.{ending}")
    assert all(row["prediction"] for row in rows)
    assert [row["unsure"] for row in rows] == ["" if ending == "csv" else None] * 2


def test_parquet_keeps_the_types_of_its_columns(fast: str, tmp_path: Path) -> None:
    table = pa.table(
        {
            "when": pa.array([1, None], pa.timestamp("ns")),
            "text": pa.array(["a", None], pa.large_string()),
            "tags": pa.array([["x"], []], pa.list_(pa.string())),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    assert classify(fast, tmp_path / "in.parquet", tmp_path / "out.parquet") == 1
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.select(table.column_names).equals(table)
    types = [str(found.schema.field(name).type) for name in ("prediction", "score", "unsure", "tokens_read")]
    assert types == ["string", "double", "bool", "int64"]
    assert found["error"].to_pylist() == [None, "row 2: 'text' is null, a string is expected"]


def test_a_bad_row_says_what_is_wrong_and_harms_no_other(fast: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b'id,text\n1,good\n2\n3,a,b\n\n4,"\xff bytes"\n5,good\n')
    assert classify(fast, tmp_path / "in.csv", tmp_path / "out.csv", "--json") == 1
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["prediction"], row["error"]) for row in rows] == [
        ("1", "politics", ""),
        ("2", "", "row 2 has 1 cells, the header has 2"),
        ("3", "", "row 3 has 3 cells, the header has 2; the surplus is left out"),
        ("4", "", "the text is not UTF-8"),
        ("5", "politics", ""),
    ]
    assert b"\xff bytes" in (tmp_path / "out.csv").read_bytes(), "as it came"


@pytest.mark.parametrize(
    "content", ['text\none\n"never closed\ntwo\n', 'id,text\n1,one\n2,"never closed\n3,two\n', 'text\none\n"a"x\n']
)
def test_a_quote_out_of_place_is_an_error_and_no_row_is_swallowed(
    fast: str, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.csv").write_text(content)
    assert classify(fast, tmp_path / "in.csv", tmp_path / "out.csv") == 2
    assert "The row after row 1 is where it begins" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_bad_lines_of_json(fast: str, tmp_path: Path) -> None:
    lines = '{"text": "good", "x": [1]}|{broken|5|{}|{"text": 5}||{"text": "\\ud800"}|{"y": 1, "text": "b"}'
    (tmp_path / "in.jsonl").write_text(lines.replace("|", "\n"), encoding="utf-8")
    assert classify(fast, tmp_path / "in.jsonl", tmp_path / "out.jsonl") == 1
    rows = read(tmp_path / "out.jsonl")
    assert [row["prediction"] for row in rows] == ["politics", None, None, None, None, "politics", "politics"]
    assert rows[1]["error"].startswith("line 2 is not JSON: ")
    assert rows[4]["error"] == "line 5 has no text as its 'text'"
    assert rows[0]["x"] == [1] and rows[6]["y"] == 1
    assert classify(fast, tmp_path / "in.jsonl", tmp_path / "out.csv") == 1
    assert list(read(tmp_path / "out.csv")[0])[:3] == ["text", "x", "y"], "columns of later lines, too"


def start(url: str, source: Path, output: Path, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "client", "classify", str(source), "--output", str(output), "--url", url]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def wait_for_rows(output: Path, process: subprocess.Popen[str], rows: int) -> None:
    partial = output.with_name(output.name + ".partial.jsonl")
    until = time.monotonic() + 60
    while not partial.exists() or partial.read_bytes().count(b"\n") <= rows:
        assert process.poll() is None and time.monotonic() < until, "it ended before it could be killed"
        os.sched_yield()


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_killed_runs_end_with_the_same_file(fast: str, tmp_path: Path, ending: str) -> None:
    source = write(tmp_path / f"in.{ending}", TEXTS)
    whole, output = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    assert classify(fast, source, whole) == 1
    with fast_service(0.05) as slow:
        for rows in (100, 700):
            process = start(slow, source, output)
            wait_for_rows(output, process, rows)
            process.send_signal(signal.SIGKILL)
            assert end(process)[0] == -signal.SIGKILL
            assert not output.exists()
    code, out, err = end(start(fast, source, output))
    assert code == 1 and err.startswith("goes on after ") and "of them by an earlier run" in out
    assert read(output) == read(whole)
    if ending != "parquet":
        assert output.read_bytes() == whole.read_bytes()
    assert not output.with_name(output.name + ".partial.jsonl").exists()


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, sig: signal.Signals) -> None:
    source, output = write(tmp_path / "in.csv", TEXTS), tmp_path / "out.csv"
    with fast_service(0.05) as slow:
        process = start(slow, source, output)
        wait_for_rows(output, process, 50)
        process.send_signal(sig)
        code, _, err = end(process)
    partial = output.with_name("out.csv.partial.jsonl")
    rows = partial.read_bytes().count(b"\n") - 1
    assert code == 130
    kept = f"{rows} rows are done and kept in {partial}; the same command goes on there"
    assert err.splitlines()[-1] == f"interrupted; {kept}"


def test_a_line_that_was_broken_off_is_asked_again(fast: str, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", TEXTS[:100])
    assert classify(fast, source, tmp_path / "whole.csv") == 1
    with scripted(_info(), error(500, "internal")) as server:
        assert classify(server.url, source, tmp_path / "out.csv") == 3
    partial = tmp_path / "out.csv.partial.jsonl"
    partial.write_bytes(partial.read_bytes() + b'{"prediction": "wrong"}\n{"prediction": "wro')
    assert classify(fast, source, tmp_path / "out.csv") == 1
    [first, *rest] = read(tmp_path / "out.csv")
    assert first["prediction"] == "wrong", "a whole line is taken at its word"
    assert rest == read(tmp_path / "whole.csv")[1:]


def _info() -> bytes:
    model = {"name": "fast", "version": "1", "labels": ["a"], "max_tokens": 9}
    return http(200, {"service": "1", "model": model, "limits": {}})


def test_a_service_that_fails_leaves_a_run_to_go_on_with(fast: str, tmp_path: Path, capsys: Capture) -> None:
    source = write(tmp_path / "in.csv", TEXTS[:100])
    with scripted(_info(), error(500, "internal", "internal error")) as server:
        assert classify(server.url, source, tmp_path / "out.csv") == 3
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {server.url}: internal error (500 internal, request r1); 0 rows are done and kept in "
        f"{tmp_path}/out.csv.partial.jsonl; the same command goes on there"
    )
    assert classify(fast, source, tmp_path / "out.csv") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--top-k", "1"], 'had options {}, now it is {"top_k": 1}; go back to that, or begin anew with --restart'),
        (["--text-column", "id"], 'had text_column "text", now it is "id"'),
    ],
)
def test_another_run_with_the_same_output_is_refused(
    fast: str, tmp_path: Path, capsys: Capture, change: list[str], says: str
) -> None:
    source = write(tmp_path / "in.csv", TEXTS[:100])
    with scripted(_info(), error(500, "internal")) as server:
        assert classify(server.url, source, tmp_path / "out.csv") == 3
    capsys.readouterr()
    assert classify(fast, source, tmp_path / "out.csv", *change) == 2
    assert says in capsys.readouterr().err
    assert classify(fast, source, tmp_path / "out.csv", *change, "--restart") in (0, 1)


def test_another_model_or_input_is_refused(fast: str, tmp_path: Path, capsys: Capture) -> None:
    source = write(tmp_path / "in.csv", TEXTS[:100])
    with scripted(INFO, error(500, "internal")) as server:
        assert classify(server.url, source, tmp_path / "out.csv") == 3
    assert classify(fast, source, tmp_path / "out.csv") == 2
    models = 'had model {"name": "m", "version": "v"}, now it is {"name": "fast", "version": "1"}'
    assert models in capsys.readouterr().err
    write(source, TEXTS[:99])
    assert classify(fast, source, tmp_path / "out.csv") == 2
    assert "had input " in capsys.readouterr().err


def test_two_runs_at_a_time_with_one_output(tmp_path: Path, capsys: Capture) -> None:
    source, output = write(tmp_path / "in.csv", TEXTS), tmp_path / "out.csv"
    with fast_service(0.05) as slow:
        process = start(slow, source, output)
        wait_for_rows(output, process, 0)
        assert classify(slow, source, output) == 2
        assert "another run is at work on it" in capsys.readouterr().err
        process.kill()
        end(process)


WRONG = [
    ("in.csv", ["--text-column", "body"], "no column 'body'; there are 'id', 'text'; see --text-column"),
    ("in.parquet", ["--text-column", "body"], "no column 'body'; there are 'id', 'text'"),
    ("in.xlsx", [], "in.xlsx: .xlsx; known are .csv, .tsv, .jsonl, .ndjson, .parquet"),
    ("none.csv", [], "none.csv: No such file or directory"),
    ("twice.csv", [], "column 'x' stands in the header more than once"),
    ("own.csv", [], "has a column 'score' of its own; --prefix renames those that are added"),
    ("fake.parquet", [], "not a Parquet file"),
]


@pytest.mark.parametrize(("name", "more", "says"), WRONG)
def test_input_that_cannot_be_used(
    fast: str, tmp_path: Path, capsys: Capture, name: str, more: list[str], says: str
) -> None:
    for ending in ("csv", "parquet"):
        write(tmp_path / f"in.{ending}", ["a"])
    (tmp_path / "twice.csv").write_text("x,x,text\n", encoding="utf-8")
    (tmp_path / "own.csv").write_text("text,score\na,1\n", encoding="utf-8")
    (tmp_path / "fake.parquet").write_text("text\n", encoding="utf-8")
    assert classify(fast, tmp_path / name, tmp_path / "out.csv", *more) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists() and not (tmp_path / "out.csv.partial.jsonl").exists()


@pytest.mark.parametrize("change", ["in the middle", "at the end", "gone"])
def test_an_input_that_changes_meanwhile_is_refused(
    fast: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    source, output = write(tmp_path / "in.csv", TEXTS[:100]), tmp_path / "out.csv"
    sync = Results.sync

    def changed(self: Results) -> None:
        sync(self)
        if change == "gone":
            source.unlink()
        else:
            write(source, [*TEXTS[:50], TEXTS[50].upper(), *TEXTS[51 : 100 + (change == "at the end")]])

    monkeypatch.setattr(Results, "sync", changed)
    assert classify(fast, source, output) == 2
    said = capsys.readouterr().err
    assert ("No such file" if change == "gone" else "changed while it was classified") in said and str(source) in said
    assert not output.exists()


def test_a_change_in_the_middle_of_a_large_input_is_seen(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_bytes(b"text\n" + b"a" * 3 * 2**20)
    before = fingerprint(source)
    with source.open("r+b") as file:
        file.seek(3 * 2**19)
        file.write(b"b")
    assert fingerprint(source) != before


def test_a_model_that_changes_meanwhile_ends_the_run_before_its_first_answer(
    fast: str, tmp_path: Path, capsys: Capture
) -> None:
    source, output = write(tmp_path / "in.csv", ["a" * 40_000, "b" * 40_000, "c" * 40_000]), tmp_path / "out.csv"
    models = [{"name": "fast", "version": version} for version in "112"]
    answers = [http(200, {"results": [result("a")], "model": model}) for model in models]
    with scripted(_info(), _info(), *answers) as server:  # of the command, and for its limits
        assert classify(server.url, source, output, "--concurrency", "1") == 2
    said = capsys.readouterr().err
    assert 'the service answers by the model {"name": "fast", "version": "2"} now' in said
    assert "2 rows are done and kept in " in said
    assert output.with_name("out.csv.partial.jsonl").read_bytes().count(b"\n") == 3
    assert classify(fast, source, output) == 0, "of version 1"


@pytest.mark.parametrize("blocks", [30, 150])
def test_a_full_disk_is_explained_and_the_run_goes_on_once_there_is_room(
    fast: str, tmp_path: Path, blocks: int
) -> None:
    """The smaller one is full while answers come in, the other while the output is written."""
    source, output = write(tmp_path / "in.jsonl", [text + "long " * 20 for text in TEXTS]), tmp_path / "out.jsonl"
    whole = tmp_path / "whole.jsonl"
    assert classify(fast, source, whole) == 0
    limit = 1024 * blocks if blocks < 100 else whole.stat().st_size - 1000

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code, _, err = end(start(fast, source, output, preexec_fn=small))
    last = err.splitlines()[-1]
    assert code == 2
    assert last.startswith(f"error: {output}: File too large; ") and last.endswith("the same command goes on there")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl.partial.jsonl", "whole.jsonl"]
    assert classify(fast, source, output) == 0 and output.read_bytes() == whole.read_bytes()


def test_a_directory_in_the_outputs_place_is_seen_first(fast: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "out.csv").mkdir()
    assert classify(fast, write(tmp_path / "in.csv", ["a"]), tmp_path / "out.csv", "--overwrite") == 2
    assert "out.csv is a directory" in capsys.readouterr().err


def test_a_stop_before_the_service_answers(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", TEXTS[:10])
    with scripted(error(503, "not_ready", Retry_After="30")) as server:
        process = start(server.url, source, tmp_path / "out.csv")
        while not server.requests:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        code, _, err = end(process)
    assert (code, err) == (130, "interrupted\n")


@pytest.mark.parametrize(("option", "value"), [("--concurrency", "0"), ("--patience", "0"), ("--patience", "nan")])
def test_numbers_that_cannot_be(tmp_path: Path, capsys: Capture, option: str, value: str) -> None:
    with pytest.raises(SystemExit) as raised:
        classify("http://127.0.0.1:1", tmp_path / "in.csv", tmp_path / "out.csv", option, value)
    assert raised.value.code == 2 and f"{option}: must be " in capsys.readouterr().err


def test_parquet_with_bytes_that_are_not_utf8(fast: str, tmp_path: Path) -> None:
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    texts = pa.array([b"plain", b"caf\xe9", b"caf\xc3\xa9"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": texts, "id": [1, 2, 3]}), source)
    assert classify(fast, source, output) == 1
    found = pq.read_table(output)
    assert found["error"].to_pylist() == [None, "the text is not UTF-8", None]
    assert found["text"].cast(pa.binary()).to_pylist()[1] == b"caf\xe9"
    assert classify(fast, source, tmp_path / "out.csv") == 1
    assert b"caf\xe9" in (tmp_path / "out.csv").read_bytes()


def test_a_damaged_parquet_file(fast: str, tmp_path: Path, capsys: Capture) -> None:
    source = write(tmp_path / "in.parquet", TEXTS)
    content = bytearray(source.read_bytes())
    content[1000:9000] = bytes(8000)
    source.write_bytes(content)
    assert classify(fast, source, tmp_path / "out.csv") == 2
    assert "in.parquet: cannot be read after row " in capsys.readouterr().err


def test_an_output_that_is_there_is_not_replaced_unasked(fast: str, tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.csv", ["a"]), tmp_path / "out.csv"
    output.write_text("mine", encoding="utf-8")
    assert classify(fast, source, output) == 2 and output.read_text(encoding="utf-8") == "mine"
    assert classify(fast, source, output, "--overwrite") == 0 and len(read(output)) == 1
    assert classify(fast, source, source, "--overwrite") == 2 and read(source) == [{"id": "0", "text": "a"}]


def test_a_quote_that_is_never_closed(
    fast: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("client.files.table.MAX_FIELD_CHARS", 1000)
    (tmp_path / "in.csv").write_text('id,text\n1,a\n2,"b' + "x\n" * 1000, encoding="utf-8")
    before = csv.field_size_limit(1000)
    try:
        assert classify(fast, tmp_path / "in.csv", tmp_path / "out.csv") == 2
    finally:
        csv.field_size_limit(before)
    assert "a quote out of place or never closed? The row after row 1 is where it begins" in capsys.readouterr().err


def test_reading_takes_nothing_from_others_in_the_process(tmp_path: Path) -> None:
    before = csv.field_size_limit(MAX_FIELD_CHARS + 1)
    try:
        source = open_source(write(tmp_path / "in.csv", ["a"]))
        assert len(list(source.rows("text"))) == 1 and csv.field_size_limit() == MAX_FIELD_CHARS + 1
        csv.field_size_limit(10)
        assert len(list(source.rows("text"))) == 1 and csv.field_size_limit() == MAX_FIELD_CHARS
    finally:
        csv.field_size_limit(before)


def test_memory_does_not_grow_with_the_file(fast: str, tmp_path: Path) -> None:
    rng = random.Random(5)
    peaks = []
    for rows in (1000, 10_000):
        source = tmp_path / f"{rows}.csv"
        write(source, [f"{rng.random()} {'words ' * 50}" for _ in range(rows)])
        code = (
            "import resource, sys; from client.cli.main import main; code = main(sys.argv[1:]); "
            "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
        )
        command = [sys.executable, "-c", code, "classify", str(source), "--output", str(tmp_path / f"o{rows}.csv")]
        ran = subprocess.run([*command, "--url", fast], cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(ran.stdout.split("peak ")[1]))
    assert peaks[1] < peaks[0] * 1.15, "ten times the rows, 3 MB of text more"


FORMULAS = {
    "=1+1": "'=1+1",
    "+1+1": "'+1+1",
    "-2+3+cmd|' /C calc'!A0": "'-2+3+cmd|' /C calc'!A0",
    "@SUM(A1)": "'@SUM(A1)",
    "\t=1": "\t'=1",
    "  \n=1": "  \n'=1",
    "\uff1d1": "'\uff1d1",
    "a; =1+1;b": "a; '=1+1;b",
    "a\n@b": "a\n'@b",
    "-3.5": "-3.5",
    "+44": "+44",
    "a = b - c": "a = b - c",
    '"=1"': '"=1"',
    "a,-1": "a,-1",
}
"""Cells, and how a file for a spreadsheet has them."""


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_no_cell_for_a_spreadsheet_is_a_formula(fast: str, tmp_path: Path, ending: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": text, "=header": 1}) + "\n" for text in FORMULAS), encoding="utf-8")
    assert classify(fast, source, tmp_path / f"out.{ending}", "--spreadsheet-safe") == 0
    rows = read(tmp_path / f"out.{ending}")
    assert [row["text"] for row in rows] == list(FORMULAS.values()) and "'=header" in rows[0]
    quoted = (tmp_path / f"out.{ending}").read_text(encoding="utf-8").splitlines()[0]
    assert quoted.startswith('"') and quoted.endswith('"'), "a text cannot begin a cell by a separator"
    assert classify(fast, source, tmp_path / f"plain.{ending}") == 0
    assert [row["text"] for row in read(tmp_path / f"plain.{ending}")] == list(FORMULAS), "unless asked, as they came"


def test_cells_of_spaces_and_separators_are_searched_in_linear_time() -> None:
    for flood in (" ", "\n", ";", "; ", "\t \n", "-"):
        began = time.process_time()
        without_formula(flood * 1_000_000)
        assert time.process_time() - began < 5
