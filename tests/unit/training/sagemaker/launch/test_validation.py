"""Each broken constraint is found and named, alone or together, and what is right passes."""

import copy
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.training.sagemaker.conftest import ARTIFACT, IMAGE, METRICS, NOW, ROLE
from training.sagemaker.errors import RequestError
from training.sagemaker.launch.calls import Call
from training.sagemaker.launch.endpoints import deploy_steps, update_steps
from training.sagemaker.launch.plans import DeployPlan, TrainPlan, TransformPlan, UpdatePlan
from training.sagemaker.launch.requests import training_steps, transform_steps
from training.sagemaker.launch.validation import check, compiled, refusals_of

SERVING = {"ProductionVariants": [{"VariantName": "V", "InstanceType": "ml.m5.large", "InitialInstanceCount": 2}]}


def calls() -> dict[str, Call]:
    """One right request of each operation that the commands use."""
    train = TrainPlan(
        name="news", image=IMAGE, output="s3://b/out", channels=("train=s3://b/data/",), hyperparameters=("epochs=3",),
        environment=("A=b",), kms_key="alias/k", subnets=("subnet-1",), security_groups=("sg-1",), spot=True,
        max_retries=1, entrypoint="python -m x",
    )  # fmt: skip
    deploy = DeployPlan(name="news", image=IMAGE, artifact=ARTIFACT, mode="async", async_output="s3://b/answers")
    transform = TransformPlan(name="news", model="news", input="s3://b/in/", output="s3://b/out/", join=True)
    steps = [
        *training_steps(train, ROLE, METRICS, NOW)[1],
        *deploy_steps(deploy, ROLE, NOW)[1],
        *deploy_steps(DeployPlan(name="news", image=IMAGE, max_instances=2), ROLE, NOW)[1],
        *update_steps(UpdatePlan(name="news", image=IMAGE), ROLE, SERVING, NOW),
        *transform_steps(transform, ROLE, NOW)[1],
    ]
    return {step.operation: step for step in steps if isinstance(step, Call)}


CALLS = calls()


@pytest.mark.parametrize("name", CALLS)
def test_what_the_commands_make_is_right(name: str) -> None:
    assert refusals_of(CALLS[name]) == []


def changed(name: str, path: tuple[Any, ...], value: Any) -> Call:
    """The right request with one field changed; without a value, the field is gone."""
    request = copy.deepcopy(dict(CALLS[name].request))
    place: Any = request
    for step in path[:-1]:
        place = place[step]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return Call(CALLS[name].service, name, request)


