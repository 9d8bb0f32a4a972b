"""Requests to AWS as data, and those for training jobs, models and batch transforms. endpoints.py has the others.

A request is built without AWS, checked (validation.py), printed by a dry run, and then sent.
"""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from training.sagemaker.errors import LaunchError
from training.sagemaker.launch.options import ModelOptions, ResourceOptions, TrainOptions, TransformOptions

PROJECT_TAG, PROJECT = "project", "gpt2-classifier"
NAME_TAG = "deployment"
"""Key of the tag whose value is the deployment's name; teardown looks for it."""
STAMP = "%Y%m%d-%H%M%S"
MAX_NAME = 63 - len("-20260131-235959")
"""SageMaker takes names of 63 characters, and jobs, models and configurations get the time after the name."""
_LOCAL_DISK = re.compile(r"ml\.([a-z]+\d+[a-z]*d|dl|g[5-7]|gr|i\d|p[5-6]|trn)")
"""Beginning of the types of instances that have NVMe disks of their own instead of a volume:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/InstanceStorage.html"""
BYTES_PER_TOKEN = 2.0
"""Bytes of a request for each token that the model reads, at the least: 4.4 in English and 2.5 in German, and three
quarters of that in long texts, whose windows overlap."""
MAX_INVOCATION_S, MIN_INVOCATION_S = 3600, 600
"""The longest time that SageMaker gives one request of a batch transform or of an asynchronous endpoint, and the time
that a request has at least, however small it is."""


@dataclass(frozen=True)
class ApiRequest:
    """One request to AWS. Fields that are None, and objects of which nothing is left, are not part of it."""

    service: str
    """Name of boto3's client, such as `sagemaker-runtime`."""
    operation: str
    """Name of the operation in the API, such as `CreateEndpoint`."""
    parameters: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", _without_none(self.parameters))


