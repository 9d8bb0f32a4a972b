"""The commands against moto: what they create, print and return, and that they destroy nothing without a yes."""

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import botocore.client
import pytest
from botocore.exceptions import ClientError
from moto.sagemaker.models import FakeEndpoint

from tests.unit.training.sagemaker.conftest import ACCOUNT, ARTIFACT, IMAGE, METRICS, NOW, REGION, ROLE, Shell, backend
from tests.unit.training.sagemaker.launch.test_updates import CAPTURE
from training.sagemaker.errors import AwsError
from training.sagemaker.launch import commands
from training.sagemaker.launch.aws import Aws
from training.sagemaker.launch.endpoints import DIMENSION
from training.sagemaker.launch.follow import LOG_GROUPS

JOB = "news-20260131-235958"
TRAIN = (
    "train", "--name", "news", "--image", IMAGE, "--role", ROLE, "--output", "s3://models-bucket/jobs",
    "--channels", "base_model=s3://models-bucket/base/",
)  # fmt: skip
DEPLOY = (
    "deploy", "--name", "news", "--image", IMAGE, "--role", ROLE, "--artifact", ARTIFACT,
    "--instance-type", "ml.m5.large",  # moto knows no newer ones
)  # fmt: skip
UPDATE = ("update", "--name", "news", "--image", IMAGE, "--role", ROLE, "--artifact", ARTIFACT)
OTHER = "s3://models-bucket/models/fedcba9876543210/model.tar.gz"
TARGET = "endpoint/news/variant/AllTraffic"


@pytest.fixture(autouse=True)
def metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "METRIC_DEFINITIONS", METRICS)


def nothing() -> None:
    """Let time pass."""


def interrupted() -> None:
    raise KeyboardInterrupt


def log(aws: Aws, host: str, *lines: str) -> None:
    names = {"logGroupName": LOG_GROUPS["training"], "logStreamName": f"{JOB}/{host}-1700000000"}
    for operation, parameters in (("CreateLogGroup", list(names)[:1]), ("CreateLogStream", list(names))):
        with contextlib.suppress(AwsError):  # it is there already
            aws.call("logs", operation, **{key: names[key] for key in parameters})
    events = [{"timestamp": int(time.time() * 1000) + i, "message": line} for i, line in enumerate(lines)]
    aws.call("logs", "PutLogEvents", **names, logEvents=events)


def set_job(status: str, **fields: Any) -> None:
    vars(backend().training_jobs[JOB]).update(fields, training_job_status=status)


def set_endpoint(status: str, reason: str | None = None, **fields: str) -> None:
    vars(backend().endpoints["news"]).update(fields, endpoint_status=status, failure_reason=reason)


def scaling(aws: Aws, kind: str) -> list[Any]:
    return aws.pages("application-autoscaling", f"Describe{kind}", kind, ServiceNamespace="sagemaker")


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let AWS refuse an operation, and with `for_ever` every one after it."""
    original, refused = botocore.client.BaseClient._make_api_call, set[str]()

    def install(operation: str, code: str = "AccessDeniedException", for_ever: bool = False) -> None:
        def call(client: Any, name: str, request: dict[str, Any]) -> Any:
            if name == operation or (for_ever and refused):
                refused.add(name)
                raise ClientError({"Error": {"Code": code, "Message": "no permission"}}, name)
            return original(client, name, request)

        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", call)

    return install


@pytest.fixture
def started(aws: Aws) -> None:
    """A training job that nobody follows; moto calls it completed."""
    shell = Shell()
    assert shell.do(*TRAIN, "--no-wait") == 0
    assert shell.out == [JOB]


@pytest.fixture
def creating(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give new endpoints the status that they have at first on AWS."""
    original = FakeEndpoint.__init__

    def init(endpoint: Any, *values: Any, **named: Any) -> None:
        original(endpoint, *values, **named)
        endpoint.endpoint_status = "Creating"

    monkeypatch.setattr(FakeEndpoint, "__init__", init)


