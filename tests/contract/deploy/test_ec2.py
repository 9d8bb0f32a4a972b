"""deploy/ec2/stack.yaml: clean for cfn-lint, created against moto, and its script and compose file in step."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws

from tests.support import ROOT

TEMPLATE = ROOT / "deploy" / "ec2" / "stack.yaml"
TEXT = TEMPLATE.read_text(encoding="utf-8")
REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
IMAGE_PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"


def user_data() -> str:
    found = re.search(r"(?<=- \|\n).*?(?=^ +- \{\})", TEXT, re.MULTILINE | re.DOTALL)
    assert found
    return found[0]


@pytest.mark.slow
def test_cfn_lint_finds_nothing(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--regions", "us-east-1", "--"]
    ran = subprocess.run([*command, str(TEMPLATE)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    broken = tmp_path / "broken.yaml"
    broken.write_text(TEXT.replace("IamInstanceProfile:", "IamInstanceProfil:"), encoding="utf-8")
    assert subprocess.run([*command, str(broken)], capture_output=True, check=False).returncode != 0


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield lambda service: boto3.client(service, region_name="us-east-1")


def parameters(aws: Any, **more: str) -> list[dict[str, str]]:
    [vpc] = aws("ec2").describe_vpcs()["Vpcs"]
    subnet = aws("ec2").describe_subnets()["Subnets"][0]
    values = {
        "ServiceImage": f"{REGISTRY}/gpt2-classifier:1",
        "PageImage": f"{REGISTRY}/gpt2-classifier-page:1",
        "DeployBucket": "bucket",
        "ClientCidr": "203.0.113.7/32",
        "VpcId": vpc["VpcId"],
        "SubnetId": subnet["SubnetId"],
        **more,
    }
    return [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()]


def create(aws: Any, **more: str) -> dict[str, Any]:
    aws("cloudformation").create_stack(
        StackName="classifier",
        TemplateBody=TEXT,
        Capabilities=["CAPABILITY_IAM"],
        Parameters=parameters(aws, **more),
    )
    [stack] = aws("cloudformation").describe_stacks(StackName="classifier")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def test_stack_opens_the_two_ports_to_the_clients_only(aws: Any) -> None:
    outputs = create(aws, PagePort="9501")
    groups = aws("ec2").describe_security_groups()["SecurityGroups"]
    [group] = [group for group in groups if group["GroupName"] != "default"]
    opened = {(rule["FromPort"], rule["IpRanges"][0]["CidrIp"]) for rule in group["IpPermissions"]}
    assert opened == {(8080, "203.0.113.7/32"), (9501, "203.0.113.7/32")}
    assert outputs["Service"].endswith(":8080") and outputs["Page"].endswith(":9501")


def test_stack_has_its_log_group_and_an_instance_with_a_profile(aws: Any) -> None:
    outputs = create(aws)
    [group] = aws("logs").describe_log_groups()["logGroups"]
    assert group["logGroupName"] == outputs["LogGroup"] == "/gpt2-classifier/classifier"
    [reservation] = aws("ec2").describe_instances()["Reservations"]
    [instance] = reservation["Instances"]
    assert instance["InstanceType"] == "m7i.large" and instance["IamInstanceProfile"]


def test_role_reads_the_named_objects_and_no_others(aws: Any) -> None:
    create(aws, ModelKey="models/model.tar.gz")
    [role] = aws("iam").list_roles()["Roles"]
    document = aws("iam").get_role_policy(RoleName=role["RoleName"], PolicyName="images-model-logs")["PolicyDocument"]
    policy = yaml.safe_load(document) if isinstance(document, str) else document  # moto: Python's repr of it
    [reading] = [s for s in policy["Statement"] if s["Action"] == "s3:GetObject"]
    assert reading["Resource"] == [
        "arn:aws:s3:::bucket/deploy/docker-compose.yml",
        "arn:aws:s3:::bucket/models/model.tar.gz",
    ]


def test_deleted_stack_leaves_nothing_running(aws: Any) -> None:
    create(aws)
    aws("cloudformation").delete_stack(StackName="classifier")
    states = [i["State"]["Name"] for r in aws("ec2").describe_instances()["Reservations"] for i in r["Instances"]]
    assert states == ["terminated"] and not aws("logs").describe_log_groups()["logGroups"]


def test_script_is_valid_shell_and_stops_at_the_first_error() -> None:
    script = re.sub(r"\$\{[A-Za-z:]+\}", "value", re.sub(r"^ {12}", "", user_data(), flags=re.MULTILINE))
    ran = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "set -euxo pipefail" in script


def test_script_sets_variables_that_the_compose_file_has() -> None:
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    written = re.search(r"cat >\.env <<'EOF'\n(.*?)EOF", user_data(), re.DOTALL)
    assert written
    names = set(re.findall(r"([A-Z_]+)=", written[1]))
    assert names == {"SERVICE_IMAGE", "PAGE_IMAGE", "SERVICE_PORT", "PAGE_PORT", "MODEL_DIR"}
    assert names <= set(re.findall(r"\$\{([A-Z_]+):-", compose))
