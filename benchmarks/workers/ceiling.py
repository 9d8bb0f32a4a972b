"""What the machine's matrix product alone can do, in GFLOP/s: no forward can be faster."""

import time
from collections.abc import Mapping

import torch

from benchmarks.workers.protocol import parser, serve

SHAPES = ((1024, 768, 3072), (2048, 2048, 2048))
"""Rows, inner, columns: GPT-2 small's widest layer over 1024 tokens, and a larger square one."""

SECONDS = 0.5
"""For each shape and precision; the best call of that time counts."""


def best_gflops(shape: tuple[int, int, int], dtype: torch.dtype, seconds: float) -> float:
    rows, inner, columns = shape
    left, right = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    out = torch.empty(rows, columns, dtype=dtype)
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        torch.mm(left, right, out=out)
        best = min(best, time.perf_counter() - begun)
    return 2 * rows * inner * columns / best / 1e9


def turn(dtypes: list[str]) -> Mapping[str, object]:
    return {
        "gflops": {
            dtype: max(best_gflops(shape, getattr(torch, dtype), SECONDS) for shape in SHAPES) for dtype in dtypes
        }
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--dtypes", nargs="+", default=["float32"])
    parsed = arguments.parse_args()
    torch.set_num_threads(parsed.threads)
    serve(lambda: lambda _word: turn(parsed.dtypes))


if __name__ == "__main__":
    main()
