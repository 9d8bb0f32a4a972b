"""The program of a SageMaker training job, which an image's `train` runs.

It reads data and settings below `/opt/ml` and writes an artifact there.

    python -m training.sagemaker.job.container [train]

The container itself imports no torch. It checks hyper-parameters and channels, starts the processes that train (one, or
one for each GPU on each host, under torchrun), passes a request to stop on to them, and writes to
`/opt/ml/output/failure` why a job failed. Exit codes: 0 done, or stopped on request with checkpoints to resume from;
2 the input is wrong; 1 anything else.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from training.errors import TrainingError
from training.sagemaker.job import channels
from training.sagemaker.job.cluster import Cluster, count_gpus, network_variables, read_cluster, training_command
from training.sagemaker.job.hyperparameters import parse_hyperparameters, training_config
from training.sagemaker.job.settings import JobPaths
from training.sagemaker.job.training_process import RESERVE, RESERVE_BYTES

INPUT_ERROR, FAILED = 2, 1
FAILURE_BYTES = 1024
"""Length of the failure file that the platform shows."""
STOP_S = 100.0
"""Seconds from SIGTERM until processes that still train are killed; the platform kills everything after 120."""
METRIC_DEFINITIONS: list[dict[str, str]] = [
    {"Name": name, "Regex": rf"\b{key}=([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?);"}
    for name, key in {
        "train:loss": "train_loss", "train:learning_rate": "learning_rate", "train:grad_norm": "grad_norm",
        "train:epoch": "epoch", "validation:loss": "eval_loss", "validation:accuracy": "eval_accuracy",
        "test:accuracy": "test_accuracy", "test:macro_f1": "test_macro_f1", "test:ece": "ece",
        "test:coverage": "coverage", "baseline:accuracy": "baseline_accuracy", "baseline:macro_f1": "baseline_macro_f1",
    }.items()
]  # fmt: skip
"""The value of AlgorithmSpecification.MetricDefinitions: CloudWatch's names for the figures in the job's log."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in ([], ["train"]):
        return run_job(JobPaths.read())
    sys.stderr.write(f"error: unknown arguments {' '.join(given)}; this container takes only `train`\n")
    return INPUT_ERROR


def run_job(paths: JobPaths, raw: Mapping[str, Any] | None = None) -> int:
    """Check the job, train, write how it ended, and return the exit code.

    `raw` are hyper-parameters for `parse_hyperparameters`; by default the platform's file is read.
    """
    stop = _StopRequest()
    try:
        job, cluster = prepare(paths, paths.config("hyperparameters", "SM_HPS") if raw is None else raw)
        stop.interrupts = False
    except _StoppedEarly:
        return _stopped("before training began")
    except (TrainingError, OSError) as exc:
        return _failed(paths, str(exc), INPUT_ERROR)
    except Exception as exc:
        traceback.print_exc()
        return _failed(paths, f"{type(exc).__name__}: {exc}", FAILED)
    environment = {"PYTHONUNBUFFERED": "1", **network_variables(cluster), **paths.variables}
    return _supervise(paths, training_command(cluster, paths, str(job)), environment, stop)


def prepare(paths: JobPaths, raw: Mapping[str, Any]) -> tuple[Path, Cluster]:
    """Write the job's file for the processes that train, and return its path and the job's hosts.

    Raises TrainingError if hyper-parameters, channels or configuration cannot be used.
    """
    cluster = read_cluster(paths, lambda: count_gpus(Path("/dev"), version("torch")))
    settings = parse_hyperparameters(raw)
    shutil.rmtree(paths.work, ignore_errors=True)
    for name in ("pids", "outcomes"):
        (paths.work / name).mkdir(parents=True)
    (paths.work / RESERVE).write_bytes(bytes(RESERVE_BYTES))
    data = channels.data_directory(paths, len(cluster.hosts))
    base = channels.base_model(paths, settings.get("base_model"))
    if base is not None:
        settings["base_model"] = base
    settings.setdefault("name", paths.variables.get("TRAINING_JOB_NAME") or "model")
    channels.seed_checkpoints(paths)
    config = training_config(
        settings, data=str(data), output=str(paths.model), checkpoints=str(paths.checkpoints), overwrite=True
    )
    described = {"config": asdict(config), "output_data": str(paths.output_data), "host": cluster.current}
    job = paths.work / "job.json"
    job.write_text(json.dumps(described, indent=2), encoding="utf-8")
    hosts = f"host {cluster.rank + 1} of {len(cluster.hosts)} with {cluster.processes} processes"
    _write_log(f"{hosts}; hyper-parameters: {json.dumps(settings, sort_keys=True)}")
    return job, cluster


