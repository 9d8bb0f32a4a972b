"""One process that trains: `run()` over the settings that the container wrote, and a word on how it ended.

WORK/job.json          settings and places, from the container
WORK/pids/RANK         this process, for the container's signals
WORK/outcomes/RANK     how it ended: {"outcome": "done" | "stopped" | "failed", "message", "expected", "time"}
"""

import errno
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.config import TrainConfig
from training.errors import TrainingError
from training.sagemaker.job.settings import RESERVE

FAILED = 1
FULL_BYTES = 2**20
"""With less left a disk is full: libraries report that as errors of all kinds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train by the job's file; 0 if it is done or was stopped on request."""
    job = Path((sys.argv[1:] if arguments is None else arguments)[0])
    described = json.loads(job.read_text(encoding="utf-8"))
    own = f"{described['host']}-{os.getpid()}"
    outcome: dict[str, Any] = {"outcome": "failed", "expected": False}
    from classifier.errors import ClassifierError
    from training.fit.stopping import Stopped, on_signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: the container decides
    try:
        signal.signal(signal.SIGTERM, on_signal)
        _write(job.parent / "pids" / own, {"pid": os.getpid()})
        _train(described)
        outcome["outcome"] = "done"
    except Stopped:
        outcome["outcome"] = "stopped"
    except (TrainingError, ClassifierError) as exc:
        outcome |= {"message": str(exc), "expected": True}
    except Exception as exc:
        full = os.strerror(errno.ENOSPC) in str(exc) or shutil.disk_usage(job.parent).free < FULL_BYTES
        outcome["message"] = f"{type(exc).__name__}: {exc}{'; the disk is full: use a larger volume' if full else ''}"
        traceback.print_exc()
    if outcome["outcome"] == "failed":
        (job.parent / RESERVE).unlink(missing_ok=True)
    _write(job.parent / "outcomes" / own, outcome | {"time": time.time()})
    return FAILED if outcome["outcome"] == "failed" else 0


def _train(described: dict[str, Any]) -> None:
    from training.fit.run import report_directory, run
    from training.report.evaluate import figure_lines

    config = TrainConfig(**described["config"])
    artifact = run(config)
    if artifact is None:
        return
    from training.sagemaker.job.pack import add_code

    add_code(artifact.directory)
    report, target = report_directory(config), Path(described["output_data"])
    if report.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        shutil.copytree(report, target, dirs_exist_ok=True)
        shutil.rmtree(report)
    sys.stdout.write("\n".join(figure_lines(artifact.manifest.metrics)) + "\n")
    sys.stdout.flush()


def _write(path: Path, content: dict[str, Any]) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(main())
