"""Requests: every broken constraint is named, alone or with others, and right requests pass."""

import copy
from typing import Any

import pytest
from botocore.model import OperationNotFoundError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.training.sagemaker.conftest import ARTIFACT, IMAGE, METRICS, NOW, ROLE
from tests.unit.training.sagemaker.launch.test_updates import CONFIG, MODEL
from training.sagemaker.errors import RequestError
from training.sagemaker.launch.endpoints import deploy_requests
from training.sagemaker.launch.options import DeployOptions, TrainOptions, TransformOptions, UpdateOptions
from training.sagemaker.launch.requests import ApiRequest, training_request, transform_requests
from training.sagemaker.launch.updates import update_requests
from training.sagemaker.launch.validation import RULES, Rule, check, input_shape, problems_of


def right_requests() -> dict[str, ApiRequest]:
    """Return a request without problems for each operation that the commands use."""
    train = TrainOptions(
        name="news", image=IMAGE, output="s3://b/out", channels=("train=s3://b/data/",), hyperparameters=("epochs=3",),
        environment=("A=b",), kms_key="alias/k", subnets=("subnet-1",), security_groups=("sg-1",), spot=True,
        max_retries=1, entrypoint="python -m x",
    )  # fmt: skip
    deploy = DeployOptions(name="news", image=IMAGE, artifact=ARTIFACT, mode="async", async_output="s3://b/answers")
    transform = TransformOptions(name="news", model="news", input="s3://b/in/", output="s3://b/out/", join=True)
    requests = [
        training_request(train, ROLE, METRICS, NOW),
        *deploy_requests(deploy, ROLE, NOW),
        *deploy_requests(DeployOptions(name="news", image=IMAGE, max_instances=2), ROLE, NOW),
        *update_requests(UpdateOptions(name="news", image=IMAGE), "", CONFIG, MODEL, NOW),
        *transform_requests(transform, ROLE, NOW),
    ]
    return {request.operation: request for request in requests}


REQUESTS = right_requests()


@pytest.mark.parametrize("name", REQUESTS)
def test_what_the_commands_make_is_right(name: str) -> None:
    assert problems_of(REQUESTS[name]) == []


def changed(request: ApiRequest, path: tuple[Any, ...], value: Any) -> ApiRequest:
    """Return the request with one field changed, or without it."""
    parameters = copy.deepcopy(dict(request.parameters))
    place: Any = parameters
    for step in path[:-1]:
        place = place[step]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return ApiRequest(request.service, request.operation, parameters)


