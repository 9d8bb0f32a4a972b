"""Thin calls to AWS: the only module with boto3. Credentials, region and endpoint come from boto3's own chain.

https://docs.aws.amazon.com/boto3/latest/guide/credentials.html
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)

from training.sagemaker.errors import AwsError, LaunchError
from training.sagemaker.launch.calls import Call
from training.sagemaker.launch.uploads import Upload, packed, place_of

ANSWER_S = 70
"""Seconds to wait for an endpoint's answer; SageMaker itself gives up at 60."""

PART_BYTES = 64 * 1024 * 1024
DIGEST = "content-sha256"
"""Metadata of what `upload` has written."""

_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired")
_UNKNOWN = ("InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidAccessKeyId")
_CREDENTIALS = "run `aws configure` or `aws sso login`, or name a profile by --profile"


class Aws:
    """One session; clients are made when first needed."""

    def __init__(self, region: str = "", profile: str = "") -> None:
        """
        Raises:
            LaunchError: no such profile, or no region.
        """
        with errors():
            self._session = boto3.Session(region_name=region or None, profile_name=profile or None)
        if not self._session.region_name:
            raise LaunchError("no AWS region is set: pass --region, or run `aws configure`")
        self.region: str = self._session.region_name

        self._clients: dict[str, Any] = {}

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = self._new_client(service)
        return self._clients[service]

    def _new_client(self, service: str) -> Any:
        config = Config(retries={"mode": "standard"})
        if service == "sagemaker-runtime":  # what was not answered in time is not worth asking for again
            config = Config(read_timeout=ANSWER_S, connect_timeout=5, retries={"total_max_attempts": 1})
        with errors():
            return self._session.client(service, config=config)

    def call(self, call: Call) -> dict[str, Any]:
        """
        Raises:
            LaunchError: no usable credentials.
            AwsError: AWS refused, or could not be reached.
        """
        with errors(call.operation):
            answer: dict[str, Any] = getattr(self.client(call.service), xform_name(call.operation))(**call.request)
            return answer

    def ask(self, service: str, operation: str, **request: Any) -> dict[str, Any]:
        return self.call(Call(service, operation, request))

    def pages(self, service: str, operation: str, key: str, **request: Any) -> list[Any]:
        """All entries of a list that comes in pages."""
        with errors(operation):
            paginator = self.client(service).get_paginator(xform_name(operation))
            return [entry for page in paginator.paginate(**request) for entry in page.get(key, [])]

    def account(self) -> str:
        return str(self.ask("sts", "GetCallerIdentity")["Account"])

    def role(self, wanted: str) -> str:
        """ARN of the execution role: of the one named, or the caller's own.

        Raises:
            LaunchError: none is named, and the caller is a user.
        """
        if wanted.startswith("arn:"):
            return wanted
        name = wanted
        if not name:
            caller = str(self.ask("sts", "GetCallerIdentity")["Arn"])
            kind, _, rest = caller.rpartition(":")[2].partition("/")
            if kind != "assumed-role":
                raise LaunchError(f"no execution role: pass --role (you are {caller}, which SageMaker cannot become)")
            name = rest.partition("/")[0]
        return str(self.ask("iam", "GetRole", RoleName=name)["Role"]["Arn"])

    def upload(self, upload: Upload, kms_key: str = "") -> int:
        """Send what is not there yet; returns the bytes sent."""
        extra: dict[str, Any] = {"Metadata": {DIGEST: upload.digest}}
        if kms_key:
            extra |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key}
        bucket = upload.root.bucket
        if not upload.archive:
            missing = [(key, path) for key, path in upload.objects() if not self._there(bucket, key, upload.digest)]
            return sum(self._send(str(path), bucket, key, extra) for key, path in missing)
        key = place_of(upload.uri).key
        if self._there(bucket, key, upload.digest):
            return 0
        with packed(upload) as archive:
            return self._send(str(archive), bucket, key, extra)

    def _there(self, bucket: str, key: str, digest: str) -> bool:
        try:
            with errors("HeadObject"):
                found = self.client("s3").head_object(Bucket=bucket, Key=key)
        except AwsError as exc:
            if is_error(exc, "404", "NoSuchKey"):
                return False
            raise
        return bool(found.get("Metadata", {}).get(DIGEST) == digest)

    def _send(self, path: str, bucket: str, key: str, extra: Mapping[str, Any]) -> int:
        transfer = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES)
        with errors(f"upload of {path} to s3://{bucket}/{key}"):
            self.client("s3").upload_file(path, bucket, key, ExtraArgs=dict(extra), Config=transfer)
        with open(path, "rb") as file:
            return file.seek(0, 2)


@contextmanager
def errors(what: str = "") -> Iterator[None]:
    """botocore's exceptions as errors of this project, with what to do about them."""
    prefix = f"{what}: " if what else ""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as exc:
        raise LaunchError(f"no AWS credentials: {exc}; {_CREDENTIALS}") from exc
    except ProfileNotFound as exc:
        raise LaunchError(f"{exc}; `aws configure list-profiles` shows those that exist") from exc
    except NoRegionError as exc:
        raise LaunchError("no AWS region is set: pass --region, or run `aws configure`") from exc
    except ClientError as exc:
        code, message = exc.response["Error"].get("Code", ""), exc.response["Error"].get("Message", str(exc))
        if code in _EXPIRED or code in _UNKNOWN:
            raise LaunchError(f"AWS does not take these credentials ({code}); {_CREDENTIALS}") from exc
        if code == "ModelError":
            status, original = exc.response.get("OriginalStatusCode"), exc.response.get("OriginalMessage", "")
            raise AwsError(f"the model answered {status}: {original}") from exc
        raise AwsError(f"{prefix}{message} ({code})") from exc
    except (BotoCoreError, boto3.exceptions.Boto3Error) as exc:
        raise AwsError(f"{prefix}{exc}") from exc


def is_error(exc: AwsError, *codes: str) -> bool:
    """Whether AWS answered with one of these codes."""
    cause = exc.__cause__
    return isinstance(cause, ClientError) and cause.response["Error"].get("Code") in codes
