"""Requests that give an endpoint another model, in steps that alarms roll back.

Whatever no option changes stays as it is: the new model and the new configuration begin as copies of those that serve.
https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails.html
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from training.sagemaker.errors import LaunchError
from training.sagemaker.launch.endpoints import alarm_request
from training.sagemaker.launch.options import UpdateOptions
from training.sagemaker.launch.requests import (
    ApiRequest,
    checked_name,
    key_values,
    stamped_name,
    tag_list,
    tags_of,
    vpc_config,
)
from training.sagemaker.launch.validation import input_shape

REMOVABLE = {"vpc": "VpcConfig", "kms-key": "KmsKeyId", "capture": "DataCaptureConfig"}
"""Fields of the model or the configuration that `--remove` takes away; any other name is an environment variable's."""


def update_requests(
    options: UpdateOptions, role: str, config: Mapping[str, Any], model: Mapping[str, Any], now: datetime
) -> list[ApiRequest]:
    """Return the requests for a model, a configuration, the alarms that roll back, and the update.

    Args:
        options: what is to change.
        role: ARN of the execution role; empty: as it is.
        config: the configuration that serves, as DescribeEndpointConfig returns it.
        model: its model, as DescribeModel returns it.
        now: the time for the names.

    Raises:
        LaunchError: the endpoint is serverless, has several variants or containers, has too few instances for the
            strategy, or has not what is to be removed.
    """
    endpoint, version = checked_name(options.name), stamped_name(options.name, now)
    if len(config["ProductionVariants"]) != 1:
        raise LaunchError(f"the endpoint has {len(config['ProductionVariants'])} variants; update takes exactly one")
    [old] = config["ProductionVariants"]
    if "ServerlessConfig" in old:
        raise LaunchError("serverless endpoints have no canary: deploy under another name, then teardown the old one")
    if not model.get("PrimaryContainer"):
        raise LaunchError("the endpoint's model is a pipeline of several containers; update takes exactly one")
    count = options.instance_count or old["InitialInstanceCount"]
    if options.strategy != "all-at-once" and count < 2:
        raise LaunchError(
            f"--strategy {options.strategy} moves at most half of the instances at first, and there is {count}: "
            "use --instance-count 2 or --strategy all-at-once"
        )
    tags = {"Tags": tag_list(tags_of(options))}
    new_model = _copied("CreateModel", model) | {"ModelName": version, **tags}
    new_model |= {
        "ExecutionRoleArn": role or model["ExecutionRoleArn"],
        "VpcConfig": vpc_config(options) or model.get("VpcConfig"),
        "PrimaryContainer": _container(options, model["PrimaryContainer"]),
    }
    variant = dict(old) | {"ModelName": version, "InitialInstanceCount": count}
    for field, value in (
        ("InstanceType", options.instance_type),
        ("ContainerStartupHealthCheckTimeoutInSeconds", options.startup_s),
        ("ModelDataDownloadTimeoutInSeconds", options.download_s),
    ):
        variant[field] = value or old.get(field)
    new_config = _copied("CreateEndpointConfig", config) | {"EndpointConfigName": version, **tags}
    new_config |= {"ProductionVariants": [variant], "KmsKeyId": options.kms_key or config.get("KmsKeyId")}
    for name in options.remove:
        places = (new_model, new_config) if name in REMOVABLE else (new_model["PrimaryContainer"]["Environment"],)
        field = REMOVABLE.get(name, name)
        if not [place.pop(field) for place in places if place.get(field) not in (None, {})]:
            raise LaunchError(f"--remove {name}: endpoint {endpoint} has none")
    alarms = _rollback_alarms(options, {"EndpointName": endpoint, "VariantName": old["VariantName"]})
    return [
        ApiRequest("sagemaker", "CreateModel", new_model),
        ApiRequest("sagemaker", "CreateEndpointConfig", new_config),
        *alarms,
        ApiRequest("sagemaker", "UpdateEndpoint", _update(options, version, alarms)),
    ]


def _copied(operation: str, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a described resource that the operation takes for a new one."""
    return {name: described[name] for name in input_shape("sagemaker", operation).members if name in described}


def _container(options: UpdateOptions, old: Mapping[str, Any]) -> dict[str, Any]:
    environment = dict(old.get("Environment", {})) | key_values(options.environment, "--environment")
    container = dict(old) | {"Image": options.image or old["Image"], "Environment": environment}
    artifact = options.artifact or old.get("ModelDataUrl")
    if artifact:  # DescribeModel may name the same archive in both fields, and CreateModel takes one of them
        container |= {"ModelDataUrl": artifact, "ModelDataSource": None}
    return container


def _update(options: UpdateOptions, version: str, alarms: list[ApiRequest]) -> dict[str, Any]:
    names = [*(alarm.parameters["AlarmName"] for alarm in alarms), *options.alarms]
    size = {"Type": "CAPACITY_PERCENT", "Value": options.step_percent}
    routing = {
        "Type": options.strategy.replace("-", "_").upper(), "WaitIntervalInSeconds": options.bake_s,
        "CanarySize": size if options.strategy == "canary" else None,
        "LinearStepSize": size if options.strategy == "linear" else None,
    }  # fmt: skip
    policy = {
        "TrafficRoutingConfiguration": routing,
        "TerminationWaitInSeconds": options.bake_s, "MaximumExecutionTimeoutInSeconds": options.max_s,
    }  # fmt: skip
    rollback = {"Alarms": [{"AlarmName": name} for name in names] or None}
    return {
        "EndpointName": options.name, "EndpointConfigName": version,
        # autoscaling may have changed the count, which is kept unless another one is asked for
        "RetainAllVariantProperties": not options.instance_count,
        "DeploymentConfig": {"BlueGreenUpdatePolicy": policy, "AutoRollbackConfiguration": rollback},
    }  # fmt: skip


def _rollback_alarms(options: UpdateOptions, dimensions: Mapping[str, str]) -> list[ApiRequest]:
    latency_us = 1000.0 * options.max_latency_ms
    return [
        alarm_request(options, f"{options.name}-{kind}", metric, dimensions, conditions | {"EvaluationPeriods": 1})
        for kind, metric, conditions in (
            ("errors", "Invocation5XXErrors", {"Statistic": "Sum", "Threshold": float(options.max_errors)}),
            ("latency", "ModelLatency", {"ExtendedStatistic": "p99", "Threshold": latency_us}),
        )
        if conditions["Threshold"]
    ]
