"""Cross-validation for real, with two folds, and its figures on paper."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from classifier.artifact import read_artifact
from training.__main__ import main
from training.config import TrainConfig
from training.errors import ConfigError
from training.fit.crossval import RESULTS, crossval, lines, summary


@pytest.fixture
def config(news_csv: Path, base_model: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        data=str(news_csv), base_model=str(base_model), output=str(tmp_path / "folds"), folds=2, max_seq_len=32,
        epochs=1.0, batch_size=8, lr=5e-3, dropout=0.0, seed=5, report=False,
    )  # fmt: skip


def test_every_row_is_tested_once_and_an_interrupted_command_goes_on(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = crossval(config)
    assert figures is not None and figures["rows"] == 60
    output = Path(config.output)
    assert json.loads((output / RESULTS).read_text(encoding="utf-8")) == figures
    tested = [read_artifact(output / f"fold-{fold}").manifest for fold in (0, 1)]
    assert [manifest.metrics["rows"] for manifest in tested] == [30, 30]
    assert figures["accuracy"]["mean"] == pytest.approx(sum(m.metrics["accuracy"] for m in tested) / 2)
    assert {manifest.name for manifest in tested} == {"folds"}

    monkeypatch.setattr("training.fit.crossval.run", lambda _: pytest.fail("a fold is trained again"))
    assert crossval(config) == figures
    with pytest.raises(ConfigError, match="another recipe"):
        crossval(dataclasses.replace(config, lr=1e-3))


def test_command_prints_the_figures(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", config.data, "--base-model", config.base_model, "--output", config.output, "--folds", "2"]
    assert main(["crossval", *options, "--max-seq-len", "32", "--epochs", "0.1", "--no-report", "--no-baseline"]) == 0
    output = capsys.readouterr().out
    assert "folds=2; rows=60;" in output and "accuracy_standard_error=" in output and "only_model" not in output


def fold(accuracy: float, model: int, baseline: int) -> dict[str, Any]:
    return {
        "rows": 10,
        "accuracy": accuracy,
        "macro_f1": accuracy,
        "calibration": {"ece": 0.1, "coverage": None, "error_among_answered": 0.0},
        "baseline": {"accuracy": 0.5, "macro_f1": 0.5, "only": {"model": model, "baseline": baseline}},
    }


def test_figures_on_paper() -> None:
    figures = summary([fold(0.8, 4, 1), fold(0.9, 5, 0), fold(1.0, 0, 0)])
    assert figures["accuracy"] == {"mean": pytest.approx(0.9), "error": pytest.approx(0.1 / math.sqrt(3))}
    # Of 10 groups that one of the two answers better, at most 1 for either side: 2 * (1 + 10) / 2**10.
    assert figures["mcnemar"] == {"model": 9, "baseline": 1, "p": pytest.approx(22 / 1024)}
    assert figures["coverage"] is None, "a fold without a threshold has no coverage"
    assert lines(figures)[-1] == "only_model_right=9; only_baseline_right=1; p=0.02148;"
    assert summary([fold(0.5, 0, 0)] * 2)["mcnemar"]["p"] == 1.0


@pytest.mark.parametrize("folds", [{"folds": 1}, {"folds": 3, "fold": 3}, {"fold": 1}])
def test_fold_that_does_not_exist_is_refused(folds: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="fold"):
        TrainConfig(**folds)  # type: ignore[arg-type]