GONE = object()
SERVERLESS = ("ProductionVariants", 0, "ServerlessConfig")
JOB = "CreateTrainingJob"
BROKEN: list[tuple[str, tuple[Any, ...], Any, str, str]] = [
    (JOB, ("TrainingJobName",), "a" * 64, "TrainingJobName", "64 characters, the maximum"),
    (JOB, ("TrainingJobName",), "two words", "TrainingJobName", "does not match"),
    (JOB, ("TrainingJobName",), "news\n", "TrainingJobName", "does not match"),
    (JOB, ("TrainingJobName",), GONE, "TrainingJobName", "Missing required"),
    (JOB, ("RoleArn",), "role", "RoleArn", "does not match"),
    (JOB, ("NoSuchField",), 1, "NoSuchField", "Unknown parameter"),
    (JOB, ("ResourceConfig", "InstanceType"), "ml.g5.huge", "ResourceConfig.InstanceType", "ml.g5.xlarge"),
    (JOB, ("ResourceConfig", "InstanceCount"), -1, "ResourceConfig.InstanceCount", "min value: 0"),
    (JOB, ("ResourceConfig", "InstanceCount"), "1", "ResourceConfig.InstanceCount", "Invalid type"),
    (JOB, ("StoppingCondition", "MaxWaitTimeInSeconds"), 5, "StoppingCondition.MaxWaitTimeInSeconds", "is less than"),
    (JOB, ("StoppingCondition", "MaxWaitTimeInSeconds"), GONE, "StoppingCondition.MaxWaitTimeInSeconds", "spot"),
    (JOB, ("EnableManagedSpotTraining",), False, "StoppingCondition.MaxWaitTimeInSeconds", "only for spot instances"),
    (JOB, ("ResourceConfig", "KeepAlivePeriodInSeconds"), 60, "ResourceConfig.KeepAlivePeriodInSeconds", "no spot"),
    (JOB, ("HyperParameters",), {f"k{i}": "v" for i in range(101)}, "HyperParameters", "101 entries"),
    (JOB, ("HyperParameters", "k"), "v" * 2501, "HyperParameters['k']", "2501 characters"),
    (JOB, ("HyperParameters", "k" * 257), "v", "HyperParameters['" + "k" * 77 + "...'] (the key)", "257 characters"),
    (JOB, ("HyperParameters", "k"), 3, "HyperParameters.k", "Invalid type"),
    (JOB, ("Environment", "A-B"), "v", "Environment['A-B'] (the key)", "does not match"),
    (JOB, ("InputDataConfig", 0, "ChannelName"), "a b", "InputDataConfig[0].ChannelName", "does not match"),
    (JOB, ("InputDataConfig", 0, "InputMode"), "Fast", "InputDataConfig[0].InputMode", "FastFile"),
    (JOB, ("InputDataConfig",), [], "InputDataConfig", "valid min length: 1"),
    (JOB, ("OutputDataConfig", "S3OutputPath"), "/tmp/out", "OutputDataConfig.S3OutputPath", "does not match"),
    (JOB, ("AlgorithmSpecification", "MetricDefinitions"), [dict(METRICS[0], Regex="x" * 501)],
     "AlgorithmSpecification.MetricDefinitions[0].Regex", "501 characters"),
    (JOB, ("Tags",), [{"Key": "a;b", "Value": ""}], "Tags[0].Key", "does not match"),
    (JOB, ("RetryStrategy", "MaximumRetryAttempts"), 31, "RetryStrategy.MaximumRetryAttempts", "the maximum is 30"),
    (JOB, ("VpcConfig", "Subnets"), "subnet-1", "VpcConfig.Subnets", "Invalid type"),
    ("CreateModel", ("PrimaryContainer", "ModelDataUrl"), "s3://b/m.zip", "PrimaryContainer.ModelDataUrl", ".tar.gz"),
    ("CreateModel", ("PrimaryContainer", "Environment"), {f"k{i}": "v" * 1000 for i in range(40)},
     "PrimaryContainer.Environment", "the maximum is 32768"),
    ("CreateEndpointConfig", ("ProductionVariants", 0, "ContainerStartupHealthCheckTimeoutInSeconds"), 59,
     "ProductionVariants[0].ContainerStartupHealthCheckTimeoutInSeconds", "min value: 60"),
    ("CreateEndpointConfig", SERVERLESS, {"MemorySizeInMB": 1500, "MaxConcurrency": 1},
     "ProductionVariants.ServerlessConfig.MemorySizeInMB", "multiple of 1024"),
    ("CreateEndpointConfig", SERVERLESS, {"MemorySizeInMB": 1024, "MaxConcurrency": 201},
     "ProductionVariants[0].ServerlessConfig.MaxConcurrency", "the maximum is 200"),
    ("CreateEndpointConfig", SERVERLESS, {"MemorySizeInMB": 1024, "MaxConcurrency": 1, "ProvisionedConcurrency": 2},
     "ProductionVariants.ServerlessConfig.ProvisionedConcurrency", "2 is more than MaxConcurrency, 1"),
    ("CreateTransformJob", ("MaxPayloadInMB",), 60, "MaxPayloadInMB", "above 100 MB"),
    ("CreateTransformJob", ("TransformOutput", "Accept"), "text/csv", "TransformOutput.Accept", "join"),
    ("CreateTransformJob", ("DataProcessing", "InputFilter"), "$" * 64, "DataProcessing.InputFilter", "64 characters"),
    ("RegisterScalableTarget", ("MinCapacity",), 9, "MinCapacity", "more than MaxCapacity"),
    ("PutMetricAlarm", ("ComparisonOperator",), "Above", "ComparisonOperator", "GreaterThan"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path", "value", "where", "what"), BROKEN)
def test_a_broken_constraint_is_named(name: str, path: tuple[Any, ...], value: Any, where: str, what: str) -> None:
    found = problems_of(changed(REQUESTS[name], path, value))
    assert any(where in problem and what in problem for problem in found), found


def test_fast_file_needs_whole_prefixes() -> None:
    request = changed(REQUESTS[JOB], ("AlgorithmSpecification", "TrainingInputMode"), "FastFile")
    assert problems_of(request) == []
    uri = ("InputDataConfig", 0, "DataSource", "S3DataSource", "S3Uri")
    [problem] = problems_of(changed(request, uri, "s3://b/data"))
    assert problem == f"{JOB}: InputDataConfig: FastFile needs prefixes that end with /, not s3://b/data"


TRAFFIC = ("DeploymentConfig", "BlueGreenUpdatePolicy", "TrafficRoutingConfiguration")


@pytest.mark.parametrize(
    ("routing", "where"),
    [
        ({"Type": "CANARY", "WaitIntervalInSeconds": 0, "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 51}},
         "CanarySize.Value"),
        ({"Type": "LINEAR", "WaitIntervalInSeconds": 0, "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 9}},
         "LinearStepSize.Value"),
    ],
)  # fmt: skip
def test_shares_of_traffic_fit_the_strategy(routing: dict[str, Any], where: str) -> None:
    [problem] = problems_of(changed(REQUESTS["UpdateEndpoint"], TRAFFIC, routing))
    assert problem.startswith(f"UpdateEndpoint: {'.'.join((*TRAFFIC, where))}: ")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(BROKEN[:8]), min_size=1, max_size=5, unique_by=lambda case: case[1]))
def test_all_problems_come_at_once(cases: list[tuple[str, tuple[Any, ...], Any, str, str]]) -> None:
    request = REQUESTS[JOB]
    for _, path, value, _, _ in cases:
        request = changed(request, path, value)
    with pytest.raises(RequestError) as caught:
        check([request, REQUESTS["CreateModel"]])
    for _, _, _, where, what in cases:
        assert any(where in one and what in one for one in caught.value.problems)
    assert str(caught.value).startswith("AWS would refuse this")


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=0x2FF), min_size=64, max_size=90))
def test_long_names_are_always_refused(name: str) -> None:
    problems = problems_of(changed(REQUESTS[JOB], ("TrainingJobName",), name))
    assert any("characters, the maximum is 63" in one for one in problems)


def test_tags_may_be_in_any_language() -> None:
    tags = [{"Key": "Größe 5", "Value": "日本/@"}]
    assert problems_of(changed(REQUESTS[JOB], ("Tags",), tags)) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.operation} {rule.fields}")
def test_every_rule_is_for_fields_of_an_operation(rule: Rule) -> None:
    list(rule.problems(input_shape(rule.service, rule.operation), {}))


@pytest.mark.parametrize(
    ("operation", "fields"),
    [("CreateTrainingJobs", "RoleArn"), (JOB, "RoleArm"), (JOB, "StoppingCondition.MaxWait"),
     (JOB, "InputDataConfig.ChannelNames"), (JOB, "EnableManagedSpotTraining InputConfig")],
)  # fmt: skip
def test_a_mistyped_rule_is_an_error(operation: str, fields: str) -> None:
    rule = Rule("sagemaker", operation, fields, lambda *_: "wrong")
    with pytest.raises((KeyError, OperationNotFoundError)):
        list(rule.problems(input_shape("sagemaker", operation), REQUESTS[JOB].parameters))