@pytest.mark.usefixtures("aws")
class TestTrain:
    def test_follows_the_log_to_the_end_and_prints_the_artifact(self, aws: Aws, shell: Shell) -> None:
        def runs() -> None:
            log(aws, "algo-1", "metric step=1 train_loss=1.5;", "metric step=2 train_loss=1.1;")
            set_job("InProgress", secondary_status="Training")

        def ends() -> None:
            log(aws, "algo-1", "eval_accuracy=0.97;")
            set_job("Completed", secondary_status="Completed")

        def say(line: str) -> None:
            shell.said.append(line)
            if line == f"started {JOB}":  # the job is in progress from its start on, as on AWS
                set_job("InProgress", secondary_status="Starting", secondary_status_transitions=[])

        shell.waits = [runs, nothing, ends, nothing]
        assert shell.do(*TRAIN, say=say) == 0
        assert shell.out == [f"s3://models-bucket/jobs/{JOB}/output/model.tar.gz"]
        lines = [line for line in shell.said if line.startswith("  ")]
        assert lines == ["  metric step=1 train_loss=1.5;", "  metric step=2 train_loss=1.1;", "  eval_accuracy=0.97;"]
        assert f"{JOB}: InProgress (Training)" in shell.said

    @pytest.mark.parametrize(
        ("status", "fields", "code", "said"),
        [
            ("Failed", {"failure_reason": "AlgorithmError: row 3"}, 1, [f"{JOB} failed: AlgorithmError: row 3"]),
            ("Stopped", {"secondary_status": "MaxWaitTimeExceeded"}, 3,
             [f"{JOB} stopped: MaxWaitTimeExceeded",
              f"what the job saved before: s3://models-bucket/jobs/{JOB}/output/model.tar.gz"]),
        ],
    )  # fmt: skip
    def test_a_job_that_failed_or_was_stopped_gives_its_reason(
        self, status: str, fields: dict[str, str], code: int, said: list[str], started: None, shell: Shell
    ) -> None:
        set_job(status, **fields)
        shell.waits = [nothing]
        assert shell.do("follow", "training", JOB) == code
        assert shell.said[-len(said) :] == said

    def test_several_hosts_are_told_apart(self, started: None, aws: Aws, shell: Shell) -> None:
        log(aws, "algo-1", "one")
        log(aws, "algo-2", "two")
        shell.waits = [nothing]
        assert shell.do("follow", "training", JOB) == 0
        assert [line for line in shell.said if line.startswith("  ")] == ["  algo-1: one", "  algo-2: two"]

    @pytest.mark.parametrize(
        ("answer", "code", "status"), [("", 130, "InProgress"), ("n", 130, "InProgress"), ("y", 3, "Stopped")]
    )
    def test_ctrl_c_asks_whether_to_stop(
        self, answer: str, code: int, status: str, started: None, aws: Aws, shell: Shell
    ) -> None:
        set_job("InProgress")
        log(aws, "algo-1", "metric step=1 train_loss=1.5;")

        def stops() -> None:
            assert backend().training_jobs[JOB].training_job_status == "Stopping"
            set_job("Stopped", secondary_status="Stopped")

        shell.waits, shell.answers = [interrupted, stops, nothing], [answer]
        assert shell.do("follow", "training", JOB) == code
        assert len(shell.asked) == 1 and JOB in shell.asked[0]
        assert shell.said.count("  metric step=1 train_loss=1.5;") == 1
        assert backend().training_jobs[JOB].training_job_status == status

    def test_a_job_that_cannot_be_followed_goes_on(self, shell: Shell, refuse: Callable[..., None]) -> None:
        refuse("DescribeTrainingJob", "ExpiredTokenException", for_ever=True)
        assert shell.do(*TRAIN) == 1
        again = f"`python -m training.sagemaker follow training {JOB}` looks again"
        assert shell.said[-1].endswith(f"{JOB} goes on all the same; {again}")

    def test_an_unknown_job_is_an_error(self, shell: Shell) -> None:
        assert shell.do("follow", "training", "nothing") == 1
        assert "DescribeTrainingJob" in shell.text

    def test_the_request_is_checked_before_anything_is_sent(self, shell: Shell) -> None:
        assert shell.do(*TRAIN, "--instance-type", "ml.huge") == 2
        assert not backend().training_jobs


