"""The machine's matrix product alone, in GFLOP/s: the ceiling that no forward exceeds."""

import time
from collections.abc import Sequence

import torch

from benchmarks.runtimes.worker import Turn

SHAPES = ((1024, 768, 3072), (2048, 2048, 2048))
"""Rows, inner, columns: GPT-2 small's widest layer over 1024 tokens, and a larger square one."""

SECONDS = 0.5
"""Seconds of measuring for each shape and precision; the fastest product in that time counts."""


def best_gflops(shape: tuple[int, int, int], dtype: torch.dtype) -> float:
    """Return the rate of the fastest product."""
    rows, inner, columns = shape
    left, right = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    out = torch.empty(rows, columns, dtype=dtype)
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        begun = time.perf_counter()
        torch.mm(left, right, out=out)
        best = min(best, time.perf_counter() - begun)
    return 2 * rows * inner * columns / best / 1e9


def build(threads: int, dtypes: Sequence[str], **_: object) -> Turn:
    """Return a turn that measures the product in each of the precisions."""
    torch.set_num_threads(threads)
    return lambda _word: {
        "gflops": {dtype: max(best_gflops(shape, getattr(torch, dtype)) for shape in SHAPES) for dtype in dtypes}
    }
