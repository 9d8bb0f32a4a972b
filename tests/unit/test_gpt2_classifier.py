"""The command `gpt2-classifier` reaches the command line of each package."""

import argparse
import importlib
import sys
import tomllib
from collections.abc import Sequence

import pytest

import gpt2_classifier
from client.cli.main import _parser as client_parser
from gpt2_classifier import VERBS, main
from tests.support import ROOT
from training.__main__ import _parser as training_parser


def verbs_of(parser: argparse.ArgumentParser) -> set[str]:
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return set(commands.choices)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_reaches_its_packages_main(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Sequence[str]] = []

    def record(arguments: Sequence[str]) -> int:
        called.append(arguments)
        return 7

    monkeypatch.setattr(importlib.import_module(VERBS[verb][0]), "main", record)
    assert main([verb, "--flag", "value"]) == 7
    assert called == [["--flag", "value"] if verb == "sagemaker" else [verb, "--flag", "value"]]


def test_every_verb_of_training_and_of_the_client_is_there() -> None:
    assert {"serve", "sagemaker"} | verbs_of(training_parser()) | verbs_of(client_parser()) == set(VERBS)


def test_help_lists_the_verbs_and_an_unknown_verb_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main([]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)
    assert main(["sreve"]) == 2
    assert "no verb 'sreve'" in capsys.readouterr().err


def test_missing_packages_are_named_with_the_extra_that_installs_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "client.__main__", raising=False)
    monkeypatch.setitem(sys.modules, "client.cli.main", None)  # what Python does for a module that is not there
    assert main(["predict", "text"]) == 2
    assert 'pip install "gpt2-classifier[client]"' in capsys.readouterr().err


def test_the_project_installs_the_command_with_its_module_and_extras() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert document["project"]["scripts"] == {"gpt2-classifier": "gpt2_classifier:main"}
    assert document["tool"]["setuptools"]["py-modules"] == [gpt2_classifier.__name__]
    assert {extra for _, extra in VERBS.values()} <= {"", *document["project"]["optional-dependencies"]}
