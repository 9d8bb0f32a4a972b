"""Whole training jobs in directories like /opt/ml, started by the entry point of the image."""

import errno
import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from benchmarks.processes import free_port
from classifier.artifact import read_artifact
from tests.support.sagemaker_emulator import QUICK, Job
from tests.support.texts import news_rows
from training.sagemaker.job import training_process
from training.sagemaker.job.container import FAILURE_BYTES, METRIC_DEFINITIONS, _failed, failure_cause, prepare, shorten
from training.sagemaker.job.settings import JobPaths


def metrics_of(job: Job) -> dict[str, object]:
    return read_artifact(job.root / "model").manifest.metrics


def test_job_writes_model_report_and_metrics(tmp_path: Path, base_model: Path) -> None:
    settings = {"baseline": True, "report": True, "unsure_error": 0.9}  # so that few texts suffice for a threshold
    job = Job(tmp_path, QUICK | settings, base_model, TRAINING_JOB_NAME="news-1")
    log = job.succeed()
    artifact = read_artifact(tmp_path / "model")
    assert artifact.manifest.name == "news-1"
    assert (tmp_path / "model" / "code" / "inference.py").is_file()
    assert (tmp_path / "output" / "data" / "report.html").is_file() and not (tmp_path / "model-report").exists()
    assert not (tmp_path / "output" / "failure").exists()
    for definition in METRIC_DEFINITIONS:
        found = re.findall(definition["Regex"], log)
        assert found, definition
        assert all(float(value) == float(value) for value in found)
        assert len(definition["Regex"]) <= 500
    last = re.findall(next(d["Regex"] for d in METRIC_DEFINITIONS if d["Name"] == "test:accuracy"), log)[-1]
    assert float(last) == pytest.approx(artifact.manifest.metrics["accuracy"], abs=5e-5)
    assert len(METRIC_DEFINITIONS) <= 40


@pytest.mark.slow
def test_given_parts_are_taken_as_they_are(tmp_path: Path, base_model: Path) -> None:
    rows = news_rows(60)
    job = Job(tmp_path, QUICK | {"epochs": 1}, base_model)
    for name, part in {"train": rows[:40], "validation": rows[40:50], "test": rows[50:]}.items():
        job.channel(name, "part-0.jsonl", "\n".join(map(json.dumps, part)))
    job.succeed()
    sizes = read_artifact(tmp_path / "model").manifest.provenance["split_sizes"]
    assert sizes == {"train": 40, "val": 10, "test": 10}


@pytest.mark.parametrize(
    ("hyperparameters", "row", "message"),
    [
        ({"epoch": 3}, None, "unknown hyper-parameter 'epoch'; known are "),
        ({"weight-decay": "little"}, None, "hyper-parameter weight-decay must be a number, is 'little'"),
        pytest.param({"hidden-size": 768}, None, "hidden-size is 768, but base model", marks=pytest.mark.slow),
        pytest.param({}, {"text": "", "label": "sport"}, "1 problem in the data:", marks=pytest.mark.slow),
        ({}, news_rows(60)[0], "leaks"),
    ],
    ids=["name", "value", "base", "data", "leak"],
)
def test_failure_says_what_was_wrong(
    hyperparameters: dict[str, object], row: dict[str, str] | None, message: str, tmp_path: Path, base_model: Path
) -> None:
    job = Job(tmp_path, QUICK | hyperparameters, base_model)
    if row is not None:
        rows = news_rows(80)[60:] if message == "leaks" else []
        job.channel("test", "t.jsonl", "\n".join(map(json.dumps, [row, *rows])))
    code, log = job.run()
    assert code == 2, log
    assert message in job.failure and len(job.failure.encode()) <= FAILURE_BYTES
    assert message in job.failure.split(". ")[0]
    assert "--" not in job.failure and not any((tmp_path / "model").iterdir())


def test_broken_configuration_and_arguments_fail_too(tmp_path: Path) -> None:
    job = Job(tmp_path, {}, None)
    (tmp_path / "input" / "config" / "hyperparameters.json").write_text("{", encoding="utf-8")
    assert job.run()[0] == 2 and "not valid JSON" in job.failure
    assert job.run("-m", "training.sagemaker.job.container", "serve")[0] == 2


