"""Inside a SageMaker training job: `/opt/ml` in, artifact out. What an image's `train` runs.

    python -m training.sagemaker.job.container [train]

The container itself imports no torch. It checks hyper-parameters and channels, starts the processes that train (one, or
one a GPU on each host, under torchrun), passes a request to stop on to them, and says in `/opt/ml/output/failure` why a
job failed. Exit codes: 0 done, or stopped on request with checkpoints to go on from; 2 something about the input; 1
anything else.
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
from pathlib import Path
from types import FrameType
from typing import Any

from training.errors import TrainingError
from training.sagemaker.job import channels
from training.sagemaker.job.cluster import Cluster, command, master_address, network, read_cluster, wait_for
from training.sagemaker.job.hyperparameters import parse_hyperparameters, training_config
from training.sagemaker.job.settings import RESERVE, RESERVE_BYTES, Places

INPUT_ERROR, FAILED = 2, 1
FAILURE_BYTES = 1024
"""The platform shows no more of the failure file."""
STOP_S = 100.0
"""Seconds from SIGTERM until what still trains is killed; the platform kills everything at 120."""
_NUMBER = r"([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?);"
METRIC_DEFINITIONS: list[dict[str, str]] = [
    {"Name": name, "Regex": rf"\b{key}={_NUMBER}"}
    for name, key in (
        ("train:loss", "train_loss"),
        ("train:learning_rate", "learning_rate"),
        ("train:grad_norm", "grad_norm"),
        ("train:epoch", "epoch"),
        ("validation:loss", "eval_loss"),
        ("validation:accuracy", "eval_accuracy"),
        ("test:accuracy", "test_accuracy"),
        ("test:macro_f1", "test_macro_f1"),
        ("test:ece", "ece"),
        ("test:coverage", "coverage"),
        ("baseline:accuracy", "baseline_accuracy"),
        ("baseline:macro_f1", "baseline_macro_f1"),
    )
]
"""For AlgorithmSpecification.MetricDefinitions: what the job's `key=value;` lines are to CloudWatch."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given not in ([], ["train"]):
        sys.stderr.write(f"error: unknown arguments {' '.join(given)}; this container takes `train` alone\n")
        return INPUT_ERROR
    return run_job(Places.read())


def run_job(places: Places, raw: Mapping[str, Any] | None = None) -> int:
    """Check, train, and say how it ended.

    Args:
        places: the job's directories.
        raw: its hyper-parameters, see `parse_hyperparameters`; None: read the platform's file.
    """
    stop = _Stop()
    try:
        job, cluster = prepare(places, places.config("hyperparameters", "SM_HPS") if raw is None else raw)
        if len(cluster.hosts) > 1:
            wait_for(master_address(cluster, places))
        stop.deferred = True
    except _Requested:
        return _stopped("before training began")
    except (TrainingError, OSError) as exc:
        return _failed(places, str(exc), INPUT_ERROR)
    except Exception as exc:
        traceback.print_exc()
        return _failed(places, f"{type(exc).__name__}: {exc}", FAILED)
    environment = places.environment(PYTHONUNBUFFERED="1", **network(cluster))
    return _supervise(places, command(cluster, places, str(job)), environment, stop)


def prepare(places: Places, raw: Mapping[str, Any]) -> tuple[Path, Cluster]:
    """The job's file for the processes that train, and where this host stands.

    Raises:
        TrainingError: hyper-parameters, channels or configuration that cannot be used.
    """
    cluster = read_cluster(places, _count_gpus)
    settings = parse_hyperparameters(raw)
    shutil.rmtree(places.work, ignore_errors=True)
    for name in ("pids", "outcomes"):
        (places.work / name).mkdir(parents=True)
    (places.work / RESERVE).write_bytes(bytes(RESERVE_BYTES))
    data = channels.data_directory(places, len(cluster.hosts))
    base = channels.base_model(places, settings.get("base_model"))
    if base is not None:
        settings["base_model"] = base
    settings.setdefault("name", places.job or "model")
    channels.seed_checkpoints(places)
    config = training_config(
        settings, data=str(data), output=str(places.model), checkpoints=str(places.checkpoints), overwrite=True
    )
    described = {"config": asdict(config), "output_data": str(places.output_data), "host": cluster.current}
    job = places.work / "job.json"
    job.write_text(json.dumps(described, indent=2), encoding="utf-8")
    where = f"host {cluster.rank + 1} of {len(cluster.hosts)}, {cluster.processes} processes on each"
    sys.stdout.write(f"{where}; hyper-parameters: {json.dumps(settings, sort_keys=True)}\n")
    sys.stdout.flush()
    return job, cluster


class _Requested(BaseException):
    """SIGTERM before there is anything to stop."""


