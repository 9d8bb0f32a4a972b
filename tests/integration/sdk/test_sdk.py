"""AWS's own Python packages with the job, archive and image of this project, each in an environment of its own.

They pin what other packages here need newer, so they are no dependency. Nothing of AWS is asked: moto answers, and the
real service behind a stand-in for the endpoint.
"""

import json
import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.aws_account import account
from tests.support.service_process import service_process
from training.sagemaker.job.hyperparameters import parse_hyperparameters
from training.sagemaker.job.pack import export_source, pack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

HERE = Path(__file__).parent
DEFAULT = ROOT / "models" / "default"
INSTALL_S = 900


def install(python: str | Path, *words: str) -> None:
    """Install packages, or skip the test where there is no package index."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    if done.returncode:
        pytest.skip(f"cannot be installed here: {' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")


def environment_with(version: int) -> Path:
    """Return the interpreter of an environment with an SDK, kept in .venv because it has hundreds of megabytes."""
    directory = ROOT / ".venv" / f"sdk-{version}"
    python, done = directory / "bin" / "python", directory / "done"
    if not done.exists():
        venv.create(directory, clear=True, with_pip=True)
        install(python, f"sagemaker>={version},<{version + 1}")
        done.touch()
    return python


def ran(python: Path, script: str, directory: Path) -> dict[str, Any]:
    """Run a script with an empty account, the default model's archive and data, and return what it prints."""
    export_source(directory / "code")
    pack(DEFAULT, directory / "model.tar.gz")
    (directory / "train.csv").write_text("text,label\na,b\n", encoding="utf-8")
    config = directory / "config.yaml"
    config.write_text(
        "SchemaVersion: '1.0'\nSageMaker:\n  PythonSDK:\n    Modules:\n      TelemetryOptOut: true\n", encoding="utf-8"
    )
    with service_process(DEFAULT) as service, account(service, directory) as settings:
        command = [python, HERE / script, directory / "code", settings["NOTEBOOK_BUCKET"]]
        command += [settings["NOTEBOOK_ROLE"], directory / "model.tar.gz"]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        where = {"HOME": str(directory), "SAGEMAKER_USER_CONFIG_OVERRIDE": str(config)}
        done = subprocess.run(
            list(map(str, command)),
            cwd=directory,
            env={**inherited, **settings, **where},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_an_articles_estimator_and_predictor_by_sdk_2(tmp_path: Path) -> None:
    found = ran(environment_with(2), "v2_script.py", tmp_path)
    assert max(found["answer"], key=found["answer"].get) == "sport"
    given = found["hyperparameters"]
    assert json.loads(given["sagemaker_program"]) == "train_deploy.py" and given["base-model"] == '"gpt2"'
    assert [channel["ChannelName"] for channel in found["channels"]] == ["train"]
    understood = parse_hyperparameters(given)
    assert (understood["epochs"], understood["batch_size"], understood["base_model"]) == (1.0, 2, "gpt2")


def test_a_training_job_and_an_endpoint_of_our_image_by_sdk_3(tmp_path: Path) -> None:
    found = ran(environment_with(3), "v3_script.py", tmp_path)
    algorithm = found["AlgorithmSpecification"]
    assert algorithm["TrainingImage"].endswith("/gpt2-classifier-train:1")
    assert "ContainerEntrypoint" not in algorithm, "the image's own: `IMAGE train`"
    understood = parse_hyperparameters(found["HyperParameters"])
    assert understood == {"epochs": 3.0, "lr": 3e-4, "near_duplicates": True, "name": "news"}
    model, [variant] = found["model"], found["variants"]
    assert model["Image"] == algorithm["TrainingImage"] and model["ModelDataUrl"].endswith("/model.tar.gz")
    assert model["Environment"]["SERVICE_MAX_TEXTS"] == "64"
    assert (variant["VariantName"], variant["ContainerStartupHealthCheckTimeoutInSeconds"]) == ("AllTraffic", 600)
    assert max(found["answer"], key=found["answer"].get) == "sport"


def test_the_inference_toolkit_serves_the_archive(tmp_path: Path) -> None:
    toolkit, model = tmp_path / "toolkit", tmp_path / "model"
    install(sys.executable, "--no-deps", "--target", str(toolkit), "sagemaker-inference>=1.10", "retrying")
    pack(DEFAULT, tmp_path / "model.tar.gz")
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        archive.extractall(model, filter="data")
    requests = [
        ("application/json", json.dumps({"text": "The striker scored twice in the cup final."})),
        ("application/json", json.dumps({"inputs": ["Shares fell at the bank."], "parameters": {"top_k": 1}})),
        ("application/json", "{broken"),
        ("text/html", "<p>"),
    ]
    command = [sys.executable, str(HERE / "transformer_script.py"), str(model)]
    done = subprocess.run(
        command,
        input="".join(json.dumps(request) + "\n" for request in requests),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(toolkit)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, many, broken, strange = [json.loads(line) for line in done.stdout.splitlines()]
    assert one[:2] == [200, "application/json"] and next(iter(json.loads(one[2]))) == "sport"
    assert json.loads(many[2])[0][0]["label"] == "business"
    assert (broken[0], strange[0]) == (400, 415), (broken, strange)
