"""The README's walk through SageMaker runs as it is printed there, in a shell, against moto and the real service."""

import json
import os
import pty
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.support import ROOT
from tests.support.aws_account import ACCOUNT, BUCKET, REGION, account
from tests.support.service_process import ServiceProcess
from training.sagemaker.__main__ import COMMANDS

WALK_S = 300
README = (ROOT / "README.md").read_text(encoding="utf-8")
[WALK] = [block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "training.sagemaker" in block]
VERBS = re.findall(r"\bsagemaker ([a-z]+)", WALK)
ROLE = f"arn:aws:iam::{ACCOUNT}:role/SageMakerRole"
DOCKER = """
import json, os, sys
import boto3
words, notes = sys.argv[1:], {notes!r}
images = json.load(open(notes)) if os.path.exists(notes) else {{}}
if words[0] == "build":
    attested = "BUILDX_NO_DEFAULT_ATTESTATIONS" not in os.environ
    images[words[words.index("--tag") + 1]] = words[words.index("--target") + 1], attested
elif words[0] == "tag":
    images[words[2]] = images[words[1]]
elif words[0] == "login":
    assert sys.stdin.read(), "the password comes on standard input"
elif words[0] == "push":
    name, _, tag = words[1].partition("/")[2].partition(":")
    target, attested = images[words[1]]
    kind = "vnd.oci.image.index.v1+json" if attested else "vnd.docker.distribution.manifest.v2+json"
    manifest = json.dumps({{"schemaVersion": 2, "mediaType": f"application/{{kind}}", "target": target}})
    pushed = boto3.client("ecr").put_image(repositoryName=name, imageTag=tag, imageManifest=manifest)
    images[pushed["image"]["imageId"]["imageDigest"]] = images[words[1]]
json.dump(images, open(notes, "w"))
"""
"""A docker that builds nothing: it keeps the target of each image's name and digest, and pushes to moto's ECR. With
attestations, which BuildKit makes unless told otherwise, it pushes an index, as docker does."""


def write_program(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a directory like a fresh checkout after `make train`, with the reader's file of articles and a docker."""
    directory = tmp_path / "checkout"
    directory.mkdir()
    for path in ROOT.iterdir():
        if path.name not in (".venv", ".git"):
            (directory / path.name).symlink_to(path)
    write_program(directory / ".venv/bin/python", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (directory / "docker.py").write_text(DOCKER.format(notes=str(tmp_path / "images.json")), encoding="utf-8")
    write_program(directory / "bin/docker", '#!/bin/sh\nexec .venv/bin/python docker.py "$@"\n')
    (directory / "articles.csv").write_text("text,label\nThe striker scored.,sport\n", encoding="utf-8")
    return directory


@contextmanager
def requests_to_sagemaker() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Keep the operations that moto's SageMaker is asked for, with their parameters."""
    from moto.sagemaker.responses import SageMakerResponse

    kept: list[tuple[str, dict[str, Any]]] = []
    original = SageMakerResponse.call_action

    def call(response: Any) -> Any:
        kept.append((response.headers["X-Amz-Target"].partition(".")[2], json.loads(response.body)))
        return original(response)

    with patch.object(SageMakerResponse, "call_action", call):
        yield kept


def run(walk: str, directory: Path, environment: dict[str, str]) -> str:
    """Run the commands in a shell that ends at the first failure, in a terminal at which somebody answers yes."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "MAKE"))}
    own = {"PATH": f"{directory / 'bin'}:{os.environ['PATH']}", "ROLE": ROLE, "BUCKET": BUCKET}
    terminal, keyboard = pty.openpty()
    try:
        os.write(terminal, b"y\n" * walk.count("sagemaker "))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", walk], cwd=directory, env={**inherited, **own, **environment},
            stdin=keyboard, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=WALK_S, check=False,
        )  # fmt: skip
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_walk_has_every_command_but_the_one_for_jobs_that_nobody_follows() -> None:
    assert VERBS == ["push", "upload", "train", "deploy", "invoke", "update", "transform", "teardown"]
    assert set(VERBS) == set(COMMANDS) - {"follow"}


def test_the_walk_runs_as_it_is_printed(default_service: ServiceProcess, checkout: Path, tmp_path: Path) -> None:
    with account(default_service, tmp_path) as environment, requests_to_sagemaker() as sent:
        log = run(WALK, checkout, environment)
        from moto.sagemaker.models import sagemaker_backends

        left = sagemaker_backends[ACCOUNT][REGION]
        assert not [*left.endpoints, *left.endpoint_configs, *left._models], log

    # Names have the time in seconds. AWS takes minutes for an update, but here the next command may come at once.
    models = {request["ModelName"] for operation, request in sent if operation == "CreateModel"}
    operations = [operation for operation, _ in sent if not operation.startswith("Describe")]
    assert operations == [
        "CreateTrainingJob", "CreateModel", "CreateEndpointConfig", "CreateEndpoint",
        "CreateModel", "CreateEndpointConfig", "UpdateEndpoint", "CreateModel", "CreateTransformJob",
        "DeleteEndpoint", "DeleteEndpointConfig", "DeleteEndpointConfig", *["DeleteModel"] * len(models),
    ], log  # fmt: skip
    requests = dict(sent)
    built = json.loads((tmp_path / "images.json").read_text(encoding="utf-8"))
    image = requests["CreateTrainingJob"]["AlgorithmSpecification"]["TrainingImage"]
    assert built[image.partition("@")[2]][0] == "train", "the job's image can train"
    artifact = f"{requests['CreateTrainingJob']['OutputDataConfig']['S3OutputPath']}"
    assert requests["CreateModel"]["PrimaryContainer"]["ModelDataUrl"].startswith(artifact)
    [answer] = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert max(answer, key=answer.get) == "sport"
