"""Dry runs of every command print the requests of the golden files, without credentials, network or clients."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.unit.training.sagemaker.conftest import ACCOUNT, ARTIFACT, IMAGE, METRICS, REGION, ROLE, Shell
from training.sagemaker.__main__ import main
from training.sagemaker.launch import commands
from training.sagemaker.launch.aws import Aws

GOLDEN = Path(__file__).with_name("golden")
BASE = ("--channels", "base_model=s3://data-bucket/base/cd/")
COMMON = ("--name", "bbc-news", "--role", ROLE, "--image", IMAGE, "--dry-run")
SERVE = (*COMMON, "--artifact", ARTIFACT)
NETWORK = ("--subnets", "subnet-0a", "--subnets", "subnet-0b", "--security-groups", "sg-0a", "--kms-key", "alias/news")
SERVERLESS = ("--mode", "serverless", "--no-network-isolation")
DRY_RUNS: dict[str, tuple[str, ...]] = {
    "train": (
        "train", *COMMON, *NETWORK, "--output", "s3://models-bucket/jobs/", "--spot", "--max-run-s", "7200",
        "--channels", "train=s3://data-bucket/news/ab/", "--channels", "base_model=s3://data-bucket/base/cd/",
        "--hyperparameters", "epochs=3", "--hyperparameters", "lr=5e-5", "--tags", "team=news", "--max-retries", "2",
    ),
    "train-plain": ("train", *COMMON, "--output", "s3://models-bucket/jobs", "--no-network-isolation",
                    "--entrypoint", "python -m training.sagemaker.job.container",
                    "--keep-alive-s", "600", "--instance-count", "2", "--encrypt-traffic"),
    "deploy-realtime": ("deploy", *SERVE, *NETWORK, "--max-instances", "4", "--environment", "SERVICE_MAX_TEXTS=64"),
    "deploy-serverless": ("deploy", *SERVE, *SERVERLESS, "--provisioned", "1"),
    "deploy-async": ("deploy", *SERVE, "--mode", "async", "--async-output", "s3://answers-bucket/news/",
                     "--max-instances", "3", "--error-topic", f"arn:aws:sns:{REGION}:{ACCOUNT}:failures"),
    "transform": ("transform", *SERVE, "--input", "s3://data-bucket/in/", "--output", "s3://data-bucket/out/"),
    "transform-join": ("transform", "--name", "news", "--model", "news-1", "--dry-run", "--input", "s3://data-bucket/in/",
                       "--output", "s3://data-bucket/out/", "--join", "--input-filter", "$.text", "--output-filter",
                       "$['id','SageMakerOutput']", "--concurrent", "1", "--compression", "Gzip"),
    "invoke": ("invoke", "--name", "news", "--text", "The striker scored.", "--dry-run"),
    "invoke-lines": ("invoke", "--name", "news", "--text", "The striker scored.", "--text", "Shares fell.",
                     "--accept", "text/csv", "--dry-run"),
    "invoke-async": ("invoke", "--name", "news", "--async", "--input", "s3://data-bucket/in/a.jsonl", "--dry-run"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "METRIC_DEFINITIONS", METRICS)


@pytest.fixture
def nothing_to_call(no_aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a dry run made a session")

    monkeypatch.setattr(Aws, "__init__", refuse)


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_run_prints_the_requests(name: str, shell: Shell, nothing_to_call: None) -> None:
    assert shell.do(*DRY_RUNS[name]) == 0, shell.text
    path = GOLDEN / f"{name}.json"
    assert json.loads("\n".join(shell.out)) == json.loads(path.read_text(encoding="utf-8"))


def test_every_golden_file_has_its_test() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(DRY_RUNS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "--name", "n"), "--image, --output must be given"),
        (("train", *COMMON, *BASE, "--output", "out", "--instance-type", "ml.g5.huge"), "3 problems"),
        (("train", *COMMON, "--output", "s3://b/o", "--hyperparameters", "epochs"), "'epochs': write"),
        (("train", *COMMON, "--output", "s3://b/o"), "no network to fetch the base model 'gpt2'"),
        (("train", *COMMON, "--output", "s3://b/o", "--hyperparameters", "base-model=org/name"), "'org/name'"),
        (("train", *COMMON, "--output", "s3://b/o", *BASE, "--tags", "a=1", "--tags", "a=2"), "'a' is given twice"),
        (("train", *COMMON, *BASE, "--output", "s3://b/o", "--subnets", "subnet-1"), "both --subnets"),
        (("train", *COMMON, "--output", "s3://b/o", "--entrypoint", "sh 'x"), "No closing quotation"),
        (("deploy", *SERVE, "--mode", "async"), "--async-output"),
        (("deploy", *SERVE, "--min-instances", "0", "--max-instances", "2"), "at least one instance"),
        (("deploy", *SERVE, "--mode", "serverless"), "--no-network-isolation"),
        (("deploy", *SERVE, *SERVERLESS, "--memory-mb", "1500"), "multiple of 1024"),
        (("deploy", *SERVE, "--mode", "serverless", "--max-instances", "2"), "scale by themselves"),
        (("transform", "--name", "n", "--input", "s3://b/i", "--output", "s3://b/o", "--dry-run"), "--model"),
        (("invoke", "--name", "n", "--dry-run"), "--text or --file"),
        (("invoke", "--name", "n", "--async", "--input", "s3://b/i", "--text", "t", "--dry-run"), "one of them"),
        (("invoke", "--name", "n", "--async", "--text", "t" * 130_000, "--dry-run"), "the maximum is 128000"),
        (("push", "--image", "i", "--repository", "r", "--dry-run"), "--account and --region"),
        (("upload", "/no/such/file", "s3://b/p"), "does not exist"),
        (("upload", "/proc/self/mem", "s3://b/p"), "Input/output error"),
        (("follow", "training", "job", "--dry-run"), "follow only looks"),
        (("deploy", "--name", "n", "--image", IMAGE, "--role", "R", "--dry-run"), "--account"),
    ],
)  # fmt: skip
def test_wrong_input_is_explained_and_nothing_sent(
    words: tuple[str, ...], message: str, shell: Shell, nothing_to_call: None
) -> None:
    assert shell.do(*words) == 2
    assert message in shell.text
    assert not shell.out


def test_hyperparameters_are_checked_as_the_container_will(shell: Shell, nothing_to_call: None) -> None:
    words = ("train", *COMMON, *BASE, "--output", "s3://b/o", "--hyperparameters", "epoch=3")
    assert shell.do(*words) == 2
    assert "epoch" in shell.text and "epochs" in shell.text, "what is unknown, and what is known"
    assert shell.do(*words, "--entrypoint", "python other.py") == 0


@pytest.mark.parametrize(
    "words",
    [BASE, ("--no-network-isolation",), ("--hyperparameters", "base-model=models/default"),
     ("--hyperparameters", "base-model=/opt/ml/input/data/code/gpt2"), ("--entrypoint", "python other.py")],
    ids=" ".join,
)  # fmt: skip
def test_a_job_that_can_find_its_base_model_is_taken(words: tuple[str, ...], shell: Shell, no_aws: None) -> None:
    assert shell.do("train", *COMMON, "--output", "s3://b/o", *words) == 0, shell.text


def test_a_role_by_name_needs_the_account_in_a_dry_run(shell: Shell, nothing_to_call: None) -> None:
    words = ("deploy", "--name", "n", "--image", IMAGE, "--role", "R", "--account", ACCOUNT, "--dry-run")
    assert shell.do(*words) == 0
    assert json.loads(shell.out[0])[0]["request"]["ExecutionRoleArn"] == f"arn:aws:iam::{ACCOUNT}:role/R"


def test_missing_credentials_are_explained(no_aws: None, shell: Shell) -> None:
    words = ("train", "--name", "n", "--image", IMAGE, *BASE, "--output", "s3://b/o", "--region", REGION)
    assert shell.do(*words) == 2
    assert "no AWS credentials" in shell.text and "aws configure" in shell.text


def test_a_missing_region_and_profile_are_explained(no_aws: None, shell: Shell) -> None:
    assert shell.do("teardown", "--name", "n") == 2
    assert "--region" in shell.text
    assert shell.do("teardown", "--name", "n", "--region", REGION, "--profile", "nobody") == 2
    assert "nobody" in shell.said[-1] and "list-profiles" in shell.said[-1]


def test_the_commands_start_without_torch() -> None:
    script = "import sys, training.sagemaker.__main__; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_help_has_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text: Any = capsys.readouterr().out
    for verb in ("push", "upload", "train", "follow", "deploy", "invoke", "transform", "update", "teardown"):
        assert re.search(rf"^    {verb}\b", text, re.MULTILINE), verb