class _StoppedEarly(BaseException):
    """The platform asked to stop before a process trained."""


class _StopRequest:
    """Keeps the time of the first request to stop: SIGTERM from the platform, or SIGINT from a person."""

    at: float | None = None
    interrupts = True

    def __init__(self) -> None:
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, self._on_signal)

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        self.at = self.at or time.monotonic()
        if self.interrupts:
            raise _StoppedEarly


def _supervise(paths: JobPaths, command: list[str], environment: dict[str, str], stop: _StopRequest) -> int:
    """Start the processes that train, wait for them, pass a request to stop on, and return the exit code."""
    process = subprocess.Popen(command, env=environment)
    told: set[Path] = set()
    killed = False
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout=0.2)
            break
        if stop.at is None:
            continue
        # signals go to the training processes, because torchrun would kill them after a while and report a failure
        begun = set((paths.work / "pids").glob("[!.]*"))
        _signal(begun - told, signal.SIGTERM)
        told |= begun
        if not killed and time.monotonic() - stop.at > STOP_S:
            killed = True
            _signal(told, signal.SIGKILL)
            process.kill()
    outcomes = read_outcomes(paths.work)
    ends = [outcome["outcome"] for outcome in outcomes.values()]
    if killed:
        return _stopped(f"no step ended within {STOP_S:g} s; the last complete checkpoint counts")
    # torchrun's exit code is not 0 if another host was done first
    if code and (not outcomes or "failed" in ends or _silent(paths.work, outcomes)):
        message, expected = failure_cause(paths.work, code)
        return _failed(paths, message, INPUT_ERROR if expected else FAILED)
    if stop.at is None or (ends and "stopped" not in ends):  # a request may come when only the model is left to write
        return 0
    return _stopped(f"{time.monotonic() - stop.at:.1f} s after the request")


def read_outcomes(work: Path) -> dict[str, Any]:
    """Return what each process that has ended wrote about its end."""
    return {path.name: json.loads(path.read_text("utf-8")) for path in (work / "outcomes").glob("[!.]*")}


def _silent(work: Path, outcomes: Mapping[str, Any]) -> bool:
    """Return whether a process began to train and did not write how it ended."""
    return any(path.name not in outcomes for path in (work / "pids").glob("[!.]*"))


def _signal(pid_files: set[Path], sig: signal.Signals) -> None:
    for path in pid_files:
        with contextlib.suppress(ProcessLookupError):
            os.kill(json.loads(path.read_text(encoding="utf-8"))["pid"], sig)


def failure_cause(work: Path, code: int) -> tuple[str, bool]:
    """Return the message of the first cause, and whether it is an error of the input.

    An expected error comes before an unexpected one, which may follow from it on another host; then the earliest.
    """
    outcomes = read_outcomes(work)
    failed = [outcome for outcome in outcomes.values() if outcome["outcome"] == "failed"]
    silent = _silent(work, outcomes)
    if any(outcome["expected"] for outcome in failed) or (failed and not silent):
        first = min(failed, key=lambda outcome: (not outcome["expected"], outcome["time"]))
        return first["message"], first["expected"]
    message = f"the training processes ended with exit code {code}; the log has the reason"
    if silent or code < 0:
        message = (
            "a training process was killed from outside, most likely for using more memory than the instance has: use "
            "a smaller batch-size (and gradient-accumulation to match) or max-seq-len, or a larger instance"
        )
    return message, False


def _stopped(how: str) -> int:
    _write_log(f"stopped on request, {how}; the same job goes on from its checkpoints")
    return 0


def _write_log(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _failed(paths: JobPaths, message: str, code: int) -> int:
    """Write the failure file, unless a process that knew more has written one."""
    message = message.replace("--checkpoints", "S3 prefix for checkpoints")  # which is not a hyper-parameter
    message = re.sub(r"(?<!\S)--([a-z][a-z-]+)", r"hyper-parameter \1", message)
    sys.stderr.write(f"error: {message}\n")
    file = paths.root / "output" / "failure"
    try:
        (paths.work / RESERVE).unlink(missing_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_bytes(shorten(message).encode())
    except OSError as exc:
        sys.stderr.write(f"error: {file} cannot be written: {exc}\n")
    return code


def shorten(message: str) -> str:
    """Return the message in at most `FAILURE_BYTES` bytes of UTF-8; a shortened one says where the rest is."""
    raw = message.encode("utf-8", "replace")
    if len(raw) <= FAILURE_BYTES:
        return raw.decode()
    note = " ... (the log has the rest)"
    return raw[: FAILURE_BYTES - len(note)].decode("utf-8", "ignore") + note


if __name__ == "__main__":
    sys.exit(main())