def _without_none(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    cleaned = {key: _without_none(item) for key, item in value.items() if item is not None}
    return {key: item for key, item in cleaned.items() if item != {}}


def checked_name(name: str) -> str:
    """Return a deployment's name as it is. Raises LaunchError if AWS would refuse it with the time appended."""
    if len(name) > MAX_NAME or not re.fullmatch("[a-zA-Z0-9](-*[a-zA-Z0-9])*", name):
        raise LaunchError(
            f"--name {name!r}: a name has 1 to {MAX_NAME} letters (a-z, A-Z), digits and hyphens, and begins and ends "
            "with a letter or digit"
        )
    return name


def stamped_name(name: str, now: datetime) -> str:
    """Return `name-20260131-235959`, with the time in UTC. Raises LaunchError if AWS would not take the name."""
    return f"{checked_name(name)}-{now.astimezone(UTC):{STAMP}}"


def key_values(given: Sequence[str], option: str) -> dict[str, str]:
    """Return `KEY=VALUE` strings as a mapping. Raises LaunchError if a string has no `=`, or a key is given twice."""
    found: dict[str, str] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise LaunchError(f"{option} {one!r}: write KEY=VALUE")
        if key in found:
            raise LaunchError(f"{option}: {key!r} is given twice")
        found[key] = value
    return found


def tags_of(options: ResourceOptions) -> dict[str, str]:
    """Return the tags of the options and the two by which teardown finds the resources."""
    return key_values(options.tags, "--tags") | {PROJECT_TAG: PROJECT, NAME_TAG: checked_name(options.name)}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags in the form of most of AWS's operations."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def volume_key(kms_key: str, instance_type: str) -> str | None:
    """Return the key for an instance's disk; None without one, or if the type has disks of its own.

    Those are always encrypted with a key of their hardware, and AWS refuses a job that gives another one.
    """
    return None if _LOCAL_DISK.match(instance_type) else kms_key or None


def training_request(
    options: TrainOptions, role: str, metrics: Sequence[Mapping[str, str]], now: datetime
) -> ApiRequest:
    """Return the request for a training job. Raises LaunchError if the options contradict each other.

    `role` is the ARN of the execution role, `metrics` are names and regular expressions of figures in the job's log.
    """
    job = stamped_name(options.name, now)
    output = options.output.rstrip("/") + "/" if options.output else ""
    try:
        entrypoint = shlex.split(options.entrypoint)
    except ValueError as exc:
        raise LaunchError(f"--entrypoint {options.entrypoint!r}: {exc}") from exc
    max_wait_s = options.max_wait_s or (2 * options.max_run_s if options.spot else None)
    parameters = {
        "TrainingJobName": job, "RoleArn": role,
        "AlgorithmSpecification": {
            "TrainingImage": options.image, "TrainingInputMode": options.input_mode,
            "ContainerEntrypoint": entrypoint or None,
            "MetricDefinitions": [dict(metric) for metric in metrics] or None,
            "EnableSageMakerMetricsTimeSeries": bool(metrics),
        },
        "HyperParameters": key_values(options.hyperparameters, "--hyperparameters"),
        "InputDataConfig": _channels(options) or None,
        "OutputDataConfig": {"S3OutputPath": output, "KmsKeyId": options.kms_key or None},
        "ResourceConfig": {
            "InstanceType": options.instance_type, "InstanceCount": options.instance_count,
            "VolumeSizeInGB": options.volume_gb, "VolumeKmsKeyId": volume_key(options.kms_key, options.instance_type),
            "KeepAlivePeriodInSeconds": options.keep_alive_s or None,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": options.max_run_s, "MaxWaitTimeInSeconds": max_wait_s},
        "CheckpointConfig": {"S3Uri": options.checkpoints or f"{output}checkpoints/{job}/"},
        "RetryStrategy": {"MaximumRetryAttempts": options.max_retries or None},
        "Environment": key_values(options.environment, "--environment"),
        "EnableManagedSpotTraining": options.spot, "EnableNetworkIsolation": options.network_isolation,
        "EnableInterContainerTrafficEncryption": options.encrypt_traffic,
        "VpcConfig": vpc_config(options), "Tags": tag_list(tags_of(options)),
    }  # fmt: skip
    return ApiRequest("sagemaker", "CreateTrainingJob", parameters)


def _channels(options: TrainOptions) -> list[dict[str, Any]]:
    source = {"S3DataType": "S3Prefix", "S3DataDistributionType": "FullyReplicated"}
    return [
        {"ChannelName": name, "InputMode": options.input_mode, "DataSource": {"S3DataSource": source | {"S3Uri": uri}}}
        for name, uri in key_values(options.channels, "--channels").items()
    ]


def vpc_config(options: ResourceOptions) -> dict[str, Any] | None:
    """Return the VPC of the options, None without one. Raises LaunchError if a half of it is missing."""
    if bool(options.subnets) != bool(options.security_groups):
        raise LaunchError("a VPC needs both --subnets and --security-groups")
    if not options.subnets:
        return None
    return {"Subnets": list(options.subnets), "SecurityGroupIds": list(options.security_groups)}


def model_request(options: ModelOptions, role: str, name: str, environment: Mapping[str, str]) -> ApiRequest:
    """Return the request for a model: the image, and the artifact that SageMaker unpacks into /opt/ml/model."""
    container = {"Image": options.image, "ModelDataUrl": options.artifact or None, "Environment": environment}
    parameters = {
        "ModelName": name, "ExecutionRoleArn": role, "PrimaryContainer": container, "VpcConfig": vpc_config(options),
        "EnableNetworkIsolation": options.network_isolation, "Tags": tag_list(tags_of(options)),
    }  # fmt: skip
    return ApiRequest("sagemaker", "CreateModel", parameters)


def invocation_seconds(megabytes: int, concurrent: int, tokens_per_second: float) -> int:
    """Return the seconds in which an instance answers concurrent requests of this size.

    Raises LaunchError if they take longer than SageMaker waits, so that each of them would end in an error.
    """
    if min(megabytes, concurrent) < 1 or not tokens_per_second > 0:
        raise LaunchError("--max-payload-mb and --concurrent are at least 1, and --tokens-per-second is above 0")
    seconds = math.ceil(megabytes * 2**20 * concurrent / BYTES_PER_TOKEN / tokens_per_second)
    if seconds > MAX_INVOCATION_S:
        raise LaunchError(
            f"--max-payload-mb {megabytes} --concurrent {concurrent}: at {tokens_per_second:g} tokens a second such "
            f"requests may take {seconds} s, and SageMaker waits for {MAX_INVOCATION_S}: send less at a time, or pass "
            "--tokens-per-second if the model is faster on this type of instance"
        )
    return max(seconds, MIN_INVOCATION_S)


def service_limits(seconds: int, body_bytes: int) -> dict[str, str]:
    """Return the service's variables that let a request take so long and be so large."""
    milliseconds = str(1000 * seconds)
    return {
        "SERVICE_DEFAULT_TIMEOUT_MS": milliseconds, "SERVICE_MAX_TIMEOUT_MS": milliseconds,
        "SERVICE_MAX_BODY_BYTES": str(body_bytes),
    }  # fmt: skip


def transform_requests(options: TransformOptions, role: str, now: datetime) -> list[ApiRequest]:
    """Return the requests for a batch transform: the model, unless an existing one is named, and then the job."""
    if bool(options.model) == bool(options.image):
        raise LaunchError("name either --model (one that SageMaker has) or --image (and --artifact)")
    job = stamped_name(options.name, now)
    seconds = invocation_seconds(options.max_payload_mb, options.concurrent, options.tokens_per_second)
    limits = service_limits(seconds, (options.max_payload_mb + 1) * 2**20)
    parameters = {
        "TransformJobName": job, "ModelName": options.model or job, "Tags": tag_list(tags_of(options)),
        "BatchStrategy": options.strategy, "MaxPayloadInMB": options.max_payload_mb,
        "MaxConcurrentTransforms": options.concurrent,
        "Environment": limits | key_values(options.environment, "--environment"),
        "ModelClientConfig": {
            "InvocationsTimeoutInSeconds": seconds, "InvocationsMaxRetries": options.retries,
        },
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": options.input}},
            "ContentType": options.content_type, "CompressionType": options.compression, "SplitType": "Line",
        },
        "TransformOutput": {
            "S3OutputPath": options.output, "Accept": options.accept or options.content_type,
            "AssembleWith": "Line", "KmsKeyId": options.kms_key or None,
        },
        "DataProcessing": {
            "InputFilter": options.input_filter or None, "OutputFilter": options.output_filter or None,
            "JoinSource": "Input" if options.join else None,
        },
        "TransformResources": {
            "InstanceType": options.instance_type, "InstanceCount": options.instance_count,
            "VolumeKmsKeyId": volume_key(options.kms_key, options.instance_type),
        },
    }  # fmt: skip
    model = [] if options.model else [model_request(options, role, job, {})]
    return [*model, ApiRequest("sagemaker", "CreateTransformJob", parameters)]
