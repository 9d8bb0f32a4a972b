"""Training runs, in the process of the test or in one of their own."""

import os
import subprocess
import sys
from typing import Any

from classifier.artifact import Artifact
from tests.support import ROOT
from training.config import TrainConfig
from training.fit import run as training_run


def run(config: TrainConfig) -> Artifact:
    artifact = training_run.run(config)
    assert artifact is not None  # torchrun's other processes get None
    return artifact


def start(*words: object, launcher: tuple[str, ...] = (), **settings: Any) -> "subprocess.Popen[str]":
    """Start `python -m training`, or a launcher's processes of it, with pipes for its output and errors."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, *launcher, "-m", "training", *map(str, words)]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
    return subprocess.Popen(command, cwd=ROOT, text=True, env=environment, **streams)


def finish(*words: object, launcher: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Run `python -m training` to its end and return its exit code, output and errors."""
    with start(*words, launcher=launcher) as process:
        output, errors = process.communicate(timeout=240)
    return process.returncode, output, errors