GONE = object()
SERVERLESS = ("ProductionVariants", 0, "ServerlessConfig")
JOB = "CreateTrainingJob"
BROKEN: list[tuple[str, tuple[Any, ...], Any, str, str]] = [
    (JOB, ("TrainingJobName",), "a" * 64, "TrainingJobName", "64 characters"),
    (JOB, ("TrainingJobName",), "two words", "TrainingJobName", "does not match"),
    (JOB, ("TrainingJobName",), "news\n", "TrainingJobName", "does not match"),
    (JOB, ("TrainingJobName",), GONE, "TrainingJobName", "is required"),
    (JOB, ("RoleArn",), "role", "RoleArn", "does not match"),
    (JOB, ("NoSuchField",), 1, "NoSuchField", "is no field"),
    (JOB, ("ResourceConfig", "InstanceType"), "ml.g5.huge", "ResourceConfig.InstanceType", "ml.g5.xlarge"),
    (JOB, ("ResourceConfig", "InstanceCount"), -1, "ResourceConfig.InstanceCount", "is -1"),
    (JOB, ("ResourceConfig", "InstanceCount"), "1", "ResourceConfig.InstanceCount", "must be a whole number"),
    (JOB, ("ResourceConfig", "InstanceCount"), True, "ResourceConfig.InstanceCount", "must be a whole number"),
    (JOB, ("ResourceConfig",), GONE, "ResourceConfig", "is required"),
    (JOB, ("StoppingCondition", "MaxWaitTimeInSeconds"), 5, "StoppingCondition.MaxWaitTimeInSeconds", "is less than"),
    (JOB, ("StoppingCondition", "MaxWaitTimeInSeconds"), GONE, "StoppingCondition.MaxWaitTimeInSeconds", "spot"),
    (JOB, ("EnableManagedSpotTraining",), False, "StoppingCondition.MaxWaitTimeInSeconds", "spot instances only"),
    (JOB, ("ResourceConfig", "KeepAlivePeriodInSeconds"), 60, "ResourceConfig.KeepAlivePeriodInSeconds", "no spot"),
    (JOB, ("HyperParameters",), {f"k{i}": "v" for i in range(101)}, "HyperParameters", "101 entries"),
    (JOB, ("HyperParameters", "k"), "v" * 2501, "HyperParameters['k']", "2501 characters"),
    (JOB, ("HyperParameters", "k" * 257), "v", "HyperParameters['" + "k" * 77 + "...'] (the key)", "257 characters"),
    (JOB, ("HyperParameters", "k"), 3, "HyperParameters['k']", "must be a string"),
    (JOB, ("Environment", "A-B"), "v", "Environment['A-B'] (the key)", "does not match"),
    (JOB, ("InputDataConfig", 0, "ChannelName"), "a b", "InputDataConfig[0].ChannelName", "does not match"),
    (JOB, ("InputDataConfig", 0, "InputMode"), "Fast", "InputDataConfig[0].InputMode", "FastFile"),
    (JOB, ("InputDataConfig",), [{"ChannelName": "a", "DataSource": {}}] * 2, "InputDataConfig", "two channels"),
    (JOB, ("InputDataConfig",), [], "InputDataConfig", "0 entries"),
    (JOB, ("OutputDataConfig", "S3OutputPath"), "/tmp/out", "OutputDataConfig.S3OutputPath", "does not match"),
    (JOB, ("AlgorithmSpecification", "MetricDefinitions"), [dict(METRICS[0], Regex="x" * 501)],
     "AlgorithmSpecification.MetricDefinitions[0].Regex", "501 characters"),
    (JOB, ("Tags",), [{"Key": "a;b", "Value": ""}], "Tags[0].Key", "does not match"),
    (JOB, ("RetryStrategy", "MaximumRetryAttempts"), 31, "RetryStrategy.MaximumRetryAttempts", "1 to 30"),
    (JOB, ("VpcConfig", "Subnets"), "subnet-1", "VpcConfig.Subnets", "must be a list"),
    ("CreateModel", ("PrimaryContainer", "ModelDataUrl"), "s3://b/m.zip", "PrimaryContainer.ModelDataUrl", ".tar.gz"),
    ("CreateModel", ("PrimaryContainer", "Environment"), {f"k{i}": "v" * 1000 for i in range(40)},
     "PrimaryContainer.Environment", "allowed: 32768"),
    ("CreateEndpointConfig", ("ProductionVariants", 0, "InstanceType"), GONE,
     "ProductionVariants[0].InstanceType", "is required"),
    ("CreateEndpointConfig", ("ProductionVariants", 0, "ContainerStartupHealthCheckTimeoutInSeconds"), 59,
     "ProductionVariants[0].ContainerStartupHealthCheckTimeoutInSeconds", "60 to 3600"),
    ("CreateEndpointConfig", SERVERLESS, {"MemorySizeInMB": 1500, "MaxConcurrency": 1},
     "ProductionVariants[0].ServerlessConfig.MemorySizeInMB", "multiple of 1024"),
    ("CreateEndpointConfig", SERVERLESS, {"MemorySizeInMB": 1024, "MaxConcurrency": 201},
     "ProductionVariants[0].ServerlessConfig.MaxConcurrency", "1 to 200"),
    ("CreateTransformJob", ("MaxPayloadInMB",), 30, "MaxPayloadInMB", "above 100 MB"),
    ("CreateTransformJob", ("TransformOutput", "Accept"), "text/csv", "TransformOutput.Accept", "join"),
    ("CreateTransformJob", ("TransformOutput", "AssembleWith"), "None", "TransformOutput.AssembleWith", "join"),
    ("CreateTransformJob", ("TransformInput", "SplitType"), "None", "BatchStrategy", "SplitType"),
    ("CreateTransformJob", ("DataProcessing", "InputFilter"), "$" * 64, "DataProcessing.InputFilter", "64 characters"),
    ("RegisterScalableTarget", ("MinCapacity",), 9, "MinCapacity", "more than MaxCapacity"),
    ("PutMetricAlarm", ("ComparisonOperator",), "Above", "ComparisonOperator", "GreaterThan"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path", "value", "where", "what"), BROKEN)
def test_a_broken_constraint_is_named(name: str, path: tuple[Any, ...], value: Any, where: str, what: str) -> None:
    found = refusals_of(changed(name, path, value))
    assert any(refusal.path == where and what in refusal.message for refusal in found), [str(one) for one in found]


TRAFFIC = ("DeploymentConfig", "BlueGreenUpdatePolicy", "TrafficRoutingConfiguration")


@pytest.mark.parametrize(
    ("routing", "where"),
    [
        ({"Type": "CANARY", "WaitIntervalInSeconds": 0}, "CanarySize"),
        ({"Type": "CANARY", "WaitIntervalInSeconds": 0, "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 51}},
         "CanarySize.Value"),
        ({"Type": "LINEAR", "WaitIntervalInSeconds": 0, "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 9}},
         "LinearStepSize.Value"),
        ({"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0, "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 9}},
         "CanarySize"),
    ],
)  # fmt: skip
def test_shares_of_traffic_fit_the_strategy(routing: dict[str, Any], where: str) -> None:
    found = refusals_of(changed("UpdateEndpoint", TRAFFIC, routing))
    assert [refusal.path for refusal in found] == [".".join((*TRAFFIC, where))]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(BROKEN[:10]), min_size=1, max_size=5, unique_by=lambda case: case[1]))
def test_all_problems_come_at_once(cases: list[tuple[str, tuple[Any, ...], Any, str, str]]) -> None:
    call = CALLS[JOB]
    for _, path, value, _, _ in cases:
        if path != ("ResourceConfig",):
            request = copy.deepcopy(dict(call.request))
            place: Any = request
            for step in path[:-1]:
                place = place[step]
            if value is GONE:
                del place[path[-1]]
            else:
                place[path[-1]] = value
            call = Call(call.service, JOB, request)
    with pytest.raises(RequestError) as caught:
        check([call, CALLS["CreateModel"]])
    for _, _, _, where, what in cases:
        assert any(one.path == where and what in one.message for one in caught.value.refusals)
    assert str(caught.value).startswith("AWS would refuse this")


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=0x2FF), min_size=64, max_size=90))
def test_long_names_are_always_refused(name: str) -> None:
    assert any("characters, allowed" in str(one) for one in refusals_of(changed(JOB, ("TrainingJobName",), name)))


