"""This project's own forward over packed tokens: `classifier.packed`."""

from pathlib import Path

import torch

from benchmarks.figures import token_batches
from benchmarks.workers.protocol import Logits, Turn, forward_turn, parser, read_ids, serve
from classifier.packed import PackedClassifier


def build(artifact: Path, ids: list[list[int]], precision: str, budget: int) -> Turn:
    """Batches of at most `budget` tokens, as the service makes them; 1: every text alone."""
    model = PackedClassifier.load(artifact, precision)  # type: ignore[arg-type]
    batches = token_batches([len(row) for row in ids], budget)

    def forward() -> Logits:
        rows: Logits = [[]] * len(ids)
        for batch in batches:
            for i, row in zip(batch, model([ids[i] for i in batch]).tolist(), strict=True):
                rows[i] = row
        return rows

    return forward_turn(ids, forward)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--precision", default="float32")
    arguments.add_argument("--budget", type=int, default=4096, help="tokens a batch")
    parsed = arguments.parse_args()
    torch.set_num_threads(parsed.threads)
    serve(lambda: build(parsed.artifact, read_ids(parsed.ids), parsed.precision, parsed.budget))


if __name__ == "__main__":
    main()
