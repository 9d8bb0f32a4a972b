"""How far logits move with padding, side and neighbours: the largest differences over random texts.

    python -m benchmarks.equality --artifact models/default --texts 200

Random ids rather than words: every token of the vocabulary, the padding's id among them, at any place.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from classifier.artifact import read_artifact
from classifier.encoding import pad
from classifier.model import infer


def largest_differences(artifact: Path, texts: int, batch_size: int, seed: int) -> dict[str, float]:
    """Largest absolute logit difference of left- and right-padded batches from each text alone, float32.

    Also the smallest margin between the two best labels and how many labels flipped.
    """
    loaded = read_artifact(artifact)
    model = loaded.model()
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, loaded.manifest.max_tokens + 1, texts)
    sequences = [rng.integers(0, model.config.vocab_size, n).tolist() for n in lengths]
    pad_id = model.config.pad_token_id
    alone = torch.cat([infer(model, pad([ids], pad_id)) for ids in sequences])
    figures: dict[str, float] = {"texts": texts, "batch_size": batch_size}
    for side in ("left", "right"):
        together = torch.cat(
            [
                infer(model, pad(sequences[i : i + batch_size], pad_id, side))  # type: ignore[arg-type]
                for i in range(0, texts, batch_size)
            ]
        )
        figures[f"{side}_padded"] = float((together - alone).abs().max())
        figures[f"{side}_flips"] = int((together.argmax(1) != alone.argmax(1)).sum())
    top = alone.topk(2, dim=1).values
    figures["smallest_margin"] = float((top[:, 0] - top[:, 1]).min())
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, default=Path("models/default"))
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    for key, value in largest_differences(parsed.artifact, parsed.texts, parsed.batch_size, parsed.seed).items():
        print(f"{key}={value:.3g};")


if __name__ == "__main__":
    main()
