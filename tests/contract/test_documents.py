"""What the documents say of settings, versions and files is true."""

import re
import tomllib

from pydantic import SecretStr

from service import __version__
from service.settings import PREFIX, Settings
from tests.support import ROOT


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_readme_documents_every_setting_with_its_default() -> None:
    readme = read("README.md")
    for name, field in Settings.model_fields.items():
        variable = f"{PREFIX}{name.upper()}"
        row = re.search(rf"^\| `{variable}` \| (.*?) \| (.*?) \|$", readme, re.MULTILINE)
        assert row, f"README.md has no row for {variable}"
        if not field.default_factory:
            default = "" if isinstance(field.default, SecretStr) else str(field.default)
            assert row[1].strip("`") == default, variable
        assert row[2] == field.description, variable


def test_readme_names_no_setting_that_does_not_exist() -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", read("README.md"))) <= known


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert project["version"] == __version__
    assert re.search(rf"^## \[(Unreleased|{re.escape(__version__)})\]", read("CHANGELOG.md"), re.MULTILINE)


def test_every_dependency_has_its_line_in_the_decisions() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    decisions = read("docs/decisions.md")
    for requirement in wanted:
        name = re.match(r"[\w-]+", requirement)
        assert name and re.search(rf"^\| `{name[0]}` \|", decisions, re.MULTILINE), requirement
