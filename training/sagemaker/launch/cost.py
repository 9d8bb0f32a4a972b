"""What a plan costs an hour, by a table that the user can edit (cost.toml). An estimate: the bill is AWS's own.

Not in it: storage, requests, data transfer, CloudWatch, taxes, Savings Plans.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.sagemaker.errors import LaunchError
from training.sagemaker.launch.plans import DeployPlan, TrainPlan, TransformPlan

TABLE = Path(__file__).with_name("cost.toml")


@dataclass(frozen=True)
class Prices:
    """A price table, in `currency`."""

    region: str
    currency: str
    source: str
    date: str
    check: str
    instances: dict[str, float]
    """Per hour, by type."""
    spot_share: tuple[float, float]
    """Least and most of the price that spot instances have been seen to cost."""
    serverless_gb_second: float

    def note(self) -> str:
        return f"prices of {self.date} for {self.region}: {self.source}. Check them: {self.check}"


def read_prices(path: Path = TABLE) -> Prices:
    """
    Raises:
        LaunchError: the file cannot be read, or something is missing in it.
    """
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        low, high = table["spot"]["share"]
        return Prices(
            **{key: str(table["about"][key]) for key in ("region", "currency", "source", "date", "check")},
            instances={name: float(price) for name, price in table["instance_hour"].items()},
            spot_share=(float(low), float(high)),
            serverless_gb_second=float(table["serverless"]["gb_second"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise LaunchError(f"the price table {path} cannot be used: {exc!r}") from exc


def estimate(plan: TrainPlan | DeployPlan | TransformPlan, prices: Prices) -> list[str]:
    """Lines for a person: what the plan costs, and where the prices are from.

    Raises:
        LaunchError: the table has no such instance type.
    """
    if isinstance(plan, DeployPlan) and plan.mode == "serverless":
        return [*_serverless(plan, prices), prices.note()]
    price = prices.instances.get(plan.instance_type)
    if price is None:
        raise LaunchError(
            f"{TABLE.name} has no price for {plan.instance_type}; it has {', '.join(sorted(prices.instances))}. "
            "Add a line, or give another table by --prices FILE"
        )
    lines = [f"{plan.instance_count} x {plan.instance_type}: {_hourly(plan.instance_count * price, prices)}"]
    if isinstance(plan, TrainPlan):
        longest = plan.instance_count * price * plan.max_run_s / 3600
        lines.append(f"at most {_money(longest, prices)} for {plan.max_run_s} s of training")
        if plan.spot:
            low, high = (_money(longest * share, prices) for share in prices.spot_share)
            lines.append(f"on spot instances perhaps {low} to {high} instead")
    elif isinstance(plan, DeployPlan):
        lines += _scaled(plan, price, prices)
    return [*lines, prices.note()]


def _scaled(plan: DeployPlan, price: float, prices: Prices) -> list[str]:
    fewest, most = plan.capacity()
    lines = [f"a month of 730 hours: {_money(730 * plan.instance_count * price, prices)}"]
    if most:
        lines.append(f"autoscaling: {_hourly(fewest * price, prices)} to {_hourly(most * price, prices)}")
    return lines


def _serverless(plan: DeployPlan, prices: Prices) -> list[str]:
    second = plan.memory_mb / 1024 * prices.serverless_gb_second
    lines = [
        f"{plan.memory_mb} MB: nothing while idle; {_money(3600 * second, prices)} an hour of computing, "
        f"{_money(1_000_000 * 0.1 * second, prices)} a million requests of 100 ms"
    ]
    if plan.provisioned:
        lines.append(f"{plan.provisioned} provisioned: charged while idle, too, at a price this table does not have")
    return lines


def _hourly(amount: float, prices: Prices) -> str:
    return f"{_money(amount, prices)} an hour"


def _money(amount: float, prices: Prices) -> str:
    return f"{amount:.3f} {prices.currency}" if amount < 10 else f"{amount:.2f} {prices.currency}"
