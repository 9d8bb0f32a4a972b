"""Killed runs go on, and end as if nothing had happened."""

import copy
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerControl, TrainerState

from classifier.artifact import read_artifact
from classifier.model import GPT2Classifier
from tests.support import ROOT
from tests.support.runs import run
from training.config import TrainConfig
from training.errors import ConfigError
from training.fit.checkpoints import BEST, COMPLETE, check_place, claim, latest_complete, mark_complete
from training.fit.weights import BestWeights, Evaluation, read_best, write_best

RECIPE: dict[str, Any] = {
    "max_seq_len": 16, "epochs": 6.0, "batch_size": 8, "lr": 5e-3, "dropout": 0.2, "crops": True, "dense_from": 4,
    "seed": 5, "save_steps": 4, "baseline": False, "report": False,
}  # fmt: skip


def flags(**settings: object) -> list[str]:
    parts = []
    for key, value in settings.items():
        name = key.replace("_", "-")
        parts += [f"--{name}" if value else f"--no-{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    return parts


def train_process(config: TrainConfig, recipe: dict[str, Any] = RECIPE) -> "subprocess.Popen[str]":
    places = {k: getattr(config, k) for k in ("data", "base_model", "output", "checkpoints")}
    return subprocess.Popen(
        [sys.executable, "-m", "training", "train", *flags(**places, **recipe)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


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
    kill_at: int, news_csv: Path, base_model: Path, tmp_path: Path
) -> None:
    config = TrainConfig(data=str(news_csv), base_model=str(base_model), output=str(tmp_path / "whole"), **RECIPE)
    whole = run(config)
    killed = dataclasses.replace(config, output=str(tmp_path / "killed"), checkpoints=str(tmp_path / "checkpoints"))
    assert signal_at(train_process(killed), kill_at, signal.SIGKILL) == -signal.SIGKILL
    assert not Path(killed.output).exists()
    newest = latest_complete(Path(killed.checkpoints))
    assert newest is not None and int(newest.name.split("-")[1]) <= kill_at + 4
    resumed = run(killed)
    assert resumed.weights_sha256 == whole.weights_sha256
    assert resumed.manifest.metrics == whole.manifest.metrics
    assert read_artifact(killed.output).manifest.calibration == whole.manifest.calibration


@pytest.mark.slow
def test_killed_run_ends_with_the_same_average(news_csv: Path, base_model: Path, tmp_path: Path) -> None:
    recipe = RECIPE | {"average": 0.6}
    config = TrainConfig(data=str(news_csv), base_model=str(base_model), output=str(tmp_path / "whole"), **recipe)
    whole = run(config)
    # 36 steps, the last 21 are averaged: a process that ends at 30 and one that goes on from there
    stopped = dataclasses.replace(config, output=str(tmp_path / "stopped"), checkpoints=str(tmp_path / "checkpoints"))
    assert signal_at(train_process(stopped, recipe), 30, signal.SIGKILL) == -signal.SIGKILL
    newest = latest_complete(Path(stopped.checkpoints))
    assert newest is not None and (newest / "average.safetensors").is_file()
    assert run(stopped).weights_sha256 == whole.weights_sha256
    last = run(dataclasses.replace(config, output=str(tmp_path / "last"), average=1 / 36))
    assert last.weights_sha256 != whole.weights_sha256


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
    recipe: dict[str, Any], news_csv: Path, base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed between its last checkpoint and its artifact, and started again."""
    settings = RECIPE | {"checkpoints": str(tmp_path / "checkpoints")} | recipe
    first = run(TrainConfig(data=str(news_csv), base_model=str(base_model), output=str(tmp_path / "a"), **settings))
    capsys.readouterr()
    again = run(TrainConfig(data=str(news_csv), base_model=str(base_model), output=str(tmp_path / "b"), **settings))
    assert again.weights_sha256 == first.weights_sha256
    assert "step=" not in capsys.readouterr().out


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


def evaluated(best: BestWeights, model: GPT2Classifier, losses: list[float]) -> list[bool]:
    """Feed evaluations of one an epoch; say after which of them training stops."""
    state = TrainerState(is_world_process_zero=True)
    stops = []
    for step, loss in enumerate(losses, start=1):
        state.global_step = step
        state.log_history.append({"eval_loss": loss, "step": step})
        control = TrainerControl()
        best.on_evaluate(None, state, control, metrics={"eval_loss": loss}, model=model)
        stops.append(control.should_training_stop)
    return stops


def test_training_stops_after_evaluations_without_a_better_one(model: GPT2Classifier, tmp_path: Path) -> None:
    losses = [0.9, 0.5, 0.6, 0.4, 0.4, 0.7, 0.8]
    assert evaluated(BestWeights(tmp_path, patience=2), model, losses) == [False] * 5 + [True, True]
    (tmp_path / "never").mkdir()
    assert not any(evaluated(BestWeights(tmp_path / "never"), model, losses))


def test_best_weights_are_those_of_the_lowest_loss(model: GPT2Classifier, tmp_path: Path) -> None:
    changed = copy.deepcopy(model)
    best = BestWeights(tmp_path)
    evaluated(best, changed, [0.5])
    with torch.no_grad():
        changed.score.weight.zero_()
    best.on_evaluate(
        None, TrainerState(is_world_process_zero=True), TrainerControl(), metrics={"eval_loss": 0.6}, model=changed
    )
    best.restore(changed)
    assert torch.equal(changed.score.weight, model.score.weight) and best.loss() == 0.5


def test_a_copy_made_at_any_moment_knows_the_loss_of_its_weights(model: GPT2Classifier, tmp_path: Path) -> None:
    """SageMaker copies the directory file by file while the run goes on."""
    own, copied = tmp_path / "own", tmp_path / "copied"
    own.mkdir()
    copied.mkdir()
    best = BestWeights(own)
    evaluated(best, model, [0.9, 0.7])
    [only] = own.iterdir()
    (copied / only.name).write_bytes(only.read_bytes())
    evaluated(best, model, [0.25])
    assert BestWeights(copied).loss() == 0.7 and BestWeights(own).loss() == 0.25
    assert read_best(copied / BEST) == Evaluation(0.7, 2)


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


def test_interrupted_run_keeps_its_checkpoints(news_csv: Path, base_model: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        data=str(news_csv), base_model=str(base_model), output=str(tmp_path / "out"), checkpoints=str(tmp_path / "c")
    )
    assert signal_at(train_process(config), 20, signal.SIGINT) in (0, 130)  # 0: through before the signal came
    assert latest_complete(tmp_path / "c") is not None


WORSE: dict[str, Any] = RECIPE | {"epochs": 9.0, "patience": 1, "lr": 1.0, "save_steps": 0}
"""A rate at which nothing gets better after the first epoch: the best weights are not the last."""


def test_weights_that_are_not_those_of_the_best_evaluation_are_not_taken_for_them(
    news_csv: Path, base_model: Path, tmp_path: Path
) -> None:
    """The file beside the checkpoints was copied at another time than they were."""
    settings = WORSE | {"checkpoints": str(tmp_path / "checkpoints")}
    first = run(TrainConfig(data=str(news_csv), base_model=str(base_model), output=str(tmp_path / "a"), **settings))
    newest = latest_complete(tmp_path / "checkpoints")
    assert newest is not None
    (tmp_path / "checkpoints" / BEST).write_bytes((newest / "model.safetensors").read_bytes())
    again = run(TrainConfig(data=str(news_csv), base_model=str(base_model), output=str(tmp_path / "b"), **settings))
    assert again.weights_sha256 == first.weights_sha256


class TestBestWeightsOfAResumedRun:
    """What SageMaker left of a directory that it copied file by file, and what a run makes of it."""

    LOSSES: ClassVar[dict[int, float]] = {4: 0.9, 8: 0.5, 12: 0.7}

    def weights(self, step: int) -> dict[str, torch.Tensor]:
        return {"score.weight": torch.full((2, 3), float(step))}

    def checkpoint(self, directory: Path, step: int) -> Path:
        place = directory / f"checkpoint-{step}"
        place.mkdir()
        log = [{"eval_loss": loss, "step": at} for at, loss in self.LOSSES.items() if at <= step]
        (place / "trainer_state.json").write_text(json.dumps({"log_history": [{"loss": 1.0, "step": 2}, *log]}))
        save_file(self.weights(step), place / "model.safetensors")
        mark_complete(place)
        return place

    def best(self, directory: Path, step: int) -> Path:
        write_best(directory / BEST, Evaluation(self.LOSSES[step], step), self.weights(step))
        return directory / BEST

    def resumed(self, directory: Path, step: int) -> tuple[float, float]:
        """Loss and first weight that count after the run has gone on from the checkpoint."""
        kept = BestWeights(directory)
        kept.load(directory / f"checkpoint-{step}")
        found = read_best(directory / BEST)
        assert (found or Evaluation()).loss == kept.loss()
        return kept.loss(), float(load_file(directory / BEST)["score.weight"][0, 0]) if found else 0.0

    @pytest.mark.parametrize("beside", [None, 4])
    @pytest.mark.parametrize("newest", [8, 12])
    def test_older_or_missing_ones_are_those_of_their_checkpoint(
        self, beside: int | None, newest: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for step in {8, newest}:
            self.checkpoint(tmp_path, step)
        if beside:
            self.best(tmp_path, beside)
        assert self.resumed(tmp_path, newest) == (0.5, 8.0)
        assert not capsys.readouterr().err

    @pytest.mark.parametrize("damage", ["half", "flipped", "foreign"])
    def test_damaged_ones_are_not_used(self, damage: str, tmp_path: Path) -> None:
        self.checkpoint(tmp_path, 8)
        path = self.best(tmp_path, 8)
        content = path.read_bytes()
        if damage == "half":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "flipped":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        else:
            save_file(self.weights(4), path)
        assert read_best(path) is None
        assert self.resumed(tmp_path, 8) == (0.5, 8.0)

    def test_newer_ones_stay(self, tmp_path: Path) -> None:
        """Copied after an evaluation whose checkpoint was not: the run will come to the very same."""
        self.checkpoint(tmp_path, 4)
        self.best(tmp_path, 8)
        assert self.resumed(tmp_path, 4) == (0.5, 8.0)

    @pytest.mark.parametrize("beside", [None, 4])
    def test_lost_ones_are_said_to_be_lost_and_the_best_left_counts(
        self, beside: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.checkpoint(tmp_path, 12)
        if beside:
            self.best(tmp_path, beside)
        assert self.resumed(tmp_path, 12) == (0.7, 12.0)
        warning = capsys.readouterr().err
        assert "weights of step 8" in warning and "0.5" in warning and "those of step 12 (loss 0.7) are used" in warning

    def test_nothing_left_is_said_too(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (self.checkpoint(tmp_path, 12) / COMPLETE).unlink()
        assert self.resumed(tmp_path, 12) == (math.inf, 0.0)
        assert "none are left" in capsys.readouterr().err


def test_a_loss_that_is_no_number_is_never_the_best(model: GPT2Classifier, tmp_path: Path) -> None:
    best = BestWeights(tmp_path)
    evaluated(best, model, [float("nan"), 0.5, float("nan")])
    assert best.loss() == 0.5
    assert evaluated(BestWeights(tmp_path / "none", patience=2), model, [float("nan")] * 3) == [False, True, True]
