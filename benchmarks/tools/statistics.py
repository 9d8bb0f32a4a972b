"""Arithmetic on measurements: percentiles, medians of records, arrival times, and the work of a forward."""

import random
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np


def percentile(values: Sequence[float], q: float) -> float:
    """Return the q-th percentile (0..100), interpolated linearly between neighbours; NaN if there are no values."""
    return float(np.percentile(values, q)) if len(values) else float("nan")


def poisson_schedule(rate_per_s: float, seconds: float, seed: int) -> list[float]:
    """Return ascending arrival times in seconds below `seconds`; the gaps are exponential with mean 1 / rate."""
    if rate_per_s <= 0:
        raise ValueError(f"an arrival rate must be above 0, got {rate_per_s}")
    rng = random.Random(seed)
    times = []
    now = rng.expovariate(rate_per_s)
    while now < seconds:
        times.append(now)
        now += rng.expovariate(rate_per_s)
    return times


def medians(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the median of each number of records with the same shape, in nested mappings too; other values are
    left out."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for record in records for key in record):
        values = [record[key] for record in records if record.get(key) is not None]
        if values and all(isinstance(value, Mapping) for value in values):
            merged[key] = medians(values)
        elif values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            merged[key] = median(values)
    return merged


def forward_flops(lengths: Sequence[int], layers: int, width: int) -> float:
    """Return the floating-point operations of one forward over texts of these lengths in tokens.

    Linear layers take 12 * width^2 multiplications and additions per token and layer; attention computes the scores
    and their weighted sum over the tokens before and at each one. Padding and head do not count. A runtime that leaves
    a part out (the last layer for all tokens but the last) is credited with it all the same: it is the task's work.
    """
    linear = 2 * 12 * layers * width**2 * sum(lengths)
    attention = sum(2 * layers * width * tokens * (tokens + 1) for tokens in lengths)
    return float(linear + attention)


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Return indices, longest text first, in batches of at most `budget` tokens; a longer text gets its own batch."""
    batches: list[list[int]] = []
    used = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or used + lengths[i] > budget:
            batches.append([])
            used = 0
        batches[-1].append(i)
        used += lengths[i]
    return batches