@pytest.mark.parametrize(
    ("file", "content", "environment", "code", "message"),
    [
        ("hyperparameters", b'{"name": "caf\xe9"}', {}, 2, "hyperparameters.json is not valid JSON: 'utf-8' codec"),
        ("resourceconfig", b'{"hosts": 5}', {}, 1, "TypeError: "),
        ("inputdataconfig", b'{"train": "File"}', {}, 1, "AttributeError: "),
        ("inputdataconfig", b"{}", {"SM_HOSTS": "["}, 1, "JSONDecodeError: "),
    ],
)
def test_what_the_platform_should_not_write_reaches_the_failure_file(
    file: str, content: bytes, environment: dict[str, str], code: int, message: str, tmp_path: Path
) -> None:
    job = Job(tmp_path, {}, None)
    job.environment |= environment
    (tmp_path / "input" / "config" / f"{file}.json").write_bytes(content)
    ended, log = job.run()
    assert ended == code, log
    assert message in job.failure and ("Traceback" in log) == (code == 1)


def test_a_channel_of_hidden_files_is_empty(tmp_path: Path) -> None:
    job = Job(tmp_path, {}, None, rows=())
    job.channel("train", ".DS_Store", "")
    job.channel("train", "_SUCCESS", "")
    assert job.run()[0] == 2 and job.failure.startswith("channel train is empty")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("unexpected pos 96960 vs 96848")]
)
def test_on_a_full_disk_there_is_room_to_say_so(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Job(tmp_path, {}, None)
    places, opened, full = JobPaths(tmp_path, {}), Path.open, threading.Event()
    job, _ = prepare(places, {})
    reserve = places.work / "reserve"
    assert reserve.stat().st_size == 65_536

    def open_if_there_is_room(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if "w" in mode and full.is_set() and reserve.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, mode, *more, **named)

    def train(_: object) -> None:
        full.set()
        raise error

    monkeypatch.setattr("training.sagemaker.job.training_process.shutil.disk_usage", lambda _: Mock(free=0))
    monkeypatch.setattr(Path, "open", open_if_there_is_room)
    monkeypatch.setattr("training.sagemaker.job.training_process._train", train)
    monkeypatch.setattr("training.sagemaker.job.training_process.signal.signal", lambda *_: None)
    assert training_process.main([str(job)]) == 1
    message, expected = failure_cause(places.work, 1)
    assert message == f"{type(error).__name__}: {error}; the disk is full: use a larger volume" and not expected
    reserve.touch()
    assert _failed(places, message, 1) == 1
    assert (tmp_path / "output" / "failure").read_text(encoding="utf-8") == message


def test_checkpoints_of_another_run_are_explained_in_the_platforms_words(tmp_path: Path) -> None:
    assert _failed(JobPaths(tmp_path, {}), "of another run. Choose another --checkpoints or --name", 2) == 2
    said = (tmp_path / "output" / "failure").read_text(encoding="utf-8")
    assert said == "of another run. Choose another S3 prefix for checkpoints or hyper-parameter name"


def test_a_failure_file_that_is_there_stays(tmp_path: Path) -> None:
    job = Job(tmp_path, {"epoch": "1"}, None)
    (tmp_path / "output" / "failure").write_text("disk full", encoding="utf-8")
    assert job.run()[0] == 2 and job.failure == "disk full"


def test_process_killed_from_outside_is_reported_as_memory(tmp_path: Path, base_model: Path) -> None:
    job = Job(tmp_path, QUICK | {"epochs": 500}, base_model)
    with job.until("step=") as (process, log):
        (pid,) = (tmp_path / "work" / "pids").glob("[!.]*")
        os.kill(json.loads(pid.read_text(encoding="utf-8"))["pid"], signal.SIGKILL)
        log.read()
    assert process.returncode == 1 and "using more memory than the instance has" in job.failure


def test_long_messages_keep_their_beginning() -> None:
    message = shorten("ä" * 2000)
    assert len(message.encode()) <= FAILURE_BYTES and message.startswith("ää") and "log has the rest" in message
    assert shorten("short") == "short"


@pytest.mark.parametrize("sig", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
@pytest.mark.parametrize("save_steps", [pytest.param(4, marks=pytest.mark.slow), 0])
def test_stopped_and_killed_jobs_end_as_an_uninterrupted_one(
    sig: int, save_steps: int, tmp_path: Path, base_model: Path
) -> None:
    # 6 steps an epoch, 72 in all: most of a second, and the container looks every 0.2 s
    recipe = QUICK | {"save-steps": save_steps, "epochs": 12}
    whole = Job(tmp_path / "whole", recipe, base_model)
    whole.succeed()
    job = Job(tmp_path / "job", recipe, base_model)
    code, log = job.interrupt(10, sig)
    assert code == (0 if sig == signal.SIGTERM else -sig), log
    assert ("stopped on request" in log) == (sig == signal.SIGTERM)
    if sig == signal.SIGTERM:  # at the very next step, not at the next checkpoint or evaluation
        assert max(int(path.name.split("-")[1]) for path in job.root.glob("checkpoints/checkpoint-*")) < 72
    assert not (job.root / "output" / "failure").exists() and not any((job.root / "model").iterdir())
    if sig == signal.SIGKILL:  # cut off in the middle of a checkpoint, whose marker was copied before the rest
        broken = job.root / "checkpoints" / "checkpoint-71"
        broken.mkdir()
        (broken / "COMPLETE").write_text('{"optimizer.pt": 12345}', encoding="utf-8")
    job.succeed()
    assert metrics_of(job) == metrics_of(whole)
    first, second = (read_artifact(one.root / "model").weights_sha256 for one in (whole, job))
    assert first == second


def test_a_stop_when_all_is_done_but_the_writing_changes_nothing(tmp_path: Path, base_model: Path) -> None:
    job = Job(tmp_path, QUICK | {"epochs": 1}, base_model)
    with job.until("test_rows=") as (process, log):
        process.send_signal(signal.SIGTERM)
        rest = log.read()
    assert process.returncode == 0 and "goes on from its checkpoints" not in rest
    assert read_artifact(tmp_path / "model").manifest.name == "model"


def test_stop_before_training_begins_ends_at_once(tmp_path: Path, base_model: Path) -> None:
    job = Job(tmp_path, QUICK, base_model)
    with job.until("") as (process, log):  # checked; the process that trains is starting
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        log.read()
    assert process.returncode == 0 and time.monotonic() - began < 60
    assert not any((tmp_path / "model").iterdir())


def two_hosts(tmp_path: Path, recipe: dict[str, object], base_model: Path) -> list[Job]:
    hosts, port = ("algo-1", "algo-2"), str(free_port())
    jobs = [Job(tmp_path / host, recipe, base_model, hosts=hosts, current=host) for host in hosts]
    for job in jobs:
        job.environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return jobs


def synchronise(jobs: list[Job]) -> None:
    """Copy every host's checkpoints to every other, as the platform does."""
    for one in jobs:
        for other in jobs:
            if one is not other:
                shutil.copytree(one.root / "checkpoints", other.root / "checkpoints", dirs_exist_ok=True)


@pytest.mark.slow
def test_two_hosts_train_what_one_trains_and_go_on_after_a_stop(tmp_path: Path, base_model: Path) -> None:
    recipe = QUICK | {"dropout": 0, "precision": "float32"}
    alone = Job(tmp_path / "alone", recipe, base_model)
    alone.succeed()
    jobs = two_hosts(tmp_path, recipe, base_model)
    with jobs[0].start() as first, jobs[1].start() as second:
        outputs = [process.communicate(timeout=240)[0] for process in (first, second)]
    assert first.returncode == second.returncode == 0, outputs
    assert outputs[0].count("test_accuracy=") == 1 and "test_accuracy=" not in outputs[1]
    assert not any((jobs[1].root / "model").iterdir())
    together, single = metrics_of(jobs[0]), metrics_of(alone)
    assert together["accuracy"] == single["accuracy"]

    stopped = two_hosts(tmp_path / "stopped", recipe, base_model)
    with stopped[1].start() as second, stopped[0].until("step=10/") as (first, _):
        for process in (first, second):
            process.send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert first.returncode == second.returncode == 0, outputs
    synchronise(stopped)
    with stopped[0].start() as first, stopped[1].start() as second:
        outputs = [process.communicate(timeout=240)[0] for process in (first, second)]
    assert first.returncode == second.returncode == 0, outputs
    assert metrics_of(stopped[0]) == together
