import math
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier import Precision
from service.model.autotune import BudgetTrial, PrecisionTrial, choose_budget, choose_precision

RATES: dict[Precision, float] = {"float32": 100.0, "bfloat16": 300.0, "int8": 200.0}


def chosen(
    rates: dict[Precision, float], differences: Mapping[Precision, float] = MappingProxyType({})
) -> tuple[Precision, dict[Precision, str]]:
    def difference(precision: Precision) -> float:
        return differences.get(precision, 0.01)

    unavailable: dict[Precision, str] = {p: "not here" for p in RATES if p not in rates}
    precision, trials = choose_precision(list(rates), rates.__getitem__, difference, unavailable)
    assert sorted(t.precision for t in trials) == sorted(RATES)
    assert [t.precision for t in trials if t.verdict.startswith("chosen")] == [precision]
    return precision, {t.precision: t.verdict for t in trials}


def test_the_fastest_that_agrees_is_chosen() -> None:
    assert chosen(RATES)[0] == "bfloat16"
    assert chosen(RATES, {"bfloat16": 0.06})[0] == "int8"
    assert chosen(RATES, {"bfloat16": math.inf, "int8": 1.0})[0] == "float32"


def test_a_small_gain_is_not_worth_inexact_answers() -> None:
    precision, verdicts = chosen({"float32": 100.0, "int8": 109.0})
    assert precision == "float32"
    assert verdicts["int8"] == "only 1.09 times as fast as float32; 1.1 times is required"
    assert verdicts["bfloat16"] == "not here"
    assert chosen({"float32": 100.0, "int8": 111.0})[0] == "int8"


def test_what_raises_in_its_trial_is_unavailable_and_float32_must_run() -> None:
    def rate(precision: Precision) -> float:
        if precision == broken:
            raise NotImplementedError("no kernel\nregistered by ...")
        return RATES[precision]

    broken = "bfloat16"
    precision, trials = choose_precision(list(RATES), rate, lambda _: 0.01, {})
    assert precision == "int8"
    assert PrecisionTrial("bfloat16", "unavailable: no kernel") in trials
    broken = "float32"
    with pytest.raises(NotImplementedError):
        choose_precision(list(RATES), rate, lambda _: 0.01, {})


def test_budget_is_the_least_near_full_speed() -> None:
    seconds = {128: 0.01, 256: 0.014, 512: 0.026, 1024: 0.052, 2048: 0.104, 4096: 0.208}
    budget, trials = choose_budget(seconds.__getitem__)
    assert budget == 512
    assert [t.tokens for t in trials] == list(seconds)
    assert trials[0] == BudgetTrial(128, 12800.0)


def test_a_disturbed_measurement_does_not_end_the_search() -> None:
    seconds = {128: 0.025, 256: 0.06, 512: 0.067, 1024: 0.128, 2048: 0.26}  # 256 is the disturbed one
    assert choose_budget(seconds.__getitem__)[0] == 512


def test_a_slow_machine_is_not_kept_busy_by_the_search() -> None:
    asked: list[int] = []

    def seconds(tokens: int) -> float:
        asked.append(tokens)
        return tokens / 1600

    assert choose_budget(seconds)[0] == 128
    assert asked == [128, 256], "the second took 0.16 s"


@given(st.lists(st.floats(0.01, 100), min_size=6, max_size=6))
def test_budget_is_always_one_that_was_measured_and_near_the_best(seconds: list[float]) -> None:
    times = iter(seconds)
    budget, trials = choose_budget(lambda _: next(times))
    rates = {t.tokens: t.tokens_per_s for t in trials}
    assert rates[budget] >= 0.95 * max(rates.values())
