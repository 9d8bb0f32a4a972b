"""Names fit SageMaker's patterns whatever they are made of."""

import datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from training.sagemaker.launch.names import stamped_name, valid_name
from training.sagemaker.launch.validation import compiled, operation

TIMES = st.datetimes(timezones=st.just(datetime.UTC), min_value=datetime.datetime(2000, 1, 1))


def pattern(operation_name: str, field: str) -> str:
    shape = operation("sagemaker", operation_name).input_shape
    assert shape is not None
    return str(shape.members[field].metadata["pattern"])


@settings(deadline=None)
@given(base=st.text(max_size=100), now=TIMES)
def test_stamped_names_fit_every_resource(base: str, now: datetime.datetime) -> None:
    name = stamped_name(base, now)
    assert len(name) <= 63
    for operation_name, field in (
        ("CreateTrainingJob", "TrainingJobName"),
        ("CreateModel", "ModelName"),
        ("CreateEndpointConfig", "EndpointConfigName"),
        ("CreateTransformJob", "TransformJobName"),
    ):
        assert compiled(pattern(operation_name, field)).fullmatch(name), name


@settings(deadline=None)
@given(base=st.text(max_size=100))
def test_valid_names_fit_and_stay_the_same(base: str) -> None:
    name = valid_name(base)
    assert len(name) <= 63
    assert compiled(pattern("CreateEndpoint", "EndpointName")).fullmatch(name)
    assert valid_name(name) == name


@settings(deadline=None)
@given(base=st.from_regex(r"[a-z][a-z0-9]{0,40}", fullmatch=True), now=TIMES)
def test_good_names_are_kept_whole_and_stamped_to_the_second(base: str, now: datetime.datetime) -> None:
    assert stamped_name(base, now) == f"{base}-{now:%Y%m%d-%H%M%S}"


def test_the_stamp_is_in_utc() -> None:
    east = datetime.timezone(datetime.timedelta(hours=9))
    assert stamped_name("news", datetime.datetime(2026, 2, 1, 8, 59, 58, tzinfo=east)) == "news-20260131-235958"
