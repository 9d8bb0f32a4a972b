"""Measurements of a model on this machine: how many lanes and threads are fastest, which precision is fastest and
agrees with float32, and how large batches should be."""

import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import TracebackType
from typing import TypeVar

import torch

from classifier import Precision
from classifier.artifact import Artifact
from classifier.encoding import EncodedText
from classifier.golden import Forward
from classifier.packed import PackedClassifier
from classifier.products import has_bfloat16
from service.model.autotune import (
    NEAR,
    PRECISIONS,
    QUICK_S,
    BudgetTrial,
    LaneTrial,
    PrecisionTrial,
    choose_budget,
    choose_lanes,
    choose_precision,
)

LAYER_TOKENS = 256
"""Number of tokens of the layer by which precisions are timed."""

BATTERY = 1024
"""Number of short sequences by which precisions are compared."""

BATTERY_TOKENS = 64
"""Number of tokens of the longest. GPT-2 is causal, so the prefixes of one sequence are sequences, too, at no cost."""

PIECE_TOKENS = 8
"""Number of successive tokens that a sequence takes from one golden text before it goes on with another one."""


Item = TypeVar("Item")
Result = TypeVar("Result")


def set_threads(threads: int) -> None:
    """Set the number of threads that the forwards of the calling thread use.

    PyTorch keeps the number for each thread, but a thread that asks for it the first time takes over the number that
    was set last in any thread. MKL keeps one number for the process. So all lanes must have the same number.
    """
    torch.set_num_threads(threads)
    torch.get_num_threads()


