"""Small arithmetic on measurements: percentiles, medians of records, arrivals, and the work of a forward."""

import random
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile (0..100) by linear interpolation between neighbours; NaN of nothing."""
    if not values:
        return float("nan")
    if not 0 <= q <= 100:
        raise ValueError(f"a percentile lies between 0 and 100, got {q}")
    ordered = sorted(values)
    place = (len(ordered) - 1) * q / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def poisson_schedule(rate_per_s: float, seconds: float, seed: int) -> list[float]:
    """Arrival times in seconds from 0, ascending, below `seconds`: gaps are exponential with mean 1 / rate."""
    if rate_per_s <= 0:
        raise ValueError(f"an arrival rate is above 0, got {rate_per_s}")
    rng = random.Random(seed)
    times = []
    now = rng.expovariate(rate_per_s)
    while now < seconds:
        times.append(now)
        now += rng.expovariate(rate_per_s)
    return times


def medians(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of records with the same shape: each number's median; counts in nested mappings too. What is no number is left
    out."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for record in records for key in record):
        values = [record[key] for record in records if record.get(key) is not None]
        if values and all(isinstance(value, Mapping) for value in values):
            merged[key] = medians(values)
        elif values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            merged[key] = median(values)
    return merged


def forward_flops(lengths: Sequence[int], layers: int, width: int) -> float:
    """Floating-point operations of one forward over texts of so many tokens, padding and head not counted.

    Linear layers: 12 * width^2 multiplications and additions a token and layer. Attention: scores and their weighted
    sum over the tokens before and at each one. Whoever leaves some of that out (the last layer of all tokens but the
    last) is credited with it all the same: it is the work of the task.
    """
    linear = 2 * 12 * layers * width**2 * sum(lengths)
    attention = sum(2 * layers * width * tokens * (tokens + 1) for tokens in lengths)
    return float(linear + attention)


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices, longest first, in batches of at most `budget` tokens without padding; a longer one goes alone."""
    batches: list[list[int]] = []
    used = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or used + lengths[i] > budget:
            batches.append([])
            used = 0
        batches[-1].append(i)
        used += lengths[i]
    return batches