def test_every_pattern_of_the_operations_can_be_read() -> None:
    def walk(shape: Any, seen: set[str]) -> None:
        if shape.name in seen:
            return
        seen.add(shape.name)
        for member in getattr(shape, "members", {}).values():
            walk(member, seen)
        for part in ("member", "key", "value"):
            if hasattr(shape, part):
                walk(getattr(shape, part), seen)
        if "pattern" in shape.metadata:
            compiled(shape.metadata["pattern"])

    from training.sagemaker.launch.validation import operation

    for call in CALLS.values():
        walk(operation(call.service, call.operation).input_shape, set())


def test_java_patterns_mean_the_same_here() -> None:
    tags = compiled(r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)")
    assert tags.fullmatch("Größe 5 日本/@") and not tags.fullmatch("a;b")
    assert compiled(r"\p{ASCII}*").fullmatch("a~ ") and not compiled(r"\p{ASCII}*").fullmatch("é")
    wide = compiled(r"[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDC00-\uDBFF\uDFFF\r\n\t]*")
    assert wide.fullmatch("a\U0001f600") and not wide.fullmatch("\x00")
    assert compiled(r"\A\S[\p{Print}]*\z").fullmatch("ab c") and not compiled(r"\A\S[\p{Print}]*\z").fullmatch("ab\n")
    assert isinstance(compiled(r"[a-z]"), re.Pattern)
