"""Images in Amazon ECR: the command `push`, with docker, podman or buildah, and a check before `train`."""

import base64
import json
import re
from contextlib import suppress

from training.sagemaker.errors import AlreadyExistsError, AwsError, LaunchError
from training.sagemaker.launch.aws import Aws
from training.sagemaker.launch.launcher import DONE, Launcher
from training.sagemaker.launch.options import PushOptions
from training.sagemaker.launch.requests import PROJECT, PROJECT_TAG, STAMP, ApiRequest, tag_list

TOOLS = ("docker", "podman", "buildah")
INDEX_TYPES = ("vnd.oci.image.index.v1+json", "vnd.docker.distribution.manifest.list.v2+json")
"""Media types, after `application/`, of several images under one tag. SageMaker takes one image only."""
MANIFEST_TYPES = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
)
"""Media types of one image."""
PROCESSOR = "amd64"
"""Architecture of the instances of training jobs, but for ml.p6e, on which nobody trains a GPT-2."""
TITLE, SERVES_ONLY = "org.opencontainers.image.title", "gpt2-classifier"
"""Label of the project's images, and its value in the one that cannot train."""


def push(launcher: Launcher, options: PushOptions) -> int:
    """Push an image to a repository in ECR and print its name with the digest, which never moves."""
    if options.dry_run and not (options.account and options.region):
        raise LaunchError("a dry run asks AWS nothing: pass --account and --region")
    tool, create = _installed_tool(launcher, options.tool), _create_repository(options)
    preview = launcher.is_preview([create])
    aws, region = (None, options.region) if preview else (launcher.aws, launcher.aws.region)
    account = options.account or (aws.account() if aws else "")
    registry = f"{account}.dkr.ecr.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
    tag = options.tag or f"{launcher.console.now():{STAMP}}"
    target = f"{registry}/{options.repository}:{tag}"
    # the password goes through standard input, because everyone on this machine can see arguments
    login = [tool, "login", "--username", "AWS", "--password-stdin", registry]
    # images of the other tools may have a format that older parts of AWS do not read
    docker_format = [] if tool == "docker" else ["--format", "v2s2"]
    programs = [login, [tool, "tag", options.image, target], [tool, "push", *docker_format, target]]
    if aws is None:
        for words in programs:
            launcher.console.result(" ".join(words) + (" < the password from ECR" if words is login else ""))
        return DONE
    with suppress(AlreadyExistsError):
        aws.send(create)
    token = aws.call("ecr", "GetAuthorizationToken")["authorizationData"][0]["authorizationToken"]
    password = base64.b64decode(token).decode().partition(":")[2]
    for words in programs:
        code = launcher.console.run_program(words, password if words is login else "")
        if code:
            raise AwsError(f"`{' '.join(words)}` ended with exit code {code}")
    image_ids = [{"imageTag": tag}]
    [pushed] = aws.call("ecr", "DescribeImages", repositoryName=options.repository, imageIds=image_ids)["imageDetails"]
    if pushed.get("imageManifestMediaType", "").endswith(
        INDEX_TYPES
    ):  # docker's BuildKit makes one for its attestations
        raise AwsError(
            f"{target} is an index of several images ({pushed['imageManifestMediaType']}), which SageMaker does not "
            "take: build with `docker build --provenance=false --sbom=false --platform linux/amd64` and push again"
        )
    launcher.console.result(f"{registry}/{options.repository}@{pushed['imageDigest']}")
    return DONE


def check_image_trains(aws: Aws, image: str) -> None:
    """Check that an image in ECR can train. One that cannot be read passes, because the job itself will tell more.

    Raises LaunchError if it is the project's own that only serves, or was built for another processor than a job has.
    """
    found = re.fullmatch(r"(\d{12})\.dkr\.ecr\.[^/]+/([^@:]+)(?:@(sha256:[0-9a-f]+)|:([^@:]+))", image)
    if found is None:
        return
    account, repository, digest, tag = found.groups()
    named = {"registryId": account, "repositoryName": repository}
    image_id = {"imageDigest": digest} if digest else {"imageTag": tag}
    try:
        wanted = {"imageIds": [image_id], "acceptedMediaTypes": list(MANIFEST_TYPES)}
        [described] = aws.call("ecr", "BatchGetImage", **wanted, **named)["images"]
        layer = json.loads(described["imageManifest"])["config"]["digest"]
        url = aws.call("ecr", "GetDownloadUrlForLayer", layerDigest=layer, **named)["downloadUrl"]
        built = json.loads(aws.download(url))
        labels, processor = built["config"].get("Labels") or {}, built["architecture"]
    except (AwsError, OSError, ValueError, LookupError):
        return
    if labels.get(TITLE) == SERVES_ONLY:
        raise LaunchError(f"{image} only serves: build one that trains by `make image TARGET=train`, and push it")
    if processor != PROCESSOR:
        raise LaunchError(
            f"{image} is for {processor}, and training jobs run on {PROCESSOR}: set DOCKER_DEFAULT_PLATFORM=linux/"
            f"{PROCESSOR} for `make image`, and push again"
        )


def _create_repository(options: PushOptions) -> ApiRequest:
    encryption = {"encryptionType": "KMS" if options.kms_key else "AES256", "kmsKey": options.kms_key or None}
    parameters = {"imageScanningConfiguration": {"scanOnPush": True}, "encryptionConfiguration": encryption}
    named = {"repositoryName": options.repository, "tags": tag_list({PROJECT_TAG: PROJECT})}
    return ApiRequest("ecr", "CreateRepository", named | parameters)


def _installed_tool(launcher: Launcher, wanted: str) -> str:
    for tool in (wanted,) if wanted else TOOLS:
        if launcher.console.find_program(tool):
            return tool
    raise LaunchError(f"{wanted or ' nor '.join(TOOLS)} is not installed, and an image cannot be pushed without")
