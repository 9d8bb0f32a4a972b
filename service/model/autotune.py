"""Decisions made at start by measuring: the precision of the forward, and the number of tokens of a batch.

The decisions take functions that measure (`service.model.measure` has them) and import no torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from classifier import Precision
from classifier.errors import first_line

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")

MIN_GAIN = 1.1
"""A lower precision must be this many times as fast as float32. A smaller gain is not worth inexact answers."""

NEAR = 5e-2
"""Largest difference of logits allowed between a lower precision and float32."""

ENOUGH = 0.95
"""The batch size is the smallest that reaches this share of the best rate. Larger batches would only add latency."""

LONG_S = 0.25
"""Seconds of a batch from which no larger one is tried: the start would take long, and short texts would wait."""

QUICK_S = 0.05
"""A batch that takes fewer seconds is timed twice, because a short disturbance of the machine would matter."""

BUDGETS = (128, 256, 512, 1024, 2048, 4096)
"""Batch sizes to try, in tokens."""


@dataclass(frozen=True)
class PrecisionTrial:
    """The result of trying one precision."""

    precision: Precision
    verdict: str
    tokens_per_s: float | None = None
    """Estimated from one layer; None if it was not measured."""
    largest_difference: float | None = None
    """Largest difference of logits from float32 over golden and random texts; None if it was not measured."""


@dataclass(frozen=True)
class BudgetTrial:
    """The rate measured with batches of one size."""

    tokens: int
    tokens_per_s: float


def disagreement(got: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Compare two sets of logits of the same texts.

    Args:
        got: the logits of a lower precision.
        expected: those of float32.

    Returns:
        The largest absolute difference, infinite for NaN, and the number of texts that got another label although the
        two best labels were more than twice the allowed difference apart.
    """
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
) -> tuple[Precision, list[PrecisionTrial]]:
    """Choose the fastest precision that agrees with float32.

    Args:
        candidates: float32 and the lower precisions that the hardware has.
        rate: measures the tokens per second of a precision. A lower precision for which this or `check` raises is
            unavailable.
        check: measures the `disagreement` of a precision with float32.
        unavailable: the precisions that are not tried, each with the reason.

    Returns:
        The choice, and one trial per precision.
    """
    rates = {"float32": rate("float32")}
    trials = [PrecisionTrial(precision, reason) for precision, reason in unavailable.items()]
    lower: list[Precision] = [precision for precision in candidates if precision != "float32"]
    for precision in lower:
        try:
            rates[precision] = rate(precision)
        except Exception as exc:  # whatever the reason, float32 can be served
            trials.append(PrecisionTrial(precision, unavailable_because(exc)))
    chosen: Precision = "float32"
    for precision in sorted((p for p in lower if p in rates), key=lambda p: -rates[p]):
        gain = rates[precision] / rates["float32"]
        if chosen != "float32":
            trials.append(PrecisionTrial(precision, f"slower than {chosen}", rates[precision]))
            continue
        if gain < MIN_GAIN:
            verdict = f"only {gain:.2f} times as fast as float32; {MIN_GAIN} times is required"
            trials.append(PrecisionTrial(precision, verdict, rates[precision]))
            continue
        try:
            largest, changed = check(precision)
        except Exception as exc:
            trials.append(PrecisionTrial(precision, unavailable_because(exc), rates[precision]))
            continue
        if largest <= NEAR and not changed:
            chosen = precision
            verdict = f"chosen: {gain:.2f} times as fast as float32, and agrees with it"
        else:
            verdict = f"too far from float32: {NEAR} is allowed, {changed} labels changed"
        trials.append(PrecisionTrial(precision, verdict, rates[precision], largest))
    verdict = "chosen: nothing faster agrees with it" if chosen == "float32" else f"slower than {chosen}"
    trials.append(PrecisionTrial("float32", verdict, rates["float32"]))
    return chosen, trials


def unavailable_because(problem: Exception) -> str:
    """Return the verdict on a candidate whose trial raised this."""
    return f"unavailable: {first_line(problem)}"


def choose_budget(seconds: Callable[[int], float], budgets: Sequence[int] = BUDGETS) -> tuple[int, list[BudgetTrial]]:
    """Choose the batch size at which throughput levels off.

    Args:
        seconds: measures the seconds of a forward over a number of tokens.
        budgets: batch sizes to try, ascending. The search ends when a batch takes `LONG_S`. It does not end when a
            larger batch gains nothing, because a short disturbance of the machine would end it too early.

    Returns:
        The choice, and what was measured.
    """
    trials: list[BudgetTrial] = []
    for tokens in budgets:
        taken = seconds(tokens)
        trials.append(BudgetTrial(tokens, tokens / taken))
        if taken >= LONG_S:
            break
    best = max(trial.tokens_per_s for trial in trials)
    return next(trial.tokens for trial in trials if trial.tokens_per_s >= ENOUGH * best), trials
