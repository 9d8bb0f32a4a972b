"""One process that trains: it calls `run()` with the settings that the container wrote, and writes how it ended.

WORK/job.json          settings and directories, written by the container
WORK/pids/RANK         this process's id, for the container's signals
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

RESERVE, RESERVE_BYTES = "reserve", 65_536
"""A file in the work directory that is removed when a job fails, so that a full disk has room for the failure file."""
FULL_BYTES = 2**20
"""Free bytes below which the disk counts as full: libraries report that as errors of all kinds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train by the job's file and return the exit code: 0 if it is done or was stopped on request."""
    job = Path((sys.argv[1:] if arguments is None else arguments)[0])
    described = json.loads(job.read_text(encoding="utf-8"))
    process = f"{described['host']}-{os.getpid()}"
    outcome: dict[str, Any] = {"outcome": "failed", "expected": False}
    from classifier.errors import ClassifierError
    from training.fit.stopping import Stopped, on_signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process; the container passes it on
    try:
        signal.signal(signal.SIGTERM, on_signal)
        _write(job.parent / "pids" / process, {"pid": os.getpid()})
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
    failed = outcome["outcome"] == "failed"
    if failed:
        (job.parent / RESERVE).unlink(missing_ok=True)
    _write(job.parent / "outcomes" / process, outcome | {"time": time.time()})
    return 1 if failed else 0


def _train(described: dict[str, Any]) -> None:
    from training.fit.run import report_directory, run
    from training.report.evaluate import metric_lines
    from training.sagemaker.job.pack import add_code

    config = TrainConfig(**described["config"])
    artifact = run(config)
    if artifact is None:  # another process writes it
        return
    add_code(artifact.directory)
    report = report_directory(config)
    if report.is_dir():
        shutil.copytree(report, described["output_data"], dirs_exist_ok=True)
        shutil.rmtree(report)
    sys.stdout.write("\n".join(metric_lines(artifact.manifest.metrics)) + "\n")
    sys.stdout.flush()


def _write(path: Path, content: dict[str, Any]) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(main())
