"""Requests for jobs and models fit what AWS takes and what the container can do in time."""

from dataclasses import replace

import pytest

from tests.unit.training.sagemaker.conftest import IMAGE, NOW, ROLE
from training.sagemaker.launch.endpoints import deploy_requests
from training.sagemaker.launch.options import DeployOptions, TrainOptions, TransformOptions
from training.sagemaker.launch.requests import training_request, transform_requests, volume_key
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
