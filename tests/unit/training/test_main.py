"""The command line, as a person uses it."""

import dataclasses
import hashlib
import signal
from pathlib import Path

import pytest

from tests.support.runs import finish, start
from tests.unit.training.data.test_bbc import archive
from training.__main__ import main
from training.config import TrainConfig


def test_three_broken_rows_give_one_report_and_exit_code_2(
    tmp_path: Path, base_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "d.csv"
    data.write_text("text,label\n,a\nx,\ny,b,c\nz,b\n", encoding="utf-8")
    code = main(["train", "--data", str(data), "--base-model", str(base_model), "--output", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert code == 2 and captured.out == ""
    assert captured.err.startswith("error: 3 problems in the data:\n")
    assert all(f"row {row} (line {row + 1})" in captured.err for row in (1, 2, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["d.csv"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,topic\nx,a\n", "no label column"),
        ("text,label\nx,a\ny,a\n", "at least two labels"),
        ("text,label\nx\ud800,a\n", "is not utf-8"),
    ],
)
def test_unusable_data_exits_2(tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "d.csv"
    data.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert main(["train", "--data", str(data), "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["d.csv"]


def test_unknown_flag_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--epoch-count", "3"])
    assert caught.value.code == 2 and "--epoch-count" in capsys.readouterr().err


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    assert all("--" + field.name.replace("_", "-") in shown for field in dataclasses.fields(TrainConfig))


def test_prepare_train_evaluate_from_the_shell(tmp_path: Path, base_model: Path, news_csv: Path) -> None:
    content = archive()
    (tmp_path / "a.zip").write_bytes(content)
    prepare = ["prepare", "--archive", str(tmp_path / "a.zip"), "--output", str(tmp_path / "bbc.csv")]
    assert main(prepare) == 2  # these are not the articles of the BBC
    assert main([*prepare, "--sha256", hashlib.sha256(content).hexdigest()]) == 0
    arguments = ["train", "--data", str(news_csv), "--base-model", str(base_model), "--output", str(tmp_path / "m")]
    code, output, errors = finish(*arguments, "--epochs", 1, "--max-seq-len", 32, "--hidden-size", 16)
    assert code == 0, errors
    assert "test_accuracy=" in output and "baseline_accuracy=" in output
    code, output, errors = finish("evaluate", "--artifact", tmp_path / "m", "--data", news_csv, "--json")
    assert code == 0 and '"accuracy"' in output, errors


@pytest.mark.parametrize("sig", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_interrupted_training_leaves_no_half_artifact(
    sig: signal.Signals, tmp_path: Path, base_model: Path, news_csv: Path
) -> None:
    output = tmp_path / "models" / "m"
    arguments = ["--data", str(news_csv), "--base-model", str(base_model), "--output", str(output)]
    process = start("train", *arguments, "--epochs", 1000, "--max-seq-len", 32)
    assert process.stdout is not None
    for line in process.stdout:  # until training is under way and has written checkpoints
        if line.startswith("step=") and "eval_loss" in line:
            break
    process.send_signal(sig)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "interrupted; an artifact is there whole or not at all" in errors
    assert list(output.parent.iterdir()) == []