class _Stop:
    """Whether and when the platform asked to stop; SIGINT, from a person, is the same."""

    def __init__(self) -> None:
        self.at: float | None = None
        self.deferred = False
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, self._on_signal)

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        self.at = self.at or time.monotonic()
        if not self.deferred:
            raise _Requested


def _supervise(places: Places, train: list[str], environment: dict[str, str], stop: _Stop) -> int:
    """Start what trains, wait for it, pass a request to stop on, and judge how it ended."""
    process = subprocess.Popen(train, env=environment)
    told: set[Path] = set()
    killed = False
    while True:
        try:
            code = process.wait(timeout=0.2)
            break
        except subprocess.TimeoutExpired:
            pass
        if stop.at is None:
            continue
        # to the workers themselves: torchrun would kill them after its own time and call it a failure
        for path in set((places.work / "pids").glob("[!.]*")) - told:
            told.add(path)
            _signal(path, signal.SIGTERM)
        if not killed and time.monotonic() - stop.at > STOP_S:
            killed = True
            for path in told:
                _signal(path, signal.SIGKILL)
            process.kill()
    if _all_well(places.work):
        code = 0  # whatever torchrun says: it complains where another host was done first
    if killed:
        return _stopped(f"no step ended within {STOP_S:g} s; the last complete checkpoint counts")
    if code == 0 and (stop.at is None or not _any_stopped(places.work)):
        return 0  # the request came when little was left to do: the model is whole
    if code == 0:
        return _stopped(f"{time.monotonic() - (stop.at or 0):.1f} s after it was asked to")
    message, expected = _why(places.work, code)
    return _failed(places, message, INPUT_ERROR if expected else FAILED)


def _all_well(work: Path) -> bool:
    """Whether every process that began to train has said that it is done or was stopped."""
    begun = {path.name for path in (work / "pids").glob("[!.]*")}
    said = _outcomes(work)
    return bool(begun) and begun == set(said) and all(one["outcome"] != "failed" for one in said.values())


def _any_stopped(work: Path) -> bool:
    said = _outcomes(work).values()
    return not said or any(one["outcome"] == "stopped" for one in said)


def _outcomes(work: Path) -> dict[str, Any]:
    """What each process that has ended said of it."""
    return {path.name: json.loads(path.read_text("utf-8")) for path in (work / "outcomes").glob("[!.]*")}


def _signal(pid_file: Path, sig: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(json.loads(pid_file.read_text(encoding="utf-8"))["pid"], sig)


def _why(work: Path, code: int) -> tuple[str, bool]:
    """The first cause among the processes' words: an error of ours before the others', then the earliest."""
    outcomes = _outcomes(work)
    failed = [one for one in outcomes.values() if one["outcome"] == "failed"]
    silent = [path for path in (work / "pids").glob("[!.]*") if path.name not in outcomes]
    if any(one["expected"] for one in failed) or (failed and not silent):
        first = min(failed, key=lambda one: (not one["expected"], one["time"]))
        return first["message"], first["expected"]
    if silent or code < 0:
        return (
            "a process that trains was killed from outside, most likely for using more memory than the instance has: "
            "use a smaller batch-size (and gradient-accumulation to match) or max-seq-len, or a larger instance",
            False,
        )
    return f"the processes that train ended with exit code {code}; the log has the reason", False


def _stopped(how: str) -> int:
    sys.stdout.write(f"stopped on request, {how}; the same job goes on from its checkpoints\n")
    sys.stdout.flush()
    return 0


def _failed(places: Places, message: str, code: int) -> int:
    """Write the failure file, what matters first; one that is there is somebody's who knew better."""
    message = message.replace("--checkpoints", "S3 prefix for checkpoints")  # no hyper-parameter
    message = re.sub(r"(?<!\S)--([a-z][a-z-]+)", r"hyper-parameter \1", message)
    sys.stderr.write(f"error: {message}\n")
    try:
        (places.work / RESERVE).unlink(missing_ok=True)
        places.failure.parent.mkdir(parents=True, exist_ok=True)
        if not places.failure.exists():
            places.failure.write_bytes(shorten(message).encode())
    except OSError as exc:
        sys.stderr.write(f"error: {places.failure} cannot be written: {exc}\n")
    return code


def shorten(message: str) -> str:
    """The message in at most `FAILURE_BYTES` bytes of UTF-8; says where the rest is."""
    raw = message.encode("utf-8", "replace")
    if len(raw) <= FAILURE_BYTES:
        return raw.decode()
    note = " ... (the log has the rest)"
    return raw[: FAILURE_BYTES - len(note)].decode("utf-8", "ignore") + note


def _count_gpus() -> int:
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


if __name__ == "__main__":
    sys.exit(main())
