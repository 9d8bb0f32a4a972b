"""Updates: the new model and configuration keep whatever the old ones had, unless an option changes or removes it."""

from copy import deepcopy
from typing import Any

import pytest

from tests.unit.training.sagemaker.conftest import ACCOUNT, ARTIFACT, IMAGE, NOW, REGION, ROLE
from training.sagemaker.errors import LaunchError
from training.sagemaker.launch.options import UpdateOptions
from training.sagemaker.launch.requests import ApiRequest
from training.sagemaker.launch.updates import update_requests
from training.sagemaker.launch.validation import check, input_shape

NEW = "news-20260131-235958"
VPC = {"Subnets": ["subnet-0a"], "SecurityGroupIds": ["sg-0a"]}
CAPTURE = {
    "EnableCapture": True, "InitialSamplingPercentage": 10, "DestinationS3Uri": "s3://b/captured",
    "KmsKeyId": "alias/news", "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
}  # fmt: skip
VARIANT = {
    "VariantName": "AllTraffic", "ModelName": "news-1", "InstanceType": "ml.c6i.xlarge", "InitialInstanceCount": 2,
    "InitialVariantWeight": 1.0, "VolumeSizeInGB": 30, "ContainerStartupHealthCheckTimeoutInSeconds": 900,
    "ModelDataDownloadTimeoutInSeconds": 800, "EnableSSMAccess": True,
    "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
    "CoreDumpConfig": {"DestinationS3Uri": "s3://b/dumps"},
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "EndpointConfigName": "news-1", "EndpointConfigArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint-config/news-1",
    "CreationTime": NOW, "ResponseMetadata": {}, "ProductionVariants": [VARIANT], "KmsKeyId": "alias/news",
    "DataCaptureConfig": CAPTURE, "MetricsConfig": {"EnableEnhancedMetrics": True},
    "AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://b/answers", "KmsKeyId": "alias/news"}},
}  # fmt: skip
"""A configuration as DescribeEndpointConfig returns it."""
MODEL: dict[str, Any] = {
    "ModelName": "news-1", "ModelArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model/news-1", "CreationTime": NOW,
    "ExecutionRoleArn": ROLE, "VpcConfig": VPC, "EnableNetworkIsolation": False, "ResponseMetadata": {},
    "PrimaryContainer": {
        "Image": "old-image", "Mode": "SingleModel", "ModelDataUrl": "s3://b/old/model.tar.gz",
        "ModelDataSource": {"S3DataSource": {
            "S3Uri": "s3://b/old/model.tar.gz", "S3DataType": "S3Object", "CompressionType": "Gzip",
        }},
        "Environment": {"SERVICE_MAX_TEXTS": "64", "SERVICE_LOG_LEVEL": "debug"},
    },
}  # fmt: skip
"""A model as DescribeModel returns it."""


def made(**options: Any) -> dict[str, Any]:
    """Return the parameters of each request of an update, by operation; the requests are checked."""
    requests = update_requests(UpdateOptions(name="news", **options), "", deepcopy(CONFIG), deepcopy(MODEL), NOW)
    check(requests)
    return {request.operation: request.parameters for request in requests}


def without(described: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in described.items() if name not in names}


def test_everything_that_no_option_changes_is_kept() -> None:
    requests = made(image=IMAGE, artifact=ARTIFACT)
    model, config = requests["CreateModel"], requests["CreateEndpointConfig"]
    described = ("ModelName", "ModelArn", "CreationTime", "ResponseMetadata")
    container = without(MODEL["PrimaryContainer"], "ModelDataSource") | {"Image": IMAGE, "ModelDataUrl": ARTIFACT}
    assert without(model, "ModelName", "Tags") == without(MODEL, *described) | {"PrimaryContainer": container}
    described = ("EndpointConfigName", "EndpointConfigArn", "CreationTime", "ResponseMetadata")
    assert without(config, "EndpointConfigName", "Tags") == without(CONFIG, *described) | {
        "ProductionVariants": [VARIANT | {"ModelName": NEW}]
    }
    assert (model["ModelName"], config["EndpointConfigName"]) == (NEW, NEW)


def test_image_and_artifact_stay_if_only_a_variable_changes() -> None:
    container = made(environment=("SERVICE_LOG_LEVEL=info", "SERVICE_LANES=2"))["CreateModel"]["PrimaryContainer"]
    assert (container["Image"], container["ModelDataUrl"]) == ("old-image", "s3://b/old/model.tar.gz")
    assert container["Environment"] == {"SERVICE_MAX_TEXTS": "64", "SERVICE_LOG_LEVEL": "info", "SERVICE_LANES": "2"}


