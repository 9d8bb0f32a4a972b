"""The committed contract is the app's, and says what the app does."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from service.app import openapi_document
from service.errors import MEANING, STATUS
from service.http.middleware import OPEN
from tests.support import ROOT


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "openapi.yaml").read_text(encoding="utf-8"))
    return document


def test_committed_file_is_the_apps_contract_whole(committed: dict[str, Any]) -> None:
    assert committed == openapi_document(), "run `make openapi`"


def test_drift_is_found_by_make_check() -> None:
    command = [sys.executable, "scripts/export_openapi.py", "--check"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_contract_does_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = openapi_document()
    monkeypatch.setenv("SERVICE_MAX_TEXTS", "7")
    monkeypatch.setenv("SERVICE_PORT", "not a port")
    assert openapi_document() == before


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_error_has_the_one_shape_and_an_example(committed: dict[str, Any]) -> None:
    for path, method, operation in operations(committed):
        assert operation["summary"], (path, method)
        for status, answer in operation["responses"].items():
            if int(status) < 400 or (path in OPEN and status == "503"):
                continue
            shared = answer.get("$ref", "").rpartition("/")[2]
            response = committed["components"]["responses"][shared] if shared else answer
            content = response["content"]["application/json"]
            assert content["schema"]["$ref"].endswith("/ErrorBody"), (path, status)
            kinds = content["examples"]
            assert kinds and all(STATUS[kind] == int(status) for kind in kinds), (path, status)


def test_fastapis_own_error_shape_is_nowhere(committed: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in committed["components"]["schemas"]


def test_kinds_and_meanings_are_one_table() -> None:
    assert set(STATUS) == set(MEANING)
    assert set(STATUS.values()) <= {400, 401, 404, 405, 406, 408, 413, 415, 422, 429, 431, 500, 503, 504}


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_reference_leads_somewhere_and_every_component_is_used(committed: dict[str, Any]) -> None:
    used = set(references(committed))
    components = committed["components"]
    there = {f"#/components/{kind}/{name}" for kind, named in components.items() for name in named}
    assert used <= there
    assert there - used == {f"#/components/securitySchemes/{name}" for name in components["securitySchemes"]}


def test_errors_of_one_status_are_written_once(committed: dict[str, Any]) -> None:
    for path, method, operation in operations(committed):
        for status, response in operation["responses"].items():
            assert int(status) < 400 or "$ref" in response or status == "503", (path, method, status)


def test_operations_have_plain_names_of_their_own(committed: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(committed)]
    assert len(set(names)) == len(names) and {"predict", "batch", "tokenize", "invocations"} <= set(names)
    assert all(name.replace("_", "").isalnum() and len(name) < 30 for name in names)
