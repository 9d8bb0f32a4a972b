"""deploy/ec2/stack.yaml: clean for cfn-lint, created and updated against moto, in step with docker-compose.yml."""

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.exceptions import ClientError
from moto import mock_aws

from tests.support import ROOT

TEMPLATE = ROOT / "deploy" / "ec2" / "stack.yaml"
TEXT = TEMPLATE.read_text(encoding="utf-8")
FOR_MOTO = TEXT.replace("Protocol: TCP", "Protocol: HTTP")
"""The template with listeners of an application load balancer, which moto makes of any in a stack."""
REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
FIRST_KEY = "one-key-of-24-characters"
KEYS = f"{FIRST_KEY},another-key-of-28-characters"


def user_data() -> str:
    found = re.search(r"(?<=- \|\n).*?(?=^ +- \{KeysSecret)", TEXT, re.MULTILINE | re.DOTALL)
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
        "ApiKeys": "none",  # moto has no secrets in stacks
        "ClientCidr": "203.0.113.7/32",
        "VpcId": vpc["VpcId"],
        "SubnetId": subnet["SubnetId"],
        **more,
    }
    return [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()]


def create(aws: Any, **more: str) -> dict[str, Any]:
    aws("cloudformation").create_stack(
        StackName="classifier",
        TemplateBody=FOR_MOTO,
        Capabilities=["CAPABILITY_IAM"],
        Parameters=parameters(aws, **more),
    )
    [stack] = aws("cloudformation").describe_stacks(StackName="classifier")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def group(aws: Any) -> dict[str, Any]:
    [found] = aws("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    return dict(found)


def launched(aws: Any) -> dict[str, Any]:
    """Return the data of the launch template's version that the group starts instances from."""
    template = group(aws)["LaunchTemplate"]
    [version] = aws("ec2").describe_launch_template_versions(
        LaunchTemplateId=template["LaunchTemplateId"], Versions=[template["Version"]]
    )["LaunchTemplateVersions"]
    return dict(version["LaunchTemplateData"])


def script_of(aws: Any) -> str:
    return base64.b64decode(launched(aws)["UserData"]).decode()


def test_clients_reach_the_load_balancer_only_and_it_alone_the_instance(aws: Any) -> None:
    outputs = create(aws, PagePort="9501")
    groups = {g["Description"]: g for g in aws("ec2").describe_security_groups()["SecurityGroups"]}
    outer = groups["Load balancer, from the addresses of clients"]
    inner = groups["Service and page, from the load balancer"]
    opened = {(rule["FromPort"], rule["IpRanges"][0]["CidrIp"]) for rule in outer["IpPermissions"]}
    assert opened == {(8080, "203.0.113.7/32"), (9501, "203.0.113.7/32")}
    for rule in inner["IpPermissions"]:
        assert not rule["IpRanges"] and [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [outer["GroupId"]]
    assert launched(aws)["NetworkInterfaces"][0]["Groups"] == [inner["GroupId"]]
    assert outputs["Service"].endswith(":8080") and outputs["Page"].endswith(":9501")


def test_an_unhealthy_service_or_page_has_its_instance_replaced(aws: Any) -> None:
    create(aws)
    found = group(aws)
    targets = {t["HealthCheckPath"]: t for t in aws("elbv2").describe_target_groups()["TargetGroups"]}
    assert set(targets) == {"/readyz", "/_stcore/health"}
    assert (found["MinSize"], found["DesiredCapacity"], found["HealthCheckType"]) == (1, 1, "ELB")
    assert set(found["TargetGroupARNs"]) == {t["TargetGroupArn"] for t in targets.values()}
    [balancer] = aws("elbv2").describe_load_balancers()["LoadBalancers"]
    listeners = aws("elbv2").describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"]
    assert {listener["Port"] for listener in listeners} == {8080, 8501}


@pytest.mark.parametrize(
    ("changed", "seen"),
    [
        ({"ServiceImage": f"{REGISTRY}/gpt2-classifier:2"}, f"{REGISTRY}/gpt2-classifier:2"),
        ({"PageImage": f"{REGISTRY}/gpt2-classifier-page:2"}, f"{REGISTRY}/gpt2-classifier-page:2"),
        ({"Model": "bucket/mine/model.tar.gz"}, "s3://bucket/mine/model.tar.gz"),
        ({"PagePort": "9501"}, "--publish 9501:8501"),
        ({"Revision": "2"}, "# Revision 2"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_what_may_change_stands_in_the_launch_template(aws: Any, changed: dict[str, str], seen: str) -> None:
    """A changed template has a new version; moto does not update one."""
    create(aws, **changed)
    assert seen in script_of(aws)


def test_an_update_waits_for_the_new_instance_before_it_ends_the_old_one() -> None:
    [group] = re.findall(r"^  Group:\n(.*?)^  \w", TEXT, re.MULTILINE | re.DOTALL)
    assert "Version: !GetAtt Template.LatestVersionNumber}" in group
    [rolling] = re.findall(r"^( +)AutoScalingRollingUpdate:\n((?:\1  .*\n)+)", group, re.MULTILINE)
    policy = yaml.safe_load(rolling[1])
    assert policy["MinInstancesInService"] == 1 and policy["WaitOnResourceSignals"] is True
    assert 'MaxSize: "2"' in TEXT and "cfn-signal" in user_data() and "--resource Group" in user_data()
    assert user_data().rstrip().endswith("done"), "the last thing is to wait for the load balancer"


def test_keys_are_required(aws: Any) -> None:
    others = [p for p in parameters(aws) if p["ParameterKey"] != "ApiKeys"]
    with pytest.raises(ClientError, match="ApiKeys"):
        aws("cloudformation").create_stack(
            StackName="other", TemplateBody=FOR_MOTO, Capabilities=["CAPABILITY_IAM"], Parameters=others
        )


def test_keys_stand_in_the_secret_and_the_script_only_names_it() -> None:
    assert re.search(r"^  ApiKeys:\n    Type: String\n    NoEcho: true\n", TEXT, re.MULTILINE)
    assert re.findall(r"(\w+): ?[^\n]*!Ref ApiKeys", TEXT) == ["HasKeys", "SecretString"] and "${ApiKeys}" not in TEXT
    assert '{KeysSecret: !If [HasKeys, !Ref Keys, ""]}' in TEXT


def test_keys_are_declined_openly_or_long_enough() -> None:
    [pattern] = re.findall(r"ApiKeys:.*?AllowedPattern: '(.*?)'", TEXT, re.DOTALL)
    assert re.fullmatch(pattern, "none") and re.fullmatch(pattern, KEYS)
    for wrong in ("", ",", "short", f"{KEYS},", f"{KEYS},short", "with space in the key"):
        assert not re.fullmatch(pattern, wrong), wrong


def test_stack_has_its_log_group(aws: Any) -> None:
    outputs = create(aws)
    [group] = aws("logs").describe_log_groups()["logGroups"]
    assert group["logGroupName"] == outputs["LogGroup"] == "/gpt2-classifier/classifier"


def test_role_reads_the_named_object_and_no_others(aws: Any) -> None:
    create(aws, Model="bucket/models/model.tar.gz")
    [role] = aws("iam").list_roles()["Roles"]
    document = aws("iam").get_role_policy(RoleName=role["RoleName"], PolicyName="images-model-keys-logs")
    policy = document["PolicyDocument"]
    policy = yaml.safe_load(policy) if isinstance(policy, str) else policy  # moto: Python's repr of it
    resources = {str(s["Action"]): s["Resource"] for s in policy["Statement"] if s != "None"}  # moto's AWS::NoValue
    assert resources["s3:GetObject"] == "arn:aws:s3:::bucket/models/model.tar.gz"
    assert "secretsmanager:GetSecretValue" not in resources, "there are no keys"


def test_deleted_stack_leaves_nothing_running(aws: Any) -> None:
    create(aws)
    aws("cloudformation").delete_stack(StackName="classifier")
    states = {i["State"]["Name"] for r in aws("ec2").describe_instances()["Reservations"] for i in r["Instances"]}
    assert states <= {"terminated"} and not aws("logs").describe_log_groups()["logGroups"]
    assert not aws("elbv2").describe_load_balancers()["LoadBalancers"]
    assert not aws("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]


STUBS = {
    "dnf": "",
    "systemctl": "",
    "docker": 'echo "docker $*" >>LOG; [ "$1" != "$FAILS" ]',
    "aws": 'case "$*" in "secretsmanager "*) echo KEYS;; "s3 cp "*) cat MODEL;; *) echo "aws $*" >>LOG;; esac',
    "cfn-signal": 'echo "signal $*" >>LOG',
}
"""Programs of the instance that the script calls."""


def started(directory: Path, fails: str = "") -> tuple[list[str], str]:
    """Run the instance's script in a directory, with values for its parameters; return its calls and its trace.

    A call of `docker` whose first word is `fails` ends with an error.
    """
    log, model = directory / "log", directory / "model.tar.gz"
    (directory / "manifest.json").write_text("{}", encoding="utf-8")
    subprocess.run(["tar", "czf", model, "-C", directory, "manifest.json"], check=True)
    for place in ("bin", "etc/docker", "opt/aws/bin", "var/lib/cloud/data"):
        (directory / place).mkdir(parents=True)
    (directory / "var/lib/cloud/data/instance-id").write_text("i-1", encoding="utf-8")
    for name, stub in STUBS.items():
        path = directory / ("opt/aws/bin" if name == "cfn-signal" else "bin") / name
        text = stub.replace("LOG", str(log)).replace("KEYS", KEYS).replace("MODEL", str(model))
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
    values = {"KeysSecret": "secret", "Model": "bucket/model.tar.gz", "ServicePort": "80", "PagePort": "81"}
    script = re.sub(r"^ {14}", "", user_data(), flags=re.MULTILINE)
    script = re.sub(r"\$\{([A-Za-z:]+)\}", lambda found: values.get(found[1], found[1].lower()), script)
    script = re.sub(r"(?<=[ >(])/(?=opt/classifier|opt/aws|etc/docker|var/lib)", f"{directory}/", script)
    environment = {"PATH": f"{directory / 'bin'}:/usr/bin:/bin", "FAILS": fails}
    ran = subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True, check=False)
    return log.read_text(encoding="utf-8").splitlines(), ran.stdout + ran.stderr


def test_script_starts_both_containers_with_their_keys_and_reports(tmp_path: Path) -> None:
    calls, trace = started(tmp_path)
    place = tmp_path / "opt" / "classifier"
    assert [call.split(" --name ")[1].split()[0] for call in calls if " --name " in call] == ["service", "page"]
    assert any(call.endswith("/opt/ml/model:ro serviceimage") for call in calls) and calls[-1].split()[2] == "0"
    assert [call for call in calls if call.startswith("aws elbv2")] == [
        f"aws elbv2 wait target-in-service --target-group-arn {targets} --targets Id=i-1"
        for targets in ("servicetargets", "pagetargets")
    ]
    assert (place / "service.env").read_text() == f"SERVICE_API_KEYS={KEYS}\n"
    assert (place / "page.env").read_text() == f"CLASSIFIER_API_KEY={FIRST_KEY}\n"
    assert {path.stat().st_mode & 0o777 for path in place.glob("*.env")} == {0o600}
    assert (place / "model" / "manifest.json").exists()
    assert FIRST_KEY not in trace and not (place / "keys").exists(), "the trace is in the instance's log"


def test_script_reports_the_first_error(tmp_path: Path) -> None:
    calls, _ = started(tmp_path, fails="run")
    assert calls[-1].startswith("signal --exit-code 1 --stack aws::stackname --resource Group")
    assert sum(call.startswith("docker run") for call in calls) == 1


def test_containers_have_the_bounds_of_the_compose_file() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    script = re.sub(r"\\\n\s+", "", user_data())
    [common] = re.findall(r'bounds="(.*?)"', script)
    for name, service in services.items():
        [own] = [line for line in script.splitlines() if f"--name {name} " in line]
        stated = f"{common} {own}"
        [memory] = re.findall(r"\d+g", service["mem_limit"])
        [tmpfs] = service["tmpfs"]
        wanted = [
            f"--user {service['user']}",
            "--read-only",
            "--cap-drop ALL",
            f"--security-opt {service['security_opt'][0]}",
            f"--pids-limit {service['pids_limit']}",
            f"--memory {memory}",
            f"--tmpfs {tmpfs}",
        ]
        if "stop_grace_period" in service:
            wanted.append(f"--stop-timeout {service['stop_grace_period'].removesuffix('s')}")
        for option in wanted:
            assert option in stated, (name, option)
        assert f"--restart {service['restart']}" in script
