"""An image from this machine to Amazon ECR, by whichever of docker, podman and buildah is installed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from training.sagemaker.errors import AwsError, LaunchError
from training.sagemaker.launch.calls import Call, tag_list
from training.sagemaker.launch.requests import PROJECT, PROJECT_TAG

TOOLS = ("docker", "podman", "buildah")
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
"""Several images under one tag. SageMaker takes one image only."""


@dataclass(frozen=True)
class Command:
    """A program to run, and what it reads from standard input."""

    words: tuple[str, ...]
    stdin: str = ""

    def shown(self) -> str:
        return " ".join(self.words)


Run = Callable[[Command], int]
"""Runs a command and returns its exit code."""


def registry_of(account: str, region: str) -> str:
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"{account}.dkr.ecr.{region}.{domain}"


def tool_of(wanted: str, which: Callable[[str], str | None]) -> str:
    """
    Raises:
        LaunchError: none is installed, or not the one that was asked for.
    """
    for tool in (wanted,) if wanted else TOOLS:
        if which(tool):
            return tool
    raise LaunchError(f"{wanted or ' nor '.join(TOOLS)} is not installed: an image cannot be pushed without")


def repository_call(repository: str, kms_key: str) -> Call:
    encryption = {"encryptionType": "KMS", "kmsKey": kms_key} if kms_key else {"encryptionType": "AES256"}
    request = {
        "repositoryName": repository,
        "imageScanningConfiguration": {"scanOnPush": True},
        "encryptionConfiguration": encryption,
        "tags": tag_list({PROJECT_TAG: PROJECT}),
    }
    return Call("ecr", "CreateRepository", request)


def push_commands(tool: str, image: str, target: str, password: str) -> list[Command]:
    """Log in, tag, push. The password goes through standard input: arguments are visible to everyone."""
    registry = target.partition("/")[0]
    push = [tool, "push", target]
    if tool != "docker":  # what these built may be of a format that older parts of AWS do not read
        push[2:2] = ["--format", "v2s2"]
    return [
        Command((tool, "login", "--username", "AWS", "--password-stdin", registry), password),
        Command((tool, "tag", image, target)),
        Command(tuple(push)),
    ]


def run_all(commands: Sequence[Command], run: Run) -> None:
    """
    Raises:
        AwsError: a command failed; it has said why itself.
    """
    for command in commands:
        code = run(command)
        if code:
            raise AwsError(f"`{command.shown()}` ended with exit code {code}")


def check_manifest(target: str, media_type: str) -> None:
    """
    Raises:
        AwsError: what was pushed is an index, as docker's BuildKit makes for its attestations.
    """
    if media_type in INDEX_TYPES:
        raise AwsError(
            f"{target} is an index of several images ({media_type}), which SageMaker does not take: "
            "build with `docker build --provenance=false --sbom=false --platform linux/amd64` and push again"
        )
