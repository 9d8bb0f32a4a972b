"""What to make of the windows of a long text: accuracy of several ways to combine them.

    python -m benchmarks.windows --seeds OUTPUT --data bbc_original.csv

OUTPUT is what `benchmarks.seeds` wrote: an artifact a seed, each measured on its own test split, texts longer than one
window only, all seeds together.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classifier.artifact import read_artifact
from classifier.decoding import combine_windows, probabilities
from classifier.encoding import EncodedText
from training.data.splits import load_splits

Combine = Callable[[NDArray[np.float64], list[int]], NDArray[np.float64]]
"""Logits (W, C) and tokens of the windows to scores (C,)."""

WAYS: dict[str, Combine] = {
    "mean of logits, weighted by tokens (the service's)": combine_windows,
    "mean of logits": lambda logits, _: logits.mean(0),
    "mean of probabilities": lambda logits, _: probabilities(logits).mean(0),
    "largest probability": lambda logits, _: probabilities(logits).max(0),
    "first window (truncate)": lambda logits, _: logits[0],
    "last window": lambda logits, _: logits[-1],
}


def measure(artifacts: list[tuple[Path, int]], data: Path) -> tuple[int, dict[str, int]]:
    """Long texts, and how many of them each way gets right."""
    texts, right = 0, Counter[str]()
    for directory, seed in artifacts:
        artifact = read_artifact(directory)
        forward = artifact.packed()
        splits, _ = load_splits(data, val_fraction=0.1, test_fraction=0.1, seed=seed)
        encoded = artifact.encoder().encode([example.text for example in splits.test], "windows")
        for example, text in zip(splits.test, encoded, strict=True):
            if not isinstance(text, EncodedText) or len(text.windows) == 1:
                continue
            texts += 1
            logits = forward([window.ids for window in text.windows]).double().numpy()
            tokens = [len(window.ids) for window in text.windows]
            for way, combine in WAYS.items():
                right[way] += artifact.labels.names[int(np.argmax(combine(logits, tokens)))] == example.label
    return texts, dict(right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parsed = parser.parse_args()
    found = sorted(path for path in parsed.seeds.iterdir() if path.name.isdigit() and path.is_dir())
    texts, right = measure([(path, int(path.name)) for path in found], parsed.data)
    print(f"{texts} texts of {len(found)} test splits\n\n| windows combined by | right |\n| --- | --- |")
    for way, count in right.items():
        print(f"| {way} | {100 * count / texts:.2f} % |")


if __name__ == "__main__":
    main()
