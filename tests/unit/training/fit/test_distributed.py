"""Two processes under torchrun, as on a machine with two GPUs, but over gloo on the CPU."""

from pathlib import Path
from typing import Any

import pytest

from classifier.artifact import read_artifact
from tests.support.runs import finish, run
from training.config import TrainConfig

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def test_two_processes_train_one_model(tmp_path: Path, base_model: Path, news_csv: Path) -> None:
    output = tmp_path / "out" / "model"
    flags = {
        "--data": news_csv, "--base-model": base_model, "--output": output, "--epochs": 6, "--max-seq-len": 32,
        "--batch-size": 8, "--lr": 5e-3, "--dropout": 0, "--patience": 2, "--seed": 5,
    }  # fmt: skip
    words = [word for pair in flags.items() for word in pair]
    code, output_text, errors = finish("train", *words, launcher=TORCHRUN)
    assert code == 0, errors[-3000:]
    # 48 texts by 8, shared by 2 processes: 6 steps an epoch; every line once, from the main process
    assert output_text.count("test_accuracy=") == 1 and "/36; " in output_text
    assert "Traceback" not in errors
    manifest = read_artifact(output).manifest
    assert manifest.metrics["accuracy"] >= 0.8
    assert sorted(path.name for path in output.parent.iterdir()) == ["model", "model-report"]


def test_two_processes_train_what_one_trains(tmp_path: Path, base_model: Path, news_csv: Path) -> None:
    """Weights and validation losses agree as far as rounding allows, with batches that cannot be shared evenly."""
    recipe: dict[str, Any] = {
        "epochs": 3.0, "max_seq_len": 32, "batch_size": 5, "gradient_accumulation": 3, "lr": 5e-3, "dropout": 0.0,
        "seed": 5, "class_weights": True, "dense_from": 8, "precision": "float32", "average": 0.5,
    }  # fmt: skip
    rows = news_csv.read_text(encoding="utf-8").splitlines(keepends=True)
    news_csv.write_text("".join(rows[:45]), encoding="utf-8")  # 36 to train on, 4 to validate on
    config = TrainConfig(
        data=str(news_csv), base_model=str(base_model), output=str(tmp_path / "one"), baseline=False, report=False,
        **recipe,
    )  # fmt: skip
    one = run(config)
    flags = ["--data", news_csv, "--base-model", base_model, "--output", tmp_path / "two", "--no-report"]
    for key, value in recipe.items():
        name = key.replace("_", "-")
        flags += [f"--{name}"] if value is True else [f"--{name}", value]
    code, _, errors = finish("train", *flags, "--no-baseline", launcher=TORCHRUN)
    assert code == 0, errors[-3000:]
    two = read_artifact(tmp_path / "two")
    ours, theirs = one.model().state_dict(), two.model().state_dict()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-4
    losses = [artifact.manifest.provenance["best_val_loss"] for artifact in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_error_in_two_processes_ends_both_with_the_message(tmp_path: Path) -> None:
    data = tmp_path / "d.csv"
    data.write_text("text,label\n,a\n", encoding="utf-8")
    code, _, errors = finish("train", "--data", data, "--output", tmp_path / "m", launcher=TORCHRUN)
    assert code != 0 and "the text is empty" in errors
    assert not (tmp_path / "m").exists()
