"""Estimates are arithmetic over a table that people edit."""

from pathlib import Path
from typing import Any

import pytest

from training.sagemaker.errors import LaunchError
from training.sagemaker.launch.cost import TABLE, estimate, read_prices
from training.sagemaker.launch.plans import DeployPlan, TrainPlan, TransformPlan
from training.sagemaker.launch.validation import operation

TEXT = """
[about]
region = "eu-west-1"
currency = "EUR"
date = "2026-01-01"
source = "made up"
check = "nowhere"
[instance_hour]
"ml.x" = 2.0
[spot]
share = [0.25, 0.5]
[serverless]
gb_second = 0.001
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "prices.toml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_training_by_the_hour_the_job_and_on_spot(table: Path) -> None:
    plan = TrainPlan(instance_type="ml.x", instance_count=3, max_run_s=1800, spot=True)
    assert estimate(plan, read_prices(table)) == [
        "3 x ml.x: 6.000 EUR an hour",
        "at most 3.000 EUR for 1800 s of training",
        "on spot instances perhaps 0.750 EUR to 1.500 EUR instead",
        "prices of 2026-01-01 for eu-west-1: made up. Check them: nowhere",
    ]


def test_endpoints_with_and_without_instances(table: Path) -> None:
    prices = read_prices(table)
    lines = estimate(DeployPlan(instance_type="ml.x", max_instances=4), prices)
    assert lines[:3] == ["1 x ml.x: 2.000 EUR an hour", "a month of 730 hours: 1460.00 EUR",
                         "autoscaling: 2.000 EUR an hour to 8.000 EUR an hour"]  # fmt: skip
    asynchronous = estimate(DeployPlan(instance_type="ml.x", mode="async"), prices)
    assert "autoscaling: 0.000 EUR an hour to 2.000 EUR an hour" in asynchronous
    serverless = estimate(DeployPlan(mode="serverless", memory_mb=2048, provisioned=1), prices)
    assert "7.200 EUR an hour of computing, 200.00 EUR a million requests of 100 ms" in serverless[0]
    assert "does not have" in serverless[1]
    assert estimate(TransformPlan(instance_type="ml.x"), prices)[0] == "1 x ml.x: 2.000 EUR an hour"


def test_an_unknown_type_names_the_known_ones(table: Path) -> None:
    with pytest.raises(LaunchError, match=r"no price for ml\.y; it has ml\.x"):
        estimate(TrainPlan(instance_type="ml.y"), read_prices(table))


@pytest.mark.parametrize("broken", [TEXT.replace("[spot]", "[spots]"), TEXT.replace("2.0", '"two"'), "= 1"])
def test_a_broken_table_is_named(broken: str, table: Path) -> None:
    table.write_text(broken, encoding="utf-8")
    with pytest.raises(LaunchError, match=r"prices\.toml cannot be used"):
        read_prices(table)


def test_our_table_has_real_types_and_every_default() -> None:
    prices = read_prices(TABLE)
    known = set()
    for name, path in (
        ("CreateTrainingJob", ("ResourceConfig", "InstanceType")),
        ("CreateTransformJob", ("TransformResources", "InstanceType")),
    ):
        shape: Any = operation("sagemaker", name).input_shape
        for field in path:
            shape = shape.members[field]
        known |= set(shape.enum)
    assert set(prices.instances) <= known
    assert {TrainPlan().instance_type, DeployPlan().instance_type, TransformPlan().instance_type} <= set(
        prices.instances
    )