class Lanes:
    """Threads that run the model at the same time, as the lanes of the service do. Use it as a context manager.

    Args:
        count: number of lanes.
        threads: number of threads of each lane.
    """

    def __init__(self, count: int, threads: int) -> None:
        self.count = count
        self.threads = threads
        self._pool = ThreadPoolExecutor(count, "measure", initializer=set_threads, initargs=(threads,))

    def map(self, call: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Run `call` for each item, in any lane, and return the results in order."""
        return list(self._pool.map(call, items))

    def run(self, call: Callable[[], Result]) -> list[Result]:
        """Run `call` once in every lane at the same time, and return the results."""
        together = Barrier(self.count)

        def run_one() -> Result:
            together.wait()
            return call()

        return [future.result() for future in [self._pool.submit(run_one) for _ in range(self.count)]]

    def __enter__(self) -> "Lanes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown()


def layer_rate(model: PackedClassifier, lanes: Lanes) -> float:
    """Return the tokens per second of all lanes together, estimated from the first layer."""
    tokens = min(LAYER_TOKENS, model.max_tokens)
    measure = model.layer_timer(tokens)
    return sum(tokens / (model.layers * seconds) for seconds in lanes.run(lambda: measure(5)))


def forward_rate(forward: Forward, tokens: int, lanes: Lanes) -> float:
    """Return the tokens per second of all lanes together, each with one text of `tokens` tokens."""
    lanes.run(lambda: forward([[0]]))  # the warm-up
    started = time.perf_counter()
    lanes.run(lambda: forward([[0] * tokens]))
    return lanes.count * tokens / (time.perf_counter() - started)


def fastest_lanes(
    candidates: Sequence[tuple[int, int]], rate: Callable[[Lanes], float]
) -> tuple[int, int, tuple[LaneTrial, ...]]:
    """Choose lanes and threads; see `choose_lanes`.

    Args:
        candidates: pairs of lanes and threads of each lane.
        rate: measures the tokens per second of all lanes together.
    """

    def rate_of(count: int, threads: int) -> float:
        with Lanes(count, threads) as lanes:
            return rate(lanes)

    return choose_lanes(candidates, rate_of)


def fastest_precision(
    artifact: Artifact, golden: Sequence[EncodedText], device: str, lanes: Lanes
) -> tuple[Sequence[PrecisionTrial], PackedClassifier]:
    """Choose a precision; see `choose_precision`.

    They are compared by the logits of 1,024 sequences of 1 to 64 tokens. Meanwhile float32 passes through memory
    layer by layer, so that checking a lower precision does not cost the memory that the lower precision saves.

    Returns:
        One trial per precision, and the model in the chosen one.
    """
    exact = artifact.packed(device=device, keep=False)
    sequences = _short_sequences(golden, artifact.manifest.max_tokens)
    rounds = [sequences[:2], sequences[2:]]  # a precision that fails the first, small round skips the second
    expected: list[torch.Tensor] = []
    loaded: dict[Precision, PackedClassifier] = {}

    def logits(model: PackedClassifier, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        shares = lanes.map(model.prefix_logits, [texts[first :: lanes.count] for first in range(lanes.count)])
        return torch.cat([logits_tc for share in shares for logits_tc in share])

    def rate(precision: Precision) -> float:
        model = exact if precision == "float32" else artifact.packed(precision, device, keep=False)
        return layer_rate(model, lanes)

    def difference(precision: Precision) -> float:
        loaded.clear()
        model = loaded[precision] = artifact.packed(precision, device)
        largest = 0.0
        for index, texts in enumerate(rounds):
            if index == len(expected):
                expected.append(logits(exact, texts))
            difference = (logits(model, texts) - expected[index]).abs().nan_to_num(nan=math.inf).max()
            largest = max(largest, float(difference))
            if largest > NEAR:
                break
        return largest

    unavailable = unavailable_precisions(device)
    candidates = [precision for precision in PRECISIONS if precision not in unavailable]
    chosen, trials = choose_precision(candidates, rate, difference, unavailable)
    packed = loaded.get(chosen)
    loaded.clear()
    return trials, artifact.packed(chosen, device) if packed is None else packed


def unavailable_precisions(device: str) -> dict[Precision, str]:
    """Return the precisions that this hardware has no instructions for, with the reason."""
    reasons: dict[Precision, str] = {}
    if device == "cuda":
        reasons["int8"] = "runs on CPUs only"
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            reasons["bfloat16"] = "not on this GPU"
        return reasons
    if not has_bfloat16():
        reasons["bfloat16"] = "not on this CPU: it has neither AVX512-BF16 nor AMX"
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        reasons["int8"] = "this build of PyTorch has no oneDNN"
    return reasons


def best_budget(artifact: Artifact, forward: Forward, fixed: int, lanes: Lanes) -> tuple[int, list[BudgetTrial]]:
    """Choose the batch size by `choose_budget`. This is also the warm-up, as the largest batch runs at least once.

    Args:
        artifact: the model's artifact.
        forward: the model's forward.
        fixed: the batch size that a setting gives, in tokens; 0: choose it.
        lanes: run the batches, one in each lane at the same time.
    """
    longest = artifact.manifest.max_tokens
    length = longest if artifact.manifest.head == "flatten" else min(128, longest)

    def seconds(tokens: int) -> float:
        batch = [[0] * length] * max(1, tokens // length)
        times: list[float] = []
        while not times or (len(times) < 2 and times[0] < QUICK_S):
            started = time.perf_counter()
            lanes.run(lambda: forward(batch))
            times.append(time.perf_counter() - started)
        return min(times) * tokens / (length * len(batch))

    if fixed:
        seconds(fixed)
        return fixed, []
    return choose_budget(seconds, lanes.count)


def _short_sequences(golden: Sequence[EncodedText], longest: int) -> list[list[int]]:
    """Return sequences with `BATTERY` prefixes, put together from pieces of golden texts at random.

    Random token ids would not do: they resemble no text, and the logits for them are several times as far apart.
    """
    draw = random.Random(0)
    windows = [window.ids for text in golden for window in text.windows]
    tokens = min(longest, BATTERY_TOKENS)
    sequences = []
    for _ in range(math.ceil(BATTERY / tokens)):
        ids: list[int] = []
        while len(ids) < tokens:
            window = draw.choice(windows)
            start = draw.randrange(max(1, len(window) - PIECE_TOKENS))
            ids += window[start : start + PIECE_TOKENS]
        sequences.append(ids[:tokens])
    return sequences
