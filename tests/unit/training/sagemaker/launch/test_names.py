"""Names are taken as they are or refused: a changed name would share another deployment's resources and tag."""

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.training.sagemaker.conftest import IMAGE, Shell
from training.sagemaker.errors import LaunchError
from training.sagemaker.launch.requests import MAX_NAME, ApiRequest, checked_name, stamped_name
from training.sagemaker.launch.validation import problems_of

TIMES = st.datetimes(timezones=st.just(datetime.UTC), min_value=datetime.datetime(2000, 1, 1))
NAMES = st.from_regex(rf"[a-zA-Z0-9](-*[a-zA-Z0-9]){{0,{MAX_NAME - 1}}}", fullmatch=True).filter(
    lambda name: len(name) <= MAX_NAME
)


@settings(deadline=None)
@given(base=NAMES, now=TIMES)
def test_good_names_are_kept_whole_and_fit_every_resource(base: str, now: datetime.datetime) -> None:
    name = stamped_name(base, now)
    assert name == f"{base}-{now:%Y%m%d-%H%M%S}"
    for operation, field in (
        ("CreateTrainingJob", "TrainingJobName"),
        ("CreateModel", "ModelName"),
        ("CreateEndpointConfig", "EndpointConfigName"),
        ("CreateTransformJob", "TransformJobName"),
        ("CreateEndpoint", "EndpointName"),
    ):
        problems = problems_of(ApiRequest("sagemaker", operation, {field: name}))
        assert not any(f": {field}: " in problem for problem in problems), problems


@settings(deadline=None)
@given(base=st.text(max_size=100))
def test_a_name_is_kept_or_refused(base: str) -> None:
    try:
        assert checked_name(base) == base
    except LaunchError as exc:
        assert repr(base) in str(exc)


@pytest.mark.parametrize("name", ["!!!", "a b", "", "-", "--", "$", "a-", "-a", "caf\xe9", "a\n", "a" * (MAX_NAME + 1)])
@pytest.mark.parametrize(
    "command",
    [("deploy", "--image", IMAGE), ("update", "--image", IMAGE),
     ("train", "--image", IMAGE, "--output", "s3://b/o", "--no-network-isolation"),
     ("transform", "--image", IMAGE, "--input", "s3://b/i", "--output", "s3://b/o"), ("teardown",)],
    ids=lambda command: command[0],
)  # fmt: skip
def test_names_that_aws_would_not_take_are_refused(
    command: tuple[str, ...], name: str, no_aws: None, shell: Shell
) -> None:
    role = () if command == ("teardown",) else ("--role", "arn:aws:iam::123456789012:role/R", "--dry-run")
    assert shell.do(*command, f"--name={name}", *role) == 2
    assert ("--name" in shell.text and not shell.out) if name else "--name must be given" in shell.text


def test_the_stamp_is_in_utc() -> None:
    east = datetime.timezone(datetime.timedelta(hours=9))
    assert stamped_name("news", datetime.datetime(2026, 2, 1, 8, 59, 58, tzinfo=east)) == "news-20260131-235958"
