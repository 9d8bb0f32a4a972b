"""What is fetched from elsewhere is named by its content: actions by commit, base images by digest."""

import re
from typing import Any

import pytest
import yaml

from tests.support import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def workflow(name: str) -> dict[Any, Any]:
    return dict(yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_named_by_commit_with_their_release(path: Any) -> None:
    text = path.read_text(encoding="utf-8")
    uses = re.findall(r"uses: (.*)", text)
    assert uses
    for use in uses:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use), use
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_commands_of_workflows_exist(path: Any) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for verb in re.findall(r"run: make ([a-z-]+)", path.read_text(encoding="utf-8")):
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb


def test_packages_are_audited_and_images_built_every_week() -> None:
    for name, command in (("audit.yml", "make audit"), ("images.yml", "make image-test")):
        [job] = workflow(name)["jobs"].values()
        assert command in [step.get("run") for step in job["steps"]]
        assert [entry["cron"].split()[2:] for entry in workflow(name)[True]["schedule"]] == [["*", "*", "1"]]


def test_base_images_are_named_by_digest() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^ARG BASE=python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert re.search(r"^ARG RUNTIME=\$\{BASE\}$", text, re.MULTILINE)
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
    assert set(re.findall(r"^FROM (\S+) AS", text, re.MULTILINE)) <= {"${BASE}", "${RUNTIME}"} | stages


def test_every_locked_package_has_a_hash() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        for requirement in re.split(r"\n(?=[a-z0-9])", path.read_text(encoding="utf-8"))[1:]:
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", requirement), (path.name, requirement[:50])
