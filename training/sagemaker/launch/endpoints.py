"""Requests for endpoints: how they are created and scaled. updates.py has those for their updates.

Scaling: https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling.html and, to no instance,
https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-autoscale.html
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from training.sagemaker.errors import LaunchError
from training.sagemaker.launch.options import DeployOptions, ResourceOptions
from training.sagemaker.launch.requests import (
    BYTES_PER_TOKEN,
    MAX_INVOCATION_S,
    ApiRequest,
    checked_name,
    key_values,
    model_request,
    service_limits,
    stamped_name,
    tag_list,
    tags_of,
    volume_key,
)

MAX_BODY_BYTES = 6_000_000
"""Largest body of an asynchronous request, in bytes, however fast the model is."""
VARIANT = "AllTraffic"
DIMENSION = "sagemaker:variant:DesiredInstanceCount"
ALARM_PERIOD_S = 60
BACKLOG_MINUTES = 3
"""Minutes of waiting work after which an asynchronous endpoint without an instance gets one."""
POLICY_ARN = "${PolicyARN}"
"""Placeholder for the ARN that AWS returns to the last PutScalingPolicy request."""


def deploy_requests(options: DeployOptions, role: str, now: datetime) -> list[ApiRequest]:
    """Return the requests that create an endpoint and its scaling. Raises LaunchError if options are contradictory."""
    endpoint, version = checked_name(options.name), stamped_name(options.name, now)
    if options.mode == "async" and not options.async_output:
        raise LaunchError("--mode async needs --async-output s3://BUCKET/PREFIX")
    if options.mode == "realtime" and options.min_instances == 0:
        raise LaunchError(
            "--min-instances 0: a real-time endpoint has at least one instance; --mode async scales to none"
        )
    if options.mode == "serverless" and (options.subnets or options.max_instances):
        raise LaunchError("serverless endpoints cannot be in a VPC and scale by themselves")
    if options.mode == "serverless" and options.network_isolation:
        raise LaunchError("serverless endpoints have no network isolation: add --no-network-isolation")
    create = {"EndpointName": endpoint, "EndpointConfigName": version, "Tags": tag_list(tags_of(options))}
    return [
        model_request(options, role, version, _environment(options)),
        ApiRequest("sagemaker", "CreateEndpointConfig", _config(options, version)),
        ApiRequest("sagemaker", "CreateEndpoint", create),
        *_scaling(options, endpoint),
    ]


def _environment(options: DeployOptions) -> dict[str, str]:
    """Return the container's variables, for an asynchronous endpoint with limits in place of the real-time ones."""
    given = key_values(options.environment, "--environment")
    if options.mode != "async":
        return given
    bytes_in_time = MAX_INVOCATION_S * options.tokens_per_second * BYTES_PER_TOKEN / max(1, options.async_concurrency)
    return service_limits(MAX_INVOCATION_S, min(MAX_BODY_BYTES, int(bytes_in_time))) | given


def _config(options: DeployOptions, version: str) -> dict[str, Any]:
    serverless, output = options.mode == "serverless", options.async_output.rstrip("/")
    capacity = {
        "MemorySizeInMB": options.memory_mb, "MaxConcurrency": options.max_concurrency,
        "ProvisionedConcurrency": options.provisioned or None,
    }  # fmt: skip
    topics = {"SuccessTopic": options.success_topic or None, "ErrorTopic": options.error_topic or None}
    asynchronous = {
        "OutputConfig": {
            "S3OutputPath": output, "S3FailurePath": f"{output}/failures", "NotificationConfig": topics,
            "KmsKeyId": options.kms_key or None,
        },
        "ClientConfig": {"MaxConcurrentInvocationsPerInstance": options.async_concurrency},
    }  # fmt: skip
    variant = {"VariantName": VARIANT, "ModelName": version}
    return {
        "EndpointConfigName": version, "Tags": tag_list(tags_of(options)),
        "ProductionVariants": [variant | ({"ServerlessConfig": capacity} if serverless else _instances(options))],
        "AsyncInferenceConfig": asynchronous if options.mode == "async" else None,
        "KmsKeyId": None if serverless else volume_key(options.kms_key, options.instance_type),
    }  # fmt: skip


