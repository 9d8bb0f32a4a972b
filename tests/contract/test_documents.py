"""What README and docs say of settings, versions, files and modules is true."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from client import settings as client_settings
from service import __version__
from service.settings import PREFIX, SAGEMAKER_ACCEPT, SAGEMAKER_PORT, Settings
from service.telemetry import Metrics
from tests.support import ROOT

DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]

MADE_LATER = ("models/mine", "models/trained", "models/base", "models/student", "models/article")
"""Paths of examples, which a reader's own commands make."""


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """Files of the repository, and the directories above them."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return {*listed, *(str(parent) for name in listed for parent in Path(name).parents)}


def paths_in(text: str, tracked: set[str]) -> set[str]:
    """Paths below the repository's top folders that stand in backquotes or commands, without line ends or slashes."""
    tops = "|".join(
        sorted(re.escape(name) for name in tracked if "/" not in name and name != "." and (ROOT / name).is_dir())
    )
    found = re.findall(rf"(?<![\w/.:-])((?:{tops})/[\w./{{}},*-]*)", text)
    return {name.rstrip("/.,") for name in found if not name.startswith(MADE_LATER)}


def links_in(name: str) -> set[str]:
    """Targets of relative links and pictures, without their anchors."""
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)|(?:src|srcset)=\"([^\":]+)\"", read(name))
    return {target for pair in targets for target in pair if target}


def test_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) <= 180


def test_readme_links_every_page() -> None:
    pages = {name for name in DOCUMENTS if name.startswith("docs/")}
    assert pages <= links_in("README.md"), pages - links_in("README.md")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files(name: str) -> None:
    for target in links_in(name):
        assert ((ROOT / name).parent / target).exists(), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_anchors_lead_to_headings(name: str) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)#([\w-]+)\)", read(name)):
        page = ((ROOT / name).parent / target) if target else ROOT / name
        headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in anchors, f"{target}#{anchor}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_that_are_named_exist(name: str, tracked: set[str]) -> None:
    missing = paths_in(read(name), tracked) - tracked
    assert not missing


@pytest.mark.parametrize("name", DOCUMENTS)
def test_make_verbs_that_are_named_exist(name: str) -> None:
    verbs = set(re.findall(r"(?:`|^|&& )(?:\w+=\S+ )?make ([a-z-]+)", read(name), re.MULTILINE))
    assert verbs <= set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))


def test_architecture_names_every_module(tracked: set[str]) -> None:
    modules = {
        name
        for name in tracked
        if name.startswith(("classifier/", "service/", "client/", "training/"))
        and name.endswith(".py")
        and not name.endswith("__init__.py")
    }
    missing = {name for name in modules if f"`{name}`" not in read("docs/architecture.md")}
    assert not missing


def test_table_of_settings_is_that_of_the_code() -> None:
    command = [sys.executable, "scripts/export_settings.py", "--check"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    page = read("docs/settings.md")
    for name in Settings.model_fields:
        assert f"| `{PREFIX}{name.upper()}` |" in page
    for name in (SAGEMAKER_PORT, SAGEMAKER_ACCEPT, client_settings.URL, client_settings.API_KEY, client_settings.FIXED):
        assert f"| `{name}` |" in page


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_setting_is_named_that_does_not_exist(name: str) -> None:
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", read(name))) <= known


def test_metrics_that_are_named_are_all_there_are() -> None:
    known = {f"{m.name}_total" if m.type == "counter" else m.name for m in Metrics().registry.collect()}
    assert set(re.findall(r"`(classifier_\w+)`", read("docs/operations.md"))) == known
    for name in DOCUMENTS:
        assert set(re.findall(r"`(classifier_\w+)`", read(name))) <= known, name


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