@pytest.mark.usefixtures("aws")
class TestDeploy:
    def test_realtime_waits_and_registers_autoscaling(self, aws: Aws, shell: Shell) -> None:
        assert shell.do(*DEPLOY, "--max-instances", "4") == 0, shell.text
        assert shell.out == ["news"]
        config = aws.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=JOB)
        assert config["ProductionVariants"][0]["ContainerStartupHealthCheckTimeoutInSeconds"] == 600
        (target,) = scaling(aws, "ScalableTargets")
        assert (target["ResourceId"], target["MinCapacity"], target["MaxCapacity"]) == (TARGET, 1, 4)
        (policy,) = scaling(aws, "ScalingPolicies")
        tracking = policy["TargetTrackingScalingPolicyConfiguration"]
        metric = tracking["PredefinedMetricSpecification"]["PredefinedMetricType"]
        assert (tracking["TargetValue"], metric) == (600, "SageMakerVariantInvocationsPerInstance")

    def test_waits_until_the_endpoint_is_in_service(self, creating: None, shell: Shell) -> None:
        shell.waits = [nothing, lambda: set_endpoint("InService")]
        assert shell.do(*DEPLOY) == 0, shell.text
        assert [line for line in shell.said if line.startswith("news: ")] == ["news: Creating", "news: InService"]

    def test_a_failed_endpoint_gives_its_reason(self, creating: None, aws: Aws, shell: Shell) -> None:
        shell.waits = [lambda: set_endpoint("Failed", "did not pass the ping health check")]
        assert shell.do(*DEPLOY, "--max-instances", "2") == 1
        assert "did not pass the ping health check" in shell.said[-1]
        assert "teardown --name news" in shell.said[-1]
        assert scaling(aws, "ScalableTargets") == []

    def test_ctrl_c_leaves_what_was_started(self, creating: None, shell: Shell) -> None:
        shell.waits = [interrupted]
        assert shell.do(*DEPLOY) == 130
        assert "goes on" in shell.said[-1] and "news" in backend().endpoints

    def test_an_endpoint_that_exists_is_left_alone(self, shell: Shell) -> None:
        assert shell.do(*DEPLOY) == 0
        assert shell.do(*DEPLOY) == 2
        assert "`update`" in shell.said[-1]
        assert len(backend()._models) == 1

    def test_what_looks_like_a_placeholder_is_left_alone(self, aws: Aws, shell: Shell) -> None:
        assert shell.do(*DEPLOY, "--environment", "HOME_OF=${HOME}") == 0, shell.text
        [model] = aws.pages("sagemaker", "ListModels", "Models")
        described = aws.call("sagemaker", "DescribeModel", ModelName=model["ModelName"])
        assert described["PrimaryContainer"]["Environment"] == {"HOME_OF": "${HOME}"}

    def test_credentials_that_expire_on_the_way_leave_a_hint(self, shell: Shell, refuse: Callable[..., None]) -> None:
        refuse("CreateEndpoint", "ExpiredTokenException", for_ever=True)
        assert shell.do(*DEPLOY) == 1, "something was sent"
        assert "does not accept these credentials (ExpiredTokenException)" in shell.said[-1]
        assert shell.said[-1].endswith("`python -m training.sagemaker teardown --name news` removes what was created")

    def test_serverless(self, aws: Aws, shell: Shell) -> None:
        words = ("--mode", "serverless", "--no-network-isolation", "--memory-mb", "2048")
        assert shell.do(*DEPLOY, *words) == 0, shell.text
        config = aws.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=JOB)
        assert config["ProductionVariants"][0]["ServerlessConfig"] == {"MemorySizeInMB": 2048, "MaxConcurrency": 5}
        assert scaling(aws, "ScalableTargets") == []

    def test_async_scales_to_no_instance_and_back(self, aws: Aws, shell: Shell) -> None:
        assert shell.do(*DEPLOY, "--mode", "async", "--async-output", "s3://models-bucket/answers") == 0, shell.text
        (target,) = scaling(aws, "ScalableTargets")
        assert (target["MinCapacity"], target["MaxCapacity"]) == (0, 1)
        by_name = {policy["PolicyName"]: policy for policy in scaling(aws, "ScalingPolicies")}
        assert set(by_name) == {"news-backlog", "news-first-instance"}
        (alarm,) = aws.pages("cloudwatch", "DescribeAlarms", "MetricAlarms")
        assert alarm["MetricName"] == "HasBacklogWithoutCapacity"
        assert alarm["AlarmActions"] == [by_name["news-first-instance"]["PolicyARN"]]


