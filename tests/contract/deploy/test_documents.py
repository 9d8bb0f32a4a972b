"""The commands of docs/deploy.md exist: files, Make verbs, targets, verbs of `python -m training.sagemaker`."""

import importlib.util
import re
import subprocess
import sys

import pytest

from tests.support import ROOT

TEXT = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
BLOCKS = [block.replace("\\\n", " ") for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)]
COMMANDS = [
    part.strip() for block in BLOCKS for line in block.splitlines() for part in line.split("&&") if part.strip()
]
LAUNCHER = [command.split()[3:] for command in COMMANDS if command.startswith("python -m training.sagemaker ")]


def section(title: str) -> str:
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def first_block(title: str) -> list[str]:
    lines = re.findall(r"```sh\n(.*?)```", section(title), re.DOTALL)[0].replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip()]


@pytest.mark.parametrize(
    ("title", "count"),
    [("EC2 in four commands", 4), ("Kubernetes in four commands", 4)],
)
def test_headings_count_right_and_say_cost_and_removal(title: str, count: int) -> None:
    assert len(first_block(title)) == count
    text = section(title)
    assert "dollars" in text and re.search(r"^Remove ", text, re.MULTILINE)


def test_prices_have_a_date_and_a_place_to_check_them() -> None:
    assert re.search(r"as of 20\d\d-\d\d-\d\d", TEXT) and "https://aws.amazon.com/ec2/pricing" in TEXT


def test_files_that_are_named_exist() -> None:
    named = set(re.findall(r"(?:--template-file|-f|--values|s3 cp) (\S+)", " ".join(COMMANDS)))
    assert {"deploy/ec2/stack.yaml", "deploy/kubernetes/classifier.yaml"} <= named
    for name in named:
        assert (ROOT / name).is_file(), name


def test_make_verbs_and_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for verb in set(re.findall(r"\bmake ([a-z-]+)", TEXT)) - {"and"}:
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb
    for target in re.findall(r"TARGET=(\w+)", TEXT):
        assert re.search(rf"^FROM \S+ AS {target}$", dockerfile, re.MULTILINE), target


def test_template_has_every_parameter_that_is_given() -> None:
    template = (ROOT / "deploy" / "ec2" / "stack.yaml").read_text(encoding="utf-8")
    [command] = [command for command in COMMANDS if "cloudformation deploy" in command]
    given = re.findall(r"\b([A-Z]\w+)=", command.split("--parameter-overrides")[1])
    assert len(given) == 6
    for name in given:
        assert re.search(rf"^  {name}:$", template, re.MULTILINE), name


def test_launcher_verbs_are_the_agreed_ones() -> None:
    verbs = {words[0] for words in LAUNCHER}
    assert verbs == {"push"}


@pytest.mark.skipif(
    importlib.util.find_spec("training.sagemaker") is None
    or importlib.util.find_spec("training.sagemaker.__main__") is None,
    reason="training.sagemaker is not part of this checkout yet",
)
def test_launcher_has_every_verb_and_option() -> None:
    for verb in {words[0] for words in LAUNCHER}:
        command = [sys.executable, "-m", "training.sagemaker", verb, "--help"]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        used = {word for words in LAUNCHER if words[0] == verb for word in words if word.startswith("--")}
        for option in used:
            assert re.search(rf"{option}\b", ran.stdout), (verb, option)
