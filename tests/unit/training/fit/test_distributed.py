"""Two processes under torchrun, as on a machine with two GPUs, but over gloo on the CPU."""

import subprocess
import sys
from pathlib import Path

from classifier.artifact import read_artifact
from tests.support import ROOT

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training"]


def test_two_processes_train_one_model(tmp_path: Path, base_model: Path, news_csv: Path) -> None:
    output = tmp_path / "out" / "model"
    flags = {
        "--data": news_csv, "--base-model": base_model, "--output": output, "--epochs": 6, "--max-seq-len": 32,
        "--batch-size": 4, "--lr": 5e-3, "--dropout": 0, "--patience": 2, "--seed": 5,
    }  # fmt: skip
    process = subprocess.run(
        [*TORCHRUN, "train", *(str(item) for pair in flags.items() for item in pair)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    # 48 texts by 2 processes x 4: 6 steps an epoch; every line once, from the main process
    assert process.stdout.count("test_accuracy=") == 1 and "/36; " in process.stdout
    assert "Traceback" not in process.stderr
    manifest = read_artifact(output).manifest
    assert manifest.metrics["accuracy"] >= 0.8
    assert sorted(path.name for path in output.parent.iterdir()) == ["model", "model-report"]


def test_error_in_two_processes_ends_both_with_the_message(tmp_path: Path) -> None:
    data = tmp_path / "d.csv"
    data.write_text("text,label\n,a\n", encoding="utf-8")
    process = subprocess.run(
        [*TORCHRUN, "train", "--data", str(data), "--output", str(tmp_path / "m")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode != 0 and "the text is empty" in process.stderr
    assert not (tmp_path / "m").exists()