class TestUpdate:
    @pytest.fixture
    def deployed(self, aws: Aws) -> str:
        network = ("--subnets", "subnet-1", "--security-groups", "sg-1", "--kms-key", "alias/news")
        words = (*DEPLOY, *network, "--environment", "SERVICE_MAX_TEXTS=64", "--instance-count", "2")
        assert Shell().do(*words, now=lambda: NOW.replace(hour=1)) == 0
        return "news-20260131-015958"

    def test_moves_step_by_step_with_alarms(self, deployed: str, aws: Aws, shell: Shell) -> None:
        shell.waits = [lambda: set_endpoint("InService")]
        assert shell.do(*UPDATE, "--yes") == 0, shell.text
        assert aws.call("sagemaker", "DescribeEndpoint", EndpointName="news")["EndpointConfigName"] == JOB
        variant = aws.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=JOB)["ProductionVariants"][0]
        assert (variant["InstanceType"], variant["InitialInstanceCount"]) == ("ml.m5.large", 2)
        alarms = {alarm["AlarmName"]: alarm for alarm in aws.pages("cloudwatch", "DescribeAlarms", "MetricAlarms")}
        assert set(alarms) == {"news-errors", "news-latency"}
        assert alarms["news-latency"]["Threshold"] == 5_000_000  # microseconds

    def test_keeps_what_no_option_changes(self, deployed: str, aws: Aws, shell: Shell) -> None:
        backend().endpoint_configs[deployed].data_capture_config = CAPTURE
        shell.waits = [lambda: set_endpoint("InService")]
        assert shell.do("update", "--name", "news", "--artifact", OTHER, "--yes") == 0, shell.text
        old, new = (aws.call("sagemaker", "DescribeModel", ModelName=name) for name in (deployed, JOB))
        assert new["PrimaryContainer"] == old["PrimaryContainer"] | {"ModelDataUrl": OTHER}
        assert new["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
        assert new["PrimaryContainer"]["Environment"] == {"SERVICE_MAX_TEXTS": "64"}
        config = aws.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=JOB)
        assert (config["KmsKeyId"], config["DataCaptureConfig"]) == ("alias/news", CAPTURE)

    def test_asks_before_it_removes(self, deployed: str, shell: Shell) -> None:
        assert shell.do(*UPDATE, "--remove", "vpc", "SERVICE_MAX_TEXTS") == 1
        assert shell.asked == [
            f"move endpoint news to {IMAGE} {ARTIFACT} and remove its vpc, SERVICE_MAX_TEXTS? [y/N] "
        ]
        assert len(backend()._models) == 1

    def test_a_dry_run_asks_aws_what_serves_and_creates_nothing(self, deployed: str, shell: Shell) -> None:
        assert shell.do(*UPDATE, "--dry-run") == 0, shell.text
        shown = json.loads("\n".join(shell.out))
        model, update = shown[0]["request"], shown[-2]["request"]
        assert model["PrimaryContainer"]["Environment"] == {"SERVICE_MAX_TEXTS": "64"}
        assert update["EndpointConfigName"] == JOB and not shell.asked
        assert len(backend()._models) == 1

    def test_a_rollback_is_a_failure(self, deployed: str, shell: Shell) -> None:
        back = {"endpoint_config_name": deployed}
        shell.waits = [lambda: set_endpoint("RollingBack"), lambda: set_endpoint("InService", **back)]
        assert shell.do(*UPDATE, "--yes") == 1
        assert "was rolled back" in shell.said[-1] and deployed in shell.said[-1]

    def test_asks_first(self, deployed: str, aws: Aws, shell: Shell) -> None:
        assert shell.do(*UPDATE) == 1
        assert "news" in shell.asked[0]
        assert aws.call("sagemaker", "DescribeEndpoint", EndpointName="news")["EndpointConfigName"] == deployed
        assert len(backend()._models) == 1

    def test_another_instance_type_is_refused_with_autoscaling(self, deployed: str, aws: Aws, shell: Shell) -> None:
        capacity = {"ScalableDimension": DIMENSION, "MinCapacity": 1, "MaxCapacity": 2}
        target = {"ServiceNamespace": "sagemaker", "ResourceId": TARGET, **capacity}
        aws.call("application-autoscaling", "RegisterScalableTarget", **target)
        assert shell.do(*UPDATE, "--yes", "--instance-type", "ml.m5.xlarge") == 2
        assert "has autoscaling" in shell.said[-1]

    def test_an_endpoint_that_is_not_there(self, aws: Aws, shell: Shell) -> None:
        assert shell.do(*UPDATE, "--yes") == 1
        assert "DescribeEndpoint" in shell.said[-1]


class TestTransform:
    WORDS = ("transform", "--name", "news", "--image", IMAGE, "--role", ROLE, "--artifact", ARTIFACT, "--input",
             "s3://models-bucket/in/", "--output", "s3://models-bucket/out/")  # fmt: skip

    def test_makes_a_model_and_waits(self, aws: Aws, shell: Shell) -> None:
        assert shell.do(*self.WORDS) == 0, shell.text
        assert shell.out == ["s3://models-bucket/out/"]
        job = aws.call("sagemaker", "DescribeTransformJob", TransformJobName=JOB)
        assert (job["ModelName"], job["BatchStrategy"], job["MaxPayloadInMB"]) == (JOB, "MultiRecord", 1)
        assert job["TransformInput"]["SplitType"] == job["TransformOutput"]["AssembleWith"] == "Line"

    def test_a_failed_job_is_a_failure(self, aws: Aws, shell: Shell) -> None:
        assert shell.do(*self.WORDS, "--no-wait") == 0
        backend().transform_jobs[JOB].transform_job_status = "Failed"
        backend().transform_jobs[JOB].failure_reason = "ClientError: 413"
        assert shell.do("follow", "transform", JOB) == 1
        assert shell.said[-1] == f"{JOB} failed: ClientError: 413"


