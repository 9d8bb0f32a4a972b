"""Virtual environments of other runtimes and servers, with the pinned packages of `benchmarks/requirements/NAME.txt`.

They are made once under the work directory and never touch the project's own.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

from benchmarks.processes import ROOT
from benchmarks.tools.command_line import say
from benchmarks.tools.errors import Unavailable

REQUIREMENTS = ROOT / "benchmarks" / "requirements"
DOWNLOAD_MB = {"onnxruntime": 300, "openvino": 80, "litserve": 260, "bentoml": 290}
"""Megabytes that pip downloads for each environment if its cache is empty, including torch's CPU build."""

STAMP = ".made"
"""File with the hash of the installed requirements, written last."""


def environment(work: Path, name: str) -> Path:
    """Return the interpreter of an environment, which is made if it does not exist or its requirements have changed.

    Raises:
        Unavailable: pip fails; the message has its last line.
    """
    python = _directory(work, name) / "bin" / "python"
    if is_made(work, name):
        return python
    requirements = REQUIREMENTS / f"{name}.txt"
    say(f"making the environment of {name} (downloads {DOWNLOAD_MB[name]} MB at most): {_directory(work, name)}")
    _run(name, sys.executable, "-m", "venv", "--clear", _directory(work, name))
    install = (python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet")
    torch = [line for line in requirements.read_text(encoding="utf-8").split() if line.startswith("torch==")]
    index = _run(name, "sh", ROOT / "scripts" / "torch_index.sh", python)
    if torch and index:
        _run(name, *install, "--index-url", index, *torch)
    _run(name, *install, "-r", requirements)
    (_directory(work, name) / STAMP).write_text(_digest(name), encoding="ascii")
    return python


def is_made(work: Path, name: str) -> bool:
    """Return whether an environment exists with its present requirements."""
    stamp = _directory(work, name) / STAMP
    return stamp.is_file() and stamp.read_text(encoding="ascii").strip() == _digest(name)


def pinned(name: str) -> list[str]:
    """Return the packages of an environment with their versions."""
    lines = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8").split()
    return [line.replace("==", " ") for line in lines if "==" in line]


def _directory(work: Path, name: str) -> Path:
    return (work / "venvs" / name).absolute()


def _digest(name: str) -> str:
    return hashlib.sha256((REQUIREMENTS / f"{name}.txt").read_bytes()).hexdigest()


def _run(name: str, *command: str | Path) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as exc:
        raise Unavailable(f"{name}: {exc}") from exc
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise Unavailable(f"{name} cannot be installed: {errors[-1].strip()}")
    return done.stdout.strip()
