"""Requests for jobs and models fit what AWS takes and what the container can do in time."""

from dataclasses import replace
from typing import Any

import pytest

from service.settings import Settings, load_settings
from tests.unit.training.sagemaker.conftest import IMAGE, NOW, ROLE
from training.sagemaker.errors import LaunchError
from training.sagemaker.launch.endpoints import deploy_requests
from training.sagemaker.launch.options import DeployOptions, TrainOptions, TransformOptions
from training.sagemaker.launch.requests import invocation_seconds, training_request, transform_requests, volume_key
from training.sagemaker.launch.validation import input_shape

LOCAL_DISKS = {
    "c5d", "c6gd", "dl1", "g4dn", "g5", "g6", "g6e", "g7", "g7e", "m5d", "m6gd", "p3dn", "p4d", "p4de", "p5", "p5e",
    "p5en", "p6-b200", "p6-b300", "p6e-gb200", "r5d", "r6gd", "r7gd", "trn1", "trn1n", "trn2",
}  # fmt: skip
"""Families of SageMaker's instance types that have local NVMe disks, by EC2's list of instance store volumes."""


def families(operation: str, *path: str) -> set[str]:
    """Return the families of all instance types that an operation of SageMaker takes."""
    shape = input_shape("sagemaker", operation)
    for name in path:
        shape = (shape.member if shape.type_name == "list" else shape).members[name]
    return {name.split(".")[1] for name in shape.metadata["enum"]}


def test_the_key_is_left_out_for_exactly_the_types_with_disks_of_their_own() -> None:
    known = (
        families("CreateTrainingJob", "ResourceConfig", "InstanceType")
        | families("CreateEndpointConfig", "ProductionVariants", "InstanceType")
        | families("CreateTransformJob", "TransformResources", "InstanceType")
    )
    assert {family for family in known if volume_key("alias/k", f"ml.{family}.xlarge") is None} == LOCAL_DISKS


@pytest.mark.parametrize(("instance_type", "key"), [("ml.g5.xlarge", None), ("ml.c6i.xlarge", "alias/k")])
def test_the_key_of_the_output_stays_with_every_type(instance_type: str, key: str | None) -> None:
    train = TrainOptions(name="n", image=IMAGE, output="s3://b/o", kms_key="alias/k", instance_type=instance_type)
    job = training_request(train, ROLE, (), NOW).parameters
    assert job["ResourceConfig"].get("VolumeKmsKeyId") == key
    assert job["OutputDataConfig"]["KmsKeyId"] == "alias/k"

    transform = TransformOptions(name="n", model="m", input="s3://b/i", output="s3://b/o", kms_key="alias/k")
    [batch] = transform_requests(replace(transform, instance_type=instance_type), ROLE, NOW)
    assert batch.parameters["TransformResources"].get("VolumeKmsKeyId") == key
    assert batch.parameters["TransformOutput"]["KmsKeyId"] == "alias/k"

    deploy = DeployOptions(name="n", image=IMAGE, kms_key="alias/k", instance_type=instance_type)
    assert deploy_requests(deploy, ROLE, NOW)[1].parameters.get("KmsKeyId") == key


def transform(**options: Any) -> dict[str, Any]:
    """Return the parameters of the job of a batch transform."""
    given = TransformOptions(name="n", model="m", input="s3://b/i", output="s3://b/o", **options)
    return dict(transform_requests(given, ROLE, NOW)[-1].parameters)


def settings_of(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the service's settings in a container with this environment."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.mark.parametrize(("rate", "bytes_per_token"), [(600.0, 2.0), (648.0, 4.4), (10_000.0, 4.4)])
def test_a_transform_has_time_for_full_requests(
    rate: float, bytes_per_token: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = transform(tokens_per_second=rate)
    payload, at_a_time = job["MaxPayloadInMB"] * 2**20, job["MaxConcurrentTransforms"]
    needed_s = payload * at_a_time / bytes_per_token / rate
    allowed_s = job["ModelClientConfig"]["InvocationsTimeoutInSeconds"]
    settings = settings_of(job["Environment"], monkeypatch)
    assert needed_s <= allowed_s <= 3600
    assert settings.default_timeout_ms == settings.max_timeout_ms == 1000 * allowed_s
    assert settings.max_body_bytes > payload


@pytest.mark.parametrize(
    ("megabytes", "concurrent", "rate", "message"),
    [(5, 4, 600.0, "may take 17477 s"), (1, 5, 600.0, "SageMaker waits for 3600"), (0, 2, 600.0, "at least 1"),
     (1, 0, 600.0, "at least 1"), (1, 1, 0.0, "above 0"), (1, 1, float("nan"), "above 0")],
)  # fmt: skip
def test_requests_that_cannot_be_answered_in_time_are_refused(
    megabytes: int, concurrent: int, rate: float, message: str
) -> None:
    with pytest.raises(LaunchError, match=message):
        transform(max_payload_mb=megabytes, concurrent=concurrent, tokens_per_second=rate)


def test_a_faster_model_takes_larger_requests() -> None:
    assert invocation_seconds(5, 4, 10_000.0) == 1049


def test_given_variables_go_before_the_limits() -> None:
    environment = transform(environment=("SERVICE_MAX_BODY_BYTES=9000000", "SERVICE_LANES=1"))["Environment"]
    assert environment["SERVICE_MAX_BODY_BYTES"] == "9000000" and environment["SERVICE_LANES"] == "1"
    assert environment["SERVICE_DEFAULT_TIMEOUT_MS"] == "1748000"


@pytest.mark.parametrize(("rate", "body_bytes"), [(600.0, 2_160_000), (100_000.0, 6_000_000)])
def test_an_asynchronous_endpoint_takes_what_it_can_answer_in_an_hour(
    rate: float, body_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = DeployOptions(name="n", image=IMAGE, mode="async", async_output="s3://b/o", tokens_per_second=rate)
    container = deploy_requests(options, ROLE, NOW)[0].parameters["PrimaryContainer"]
    settings = settings_of(container["Environment"], monkeypatch)
    assert settings.default_timeout_ms == settings.max_timeout_ms == 3_600_000
    assert settings.max_body_bytes == body_bytes
    assert body_bytes * options.async_concurrency / 2.0 / rate <= 3600


def test_a_real_time_endpoint_keeps_the_limits_of_the_service() -> None:
    container = deploy_requests(DeployOptions(name="n", image=IMAGE), ROLE, NOW)[0].parameters["PrimaryContainer"]
    assert "Environment" not in container
