import json
from pathlib import Path

import pytest

from tests.support.texts import news_rows
from training.config import DataConfig
from training.data.read import fingerprint, read_examples
from training.errors import SHOWN_PROBLEMS, DataError, Problem


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def problems_of(path: Path, **keywords: object) -> tuple[Problem, ...]:
    with pytest.raises(DataError) as caught:
        read_examples(path, **keywords)  # type: ignore[arg-type]
    return caught.value.problems


def test_every_format_gives_the_same_examples(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"text": 'He said "yes",\nthen left.', "label": "a"}, {"text": "two\tthree", "label": "b"}]
    write(tmp_path / "d.csv", 'text,label\n"He said ""yes"",\nthen left.",a\ntwo\tthree,b\n')
    write(tmp_path / "d.tsv", 'text\tlabel\n"He said ""yes"",\nthen left."\ta\n"two\tthree"\tb\n')
    write(tmp_path / "d.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    expected = [(row["text"], row["label"]) for row in rows]
    for name in ("d.csv", "d.tsv", "d.jsonl", "d.parquet"):
        assert [(e.text, e.label) for e in read_examples(tmp_path / name)] == expected, name


def test_columns_are_found_by_their_usual_names(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", ",category,near_dup_group,title,text\n0,a,7,Head,Body\n1,b,,,Alone\n")
    first, second = read_examples(path)
    assert (first.text, first.label, first.group) == ("Head\n\nBody", "a", "7")
    assert (second.text, second.label, second.group) == ("Alone", "b", None)
    assert read_examples(path, DataConfig(use_title=False))[0].text == "Body"


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "body,topic\nx y,a\n")
    assert read_examples(path, DataConfig(text_column="body", label_column="topic"))[0].label == "a"
    [problem] = problems_of(path, columns=DataConfig(text_column="body", label_column="subject"))
    assert problem.message == "no label column 'subject'; the file has 'body', 'topic'"


def test_missing_columns_are_all_named_at_once(tmp_path: Path) -> None:
    problems = problems_of(write(tmp_path / "d.csv", "body,topic\nx,a\n"))
    expected = ["no text column 'text'", "no label column 'label' or 'category'"]
    assert [p.message.split(";")[0] for p in problems] == expected


def test_every_broken_row_is_reported_with_file_row_line_and_field(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", 'text,label\n"a\nb",x\n,x\ngood,\nmore,x,y\nlast,x\nno label\n')
    problems = problems_of(path)
    assert [(p.row, p.line, p.field) for p in problems] == [(2, 4, "text"), (3, 5, "label"), (4, 6, ""), (6, 8, "")]
    message = str(DataError(*problems))
    assert message.startswith("4 problems in the data:\n")
    assert f"{path}, row 2 (line 4), field 'text': the text is empty" in message
    assert "number of fields is 3 where the header has 2; an unquoted ','?" in message
    assert message.endswith("number of fields is 1 where the header has 2")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"text": \n[1]\n{"text": 5, "label": "a"}\n\n{"text": "x", "label": ["a"]}\n',
         [(1, 1, ""), (2, 2, ""), (3, 3, "text"), (4, 5, "label")]),
        ("{\n{\n", [(1, 1, ""), (2, 2, "")]),
        ('{"text": "x", "label": "a\\ud800"}\n{"text": "y", "label": "b"}\n', [(1, 1, "label")]),
        ('{"text": "x\\ud800", "label": "a"}\n{"text": "y", "label": "b"}\n', [(1, 1, "text")]),
        ("[" * 200_000 + '\n{"text": "y", "label": "b"}\n', [(1, 1, "")]),
    ],
    ids=["several", "all", "no-unicode", "text-no-unicode", "nested"],
)  # fmt: skip
def test_broken_json_lines_are_reported(tmp_path: Path, content: str, expected: list[tuple[int, int, str]]) -> None:
    assert [(p.row, p.line, p.field) for p in problems_of(write(tmp_path / "d.jsonl", content))] == expected


def test_wrong_encoding_names_the_byte_and_the_way_out(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", b"text,label\nfine,a\n" + "£5,a\n".encode("latin-1"))
    [problem] = problems_of(path)
    assert problem.line == 3 and "byte 0xa3 at offset 18 is not utf-8" in problem.message
    assert "--encoding" in problem.message
    assert read_examples(path, DataConfig(encoding="latin-1"))[1].text == "£5"
    [problem] = problems_of(path, columns=DataConfig(encoding="klingon"))
    assert problem.message == "Python knows no encoding 'klingon'"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", None, "no such file"),
        ("d.csv", "", "the file has no data rows"),
        ("d.csv", "text,label\n", "the file has no data rows"),
        ("d.csv", "text,text,label\nx,y,a\n", "columns named twice: 'text'"),
        ("d.csv", 'text,label\n"never closed,a\n', "not valid CSV"),
        ("d.xlsx", "x", "unknown format '.xlsx'"),
        ("d.parquet", "no parquet", "not a readable Parquet file"),
    ],
)
def test_unusable_files_say_why(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    [problem] = problems_of(tmp_path / name if content is None else write(tmp_path / name, content))
    assert message in problem.message


def test_rows_without_label_are_left_out_only_on_request(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "text,label\nx,a\ny,\n")
    assert [p.row for p in problems_of(path)] == [2]
    assert [e.text for e in read_examples(path, skip_unlabelled=True)] == ["x"]


def test_a_very_long_field_is_read(tmp_path: Path) -> None:
    text = "long " * 100_000
    assert read_examples(write(tmp_path / "d.csv", f'text,label\n"{text}",a\n'))[0].text == text


def test_message_shows_no_more_than_a_screenful() -> None:
    error = DataError(*(Problem("f", "bad", row) for row in range(1, SHOWN_PROBLEMS + 6)))
    assert len(error.problems) == SHOWN_PROBLEMS + 5
    assert str(error).endswith("... and 5 more")


def test_fingerprint_depends_on_content_not_on_order(tmp_path: Path) -> None:
    rows = news_rows(6)

    def made(rows: list[dict[str, str]], name: str) -> str:
        return fingerprint(read_examples(write(tmp_path / name, "\n".join(map(json.dumps, rows)))))

    assert made(rows, "a.jsonl") == made(rows[::-1], "b.jsonl")
    assert made(rows, "c.jsonl") != made([*rows[:-1], rows[-1] | {"label": "other"}], "d.jsonl")


def test_label_zero_is_a_label(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", '{"text": "x", "label": 0}\n{"text": "y", "label": 1}\n')
    assert [e.label for e in read_examples(path)] == ["0", "1"]


def test_columns_missing_in_the_first_json_line_are_found(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", '{"text": "x", "label": "a"}\n{"text": "y", "label": "b", "title": "T"}\n')
    assert [e.text for e in read_examples(path)] == ["x", "T\n\ny"]


@pytest.mark.parametrize("encoding", ["utf8", "UTF_8", "utf-8", DataConfig().encoding])
def test_byte_order_mark_is_no_part_of_the_header(tmp_path: Path, encoding: str) -> None:
    [example] = read_examples(
        write(tmp_path / "d.csv", b"\xef\xbb\xbftext,label\nx,a\n"), DataConfig(encoding=encoding)
    )
    assert (example.text, example.label) == ("x", "a")
