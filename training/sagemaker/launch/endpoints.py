"""Plans to requests: endpoints, how they scale, and how they are updated. Pure functions.

Scaling: https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling.html, async to no instance:
https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-autoscale.html, updates:
https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails.html
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from training.sagemaker.errors import LaunchError
from training.sagemaker.launch.calls import Call, InService, Step, tag_list, without_empty
from training.sagemaker.launch.names import stamped_name, valid_name
from training.sagemaker.launch.plans import DeployPlan, ModelPlan, UpdatePlan
from training.sagemaker.launch.requests import model_call, tags_of
from training.sagemaker.launch.rules import MIN_CANARY_INSTANCES

VARIANT = "AllTraffic"
DIMENSION = "sagemaker:variant:DesiredInstanceCount"
ALARM_PERIOD_S = 60
BACKLOG_MINUTES = 3
"""Of work waiting without an instance, after which async endpoints get one."""


def deploy_steps(plan: DeployPlan, role: str, now: datetime.datetime) -> tuple[str, list[Step]]:
    """The endpoint's name, and the calls: model, configuration, endpoint, scaling.

    Raises:
        LaunchError: the plan contradicts itself.
    """
    endpoint, version = valid_name(plan.name), stamped_name(plan.name, now)
    if plan.mode == "async" and not plan.async_output:
        raise LaunchError("--mode async needs --async-output s3://BUCKET/PREFIX")
    if plan.mode == "serverless" and (plan.subnets or plan.max_instances):
        raise LaunchError("serverless endpoints are in no VPC and scale by themselves")
    if plan.mode == "serverless" and plan.network_isolation:
        raise LaunchError("serverless endpoints know no network isolation: add --no-network-isolation")
    steps: list[Step] = [
        model_call(plan, role, version),
        Call("sagemaker", "CreateEndpointConfig", _config(plan, version)),
        Call(
            "sagemaker",
            "CreateEndpoint",
            {"EndpointName": endpoint, "EndpointConfigName": version, "Tags": tag_list(tags_of(plan))},
        ),
        InService(endpoint, version),
    ]
    return endpoint, steps + _scaling(plan, endpoint)


def _config(plan: DeployPlan, version: str) -> dict[str, Any]:
    variant: dict[str, Any] = {"VariantName": VARIANT, "ModelName": version}
    if plan.mode == "serverless":
        variant["ServerlessConfig"] = {
            "MemorySizeInMB": plan.memory_mb,
            "MaxConcurrency": plan.max_concurrency,
            **without_empty(ProvisionedConcurrency=plan.provisioned or None),
        }
    else:
        variant |= _instances(plan.instance_type, plan.instance_count, plan.startup_s, plan.download_s)
        variant |= without_empty(VolumeSizeInGB=plan.volume_gb or None)
    request: dict[str, Any] = {"EndpointConfigName": version, "ProductionVariants": [variant]}
    request["Tags"] = tag_list(tags_of(plan))
    if plan.mode == "async":
        output = plan.async_output.rstrip("/")
        request["AsyncInferenceConfig"] = {
            "OutputConfig": {
                "S3OutputPath": output,
                "S3FailurePath": f"{output}/failures",
                **without_empty(
                    KmsKeyId=plan.kms_key,
                    NotificationConfig=without_empty(SuccessTopic=plan.success_topic, ErrorTopic=plan.error_topic),
                ),
            },
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": plan.async_concurrency},
        }
    return request | without_empty(KmsKeyId=plan.kms_key if plan.mode != "serverless" else "")


def _instances(instance_type: str, count: int, startup_s: int, download_s: int) -> dict[str, Any]:
    return {
        "InstanceType": instance_type,
        "InitialInstanceCount": count,
        "InitialVariantWeight": 1.0,
        "ContainerStartupHealthCheckTimeoutInSeconds": startup_s,
        "ModelDataDownloadTimeoutInSeconds": download_s,
        "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
    }


def _scaling(plan: DeployPlan, endpoint: str) -> list[Step]:
    fewest, most = plan.capacity()
    if not most:
        return []
    target = _target(endpoint)
    request = {**target, "MinCapacity": fewest, "MaxCapacity": most, "Tags": tags_of(plan)}
    tracking: dict[str, Any] = {"ScaleInCooldown": plan.scale_in_s, "ScaleOutCooldown": plan.scale_out_s}
    if plan.mode != "async":
        metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
        tracking |= {"TargetValue": plan.target_per_minute, "PredefinedMetricSpecification": metric}
        policy = _policy(target, f"{endpoint}-requests", "TargetTrackingScaling", tracking)
        return [Call("application-autoscaling", "RegisterScalableTarget", request), policy]
    tracking |= {
        "TargetValue": plan.target_backlog,
        "CustomizedMetricSpecification": {
            "MetricName": "ApproximateBacklogSizePerInstance",
            "Namespace": "AWS/SageMaker",
            "Dimensions": [{"Name": "EndpointName", "Value": endpoint}],
            "Statistic": "Average",
        },
    }
    steps: list[Step] = [
        Call("application-autoscaling", "RegisterScalableTarget", request),
        _policy(target, f"{endpoint}-backlog", "TargetTrackingScaling", tracking),
    ]
    return steps + (_from_nothing(plan, endpoint) if fewest == 0 else [])


def _from_nothing(plan: DeployPlan, endpoint: str) -> list[Step]:
    """Backlog per instance has no value without an instance: an alarm on work that waits starts the first."""
    step = {
        "AdjustmentType": "ChangeInCapacity",
        "MetricAggregationType": "Average",
        "Cooldown": plan.scale_out_s,
        "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
    }
    alarm = _alarm(plan, f"{endpoint}-first-instance", "HasBacklogWithoutCapacity", endpoint) | {
        "Statistic": "Average",
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "EvaluationPeriods": BACKLOG_MINUTES,
        "AlarmActions": ["${PolicyARN}"],
    }
    return [
        _policy(_target(endpoint), f"{endpoint}-first-instance", "StepScaling", step),
        Call("cloudwatch", "PutMetricAlarm", alarm),
    ]


def _target(endpoint: str) -> dict[str, str]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint}/variant/{VARIANT}",
        "ScalableDimension": DIMENSION,
    }


def _policy(target: Mapping[str, str], name: str, kind: str, configuration: Mapping[str, Any]) -> Call:
    key = "StepScalingPolicyConfiguration" if kind == "StepScaling" else "TargetTrackingScalingPolicyConfiguration"
    return Call(
        "application-autoscaling",
        "PutScalingPolicy",
        {"PolicyName": name, **target, "PolicyType": kind, key: dict(configuration)},
    )


def _alarm(plan: ModelPlan, name: str, metric: str, endpoint: str, variant: str = "") -> dict[str, Any]:
    """Without a variant, of the endpoint as a whole."""
    dimensions = [{"Name": "EndpointName", "Value": endpoint}]
    if variant:
        dimensions.append({"Name": "VariantName", "Value": variant})
    return {
        "AlarmName": name,
        "Namespace": "AWS/SageMaker",
        "MetricName": metric,
        "Dimensions": dimensions,
        "Period": ALARM_PERIOD_S,
        "TreatMissingData": "notBreaching",
        "Tags": tag_list(tags_of(plan)),
    }


def update_steps(plan: UpdatePlan, role: str, serving: Mapping[str, Any], now: datetime.datetime) -> list[Step]:
    """The calls: model, configuration, alarms, update.

    Args:
        plan: what to serve instead, and how to get there.
        role: ARN of the execution role.
        serving: the endpoint's configuration, as DescribeEndpointConfig has it.
        now: goes into names.

    Raises:
        LaunchError: what serves now is serverless or has several variants, or too few instances for the strategy.
    """
    endpoint, version = valid_name(plan.name), stamped_name(plan.name, now)
    variant = _new_variant(plan, serving, version)
    config = {
        "EndpointConfigName": version,
        "ProductionVariants": [variant],
        "Tags": tag_list(tags_of(plan)),
        **without_empty(
            AsyncInferenceConfig=serving.get("AsyncInferenceConfig"), KmsKeyId=plan.kms_key or serving.get("KmsKeyId")
        ),
    }
    alarms = _rollback_alarms(plan, endpoint, variant["VariantName"])
    names = [*(call.request["AlarmName"] for call in alarms), *plan.alarms]
    update = {
        "EndpointName": endpoint,
        "EndpointConfigName": version,
        # autoscaling may have changed the count since; a count that was asked for wins
        "RetainAllVariantProperties": not plan.instance_count,
        "DeploymentConfig": {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": _routing(plan),
                "TerminationWaitInSeconds": plan.bake_s,
                "MaximumExecutionTimeoutInSeconds": plan.max_s,
            },
            **without_empty(AutoRollbackConfiguration=without_empty(Alarms=[{"AlarmName": name} for name in names])),
        },
    }
    return [
        model_call(plan, role, version),
        Call("sagemaker", "CreateEndpointConfig", config),
        *alarms,
        Call("sagemaker", "UpdateEndpoint", update),
        InService(endpoint, version),
    ]


def _new_variant(plan: UpdatePlan, serving: Mapping[str, Any], version: str) -> dict[str, Any]:
    if len(serving["ProductionVariants"]) != 1:
        raise LaunchError(f"the endpoint has {len(serving['ProductionVariants'])} variants; this updates one")
    old = serving["ProductionVariants"][0]
    if "ServerlessConfig" in old:
        raise LaunchError("serverless endpoints have no canary: deploy under another name, then teardown the old one")
    count = plan.instance_count or old["InitialInstanceCount"]
    if plan.strategy != "all-at-once" and count < MIN_CANARY_INSTANCES:
        raise LaunchError(
            f"--strategy {plan.strategy} moves at most half of the instances at first, and there is {count}: "
            "use --instance-count 2 or --strategy all-at-once"
        )
    instances = _instances(plan.instance_type or old["InstanceType"], count, plan.startup_s, plan.download_s)
    kept = without_empty(VolumeSizeInGB=old.get("VolumeSizeInGB"))
    return {"VariantName": old["VariantName"], "ModelName": version, **instances, **kept}


def _routing(plan: UpdatePlan) -> dict[str, Any]:
    kind = {"canary": "CANARY", "linear": "LINEAR", "all-at-once": "ALL_AT_ONCE"}[plan.strategy]
    size = {"Type": "CAPACITY_PERCENT", "Value": plan.step_percent}
    sizes = {"CANARY": {"CanarySize": size}, "LINEAR": {"LinearStepSize": size}}
    return {"Type": kind, "WaitIntervalInSeconds": plan.bake_s, **sizes.get(kind, {})}


def _rollback_alarms(plan: UpdatePlan, endpoint: str, variant: str) -> Sequence[Call]:
    above = {"ComparisonOperator": "GreaterThanOrEqualToThreshold", "EvaluationPeriods": 1}
    alarms = []
    if plan.max_errors:
        errors = _alarm(plan, f"{endpoint}-errors", "Invocation5XXErrors", endpoint, variant)
        alarms.append({**errors, **above, "Statistic": "Sum", "Threshold": float(plan.max_errors)})
    if plan.max_latency_ms:
        latency = _alarm(plan, f"{endpoint}-latency", "ModelLatency", endpoint, variant)
        in_microseconds = 1000.0 * plan.max_latency_ms
        alarms.append({**latency, **above, "ExtendedStatistic": "p99", "Threshold": in_microseconds})
    return [Call("cloudwatch", "PutMetricAlarm", alarm) for alarm in alarms]
