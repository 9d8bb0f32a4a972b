"""Fixtures with moto as AWS, on a port of this machine, and with the operations that moto lacks."""

import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import botocore.client
import httpx
import pytest
from botocore.exceptions import ClientError

from tests.support.iam_policies import action_of, allowed_actions
from training.sagemaker.__main__ import main
from training.sagemaker.launch.aws import Aws
from training.sagemaker.launch.launcher import Console

ACCOUNT, REGION = "123456789012", "us-east-1"
KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
ROLE = f"arn:aws:iam::{ACCOUNT}:role/SageMakerRole"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/gpt2@sha256:{'0' * 64}"
ARTIFACT = "s3://models-bucket/models/0123456789abcdef/model.tar.gz"
NOW = datetime.datetime(2026, 1, 31, 23, 59, 58, tzinfo=datetime.UTC)
COMMAND = ContextVar("COMMAND", default="")
"""The command that runs in this thread; empty outside commands, and while a test plays AWS's part."""
METRICS = ({"Name": "eval:accuracy", "Regex": r"eval_accuracy=([0-9.]+);"},)


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(scope="session")
def shared_session() -> Any:
    """Return one boto3 session for all tests, because loading the description of AWS's API takes seconds."""
    return boto3.Session(**KEYS)


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take credentials and region away, and every place where boto3 looks for them."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    files = {"AWS_CONFIG_FILE": tmp_path / "no-config", "AWS_SHARED_CREDENTIALS_FILE": tmp_path / "no-credentials"}
    for name, value in {**files, "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, str(value))


@pytest.fixture
def aws(moto_url: str, no_aws: None, shared_session: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """Return an account with nothing but a bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    monkeypatch.setattr("training.sagemaker.launch.aws.boto3.Session", lambda **_: shared_session)
    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", _with_what_moto_lacks(monkeypatch))
    post(f"{moto_url}/moto-api/reset")
    session = Aws()
    session.call("s3", "CreateBucket", Bucket="models-bucket")
    yield session
    session.close()


def post(url: str, content: object = None) -> None:
    """Send JSON to moto's own interface."""
    httpx.post(url, json=content, trust_env=False).raise_for_status()


def backend() -> Any:
    """Return moto's state, which a test changes as AWS would in the course of time."""
    from moto.sagemaker.models import sagemaker_backends

    return sagemaker_backends[ACCOUNT][REGION]


def _with_what_moto_lacks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    original = botocore.client.BaseClient._make_api_call

    def call(client: Any, operation: str, request: dict[str, Any]) -> Any:
        if COMMAND.get():
            needed = action_of(client.meta.service_model.service_name, operation)
            assert not needed or needed in allowed_actions(COMMAND.get()), f"{COMMAND.get()} may not call {needed}"
        if operation.startswith("Stop"):  # StopTrainingJob and StopTransformJob
            kind = "training" if "Training" in operation else "transform"
            job = getattr(backend(), f"{kind}_jobs")[next(iter(request.values()))]
            setattr(job, f"{kind}_job_status", "Stopping")
            return {}
        if operation == "UpdateEndpoint":
            endpoint = backend().endpoints.get(request["EndpointName"])
            if endpoint is None:
                error = {"Code": "ValidationException", "Message": "Could not find endpoint"}
                raise ClientError({"Error": error}, operation)
            endpoint.endpoint_config_name, endpoint.endpoint_status = request["EndpointConfigName"], "Updating"
            return {}
        if operation == "GetDownloadUrlForLayer":  # a test has put the layer into S3
            named = {"Bucket": "models-bucket", "Key": f"layers/{request['layerDigest']}"}
            return {"downloadUrl": boto3.client("s3", **KEYS).generate_presigned_url("get_object", Params=named)}
        answer = original(client, operation, request)
        if operation == "GetResources":  # moto writes an endpoint configuration's ARN as a tuple of Python
            for entry in answer["ResourceTagMappingList"]:
                entry["ResourceARN"] = entry["ResourceARN"].removeprefix("('").removesuffix("',)")
        return answer

    return call


@dataclass
class Shell:
    """A person at the command line: what they read and answer, and what happens while they wait."""

    said: list[str] = field(default_factory=list)
    out: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    ran: list[tuple[list[str], str]] = field(default_factory=list)
    """Programs that were run, with their standard input."""
    answers: list[str] = field(default_factory=list)
    """Answers to questions; afterwards nobody answers."""
    waits: list[Callable[[], None]] = field(default_factory=list)
    """What happens in each sleep; a sleep without one fails, because the command would wait for ever."""
    on_run: Callable[[Sequence[str]], int] = lambda words: 0
    tools: tuple[str, ...] = ("docker",)
    slept: float = 0.0
    real_time: bool = False

    def _ask(self, question: str) -> str:
        self.asked.append(question)
        return self.answers.pop(0) if self.answers else ""

    def _sleep(self, seconds: float) -> None:
        self.slept += seconds
        assert self.waits, f"waits for something that does not come; said {self.said}"
        command = COMMAND.set("")
        try:
            self.waits.pop(0)()
        finally:
            COMMAND.reset(command)

    def _run(self, words: Sequence[str], stdin: str) -> int:
        self.ran.append((list(words), stdin))
        return self.on_run(words)

    def console(self, **changes: Any) -> Console:
        simulated: dict[str, Any] = {
            "sleep": self._sleep, "clock": lambda: self.slept, "now": lambda: NOW, "run_program": self._run,
            "find_program": lambda tool: f"/bin/{tool}" if tool in self.tools else None,
        }  # fmt: skip
        if self.real_time:
            simulated = {"poll_s": 0.1}
        return Console(**{"say": self.said.append, "result": self.out.append, "ask": self._ask, **simulated, **changes})

    def do(self, *words: str, **changes: Any) -> int:
        """Run a command line and return its exit code."""
        command = COMMAND.set(words[0])
        try:
            return main(words, self.console(**changes))
        finally:
            COMMAND.reset(command)

    @property
    def text(self) -> str:
        return "\n".join(self.said)


@pytest.fixture
def shell() -> Shell:
    return Shell()
