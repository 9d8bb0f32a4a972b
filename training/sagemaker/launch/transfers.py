"""Commands that move bytes: an image to ECR, files to S3, texts to an endpoint."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.sagemaker.errors import AwsError, LaunchError
from training.sagemaker.launch.aws import Aws, is_error
from training.sagemaker.launch.calls import Call, without_empty
from training.sagemaker.launch.commands import DONE, Context
from training.sagemaker.launch.images import (
    check_manifest,
    push_commands,
    registry_of,
    repository_call,
    run_all,
    tool_of,
)
from training.sagemaker.launch.names import STAMP
from training.sagemaker.launch.uploads import place_of, plan_upload
from training.sagemaker.launch.validation import check

MEDIA_TYPES = {
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".ndjson": "application/jsonlines",
    ".csv": "text/csv",
    ".txt": "text/plain",
}
PASSWORD = "PASSWORD"
"""Stands for it in a dry run."""


def push(context: Context, image: str, repository: str, *, tag: str = "", tool: str = "", kms_key: str = "") -> int:
    """An image to a repository in ECR, made if it is not there; prints the name with the digest, which never moves."""
    if context.dry_run and not (context.account and context.region):
        raise LaunchError("a dry run asks AWS nothing: pass --account and --region")
    call = repository_call(repository, kms_key)
    check([call])
    program = tool_of(tool, context.which)
    tag = tag or context.now().strftime(STAMP)
    if context.dry_run:
        target = f"{registry_of(context.account, context.region)}/{repository}:{tag}"
        context.out(json.dumps([call.shown()], indent=2))
        for command in push_commands(program, image, target, PASSWORD):
            context.out(command.shown() + (" < the password from ECR" if command.stdin else ""))
        return DONE
    aws = context.aws
    target = f"{registry_of(context.account or aws.account(), aws.region)}/{repository}:{tag}"
    _make_repository(aws, call)
    token = aws.ask("ecr", "GetAuthorizationToken")["authorizationData"][0]["authorizationToken"]
    password = base64.b64decode(token).decode().partition(":")[2]
    run_all(push_commands(program, image, target, password), context.run)
    pushed = aws.ask("ecr", "DescribeImages", repositoryName=repository, imageIds=[{"imageTag": tag}])
    detail = pushed["imageDetails"][0]
    check_manifest(target, detail.get("imageManifestMediaType", ""))
    context.out(f"{target.rpartition(':')[0]}@{detail['imageDigest']}")
    return DONE


def _make_repository(aws: Aws, call: Call) -> None:
    try:
        aws.call(call)
    except AwsError as exc:
        if not is_error(exc, "RepositoryAlreadyExistsException"):
            raise


def upload(context: Context, source: Path, destination: str, *, kms_key: str = "", raw: bool = False) -> int:
    """A file, data or an artifact to S3, once; prints what a request names."""
    planned = plan_upload(source, destination, raw=raw)
    if context.dry_run:
        objects = (
            [planned.uri] if planned.archive else [f"s3://{planned.root.bucket}/{k}" for k, _ in planned.objects()]
        )
        context.out(json.dumps({"objects": objects, "sha256": planned.digest}, indent=2, ensure_ascii=False))
        return DONE
    sent = context.aws.upload(planned, kms_key)
    context.terminal.say(f"sent {sent} bytes" if sent else "nothing to send: it is there already")
    context.out(planned.uri)
    return DONE


def body_of(texts: list[str], file: Path | None, content_type: str) -> tuple[bytes, str]:
    """What an endpoint is asked: bytes and their media type.

    Raises:
        LaunchError: neither texts nor a file, both, or a file of unknown type.
    """
    if bool(texts) == bool(file):
        raise LaunchError("needs either --text or --file")
    if file is None:
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
        kind = "application/json" if len(lines) == 1 else "application/jsonlines"
        return "\n".join(lines).encode(), kind
    kind = content_type or MEDIA_TYPES.get(file.suffix.lower(), "")
    if not kind:
        raise LaunchError(f"{file}: pass --content-type, or end its name with {', '.join(MEDIA_TYPES)}")
    try:
        return file.read_bytes(), kind
    except OSError as exc:
        raise LaunchError(f"{file} cannot be read: {exc}") from exc


def invoke(context: Context, endpoint: str, body: bytes, content_type: str, accept: str) -> int:
    """Ask an endpoint and print its answer."""
    request = {
        "EndpointName": endpoint,
        "Body": body,
        "ContentType": content_type,
        **without_empty(Accept=accept),
    }
    call = Call("sagemaker-runtime", "InvokeEndpoint", request)
    check([call])
    if context.dry_run:
        return context.show([call])
    context.out(context.aws.call(call)["Body"].read().decode("utf-8"))
    return DONE


def async_request(
    endpoint: str, location: str, texts: list[str], file: Path | None, content_type: str, accept: str
) -> dict[str, Any]:
    """InvokeEndpointAsync's request: an object in S3, or a body of at most 128,000 bytes in the request itself.

    Raises:
        LaunchError: both, or neither.
    """
    if location and (texts or file):
        raise LaunchError("needs --input, --text or --file: one of them")
    if location:
        source: dict[str, Any] = {"InputLocation": location}
        kind = content_type or MEDIA_TYPES.get(Path(location).suffix.lower(), "application/json")
    else:
        body, kind = body_of(texts, file, content_type)
        source = {"Body": body}
    return {"EndpointName": endpoint, "ContentType": kind, **source, **without_empty(Accept=accept)}


def invoke_async(context: Context, request: dict[str, Any], limit_s: float) -> int:
    """Ask an asynchronous endpoint, wait until the answer is in S3, and print it.

    Args:
        context: where.
        request: InvokeEndpointAsync's.
        limit_s: seconds to wait; the answer comes later all the same.
    """
    call = Call("sagemaker-runtime", "InvokeEndpointAsync", request)
    check([call])
    if context.dry_run:
        return context.show([call])
    aws = context.aws
    answer = aws.call(call)
    output, failure = answer["OutputLocation"], answer.get("FailureLocation", "")
    if not context.wait:
        context.out(output)
        return DONE
    context.terminal.say(f"waiting for {output}")
    deadline = context.terminal.clock() + limit_s
    while True:
        if (found := _object(aws, output)) is not None:
            context.out(found)
            return DONE
        if failure and (found := _object(aws, failure)) is not None:
            raise AwsError(f"the model failed: {found}")
        if context.terminal.clock() > deadline:
            raise AwsError(f"no answer within {limit_s:.0f} s; it will be at {output}")
        context.terminal.sleep(context.poll_s)


def _object(aws: Aws, uri: str) -> str | None:
    place = place_of(uri)
    try:
        read: Callable[[], bytes] = aws.ask("s3", "GetObject", Bucket=place.bucket, Key=place.key)["Body"].read
    except AwsError as exc:
        if is_error(exc, "NoSuchKey", "404"):
            return None
        raise
    return read().decode("utf-8")
