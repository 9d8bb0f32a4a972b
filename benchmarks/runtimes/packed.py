"""This project's forward over packed tokens, `classifier.packed`, in lanes as the service runs it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.runtimes.worker import Logits, Turn, forward_turn, read_ids
from benchmarks.tools.statistics import token_batches
from classifier import Precision
from classifier.packed import PackedClassifier
from service.model.measure import set_threads


def build(artifact: str, ids: str, threads: int, precision: Precision, lanes: int = 1, budget: int = 512) -> Turn:
    """Return a turn over batches of at most `budget` tokens, as the service makes them; 1: every text alone."""
    set_threads(threads // lanes)
    texts = read_ids(ids)
    model = PackedClassifier.load(Path(artifact), precision)
    batches = token_batches([len(row) for row in texts], budget)
    pool = ThreadPoolExecutor(lanes, initializer=set_threads, initargs=(threads // lanes,))

    def forward() -> Logits:
        rows: Logits = [[]] * len(texts)
        answers = pool.map(lambda batch: model([texts[i] for i in batch]).tolist(), batches)
        for batch, logits in zip(batches, answers, strict=True):
            for i, row in zip(batch, logits, strict=True):
                rows[i] = row
        return rows

    return forward_turn(texts, forward)