def _instances(options: DeployOptions) -> dict[str, Any]:
    return {
        "InstanceType": options.instance_type, "InitialInstanceCount": options.instance_count,
        "VolumeSizeInGB": options.volume_gb or None,
        "InitialVariantWeight": 1.0, "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
        "ContainerStartupHealthCheckTimeoutInSeconds": options.startup_s,
        "ModelDataDownloadTimeoutInSeconds": options.download_s,
    }  # fmt: skip


def _scaling(options: DeployOptions, endpoint: str) -> list[ApiRequest]:
    fewest, most = options.capacity()
    if not most:
        return []
    if options.mode == "async":
        name, target = f"{endpoint}-backlog", options.target_backlog
        metric: dict[str, Any] = {
            "MetricName": "ApproximateBacklogSizePerInstance", "Namespace": "AWS/SageMaker", "Statistic": "Average",
            "Dimensions": [{"Name": "EndpointName", "Value": endpoint}],
        }  # fmt: skip
    else:
        name, target = f"{endpoint}-requests", options.target_per_minute
        metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    tracking = {
        "TargetValue": target, "ScaleInCooldown": options.scale_in_s, "ScaleOutCooldown": options.scale_out_s,
        f"{'Customized' if options.mode == 'async' else 'Predefined'}MetricSpecification": metric,
    }  # fmt: skip
    capacity = {"MinCapacity": fewest, "MaxCapacity": most, "Tags": tags_of(options)}
    requests = [
        ApiRequest("application-autoscaling", "RegisterScalableTarget", _target(endpoint) | capacity),
        _policy(endpoint, name, "TargetTrackingScaling", tracking),
    ]
    return requests if fewest else requests + _first_instance(options, endpoint)


def _first_instance(options: DeployOptions, endpoint: str) -> list[ApiRequest]:
    """Return a policy and its alarm on waiting work: backlog per instance has no value without an instance."""
    name, metric = f"{endpoint}-first-instance", "HasBacklogWithoutCapacity"
    step = {
        "AdjustmentType": "ChangeInCapacity", "MetricAggregationType": "Average", "Cooldown": options.scale_out_s,
        "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
    }  # fmt: skip
    alarm = {"Statistic": "Average", "Threshold": 1.0, "EvaluationPeriods": BACKLOG_MINUTES}
    return [
        _policy(endpoint, name, "StepScaling", step),
        alarm_request(options, name, metric, {"EndpointName": endpoint}, alarm | {"AlarmActions": [POLICY_ARN]}),
    ]


def _target(endpoint: str) -> dict[str, Any]:
    resource = f"endpoint/{endpoint}/variant/{VARIANT}"
    return {"ServiceNamespace": "sagemaker", "ResourceId": resource, "ScalableDimension": DIMENSION}


def _policy(endpoint: str, name: str, kind: str, configuration: Mapping[str, Any]) -> ApiRequest:
    parameters = {"PolicyName": name, "PolicyType": kind, f"{kind}PolicyConfiguration": configuration}
    return ApiRequest("application-autoscaling", "PutScalingPolicy", _target(endpoint) | parameters)


def alarm_request(
    options: ResourceOptions, name: str, metric: str, dimensions: Mapping[str, str], conditions: Mapping[str, Any]
) -> ApiRequest:
    """Return the request for an alarm on a metric of SageMaker that reaches a threshold."""
    parameters = {
        "AlarmName": name, "Namespace": "AWS/SageMaker", "MetricName": metric, "Period": ALARM_PERIOD_S,
        "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
        "ComparisonOperator": "GreaterThanOrEqualToThreshold", "TreatMissingData": "notBreaching",
        "Tags": tag_list(tags_of(options)), **conditions,
    }  # fmt: skip
    return ApiRequest("cloudwatch", "PutMetricAlarm", parameters)