class TestTeardown:
    @pytest.fixture(autouse=True)
    def things(self, aws: Aws) -> None:
        shell = Shell()
        assert shell.do(*DEPLOY, "--mode", "async", "--async-output", "s3://models-bucket/answers") == 0, shell.text
        assert shell.do(*DEPLOY[:2], "other", *DEPLOY[3:]) == 0, shell.text
        aws.call("sagemaker", "CreateModel", ModelName="untagged", ExecutionRoleArn=ROLE)
        assert shell.do(*TRAIN, "--no-wait") == 0

    def left(self, aws: Aws) -> dict[str, list[str]]:
        kinds = ("Endpoint", "EndpointConfig", "Model")
        return {
            **{
                kind: [one[f"{kind}Name"] for one in aws.pages("sagemaker", f"List{kind}s", f"{kind}s")]
                for kind in kinds
            },
            "Alarm": [one["AlarmName"] for one in aws.pages("cloudwatch", "DescribeAlarms", "MetricAlarms")],
            "Target": [one["ResourceId"] for one in scaling(aws, "ScalableTargets")],
        }

    @pytest.mark.parametrize(("words", "code"), [((), 1), (("--dry-run", "--yes"), 0)])
    def test_shows_and_asks_before_it_removes(self, words: tuple[str, ...], code: int, aws: Aws, shell: Shell) -> None:
        before = self.left(aws)
        assert shell.do("teardown", "--name", "news", *words) == code
        assert shell.asked == ([] if words else ["remove these 5? [y/N] "])
        config, model, alarm = f"endpoint-config {JOB}", f"model {JOB}", "alarms news-first-instance"
        assert shell.out == [f"autoscaling of {TARGET}", "endpoint news", config, model, alarm]
        assert self.left(aws) == before

    @pytest.mark.parametrize("yes", [True, False])
    def test_removes_what_carries_the_tag_and_nothing_else(self, yes: bool, aws: Aws, shell: Shell) -> None:
        shell.answers = ["yes"]
        assert shell.do("teardown", "--name", "news", *(["--yes"] if yes else [])) == 0, shell.text
        other = "other-20260131-235958"
        kept = {
            "Endpoint": ["other"],
            "EndpointConfig": [other],
            "Model": [other, "untagged"],
            "Alarm": [],
            "Target": [],
        }
        assert self.left(aws) == kept
        assert len(shell.asked) == (0 if yes else 1)
        assert shell.do("teardown", "--name", "news", "--yes") == 0
        assert "nothing in us-east-1" in shell.said[-1]

    def test_stops_jobs_that_run(self, shell: Shell) -> None:
        set_job("InProgress")
        assert shell.do("teardown", "--name", "news", "--yes") == 0, shell.text
        assert f"running training-job {JOB}" in shell.out
        assert backend().training_jobs[JOB].training_job_status == "Stopping"

    def test_a_job_that_cannot_be_described_hides_nothing(
        self, aws: Aws, shell: Shell, refuse: Callable[..., None]
    ) -> None:
        refuse("DescribeTrainingJob")
        shell.do("teardown", "--name", "news", "--yes")
        assert self.left(aws)["Endpoint"] == ["other"]

    def test_goes_on_after_a_failure_and_names_it(self, aws: Aws, shell: Shell, refuse: Callable[..., None]) -> None:
        refuse("DeleteEndpoint")
        assert shell.do("teardown", "--name", "news", "--yes") == 1
        assert "endpoint news: DeleteEndpoint: no permission" in shell.said[-1]
        assert JOB not in self.left(aws)["Model"]


class TestRole:
    def test_of_the_caller_and_by_name(self, aws: Aws) -> None:
        policy = json.dumps({"Version": "2012-10-17", "Statement": []})
        aws.call("iam", "CreateRole", RoleName="Trainer", Path="/service-role/", AssumeRolePolicyDocument=policy)
        arn = f"arn:aws:iam::{ACCOUNT}:role/service-role/Trainer"
        assert aws.role("Trainer") == arn
        assert aws.role(ROLE) == ROLE
        assert aws.account() == ACCOUNT and aws.region == REGION

    def test_a_user_has_none(self, aws: Aws, shell: Shell) -> None:
        words = [word for word in TRAIN if word not in ("--role", ROLE)]
        assert shell.do(*words) == 2
        assert "pass --role" in shell.text
