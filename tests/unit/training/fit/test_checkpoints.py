"""Killed runs go on, and end as if nothing had happened."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from classifier.artifact import read_artifact
from tests.support.runs import run, start
from training.config import TrainConfig
from training.errors import CheckpointError, ConfigError
from training.fit.checkpoints import COMPLETE, check_place, claim, complete_steps, latest_complete, mark_complete
from training.fit.weights import WEIGHTS, BestWeights, Evaluation

RECIPE: dict[str, Any] = {
    "max_seq_len": 16, "epochs": 6.0, "batch_size": 8, "lr": 5e-3, "dropout": 0.2, "crops": True, "dense_from": 4,
    "seed": 5, "save_steps": 4, "baseline": False, "report": False,
}  # fmt: skip


@pytest.fixture
def config(news_csv: Path, base_model: Path, tmp_path: Path) -> TrainConfig:
    """Settings of a run without a directory of checkpoints."""
    return TrainConfig(data=str(news_csv), base_model=str(base_model), output=str(tmp_path / "whole"), **RECIPE)


def changed(config: TrainConfig, directory: Path, name: str, **recipe: Any) -> TrainConfig:
    """Return the settings of a run with its own output, and checkpoints that runs share."""
    checkpoints = str(directory / "checkpoints")
    return dataclasses.replace(config, output=str(directory / name), checkpoints=checkpoints, **recipe)


def train_process(config: TrainConfig) -> "subprocess.Popen[str]":
    flags = []
    for key, value in dataclasses.asdict(config).items():
        name = key.replace("_", "-")
        if value != getattr(TrainConfig(), key):
            flags += (
                [f"--{name}" if value else f"--no-{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
            )
    return start("train", *flags, stderr=subprocess.STDOUT)


def signal_at(process: "subprocess.Popen[str]", step: int, sig: int) -> int:
    """Send the signal once the log has reached the step; return the exit code."""
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"step={step}/"):
                process.send_signal(sig)
                break
        process.stdout.read()
    return process.returncode


@pytest.mark.parametrize(
    "kill_at", [pytest.param(10, marks=pytest.mark.slow), 20, pytest.param(30, marks=pytest.mark.slow)]
)
def test_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    kill_at: int, config: TrainConfig, tmp_path: Path
) -> None:
    whole = run(config)
    killed = changed(config, tmp_path, "killed")
    assert signal_at(train_process(killed), kill_at, signal.SIGKILL) == -signal.SIGKILL
    assert not Path(killed.output).exists()
    newest = latest_complete(Path(killed.checkpoints))
    assert newest is not None and int(newest.name.split("-")[1]) <= kill_at + 4
    resumed = run(killed)
    assert resumed.weights_sha256 == whole.weights_sha256
    assert resumed.manifest.metrics == whole.manifest.metrics
    assert read_artifact(killed.output).manifest.calibration == whole.manifest.calibration


def test_sigterm_ends_a_run_after_a_checkpoint_at_the_next_step(config: TrainConfig, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"epochs": 20.0, "save_steps": 0}
    stopped = changed(config, tmp_path, "stopped", **recipe)
    assert signal_at(train_process(stopped), 10, signal.SIGTERM) == 130
    newest = latest_complete(Path(stopped.checkpoints))
    assert newest is not None and 10 <= int(newest.name.split("-")[1]) < 120
    assert run(stopped).weights_sha256 == run(dataclasses.replace(config, **recipe)).weights_sha256


@pytest.mark.slow
def test_killed_run_ends_with_the_same_average(config: TrainConfig, tmp_path: Path) -> None:
    whole = run(dataclasses.replace(config, average=0.6))
    # 36 steps, the last 21 are averaged: a process that ends at 30 and one that goes on from there
    stopped = changed(config, tmp_path, "stopped", average=0.6)
    assert signal_at(train_process(stopped), 30, signal.SIGKILL) == -signal.SIGKILL
    newest = latest_complete(Path(stopped.checkpoints))
    assert newest is not None and (newest / "average.safetensors").is_file()
    assert run(stopped).weights_sha256 == whole.weights_sha256
    last = run(dataclasses.replace(config, output=str(tmp_path / "last"), average=1 / 36))
    assert last.weights_sha256 != whole.weights_sha256


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("training.fit.loop.Trainer._save_checkpoint", RuntimeError("unexpected pos 189504 vs 189396")),
        ("training.fit.loop.mark_complete", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    ],
)
def test_checkpoint_that_cannot_be_written_is_one_clear_error(
    part: str, error: Exception, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part, Mock(side_effect=error))
    with pytest.raises(
        CheckpointError, match=r"a checkpoint cannot be written \(.*\); \d+ MiB are free there"
    ) as caught:
        run(changed(config, tmp_path, "full"))
    assert str(error) in str(caught.value) and not (tmp_path / "full").exists()


@pytest.mark.parametrize(
    "recipe",
    [
        {"epochs": 1.5},
        {"epochs": 1.5, "average": 0.5},
        # a rate at which nothing gets better: patience ends the run after two epochs
        {"epochs": 9.0, "patience": 1, "lr": 1.0, "save_steps": 0},
    ],
    ids=str,
)
def test_run_that_was_over_is_not_trained_further(
    recipe: dict[str, Any], config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between its last checkpoint and its artifact, and started again."""
    first = run(changed(config, tmp_path, "a", **recipe))
    monkeypatch.setattr("training.fit.loop.OrderedTrainer.training_step", lambda *_: pytest.fail("a step was trained"))
    again = run(changed(config, tmp_path, "b", **recipe))
    assert again.weights_sha256 == first.weights_sha256
    assert again.manifest.metrics == first.manifest.metrics and again.manifest.golden == first.manifest.golden


