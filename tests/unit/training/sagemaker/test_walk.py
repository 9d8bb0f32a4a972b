"""From a file of articles to answers and back to nothing: jobs that train, a service that answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.sagemaker_emulator import QUICK
from tests.support.sagemaker_platform import platform
from tests.support.texts import news_rows
from tests.unit.training.sagemaker.conftest import IMAGE, ROLE, Desk, backend
from training.sagemaker.launch.aws import Aws
from training.sagemaker.launch.follow import Terminal

COMMON = ("--name", "articles", "--image", IMAGE, "--role", ROLE)
HYPERPARAMETERS = [
    word
    for key, value in QUICK.items()
    for word in ("--hyperparameters", f"{key}={value if isinstance(value, str) else json.dumps(value)}")
]


@pytest.fixture
def at_the_desk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """One at which time passes by itself."""
    given = desk.context

    def context(**changes: Any) -> Any:
        return given(terminal=Terminal(desk.said.append, lambda _: ""), poll_s=0.1, **changes)

    monkeypatch.setattr(desk, "context", context)
    return desk


@pytest.fixture
def uploaded(at_the_desk: Desk, aws: Aws, base_model: Path, tmp_path: Path) -> list[str]:
    """`--channels` for articles and base model."""
    data = tmp_path / "articles.jsonl"
    data.write_text("\n".join(map(json.dumps, news_rows(60))), encoding="utf-8")
    assert at_the_desk.do("upload", str(data), "s3://models-bucket/data") == 0, at_the_desk.text
    assert at_the_desk.do("upload", str(base_model), "s3://models-bucket/base") == 0, at_the_desk.text
    file, base = at_the_desk.out
    at_the_desk.out.clear()
    return ["--channels", f"train={file.removesuffix(data.name)}", "--channels", f"base_model={base}"]


@pytest.mark.slow
def test_from_articles_to_answers_and_back_to_nothing(
    uploaded: list[str], at_the_desk: Desk, aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = at_the_desk
    with platform(tmp_path / "aws", aws) as runtime:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", runtime)
        output = ("--output", "s3://models-bucket/jobs")
        assert desk.do("train", *COMMON, *uploaded, *output, *HYPERPARAMETERS, "--spot") == 0, desk.text
        assert "test_accuracy=" in desk.text and "step=" in desk.text, "the log is followed"
        artifact = desk.out.pop()
        assert artifact.startswith("s3://models-bucket/jobs/") and artifact.endswith("/output/model.tar.gz")

        words = ("--artifact", artifact, "--instance-type", "ml.m5.xlarge")  # moto's list of types ends before ml.c6i
        assert desk.do("deploy", *COMMON, *words) == 0, desk.text
        assert desk.out.pop() == "articles"
        text = "league goal player match striker cup season goal match win"
        assert desk.do("invoke", "--name", "articles", "--text", text) == 0, desk.text
        answer = json.loads(desk.out.pop())
        assert max(answer, key=answer.get) == "sport" and sum(answer.values()) == pytest.approx(1, abs=1e-5)
        assert desk.do("invoke", "--name", "articles", "--text", " ") == 1
        assert "the model answered 422" in desk.said[-1] or "the model answered 400" in desk.said[-1]

        assert desk.do("teardown", "--name", "articles", "--yes") == 0, desk.text
    state = backend()
    assert not [*state.endpoints, *state.endpoint_configs, *state._models]


@pytest.mark.slow
def test_a_job_that_fails_says_why(uploaded: list[str], at_the_desk: Desk, aws: Aws, tmp_path: Path) -> None:
    wrong = ("--hyperparameters", "hidden-size=768")  # only the container knows the base model
    with platform(tmp_path / "aws", aws):
        code = at_the_desk.do("train", *COMMON, *uploaded, "--output", "s3://models-bucket/jobs", *wrong)
    assert code == 1 and "hidden-size is 768, but base model" in at_the_desk.said[-1]
