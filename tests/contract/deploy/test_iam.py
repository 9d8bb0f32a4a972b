"""The policies of deploy/iam: actions that exist, on no more resources than needed, and a policy for each command.

That each command may call what it calls is checked wherever a unit test runs it against moto (`conftest.py` there).
"""

import json
import re
import subprocess

import botocore.session
import pytest

from tests.support import ROOT
from tests.support.iam_policies import ACTIONS, DIRECTORY, PREFIXES, action_of, allowed_actions, policy
from training.sagemaker.__main__ import COMMANDS

NAMES = sorted(path.stem for path in DIRECTORY.glob("*.json"))
FOR_THE_ROLE = {"execution-role", "execution-role-vpc", "execution-role-sns"}
TRUST, KEYS = "execution-role-trust", "kms"
WITHOUT_OPERATION = {"iam:PassRole", "s3:ListBucket"}
"""Actions that are no operation of the API: https://docs.aws.amazon.com/service-authorization/latest/reference/"""
NEEDED_BY_OTHERS = {
    # checked by AWS within another call
    "iam:PassRole", "iam:CreateServiceLinkedRole", "sagemaker:AddTags", "ecr:TagResource", "cloudwatch:TagResource",
    "application-autoscaling:TagResource", "sagemaker:DescribeEndpointConfig",
    "sagemaker:UpdateEndpointWeightsAndCapacities", "cloudwatch:DescribeAlarms", "cloudwatch:DeleteAlarms",
    # called by docker, and by boto3 for large files
    "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:InitiateLayerUpload", "ecr:UploadLayerPart",
    "ecr:CompleteLayerUpload", "ecr:PutImage", "s3:PutObject", "s3:AbortMultipartUpload",
}  # fmt: skip
"""Actions of the commands' policies that the launcher's code does not call by name."""
WITHOUT_RESOURCE = {
    "ecr:GetAuthorizationToken", "tag:GetResources", "cloudwatch:PutMetricData", "application-autoscaling:TagResource",
    "application-autoscaling:RegisterScalableTarget", "application-autoscaling:PutScalingPolicy",
    "application-autoscaling:DescribeScalableTargets", "application-autoscaling:DeregisterScalableTarget",
    *allowed_actions("execution-role-vpc"),
}  # fmt: skip
"""Actions for which IAM knows no resources, or none that exist before the call."""


def test_every_command_has_its_policy() -> None:
    assert set(NAMES) == set(COMMANDS) | FOR_THE_ROLE | {TRUST, KEYS}


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_is_well_formed(name: str) -> None:
    document = policy(name)
    assert set(document) == {"Version", "Statement"} and document["Version"] == "2012-10-17"
    ids = [statement.get("Sid") for statement in document["Statement"]]
    assert len(set(ids)) == len(ids)
    assert len((DIRECTORY / f"{name}.json").read_text(encoding="utf-8").replace(" ", "")) < 6144  # IAM's limit
    for statement in document["Statement"]:
        assert statement["Effect"] == "Allow"
        if name != TRUST:
            assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
            assert statement["Action"] == sorted(set(statement["Action"]))


def test_only_sagemaker_may_take_the_role() -> None:
    [statement] = policy(TRUST)["Statement"]
    assert (statement["Action"], statement["Principal"]) == ("sts:AssumeRole", {"Service": "sagemaker.amazonaws.com"})


@pytest.mark.parametrize("name", [name for name in NAMES if name != TRUST])
def test_every_action_exists(name: str) -> None:
    session = botocore.session.get_session()
    for action in allowed_actions(name) - WITHOUT_OPERATION:
        prefix, _, operation = action.partition(":")
        services = {prefix, *(service for service, other in PREFIXES.items() if other == prefix)}
        known = services & set(session.get_available_services())
        assert any(operation in session.get_service_model(service).operation_names for service in known), action


@pytest.mark.parametrize("name", [name for name in NAMES if name != TRUST])
def test_every_statement_names_its_resources(name: str) -> None:
    for statement in policy(name)["Statement"]:
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        for resource in resources:
            assert resource.startswith("arn:aws:") or set(statement["Action"]) <= WITHOUT_RESOURCE, statement["Sid"]
    for statement in policy(name)["Statement"]:
        if "iam:PassRole" in statement["Action"]:
            assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}


def test_no_policy_allows_what_no_command_does() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "training/sagemaker/launch").glob("*.py"))
    called = set(re.findall(r"\"([A-Z][A-Za-z0-9]+)\"", code))
    for verb, kinds in {"Stop": ("TrainingJob", "TransformJob"), "Describe": ("TrainingJob", "TransformJob"),
                        "Delete": ("Endpoint", "EndpointConfig", "Model")}.items():  # fmt: skip
        assert f'f"{verb}{{title}}' in code
        called |= {verb + kind for kind in kinds}
    operations = {action.partition(":")[2] for action in (*ACTIONS.values(),)} | called
    for name in COMMANDS:
        unused = {a for a in allowed_actions(name) - NEEDED_BY_OTHERS if a.partition(":")[2] not in operations}
        assert not unused, name


def test_actions_of_operations() -> None:
    assert action_of("resourcegroupstaggingapi", "GetResources") == "tag:GetResources"
    assert action_of("s3", "HeadObject") == "s3:GetObject"


@pytest.mark.parametrize("name", NAMES)
def test_the_guide_fills_the_placeholders(name: str) -> None:
    guide = (ROOT / "docs" / "sagemaker.md").read_text(encoding="utf-8")
    [fill] = re.findall(r"^fill\(\) .*", guide, re.MULTILINE)
    script = f"BUCKET=my-bucket ROLE=news-role\n{fill}\nfill {name}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    left = set(re.findall(r'[:/]([A-Z]+)[/"]', done.stdout))
    assert left <= ({"KEY"} if name == KEYS else {"TOPIC"} if name == "execution-role-sns" else set())
    assert json.loads(done.stdout)["Statement"]
