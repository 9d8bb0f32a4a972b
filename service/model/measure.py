"""Measurements of a model on this machine: which precision is fastest and agrees with float32, and how large batches
should be."""

import random
import time
from collections.abc import Sequence

import torch

from classifier import Precision
from classifier.artifact import Artifact
from classifier.encoding import EncodedText
from classifier.golden import SHORT_TOKENS, Forward
from classifier.packed import PackedClassifier
from service.model.autotune import (
    NEAR,
    PRECISIONS,
    QUICK_S,
    BudgetTrial,
    PrecisionTrial,
    choose_budget,
    choose_precision,
    disagreement,
)

LAYER_TOKENS = 512
"""Number of tokens of the layer by which precisions are timed."""

LONG_TOKENS = 256
"""Golden texts above this length are not used to compare precisions."""


def fastest_precision(
    artifact: Artifact, golden: Sequence[EncodedText], device: str
) -> tuple[Sequence[PrecisionTrial], PackedClassifier]:
    """Choose a precision; see `choose_precision`.

    While others are tried, float32 passes through memory layer by layer, so that checking a lower precision does not
    cost the memory that the lower precision saves.

    Returns:
        One trial per precision, and the model in the chosen one.
    """
    exact = artifact.packed(device=device, keep=False)
    windows = [window.ids for text in golden for window in text.windows if len(window.ids) <= LONG_TOKENS]
    drawn = _random_texts(exact.vocabulary, min(artifact.manifest.max_tokens, SHORT_TOKENS))
    tokens = min(LAYER_TOKENS, exact.max_tokens)
    short = [ids for ids in windows if len(ids) <= SHORT_TOKENS]
    long = [ids for ids in windows if len(ids) > SHORT_TOKENS]
    rounds = [texts for texts in (drawn, short, long) if texts]  # a precision that fails one round skips the next ones
    expected: list[list[list[float]]] = []
    loaded: dict[Precision, PackedClassifier] = {}

    def rate(precision: Precision) -> float:
        model = exact if precision == "float32" else artifact.packed(precision, device, keep=False)
        return tokens / (exact.layers * model.layer_seconds(tokens, rounds=3))

    def check(precision: Precision) -> tuple[float, int]:
        loaded.clear()
        model = artifact.packed(precision, device, keep=False)  # all layers come into memory only after the first round
        largest, changed = 0.0, 0
        for index, texts in enumerate(rounds):
            if index == len(expected):
                expected.append(exact(texts).tolist())
            if index:
                model = loaded[precision] = artifact.packed(precision, device)
            difference, flips = disagreement(model(texts).tolist(), expected[index])
            largest, changed = max(largest, difference), changed + flips
            if not largest <= NEAR or changed:
                break
        return largest, changed

    unavailable = unavailable_precisions(device)
    candidates = [precision for precision in PRECISIONS if precision not in unavailable]
    chosen, trials = choose_precision(candidates, rate, check, unavailable)
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
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        reasons["bfloat16"] = "not on this CPU: it has neither AVX512-BF16 nor AMX"
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        reasons["int8"] = "this build of PyTorch has no oneDNN"
    return reasons


def best_budget(artifact: Artifact, forward: Forward, fixed: int) -> tuple[int, list[BudgetTrial]]:
    """Choose the batch size by `choose_budget`. This is also the warm-up, as the largest batch runs at least once.

    Args:
        artifact: the model's artifact.
        forward: the model's forward.
        fixed: the batch size that a setting gives, in tokens; 0: choose it.
    """
    longest = artifact.manifest.max_tokens
    length = longest if artifact.manifest.head == "flatten" else min(128, longest)

    def seconds(tokens: int) -> float:
        batch = [[0] * length] * max(1, tokens // length)
        times: list[float] = []
        while not times or (len(times) < 2 and times[0] < QUICK_S):
            started = time.perf_counter()
            forward(batch)
            times.append(time.perf_counter() - started)
        return min(times) * tokens / (length * len(batch))

    if fixed:
        seconds(fixed)
        return fixed, []
    return choose_budget(seconds)


def _random_texts(vocabulary: int, longest: int) -> list[tuple[int, ...]]:
    """Return sequences of random token ids with lengths 1, 2, 3, 5, 8 and so on; they resemble no golden text."""
    draw = random.Random(0)
    lengths = [1, 2]
    while lengths[-1] + lengths[-2] <= longest:
        lengths.append(lengths[-1] + lengths[-2])
    return [tuple(draw.randrange(vocabulary) for _ in range(length)) for length in lengths]
