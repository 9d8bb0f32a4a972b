"""No setting of the machine reaches a test, and no test leaves one behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SETTINGS
from tests.support import ROOT

TESTS = """
import os

def test_sees_no_setting():
    assert not [name for name in os.environ if name.startswith({prefixes})]

def test_leaves_a_setting():
    os.environ["CLASSIFIER_URL"] = "http://left-behind"

def test_sees_no_setting_again():
    test_sees_no_setting()
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "test_settings_of_the_machine.py"
    path.write_text(TESTS.format(prefixes=SETTINGS), encoding="utf-8")
    return path


def test_settings_of_the_machine_and_of_other_tests_are_gone(module: Path) -> None:
    given = {f"{prefix}X": "from the machine" for prefix in SETTINGS}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", str(module)]
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | given, capture_output=True, text=True, check=False)
    assert "3 passed, 1 error" in ran.stdout, ran.stdout + ran.stderr
    assert "the test leaves these variables set" in ran.stdout and "CLASSIFIER_URL" in ran.stdout
