"""Plans to requests: training jobs, models, batch transforms. Pure functions; endpoints are in endpoints.py."""

import datetime
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from training.sagemaker.errors import LaunchError
from training.sagemaker.launch.calls import Call, Step, tag_list, without_empty
from training.sagemaker.launch.names import stamped_name, valid_name
from training.sagemaker.launch.plans import ModelPlan, Placed, TrainPlan, TransformPlan

PROJECT_TAG, PROJECT = "project", "gpt2-classifier"
NAME_TAG = "deployment"
"""Its value is the plan's name; teardown goes by it."""


def tags_of(plan: Placed) -> dict[str, str]:
    """The plan's own tags and the two by which resources are found again."""
    return pairs(plan.tags, "--tags") | {PROJECT_TAG: PROJECT, NAME_TAG: valid_name(plan.name)}


def pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """`KEY=VALUE` strings as a mapping.

    Raises:
        LaunchError: one has no `=`, or a key comes twice.
    """
    found: dict[str, str] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise LaunchError(f"{option} {one!r}: write KEY=VALUE")
        if key in found:
            raise LaunchError(f"{option}: {key!r} is given twice")
        found[key] = value
    return found


def training_steps(
    plan: TrainPlan, role: str, metrics: Sequence[Mapping[str, str]], now: datetime.datetime
) -> tuple[str, list[Step]]:
    """The job's name and the one call that starts it.

    Args:
        plan: what to run.
        role: ARN of the execution role.
        metrics: names and regular expressions of the figures in the job's log.
        now: goes into the job's name.

    Raises:
        LaunchError: the plan contradicts itself.
    """
    job = stamped_name(plan.name, now)
    output = plan.output.rstrip("/") + "/" if plan.output else ""
    specification = {
        "TrainingImage": plan.image,
        "TrainingInputMode": plan.input_mode,
        **without_empty(ContainerEntrypoint=_words(plan.entrypoint), MetricDefinitions=[dict(one) for one in metrics]),
        "EnableSageMakerMetricsTimeSeries": bool(metrics),
    }
    channels = [_channel(name, uri, plan.input_mode) for name, uri in pairs(plan.channels, "--channels").items()]
    stopping = {"MaxRuntimeInSeconds": plan.max_run_s}
    if plan.spot or plan.max_wait_s:
        stopping["MaxWaitTimeInSeconds"] = plan.max_wait_s or 2 * plan.max_run_s
    request = {
        "TrainingJobName": job,
        "RoleArn": role,
        "AlgorithmSpecification": specification,
        "OutputDataConfig": {"S3OutputPath": output, **without_empty(KmsKeyId=plan.kms_key)},
        "ResourceConfig": {
            "InstanceType": plan.instance_type,
            "InstanceCount": plan.instance_count,
            "VolumeSizeInGB": plan.volume_gb,
            **without_empty(VolumeKmsKeyId=plan.kms_key, KeepAlivePeriodInSeconds=plan.keep_alive_s or None),
        },
        "StoppingCondition": stopping,
        "CheckpointConfig": {"S3Uri": plan.checkpoints or f"{output}checkpoints/{job}/"},
        "EnableManagedSpotTraining": plan.spot,
        "EnableNetworkIsolation": plan.network_isolation,
        "EnableInterContainerTrafficEncryption": plan.encrypt_traffic,
        "Tags": tag_list(tags_of(plan)),
        **without_empty(
            HyperParameters=pairs(plan.hyperparameters, "--hyperparameters"),
            InputDataConfig=channels,
            Environment=pairs(plan.environment, "--environment"),
            VpcConfig=vpc(plan),
            RetryStrategy={"MaximumRetryAttempts": plan.max_retries} if plan.max_retries else None,
        ),
    }
    return job, [Call("sagemaker", "CreateTrainingJob", request)]


def _words(entrypoint: str) -> list[str]:
    try:
        return shlex.split(entrypoint)
    except ValueError as exc:
        raise LaunchError(f"--entrypoint {entrypoint!r}: {exc}") from exc


def _channel(name: str, uri: str, input_mode: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "InputMode": input_mode, "DataSource": {"S3DataSource": source}}


def vpc(plan: Placed) -> dict[str, Any] | None:
    """
    Raises:
        LaunchError: subnets without security groups, or the other way round.
    """
    if bool(plan.subnets) != bool(plan.security_groups):
        raise LaunchError("a VPC needs both --subnets and --security-groups")
    if not plan.subnets:
        return None
    return {"Subnets": list(plan.subnets), "SecurityGroupIds": list(plan.security_groups)}


def model_call(plan: ModelPlan, role: str, name: str, environment: Mapping[str, str] | None = None) -> Call:
    """CreateModel: the image, and the artifact that SageMaker unpacks into /opt/ml/model."""
    container = {
        "Image": plan.image,
        **without_empty(
            ModelDataUrl=plan.artifact,
            Environment=dict(environment or {}) | pairs(plan.environment, "--environment"),
        ),
    }
    request = {
        "ModelName": name,
        "ExecutionRoleArn": role,
        "PrimaryContainer": container,
        "EnableNetworkIsolation": plan.network_isolation,
        "Tags": tag_list(tags_of(plan)),
        **without_empty(VpcConfig=vpc(plan)),
    }
    return Call("sagemaker", "CreateModel", request)


def transform_steps(plan: TransformPlan, role: str, now: datetime.datetime) -> tuple[str, list[Step]]:
    """The transform job's name, and the calls: CreateModel where no model is named, then CreateTransformJob.

    Raises:
        LaunchError: both a model and an image are named, or neither.
    """
    if bool(plan.model) == bool(plan.image):
        raise LaunchError("name either --model (one that SageMaker has) or --image (and --artifact)")
    job = stamped_name(plan.name, now)
    steps: list[Step] = [] if plan.model else [model_call(plan, role, job)]
    processing = without_empty(
        InputFilter=plan.input_filter,
        OutputFilter=plan.output_filter,
        JoinSource="Input" if plan.join else "",
    )
    request = {
        "TransformJobName": job,
        "ModelName": plan.model or job,
        "BatchStrategy": plan.strategy,
        "MaxPayloadInMB": plan.max_payload_mb,
        "ModelClientConfig": {
            "InvocationsTimeoutInSeconds": plan.timeout_s,
            "InvocationsMaxRetries": plan.retries,
        },
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": plan.input}},
            "ContentType": plan.content_type,
            "CompressionType": plan.compression,
            "SplitType": "Line",
        },
        "TransformOutput": {
            "S3OutputPath": plan.output,
            "Accept": plan.accept or plan.content_type,
            "AssembleWith": "Line",
            **without_empty(KmsKeyId=plan.kms_key),
        },
        "TransformResources": {
            "InstanceType": plan.instance_type,
            "InstanceCount": plan.instance_count,
            **without_empty(VolumeKmsKeyId=plan.kms_key),
        },
        "Tags": tag_list(tags_of(plan)),
        **without_empty(MaxConcurrentTransforms=plan.concurrent or None, DataProcessing=processing),
    }
    steps.append(Call("sagemaker", "CreateTransformJob", request))
    return job, steps
