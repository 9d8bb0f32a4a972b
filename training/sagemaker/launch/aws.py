"""The only module with boto3: sending requests to AWS, and the table of AWS's errors.

Credentials, region and endpoint come from boto3's own chain:
https://docs.aws.amazon.com/boto3/latest/guide/credentials.html
"""

import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from training.sagemaker.errors import AlreadyExistsError, AwsError, LaunchError, NotFoundError
from training.sagemaker.launch.endpoints import DIMENSION
from training.sagemaker.launch.requests import ApiRequest

ANSWER_S = 70
"""Seconds to wait for an endpoint's answer; SageMaker itself gives up after 60."""
PART_BYTES = 64 * 1024 * 1024

_SIGN_IN = "run `aws configure` or `aws sso login`, or name a profile with --profile"
_MESSAGE = "{operation}{message} ({code})"
_ERRORS: tuple[tuple[type[LaunchError], str, tuple[str, ...]], ...] = (
    (LaunchError, f"no AWS credentials: {{message}}; {_SIGN_IN}",
     ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError",
      "SSOTokenLoadError", "UnauthorizedSSOTokenError")),
    (LaunchError, f"AWS does not accept these credentials ({{code}}); {_SIGN_IN}",
     ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidClientTokenId", "UnrecognizedClientException",
      "SignatureDoesNotMatch", "InvalidAccessKeyId")),
    (LaunchError, "{message}; `aws configure list-profiles` shows those that exist", ("ProfileNotFound",)),
    (LaunchError, "no AWS region is set: pass --region, or run `aws configure`", ("NoRegionError",)),
    (AwsError, "the model answered {status}: {answer}", ("ModelError",)),
    (AwsError, f"{_MESSAGE}; Service Quotas in AWS's console raises the limit", ("ResourceLimitExceeded",)),
    (NotFoundError, _MESSAGE,
     ("ObjectNotFoundException", "ResourceNotFound", "ResourceNotFoundException", "NoSuchKey", "404")),
    (AlreadyExistsError, _MESSAGE, ("RepositoryAlreadyExistsException",)),
)  # fmt: skip
"""For each kind of error: the class to raise, its message, and AWS's codes or botocore's class names."""


class Aws:
    """One session. Raises LaunchError if there is no such profile, or no region is set."""

    def __init__(self, region: str = "", profile: str = "") -> None:
        with translated_errors():
            self._session = boto3.Session(region_name=region or None, profile_name=profile or None)
        if not self._session.region_name:
            raise LaunchError("no AWS region is set: pass --region, or run `aws configure`")
        self.region: str = self._session.region_name
        self._clients: dict[str, Any] = {}

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def client(self, service: str) -> Any:
        """Return boto3's client of a service, created when it is first needed."""
        if service not in self._clients:
            config = Config(retries={"mode": "standard"})
            if service == "sagemaker-runtime":  # if an answer did not come in time, a second try would take as long
                config = Config(read_timeout=ANSWER_S, connect_timeout=5, retries={"total_max_attempts": 1})
            with translated_errors():
                self._clients[service] = self._session.client(service, config=config)
        return self._clients[service]

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Send a request and return AWS's answer. Raises the errors of `_ERRORS`."""
        with translated_errors(operation):
            answer: dict[str, Any] = getattr(self.client(service), xform_name(operation))(**parameters)
            return answer

    def send(self, request: ApiRequest) -> dict[str, Any]:
        """Send a prepared request; see `call`."""
        return self.call(request.service, request.operation, **request.parameters)

    def pages(self, service: str, operation: str, key: str, **parameters: Any) -> list[Any]:
        """Return all entries of a list that AWS gives in pages; `key` is its name in each page."""
        with translated_errors(operation):
            paginator = self.client(service).get_paginator(xform_name(operation))
            return [entry for page in paginator.paginate(**parameters) for entry in page.get(key, [])]

    def scalable_targets(self, endpoint: str) -> list[dict[str, Any]]:
        """Return the autoscaling of an endpoint's variants, as DescribeScalableTargets returns it."""
        service, operation, key = "application-autoscaling", "DescribeScalableTargets", "ScalableTargets"
        targets = self.pages(service, operation, key, ServiceNamespace="sagemaker", ScalableDimension=DIMENSION)
        return [target for target in targets if target["ResourceId"].startswith(f"endpoint/{endpoint}/")]

    def account(self) -> str:
        return str(self.call("sts", "GetCallerIdentity")["Account"])

    def role(self, wanted: str) -> str:
        """Return the ARN of the role of this ARN or name; default: the caller's own, LaunchError if it is a user."""
        if wanted.startswith("arn:"):
            return wanted
        if not wanted:
            caller = str(self.call("sts", "GetCallerIdentity")["Arn"])
            kind, _, session = caller.rpartition(":")[2].partition("/")
            if kind != "assumed-role":
                raise LaunchError(f"no execution role: pass --role (SageMaker cannot act as you, {caller})")
            wanted = session.partition("/")[0]
        return str(self.call("iam", "GetRole", RoleName=wanted)["Role"]["Arn"])

    def download(self, url: str) -> bytes:
        """Return what an address holds that AWS has signed. Raises OSError if it cannot be read."""
        with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:
            content: bytes = answer.read()
            return content

    def upload_file(self, path: str, bucket: str, key: str, settings: Mapping[str, Any]) -> None:
        """Send a file to S3, a large one in parts."""
        transfer = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES)
        with translated_errors(f"upload of {path} to s3://{bucket}/{key}"):
            self.client("s3").upload_file(path, bucket, key, ExtraArgs=dict(settings), Config=transfer)


@contextmanager
def translated_errors(operation: str = "") -> Iterator[None]:
    """Raise errors of boto3 and botocore as errors of this project, with what to do about them."""
    try:
        yield
    except (ClientError, BotoCoreError, Boto3Error) as exc:
        response: Mapping[str, Any] = getattr(exc, "response", None) or {}
        error = response.get("Error", {})
        code, message = error.get("Code") or type(exc).__name__, error.get("Message") or str(exc)
        # SageMaker has no code for a missing resource, only "Could not find endpoint", "Requested resource not found"
        if code == "ValidationException" and ("not find" in message or "not found" in message):
            code = "ResourceNotFound"
        kind, template = next((found[:2] for found in _ERRORS if code in found[2]), (AwsError, _MESSAGE))
        fields = {"operation": f"{operation}: " if operation else "", "code": code, "message": message}
        status, answer = response.get("OriginalStatusCode"), response.get("OriginalMessage", "")
        raise kind(template.format(**fields, status=status, answer=answer)) from exc
