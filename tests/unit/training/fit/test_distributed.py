"""Two processes under torchrun, as on a machine with two GPUs, but over gloo on the CPU."""

from pathlib import Path

from classifier.artifact import read_artifact
from tests.support.runs import finish

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def test_two_processes_train_one_model(tmp_path: Path, base_model: Path, news_csv: Path) -> None:
    output = tmp_path / "out" / "model"
    flags = {
        "--data": news_csv, "--base-model": base_model, "--output": output, "--epochs": 6, "--max-seq-len": 32,
        "--batch-size": 4, "--lr": 5e-3, "--dropout": 0, "--patience": 2, "--seed": 5,
    }  # fmt: skip
    words = [word for pair in flags.items() for word in pair]
    code, output_text, errors = finish("train", *words, launcher=TORCHRUN)
    assert code == 0, errors[-3000:]
    # 48 texts by 2 processes x 4: 6 steps an epoch; every line once, from the main process
    assert output_text.count("test_accuracy=") == 1 and "/36; " in output_text
    assert "Traceback" not in errors
    manifest = read_artifact(output).manifest
    assert manifest.metrics["accuracy"] >= 0.8
    assert sorted(path.name for path in output.parent.iterdir()) == ["model", "model-report"]


def test_error_in_two_processes_ends_both_with_the_message(tmp_path: Path) -> None:
    data = tmp_path / "d.csv"
    data.write_text("text,label\n,a\n", encoding="utf-8")
    code, _, errors = finish("train", "--data", data, "--output", tmp_path / "m", launcher=TORCHRUN)
    assert code != 0 and "the text is empty" in errors
    assert not (tmp_path / "m").exists()
