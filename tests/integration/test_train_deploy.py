"""train_deploy.py as AWS's script mode runs it: flags and SM_ variables in, a model out, its four functions on that."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from classifier.artifact import read_artifact
from tests.support.texts import news_rows
from training.sagemaker.job.pack import export_source

FLAGS = (
    "--batch-size", "8", "--epochs", "4", "--lr", "0.005", "--max-seq-len", "32", "--dropout", "0.1", "--seed", "5",
    "--baseline", "False", "--report", "False",
)  # fmt: skip
"""As the toolkit writes hyper-parameters: `{"batch-size": 8, "baseline": False}`."""
SERVE = """
import json, sys
import train_deploy as script
model = script.model_fn(sys.argv[1])
data = script.input_fn(json.dumps({"text": sys.argv[2]}), "application/json")
body, kind = script.output_fn(script.predict_fn(data, model), "application/json")
print(json.dumps([json.loads(body), kind, script.__file__]))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The `source_dir` that an estimator uploads, at another place than the checkout."""
    export_source(tmp_path / "code")
    return tmp_path / "code"


def variables(root: Path, base_model: Path, channels: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    """What sagemaker-training sets for a script; `/opt/ml` has no config files here: the variables must do."""
    given = {
        "SAGEMAKER_BASE_DIR": str(root), "SM_MODEL_DIR": str(root / "model"), "TRAINING_JOB_NAME": "news-1",
        "SM_OUTPUT_DATA_DIR": str(root / "output" / "data"), "SM_NUM_GPUS": "0", "SM_HOSTS": '["algo-1"]',
        "SM_CURRENT_HOST": "algo-1", "SM_CHANNELS": json.dumps([*channels, "base_model"]),
        "SM_CHANNEL_BASE_MODEL": str(base_model), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    for name, rows in channels.items():
        place = root / "elsewhere" / name
        place.mkdir(parents=True)
        lines = [f'{row["label"]},"{row["text"]}"' for row in rows]
        (place / f"{name}.csv").write_text("\n".join(["category,text", *lines]) + "\n", encoding="utf-8")
        given[f"SM_CHANNEL_{name.upper()}"] = str(place)
    ours = ("SM_", "SAGEMAKER_", "PYTHONPATH")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)} | given


def run(source: Path, environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *words], cwd=source, env=environment, capture_output=True, text=True, check=False
    )


def test_trains_by_flags_and_variables_and_serves_the_result(source: Path, base_model: Path, tmp_path: Path) -> None:
    rows = news_rows(60)
    environment = variables(tmp_path, base_model, {"train": rows[:40], "val": rows[40:50], "test": rows[50:]})
    trained = run(source, environment, "train_deploy.py", *FLAGS)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    artifact = read_artifact(tmp_path / "model")
    assert artifact.manifest.name == "news-1" and artifact.manifest.max_tokens == 32
    assert artifact.manifest.provenance["split_sizes"] == {"train": 40, "val": 10, "test": 10}
    assert artifact.manifest.provenance["recipe"]["epochs"] == 4
    assert f"test_accuracy={artifact.manifest.metrics['accuracy']:.4f};" in trained.stdout
    assert not (tmp_path / "output" / "failure").exists()

    text = "league goal player match striker cup season goal match win"
    served = run(source, environment, "-c", SERVE, str(tmp_path / "model"), text)
    assert served.returncode == 0, served.stderr
    answer, kind, file = json.loads(served.stdout)
    assert next(iter(answer)) == "sport" and sum(answer.values()) == pytest.approx(1, abs=1e-5)
    assert list(answer.values()) == sorted(answer.values(), reverse=True), "most probable first, as the article answers"
    assert kind == "application/json" and Path(file).parent == source


@pytest.mark.slow
def test_places_of_the_command_line_win_over_the_variables(source: Path, base_model: Path, tmp_path: Path) -> None:
    environment = variables(tmp_path, base_model, {"train": news_rows(60)})
    environment["SM_CHANNEL_TRAIN"], train = str(tmp_path / "none"), environment["SM_CHANNEL_TRAIN"]
    places = ("--train-dir", train, "--model-dir", str(tmp_path / "other"), "--num-gpus", "0", "--epochs", "1")
    trained = run(source, environment, "train_deploy.py", *FLAGS[:2], *places, *FLAGS[4:])
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert read_artifact(tmp_path / "other").labels.names and not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [(("--epoch", "1"), "unknown hyper-parameter 'epoch'"), (("--epochs", "many"), "epochs must be a number")],
)
def test_a_wrong_flag_is_for_the_failure_file(
    flag: tuple[str, str], message: str, source: Path, base_model: Path, tmp_path: Path
) -> None:
    environment = variables(tmp_path, base_model, {"train": news_rows(60)})
    trained = run(source, environment, "train_deploy.py", *flag)
    assert trained.returncode == 2, trained.stdout + trained.stderr
    assert message in (tmp_path / "output" / "failure").read_text(encoding="utf-8")
