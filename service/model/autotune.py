"""What is chosen at start-up by measuring: the precision of the forward, and how many tokens make a batch.

Pure decisions over functions that the engine gives; imports no torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")

MIN_GAIN = 1.1
"""A lower precision must be so many times as fast as float32: below that, exact answers are worth more."""

NEAR = 5e-2
"""Largest difference of logits allowed between a lower precision and float32."""

ENOUGH = 0.95
"""The budget is the least that reaches this share of the best rate measured: more tokens would only add latency."""

LONG_S = 0.25
"""Seconds of a batch beyond which none is tried: it would make start-up long, and every short text wait as long."""

QUICK_S = 0.05
"""Seconds of a batch below which its time is taken twice: what disturbs a machine for a moment matters there."""

BUDGETS = (128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Trial:
    """What came of one precision."""

    precision: Precision
    verdict: str
    tokens_per_s: float | None = None
    """Estimated from one layer."""
    largest_difference: float | None = None
    """From float32 over golden and random texts, in logits; None if it was not looked at."""


@dataclass(frozen=True)
class BudgetTrial:
    tokens: int
    tokens_per_s: float


def disagreement(got: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Largest absolute difference, infinite for NaN, and the number of texts with another label although the two best
    labels were further apart than twice the difference allowed."""
    largest, changed = 0.0, 0
    for row, right in zip(got, expected, strict=True):
        differences = [abs(a - b) for a, b in zip(row, right, strict=True)]
        largest = max(largest, *(d if d == d else float("inf") for d in differences))
        first, second = sorted(right, reverse=True)[:2]
        changed += first - second > 2 * NEAR and row.index(max(row)) != right.index(first)
    return largest, changed


def choose_precision(
    candidates: Sequence[Precision],
    rate: Callable[[Precision], float],
    check: Callable[[Precision], tuple[float, int]],
    unavailable: Mapping[Precision, str],
) -> tuple[Precision, list[Trial]]:
    """The fastest precision that agrees with float32.

    Args:
        candidates: float32 and what else the hardware has.
        rate: tokens a second of a precision.
        check: `disagreement` of a precision with float32.
        unavailable: other precisions, with the reason why they were not tried.

    Returns:
        The choice, and one trial for each precision.
    """
    rates = {precision: rate(precision) for precision in candidates}
    trials = [Trial(precision, reason) for precision, reason in unavailable.items()]
    chosen: Precision = "float32"
    for precision in sorted((p for p in candidates if p != "float32"), key=lambda p: -rates[p]):
        gain = rates[precision] / rates["float32"]
        if chosen != "float32":
            trials.append(Trial(precision, f"slower than {chosen}", rates[precision]))
            continue
        if gain < MIN_GAIN:
            verdict = f"only {gain:.2f} times as fast as float32, {MIN_GAIN} is asked for"
            trials.append(Trial(precision, verdict, rates[precision]))
            continue
        largest, changed = check(precision)
        if largest <= NEAR and not changed:
            chosen = precision
            verdict = f"chosen: {gain:.2f} times as fast as float32, and agrees with it"
        else:
            verdict = f"too far from float32: {NEAR} is allowed, {changed} labels changed"
        trials.append(Trial(precision, verdict, rates[precision], largest))
    verdict = "chosen: nothing faster agrees with it" if chosen == "float32" else f"slower than {chosen}"
    trials.append(Trial("float32", verdict, rates["float32"]))
    return chosen, trials


def choose_budget(seconds: Callable[[int], float], budgets: Sequence[int] = BUDGETS) -> tuple[int, list[BudgetTrial]]:
    """The knee of throughput over the tokens of a batch.

    Args:
        seconds: of a forward over so many tokens.
        budgets: ascending; the search ends where a batch takes `LONG_S`. It does not end where doubling gains nothing:
            what disturbs the machine for a moment would end it too early.

    Returns:
        The budget, and what was measured.
    """
    trials: list[BudgetTrial] = []
    for tokens in budgets:
        taken = seconds(tokens)
        trials.append(BudgetTrial(tokens, tokens / taken))
        if taken >= LONG_S:
            break
    best = max(trial.tokens_per_s for trial in trials)
    return next(trial.tokens for trial in trials if trial.tokens_per_s >= ENOUGH * best), trials
