"""The whole way from a file of articles to answers and to the removal, with jobs that really train."""

import json
from pathlib import Path

import pytest

from tests.support.sagemaker_emulator import QUICK
from tests.support.sagemaker_platform import platform
from tests.support.texts import news_rows
from tests.unit.training.sagemaker.conftest import IMAGE, ROLE, Shell, backend
from training.sagemaker.launch.aws import Aws

COMMON = ("--name", "articles", "--image", IMAGE, "--role", ROLE)
HYPERPARAMETERS = [
    word
    for key, value in QUICK.items()
    for word in ("--hyperparameters", f"{key}={value if isinstance(value, str) else json.dumps(value)}")
]


@pytest.fixture(name="shell")
def shell_in_real_time() -> Shell:
    return Shell(real_time=True)


@pytest.fixture
def uploaded(shell: Shell, aws: Aws, base_model: Path, tmp_path: Path) -> list[str]:
    """Upload articles and a base model, and return the options for their channels."""
    data = tmp_path / "articles.jsonl"
    data.write_text("\n".join(map(json.dumps, news_rows(60))), encoding="utf-8")
    assert shell.do("upload", str(data), "s3://models-bucket/data") == 0, shell.text
    assert shell.do("upload", str(base_model), "s3://models-bucket/base") == 0, shell.text
    file, base = shell.out
    shell.out.clear()
    return ["--channels", f"train={file.removesuffix(data.name)}", "--channels", f"base_model={base}"]


@pytest.mark.slow
def test_from_articles_to_answers_and_back_to_nothing(
    uploaded: list[str], shell: Shell, aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with platform(tmp_path / "aws", aws) as runtime:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", runtime)
        output = ("--output", "s3://models-bucket/jobs")
        assert shell.do("train", *COMMON, *uploaded, *output, *HYPERPARAMETERS, "--spot") == 0, shell.text
        assert "test_accuracy=" in shell.text and "step=" in shell.text, "the log is followed"
        artifact = shell.out.pop()
        assert artifact.startswith("s3://models-bucket/jobs/") and artifact.endswith("/output/model.tar.gz")

        words = ("--artifact", artifact, "--instance-type", "ml.m5.xlarge")  # moto's list of types ends before ml.c6i
        assert shell.do("deploy", *COMMON, *words) == 0, shell.text
        assert shell.out.pop() == "articles"
        text = "league goal player match striker cup season goal match win"
        assert shell.do("invoke", "--name", "articles", "--text", text) == 0, shell.text
        answer = json.loads(shell.out.pop())
        assert max(answer, key=answer.get) == "sport" and sum(answer.values()) == pytest.approx(1, abs=1e-5)
        assert shell.do("invoke", "--name", "articles", "--text", " ") == 1
        assert "the model answered 422" in shell.said[-1] or "the model answered 400" in shell.said[-1]

        assert shell.do("teardown", "--name", "articles", "--yes") == 0, shell.text
    state = backend()
    assert not [*state.endpoints, *state.endpoint_configs, *state._models]


@pytest.mark.slow
def test_a_job_that_fails_saysfailure_cause(uploaded: list[str], shell: Shell, aws: Aws, tmp_path: Path) -> None:
    wrong = ("--hyperparameters", "hidden-size=768")  # only the container knows the base model
    with platform(tmp_path / "aws", aws):
        code = shell.do("train", *COMMON, *uploaded, "--output", "s3://models-bucket/jobs", *wrong)
    assert code == 1 and "hidden-size is 768, but base model" in shell.said[-1]
