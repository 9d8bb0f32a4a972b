"""A signal at any moment of a run leaves a checkpoint from which it ends as if there had been no signal."""

import dataclasses
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import run
from training.config import TrainConfig
from training.fit import stopping
from training.fit.checkpoints import complete_steps
from training.fit.trainer import ClassifierTrainer


@pytest.fixture(autouse=True)
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the handler, and make a process that was never asked to stop."""
    monkeypatch.setattr(stopping._Request, "made", False)
    monkeypatch.setattr(stopping._Request, "deferred", False)
    before = signal.signal(signal.SIGTERM, stopping.on_signal)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def config(news_csv: Path, base_model: Path, tmp_path: Path) -> TrainConfig:
    """Settings of a run of 3 epochs of 4 steps with an evaluation of 3 batches after each."""
    return TrainConfig(
        data=str(news_csv), base_model=str(base_model), output=str(tmp_path / "whole"), max_seq_len=16, epochs=3.0,
        batch_size=8, val_fraction=0.4, lr=5e-3, dropout=0.2, seed=5, baseline=False, report=False,
    )  # fmt: skip


class Interrupted(Exception):
    """The process was killed."""


def kill() -> None:
    raise Interrupted


def at_call(monkeypatch: pytest.MonkeyPatch, method: str, call: int, act: Callable[[], None]) -> None:
    """Do something before one call of a method of the trainer."""
    original = getattr(ClassifierTrainer, method)
    calls = 0

    def spy(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            act()
        return original(*arguments, **keywords)

    monkeypatch.setattr(ClassifierTrainer, method, spy)


def sigterm() -> None:
    signal.raise_signal(signal.SIGTERM)


CASES = {
    "within an epoch": ("training_step", 6, 6),
    "in the last step of an epoch": ("training_step", 8, 8),
    "in the evaluation after the first epoch": ("eval_sums", 2, 4),
    "in the last step": ("training_step", 12, 12),
    "in the evaluation after the last step": ("eval_sums", 8, 12),
}
"""Method, number of the call, and the step of the checkpoint that is left."""


@pytest.mark.parametrize("average", [0.0, pytest.param(0.6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES)
def test_stopped_run_ends_with_the_bits_of_an_uninterrupted_one(
    case: str, average: float, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, call, step = CASES[case]
    whole = run(dataclasses.replace(config, average=average))
    stopped = dataclasses.replace(
        config, average=average, output=str(tmp_path / "stopped"), checkpoints=str(tmp_path / "checkpoints")
    )
    with monkeypatch.context() as patch, pytest.raises(stopping.Stopped):
        at_call(patch, method, call, sigterm)
        run(stopped)
    assert max(complete_steps(tmp_path / "checkpoints")) == step
    monkeypatch.setattr(stopping._Request, "made", False)
    resumed = run(stopped)
    assert resumed.weights_sha256 == whole.weights_sha256
    assert resumed.manifest.metrics == whole.manifest.metrics


def test_run_killed_in_an_evaluation_loses_no_step(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = dataclasses.replace(config, output=str(tmp_path / "killed"), checkpoints=str(tmp_path / "checkpoints"))
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        at_call(patch, "eval_sums", 5, kill)
        run(killed)
    assert max(complete_steps(tmp_path / "checkpoints")) == 8
    assert run(killed).weights_sha256 == run(config).weights_sha256


def test_run_killed_while_it_measures_only_measures_again(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = dataclasses.replace(config, output=str(tmp_path / "killed"), checkpoints=str(tmp_path / "checkpoints"))
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr("training.fit.run.predict_logits", lambda *_: kill())
        run(killed)
    with monkeypatch.context() as patch:
        patch.setattr(ClassifierTrainer, "training_step", lambda *_: pytest.fail("a step was trained"))
        resumed = run(killed)
    assert resumed.weights_sha256 == run(config).weights_sha256
