"""This project's forward over packed tokens, `classifier.packed`."""

from pathlib import Path

import torch

from benchmarks.runtimes.worker import Logits, Turn, forward_turn, read_ids
from benchmarks.tools.statistics import token_batches
from classifier import Precision
from classifier.packed import PackedClassifier


def build(artifact: str, ids: str, threads: int, precision: Precision, budget: int = 4096) -> Turn:
    """Return a turn over batches of at most `budget` tokens, as the service makes them; 1: every text alone."""
    torch.set_num_threads(threads)
    texts = read_ids(ids)
    model = PackedClassifier.load(Path(artifact), precision)
    batches = token_batches([len(row) for row in texts], budget)

    def forward() -> Logits:
        rows: Logits = [[]] * len(texts)
        for batch in batches:
            for i, row in zip(batch, model([texts[i] for i in batch]).tolist(), strict=True):
                rows[i] = row
        return rows

    return forward_turn(texts, forward)
