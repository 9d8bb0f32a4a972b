"""Requests that the contract allows and forbids are sent to the service; every answer must be as the contract says.

With FUZZ_EXAMPLES=2000 (`make fuzz`) it sends so many requests to each operation, and other ones each time.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from schemathesis.checks import load_all_checks, negative_data_rejection, positive_data_acceptance
from schemathesis.config import SchemathesisConfig

from service.api.predict import TextResult
from service.api.wire import ErrorBody
from service.errors import STATUS
from service.http.middleware import ADMIN
from tests.support import ROOT
from tests.support.fake_engine import FakeEngine
from tests.support.live_service import live_service

FUZZ = int(os.environ.get("FUZZ_EXAMPLES", "0"))
EXAMPLES = FUZZ or 80

CONFIG: dict[str, Any] = {
    **({} if FUZZ else {"seed": 1}),
    "generation": {"max-examples": EXAMPLES, "deterministic": not FUZZ},
    "checks": {
        # one millisecond may be asked for, and is too little
        "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", 504]},
        "negative_data_rejection": {"expected-statuses": [400, 404, 405, 406, 413, 415, 422, 504]},
        "positive_data_acceptance": {"expected-statuses": ["2xx", 404, 504]},
    },
}
INFO = FakeEngine().info
OF_THE_MODEL = CONFIG | {"parameters": {"path.model": INFO.name, "path.version": INFO.version}}

Case = schemathesis.Case[Any]

load_all_checks()


def load(config: dict[str, Any]) -> Any:
    return schemathesis.openapi.from_path(ROOT / "openapi.yaml", config=SchemathesisConfig.from_dict(config))


contract = load(CONFIG)
of_the_model = load(OF_THE_MODEL).include(path_regex="/v2/models/")


@schemathesis.serializer("application/x-ndjson", "application/jsonlines")
def lines(_: Any, value: object) -> bytes:
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with live_service() as service:
        yield service.url


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def check(case: Case, url: str, session: requests.Session) -> None:
    excluded = []
    if case.media_type not in (None, "application/json"):  # any string is a body, but not each is a tensor
        excluded += [negative_data_rejection, positive_data_acceptance]
    elif case.path.endswith("/infer"):  # no schema can say that a tensor has as many strings as its shape
        excluded += [positive_data_acceptance]
    elif case.path.startswith(
        ADMIN
    ):  # closed to everybody here: tests/unit/service/model/test_lifecycle.py has the key
        excluded += [negative_data_rejection, positive_data_acceptance]
    case.call_and_validate(base_url=url, session=session, excluded_checks=excluded)


@contract.parametrize()
def test_every_answer_is_in_the_contract(case: Case, url: str, session: requests.Session) -> None:
    check(case, url, session)


@of_the_model.parametrize()
def test_every_answer_of_the_model_is_in_the_contract(case: Case, url: str, session: requests.Session) -> None:
    check(case, url, session)


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, trust_env=False) as client:
        yield client


DOCUMENT = yaml.safe_load((ROOT / "openapi.yaml").read_text(encoding="utf-8"))
POSTS = sorted(path for path, methods in DOCUMENT["paths"].items() if "post" in methods and not path.startswith(ADMIN))
"""The paths that take a body, without those of administrators, which ask for a key first."""


def bodies_of(path: str) -> set[str]:
    return set(DOCUMENT["paths"][path]["post"]["requestBody"]["content"])


def to(path: str) -> str:
    return path.format(model=INFO.name, version=INFO.version)


def check_documented(path: str, response: httpx.Response) -> None:
    """Check that the path documents the status, and that an error has the one shape and a kind of that status."""
    assert str(response.status_code) in DOCUMENT["paths"][path]["post"]["responses"], response.text
    if response.status_code >= 400:
        assert STATUS[ErrorBody.model_validate_json(response.content).kind] == response.status_code


UNDECLARED = (None, "", ";")
OTHER_TYPES = (
    *UNDECLARED,
    "text/html",
    "nonsense",
    "multipart/form-data; boundary=x",
    "application/x-www-form-urlencoded",
    "application/jsonx",
    "\xff/\xff",
    "application/" + "x" * 10_000,
)


@pytest.mark.parametrize("path", POSTS)
def test_other_content_types_are_415(client: httpx.Client, path: str) -> None:
    for declared in OTHER_TYPES:
        if path.endswith("/infer") and declared in UNDECLARED:
            continue  # as Triton's client sends JSON
        headers = {} if declared is None else {b"content-type": declared.encode("latin-1")}
        response = client.post(to(path), content=b'{"text": "a"}', headers=headers)
        assert response.status_code == 415, declared
        check_documented(path, response)
    for declared in ("application/json; charset=utf-8", "APPLICATION/JSON", "application/problem+json"):
        response = client.post(to(path), content=b"{}", headers={"content-type": declared})
        assert response.status_code == 422, declared


@pytest.mark.parametrize("path", POSTS)
@settings(max_examples=EXAMPLES, derandomize=not FUZZ, deadline=None)
@given(body=st.binary(max_size=200), accept=st.sampled_from(("*/*", "text/csv", "text/plain", "application/jsonlines")))
def test_any_bytes_of_any_type_get_a_documented_answer(
    client: httpx.Client, path: str, body: bytes, accept: str
) -> None:
    for declared in bodies_of(path):
        headers = {"content-type": declared, "accept": accept, "inference-header-content-length": str(len(body) // 2)}
        check_documented(path, client.post(to(path), content=body, headers=headers))


LINES = st.lists(
    st.one_of(
        st.text(min_size=1).map(json.dumps),
        st.fixed_dictionaries({"text": st.text()}, optional={"top_k": st.integers(-1, 3)}).map(json.dumps),
        st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5).map(json.dumps),
        st.text(st.characters(exclude_characters="\n", codec="utf-8"), min_size=1).filter(str.strip),
    ),
    min_size=1,
    max_size=20,
)
ANSWER: TypeAdapter[TextResult | ErrorBody] = TypeAdapter(TextResult | ErrorBody)


@settings(max_examples=EXAMPLES, derandomize=not FUZZ, deadline=None)
@given(lines=LINES)
def test_every_line_gets_one_line(client: httpx.Client, lines: list[str]) -> None:
    body = "\n".join(lines).encode()
    response = client.post("/batch", content=body, headers={"content-type": "application/x-ndjson"})
    answers = response.content.removesuffix(b"\n").split(b"\n")
    assert response.status_code == 200 and len(answers) == len(lines)
    for answer in answers:
        ANSWER.validate_json(answer)
    response = client.post("/invocations", content=body, headers={"content-type": "application/jsonlines"})
    answers = response.content.split(b"\n")
    assert response.status_code == 200 and len(answers) == len(lines)
    for answer in answers:
        assert isinstance(json.loads(answer), dict | list)


CELL = st.text(st.characters(codec="utf-8", exclude_characters='\0"\r\n'), max_size=20)


@settings(max_examples=EXAMPLES, derandomize=not FUZZ, deadline=None)
@given(rows=st.lists(st.lists(CELL, min_size=1, max_size=3), min_size=1, max_size=20))
def test_every_row_gets_one_row(client: httpx.Client, rows: list[list[str]]) -> None:
    body = "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows).encode()
    response = client.post("/invocations", content=body, headers={"content-type": "text/csv"})
    answers = response.text.split("\n")
    assert response.status_code == 200 and len(answers) == len(rows)
    for row, answer in zip(rows, answers, strict=True):
        label, score, kind = answer.split(",")
        assert (label in INFO.labels and float(score) and not kind) or (not label and kind in STATUS)
        assert kind == "invalid_request" if len(row) > 1 else kind in ("", "empty_text")