def test_what_is_given_replaces_what_there_is() -> None:
    requests = made(
        subnets=("subnet-9",), security_groups=("sg-9",), kms_key="alias/other", instance_type="ml.m5.large",
        instance_count=3, startup_s=60, download_s=70,
    )  # fmt: skip
    assert requests["CreateModel"]["VpcConfig"] == {"Subnets": ["subnet-9"], "SecurityGroupIds": ["sg-9"]}
    config = requests["CreateEndpointConfig"]
    assert config["KmsKeyId"] == "alias/other"
    assert config["ProductionVariants"] == [
        VARIANT
        | {
            "ModelName": NEW, "InstanceType": "ml.m5.large", "InitialInstanceCount": 3,
            "ContainerStartupHealthCheckTimeoutInSeconds": 60, "ModelDataDownloadTimeoutInSeconds": 70,
        }
    ]  # fmt: skip
    assert requests["UpdateEndpoint"]["RetainAllVariantProperties"] is False


@pytest.mark.parametrize(
    ("name", "operation", "field"),
    [("vpc", "CreateModel", "VpcConfig"), ("kms-key", "CreateEndpointConfig", "KmsKeyId"),
     ("capture", "CreateEndpointConfig", "DataCaptureConfig")],
)  # fmt: skip
def test_what_is_removed_and_nothing_else_is_gone(name: str, operation: str, field: str) -> None:
    before, after = made(), made(remove=(name,))
    assert field in before[operation]
    assert after == before | {operation: without(before[operation], field)}


def test_a_variable_is_removed() -> None:
    container = made(remove=("SERVICE_MAX_TEXTS",))["CreateModel"]["PrimaryContainer"]
    assert container["Environment"] == {"SERVICE_LOG_LEVEL": "debug"}


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"remove": ("SERVICE_LANES",)}, "--remove SERVICE_LANES: endpoint news has none"),
        ({"DataCaptureConfig": {}}, {"remove": ("capture",)}, "--remove capture"),
        ({"ProductionVariants": [VARIANT, VARIANT]}, {}, "2 variants"),
        ({"ProductionVariants": [VARIANT | {"ServerlessConfig": {}}]}, {}, "serverless"),
        ({"ProductionVariants": [VARIANT | {"InitialInstanceCount": 1}]}, {}, "--instance-count 2"),
        ({}, {"strategy": "linear", "instance_count": 1}, "--strategy linear"),
    ],
)
def test_an_endpoint_that_cannot_be_updated_so(changes: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        update_requests(UpdateOptions(name="news", **options), "", CONFIG | changes, MODEL, NOW)


def test_a_pipeline_of_containers_is_refused() -> None:
    pipeline = without(MODEL, "PrimaryContainer") | {"Containers": [MODEL["PrimaryContainer"]] * 2}
    with pytest.raises(LaunchError, match="several containers"):
        update_requests(UpdateOptions(name="news"), "", CONFIG, pipeline, NOW)


def test_the_described_resources_have_every_field_that_can_be_carried_over() -> None:
    """The examples above leave out only what SageMaker offers to others: pipelines, explainers, shadows, components."""
    absent = {"Containers", "InferenceExecutionConfig", "ExplainerConfig", "ShadowProductionVariants",
              "CrossRegionTrafficConfig", "Tags"}  # fmt: skip
    of_components = {"ExecutionRoleArn", "VpcConfig", "EnableNetworkIsolation"}
    assert set(input_shape("sagemaker", "CreateModel").members) - absent == set(made()["CreateModel"]) - {"Tags"}
    members = set(input_shape("sagemaker", "CreateEndpointConfig").members) - absent - of_components
    assert members == set(made()["CreateEndpointConfig"]) - {"Tags"}


def alarms_of(*requests: ApiRequest) -> dict[str, Any]:
    return {r.parameters["AlarmName"]: r.parameters for r in requests if r.operation == "PutMetricAlarm"}


@pytest.mark.parametrize(
    ("options", "kind", "size"),
    [({}, "CANARY", "CanarySize"), ({"strategy": "linear"}, "LINEAR", "LinearStepSize"),
     ({"strategy": "all-at-once"}, "ALL_AT_ONCE", "")],
)  # fmt: skip
def test_traffic_moves_by_the_strategy(options: dict[str, Any], kind: str, size: str) -> None:
    update = made(step_percent=25, **options)["UpdateEndpoint"]
    policy = update["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    step = {size: {"Type": "CAPACITY_PERCENT", "Value": 25}} if size else {}
    assert policy["TrafficRoutingConfiguration"] == {"Type": kind, "WaitIntervalInSeconds": 300} | step
    assert update["RetainAllVariantProperties"] is True


def test_alarms_roll_back() -> None:
    options = UpdateOptions(name="news", alarms=("pager",))
    requests = update_requests(options, ROLE, CONFIG, MODEL, NOW)
    assert {name: alarm["MetricName"] for name, alarm in alarms_of(*requests).items()} == {
        "news-errors": "Invocation5XXErrors", "news-latency": "ModelLatency",
    }  # fmt: skip
    rollback = requests[-1].parameters["DeploymentConfig"]["AutoRollbackConfiguration"]
    assert [alarm["AlarmName"] for alarm in rollback["Alarms"]] == ["news-errors", "news-latency", "pager"]
    none = update_requests(UpdateOptions(name="news", max_errors=0, max_latency_ms=0), ROLE, CONFIG, MODEL, NOW)
    assert not alarms_of(*none) and "AutoRollbackConfiguration" not in none[-1].parameters["DeploymentConfig"]
