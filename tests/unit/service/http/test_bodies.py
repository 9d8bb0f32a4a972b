import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ServiceError
from service.http.bodies import (
    MEDIA_TYPES,
    Form,
    answer_form,
    body_form,
    is_stream,
    read_rows,
    split_lines,
    write_csv,
)


@pytest.mark.parametrize(
    ("declared", "form"),
    [
        ("application/json", "json"),
        ("application/vnd.api+json", "json"),
        ("application/jsonlines", "lines"),
        ("application/x-ndjson", "lines"),
        ("text/csv", "csv"),
        ("text/plain", "text"),
    ],
)
def test_declared_types(declared: str, form: Form) -> None:
    assert body_form({"content-type": declared}, *MEDIA_TYPES) == form


@pytest.mark.parametrize("declared", ["", "image/png", "application/jso", "text/csvx"])
def test_other_types_are_refused(declared: str) -> None:
    with pytest.raises(ServiceError) as caught:
        body_form({"content-type": declared}, *MEDIA_TYPES)
    assert caught.value.kind == "unsupported_media_type"


@pytest.mark.parametrize(
    ("accept", "came", "default", "answer"),
    [
        (None, "json", "", "json"),
        ("", "csv", "", "csv"),
        ("*/*", "lines", "", "lines"),
        (None, "text", "", "json"),
        ("*/*", "json", "text/csv", "csv"),
        ("application/json", "json", "text/csv", "json"),
        ("text/csv, application/json;q=0.9", "json", "", "csv"),
        ("text/csv;q=0.1, application/json;q=0.9", "csv", "", "json"),
        ("text/*;q=0.5, application/json;q=0.4", "json", "", "csv"),
        ("text/*, text/csv;q=0.2", "csv", "", "text"),  # the more specific range counts
        ("*/*;q=0.1, application/x-ndjson", "json", "", "lines"),
        ("application/json;q=0, */*", "json", "", "lines"),
        ("APPLICATION/JSON ; Q=0.7", "lines", "", "json"),
        ("text/csv;q=nonsense, text/plain", "csv", "", "text"),
    ],
)
def test_the_answers_form(accept: str | None, came: Form, default: str, answer: Form) -> None:
    assert answer_form(accept, came, default) == answer


@pytest.mark.parametrize("accept", ["image/png", "application/json;q=0", "text/html, application/xml;q=0.9", ";;,"])
def test_what_cannot_be_given_is_not_acceptable(accept: str) -> None:
    with pytest.raises(ServiceError) as caught:
        answer_form(accept, "json")
    assert (caught.value.kind, caught.value.status) == ("not_acceptable", 406)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_no_accept_header_is_a_fault(accept: str) -> None:
    try:
        assert answer_form(accept, "json") in ("json", "lines", "csv", "text")
    except ServiceError as exc:
        assert exc.kind == "not_acceptable"


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1))
def test_csv_rows_come_back_as_they_were_written(texts: list[str]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows([text] for text in texts)
    assert list(read_rows(file.getvalue().encode())) == texts


def test_rows_that_are_wrong_keep_their_place() -> None:
    rows = list(read_rows(b'one\n\n"two, quoted"\nthree, not quoted\n'))
    assert rows[:3] == ["one", "", "two, quoted"]
    assert isinstance(rows[3], ServiceError) and "row 4 has 2 columns" in rows[3].message


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b'"never closed'])
def test_bodies_that_are_no_csv(body: bytes) -> None:
    with pytest.raises(ServiceError) as caught:
        list(read_rows(body))
    assert caught.value.kind == "invalid_body"


def test_lines_keep_their_number() -> None:
    assert list(split_lines(b"a\n\nb\n")) == [b"a", b"", b"b"]
    assert list(split_lines(b"a")) == [b"a"] and list(split_lines(b"a\n\n")) == [b"a", b""]


def test_csv_answers() -> None:
    assert write_csv([("sport", 0.123456789, ""), ("", None, "empty_text")]) == b"sport,0.123457,\n,,empty_text\n"


@pytest.mark.parametrize(
    ("path", "declared", "streams"),
    [
        ("/batch", b"application/x-ndjson; charset=utf-8", True),
        ("/batch", b"APPLICATION/JSONL", True),
        ("/batch", b"application/json", False),
        ("/batch", b"", False),
        ("/invocations", b"application/jsonlines", False),
    ],
)
def test_only_lines_to_batch_are_a_stream(path: str, declared: bytes, streams: bool) -> None:
    assert is_stream({"path": path, "headers": [(b"content-type", declared)]}) is streams
