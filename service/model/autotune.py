"""Decisions made at start by measuring: lanes and threads, the precision of the forward, and the tokens of a batch.

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

LONG_S = 0.15
"""Seconds of a batch from which no larger one is tried: the start would take long, and short texts would wait."""

QUICK_S = 0.05
"""A batch that takes fewer seconds is timed twice, because a short disturbance of the machine would matter."""

MAX_LANES = 16
"""Largest number of lanes. More of them would wait for Python's interpreter lock most of the time."""

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
    """Largest difference of logits from float32 over short sequences; None if it was not measured."""


@dataclass(frozen=True)
class LaneTrial:
    """The rate measured with one arrangement of lanes and threads."""

    lanes: int
    threads: int
    """Number of threads of each lane."""
    tokens_per_s: float
    """Of all lanes together, in float32, estimated from one layer."""


@dataclass(frozen=True)
class BudgetTrial:
    """The rate measured with batches of one size, one in each lane at the same time."""

    tokens: int
    tokens_per_s: float
    """Of all lanes together."""


def arrangements(cpus: int, lanes: int = 0, threads: int = 0) -> list[tuple[int, int]]:
    """Return the arrangements (lanes, threads of each lane) to try on a machine.

    Args:
        cpus: number of CPUs.
        lanes: the number that a setting fixes, or 0.
        threads: the number that a setting fixes, or 0.
    """
    if lanes or threads:
        return [(lanes or max(1, min(cpus // threads, MAX_LANES)), threads or max(1, cpus // lanes))]
    counts = [2**power for power in range(cpus.bit_length()) if 2**power < min(cpus, MAX_LANES)]
    return [(count, cpus // count) for count in [*counts, min(cpus, MAX_LANES)]]


def choose_lanes(
    candidates: Sequence[tuple[int, int]], rate: Callable[[int, int], float]
) -> tuple[int, int, tuple[LaneTrial, ...]]:
    """Choose the fastest arrangement.

    Args:
        candidates: pairs of lanes and threads of each lane, in ascending order of lanes.
        rate: measures the tokens per second of an arrangement.

    Returns:
        Lanes, threads of each lane, and one trial per candidate; no trial if there is only one candidate.
    """
    if len(candidates) == 1:
        return *candidates[0], ()
    trials = tuple(LaneTrial(lanes, threads, rate(lanes, threads)) for lanes, threads in candidates)
    best = max(trials, key=lambda trial: trial.tokens_per_s)
    return best.lanes, best.threads, trials


def choose_precision(
    candidates: Sequence[Precision],
    rate: Callable[[Precision], float],
    difference: Callable[[Precision], float],
    unavailable: Mapping[Precision, str],
) -> tuple[Precision, list[PrecisionTrial]]:
    """Choose the fastest precision that agrees with float32.

    Args:
        candidates: float32 and the lower precisions that the hardware has.
        rate: measures the tokens per second of a precision. A lower precision for which this or `difference` raises
            is unavailable.
        difference: measures the largest difference of a precision's logits from those of float32. At most `NEAR` means
            that no label changes unless the two best logits are closer than twice as much.
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
            largest = difference(precision)
        except Exception as exc:
            trials.append(PrecisionTrial(precision, unavailable_because(exc), rates[precision]))
            continue
        if largest <= NEAR:
            chosen = precision
            verdict = f"chosen: {gain:.2f} times as fast as float32, and agrees with it"
        else:
            verdict = f"too far from float32: {NEAR} is allowed"
        trials.append(PrecisionTrial(precision, verdict, rates[precision], largest))
    verdict = "chosen: nothing faster agrees with it" if chosen == "float32" else f"slower than {chosen}"
    trials.append(PrecisionTrial("float32", verdict, rates["float32"]))
    return chosen, trials


def unavailable_because(problem: Exception) -> str:
    """Return the verdict on a candidate whose trial raised this."""
    return f"unavailable: {first_line(problem)}"


def choose_budget(
    seconds: Callable[[int], float], lanes: int = 1, budgets: Sequence[int] = BUDGETS
) -> tuple[int, list[BudgetTrial]]:
    """Choose the batch size at which throughput levels off.

    Args:
        seconds: measures the seconds of a batch with a number of tokens in each lane at the same time.
        lanes: the number of lanes.
        budgets: batch sizes to try, ascending. The search ends when a batch takes `LONG_S`. It does not end when a
            larger batch gains nothing, because a short disturbance of the machine would end it too early.

    Returns:
        The choice, and what was measured.
    """
    trials: list[BudgetTrial] = []
    for tokens in budgets:
        taken = seconds(tokens)
        trials.append(BudgetTrial(tokens, lanes * tokens / taken))
        if taken >= LONG_S:
            break
    best = max(trial.tokens_per_s for trial in trials)
    return next(trial.tokens for trial in trials if trial.tokens_per_s >= ENOUGH * best), trials
