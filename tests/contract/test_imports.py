"""Who may import whom. The rules stand in docs/architecture.md; here they are enforced."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGES = ("classifier", "client", "service", "training")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Absolute names of all modules that a file imports, at any depth of nesting."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_packages_keep_their_place(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    forbidden = {
        "classifier": {"service", "training", "client"},
        "client": {"classifier", "service", "training"},
        "service": {"training", "client"},
        "training": {"service", "client"},
    }[package]
    assert not roots(path) & (forbidden | {"tests", "scripts", "examples"})


ALLOWED = {
    "classifier": {"service/model/torch_engine.py"},  # beside classifier and training themselves
    "torch": {"service/model/torch_engine.py"},
    "fastapi": {"service/"},
    "starlette": {"service/"},
    "transformers": {"classifier/", "training/"},
    "httpx": {"client/"},
    "h11": {"client/transport/two_way.py"},
    "rich": {"client/"},
    "streamlit": {"client/page/app.py"},
    "boto3": {"training/sagemaker/launch/aws.py", "client/transport/sagemaker.py"},
    "botocore": {
        "training/sagemaker/launch/aws.py",
        "training/sagemaker/launch/validation.py",
        "client/transport/sagemaker.py",
    },  # its model of the API, its errors
}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_heavy_packages_stay_where_they_belong(path: Path) -> None:
    name = relative(path)
    for imported in roots(path) & set(ALLOWED):
        places = ALLOWED[imported] | ({"classifier/", "training/"} if imported in ("classifier", "torch") else set())
        assert any(name == place or (place.endswith("/") and name.startswith(place)) for place in places), imported


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_environment_is_read_in_the_settings_only(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    reads = any(
        isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
        for node in ast.walk(ast.parse(source))
    )
    assert not reads or path.name == "settings.py"


def test_the_rules_see_something() -> None:
    assert len(FILES) > 25
    assert "classifier.artifact" in set(imports(ROOT / "service" / "model" / "torch_engine.py"))