def test_directories_of_others_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-500").mkdir()
    with pytest.raises(ConfigError, match="not checkpoints of a run"):
        claim(tmp_path, {"lr": 0.1})
    assert (tmp_path / "checkpoint-500").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="checkpoints cannot be written"):
        claim(tmp_path / "file", {"lr": 0.1})


def test_names_that_only_look_like_checkpoints_stay(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-best").mkdir()
    assert latest_complete(tmp_path) is None and (tmp_path / "checkpoint-best").is_dir()


def test_run_without_a_checkpoint_yet_is_taken_over(tmp_path: Path) -> None:
    claim(tmp_path, {"vocab_size": 16384})
    (tmp_path / "tokens.json").touch()
    claim(tmp_path, {"vocab_size": 300}, derived=["tokens.json"])
    assert not (tmp_path / "tokens.json").exists()
    (tmp_path / "checkpoint-1").mkdir()
    mark_complete(tmp_path / "checkpoint-1")
    with pytest.raises(ConfigError, match="vocab_size is 300 there and 400 here"):
        claim(tmp_path, {"vocab_size": 400})


@pytest.mark.parametrize("below", [".", "inside"])
def test_checkpoints_within_the_output_are_refused(tmp_path: Path, below: str) -> None:
    with pytest.raises(ConfigError, match="within the output"):
        check_place(tmp_path / "out" / below, tmp_path / "out")
    check_place(tmp_path / "out-checkpoints", tmp_path / "out")


def evaluated(best: BestWeights, losses: list[float]) -> list[bool]:
    """Feed evaluations of one an epoch; return after which of them training stops."""
    state, controls = TrainerState(), [TrainerControl() for _ in losses]
    for state.global_step, (loss, control) in enumerate(zip(losses, controls, strict=True), start=1):
        state.log_history.append({"eval_loss": loss, "step": state.global_step})
        best.on_evaluate(TrainingArguments(), state, control, metrics={"eval_loss": loss})
    assert state.best_model_checkpoint == f"checkpoints/checkpoint-{best.best.step}"
    return [c.should_training_stop for c in controls]


@pytest.mark.parametrize(("patience", "stop"), [(2, {6, 7}), (0, set[int]())])
def test_the_best_evaluation_is_kept_and_patience_counts_those_after_it(patience: int, stop: set[int]) -> None:
    best = BestWeights(Path("checkpoints"), patience)
    stopped = evaluated(best, [0.9, 0.5, 0.6, 0.4, 0.4, 0.7, 0.8])
    assert {i for i, stops in enumerate(stopped, 1) if stops} == stop
    assert best.best == Evaluation(0.4, 4)


def test_incomplete_checkpoint_is_ignored_and_removed(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
    mark_complete(tmp_path / "checkpoint-4")
    mark_complete(tmp_path / "checkpoint-8")
    assert latest_complete(tmp_path) == tmp_path / "checkpoint-8"
    assert not (tmp_path / "checkpoint-12").exists()
    assert (tmp_path / "checkpoint-4" / COMPLETE).is_file()
    assert latest_complete(tmp_path / "none") is None


def test_checkpoints_of_another_run_are_refused_with_what_differs(tmp_path: Path) -> None:
    claim(tmp_path, {"lr": 0.1, "seed": 1})
    claim(tmp_path, {"seed": 1, "lr": 0.1})
    (tmp_path / "checkpoint-1").mkdir()
    mark_complete(tmp_path / "checkpoint-1")
    with pytest.raises(ConfigError, match=r"another run: lr is 0\.1 there and 0\.2 here"):
        claim(tmp_path, {"lr": 0.2, "seed": 1})
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="remove the directory to start again"):
        claim(tmp_path, {"lr": 0.1})


def test_interrupted_run_keeps_its_checkpoints(config: TrainConfig, tmp_path: Path) -> None:
    process = train_process(changed(config, tmp_path, "out"))
    assert signal_at(process, 20, signal.SIGINT) in (0, 130)  # 0: through before the signal came
    assert latest_complete(tmp_path / "checkpoints") is not None


def test_run_ends_with_the_best_checkpoints_weights(config: TrainConfig, tmp_path: Path) -> None:
    recipe = {"epochs": 9.0, "patience": 1, "lr": 1.0, "save_steps": 1, "weights_dtype": "float32"}
    artifact = run(changed(config, tmp_path, "a", **recipe))
    best, last = complete_steps(tmp_path / "checkpoints")
    assert last - best == 6, "patience ended the run an epoch after its best weights"
    kept = load_file(tmp_path / "checkpoints" / f"checkpoint-{best}" / WEIGHTS)
    assert all(torch.equal(value, kept[name]) for name, value in artifact.model().state_dict().items())


class TestBestWeightsOfAResumedRun:
    """What SageMaker left of a directory that it copied file by file, and what a run makes of it."""

    LOSSES: ClassVar[dict[int, float]] = {4: 0.9, 8: 0.5, 12: 0.7}

    def checkpoint(self, directory: Path, step: int) -> Path:
        place = directory / f"checkpoint-{step}"
        place.mkdir()
        log = [{"eval_loss": loss, "step": at} for at, loss in self.LOSSES.items() if at <= step]
        (place / "trainer_state.json").write_text(json.dumps({"log_history": [{"loss": 1.0, "step": 2}, *log]}))
        (place / WEIGHTS).touch()
        mark_complete(place)
        return place

    @pytest.mark.parametrize(
        ("complete", "cut", "best", "warning"),
        [
            ((8,), (), 8, ""),
            ((8, 12), (), 8, ""),
            ((4,), (), 4, ""),
            ((12,), (), 12, "those of step 12 (loss 0.7) are used"),
            ((4, 12), (), 12, "those of step 12 (loss 0.7) are used"),
            ((4, 8, 12), (8,), 12, "checkpoint-8 is missing or incomplete"),
            ((4, 8, 12), (8, 12), 4, "those of step 4 (loss 0.9) are used"),
            ((12,), (12,), 0, "lowest validation loss, 0.5, are lost; none are left"),
        ],
    )
    def test_the_best_complete_checkpoint_counts(
        self, complete: tuple[int, ...], cut: tuple[int, ...], best: int, warning: str,
        tmp_path: Path, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        for step in complete:
            self.checkpoint(tmp_path, step)
        for step in cut:  # the marker was copied before the weights
            (tmp_path / f"checkpoint-{step}" / WEIGHTS).unlink()
        kept = BestWeights(tmp_path)
        kept.load(tmp_path / f"checkpoint-{complete[-1]}")
        assert kept.best == (Evaluation(self.LOSSES[best], best) if best else Evaluation())
        error = capsys.readouterr().err
        assert warning in error and bool(error) == bool(warning)
        state = TrainerState(best_model_checkpoint="/elsewhere/checkpoint-8")
        kept.on_train_begin(TrainingArguments(), state, TrainerControl())
        assert state.best_model_checkpoint == (str(tmp_path / f"checkpoint-{best}") if best else None)
