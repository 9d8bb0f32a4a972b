"""Equality of logits: the largest differences by padding, other texts in the batch, and precision, over many texts.

    python -m benchmarks.equality --artifact models/default --texts 1000

The texts are random ids, so that every token of the vocabulary may be at any place, even the one used as padding. With
`--data FILE` they are the texts of a labelled file, cut to the tokens that the model reads at once.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from classifier.artifact import Artifact, read_artifact
from classifier.encoding import EncodedText, Side, pad
from classifier.model import infer
from service.model.autotune import NEAR, PRECISIONS
from training.data.read import read_examples

FLOAT32_TOLERANCE = 1e-4

Ids = Sequence[Sequence[int]]


def sequences_of(artifact: Artifact, texts: int, data: str | None, seed: int) -> Ids:
    """Return token ids of texts, from a file or at random."""
    rng = np.random.default_rng(seed)
    if data is None:
        lengths = rng.integers(1, artifact.manifest.max_tokens + 1, texts)
        vocabulary = artifact.packed(keep=False).vocabulary
        return [rng.integers(0, vocabulary, n).tolist() for n in lengths]
    examples = read_examples(Path(data))
    chosen = rng.permutation(len(examples))[:texts]
    encoded = artifact.encoder().encode([examples[i].text for i in chosen], "truncate")
    return [text.windows[0].ids for text in encoded if isinstance(text, EncodedText)]


def in_batches(forward: Callable[[Ids], torch.Tensor], sequences: Ids, size: int) -> torch.Tensor:
    """Return logits (N, C) of a forward that gets `size` texts at a time."""
    return torch.cat([forward(sequences[i : i + size]) for i in range(0, len(sequences), size)])


def differences(artifact: Artifact, sequences: Ids, batch_size: int) -> dict[str, dict[str, float]]:
    """Return for each way to compute the logits how they differ from those of each text alone in the float32 reference.

    The figures are the largest absolute difference, the number of texts with another label, and the number of those
    that rounding does not explain: the reference's best two labels are further apart than twice the tolerance.
    """
    model = artifact.model()
    pad_id: int = model.config.pad_token_id

    def padded(side: Side) -> Callable[[Ids], torch.Tensor]:
        return lambda ids: infer(model, pad(ids, pad_id, side))

    alone = in_batches(padded("left"), sequences, 1)
    top = alone.topk(2, dim=1).values
    margin = top[:, 0] - top[:, 1]
    ways: dict[str, tuple[Callable[[], Callable[[Ids], torch.Tensor]], float]] = {
        "reference, padded left": (lambda: padded("left"), FLOAT32_TOLERANCE),
        "reference, padded right": (lambda: padded("right"), FLOAT32_TOLERANCE),
    }
    for precision in PRECISIONS:
        tolerance = FLOAT32_TOLERANCE if precision == "float32" else NEAR
        ways[f"packed {precision}"] = (lambda precision=precision: artifact.packed(precision), tolerance)  # type: ignore[misc]
    figures = {}
    for name, (make, tolerance) in ways.items():
        got = in_batches(make(), sequences, batch_size)
        other = got.argmax(1) != alone.argmax(1)
        figures[name] = {
            "largest": float((got - alone).abs().max()),
            "allowed": tolerance,
            "flips": int(other.sum()),
            "flips_outside_margin": int((other & (margin > 2 * tolerance)).sum()),
        }
    return figures


def main() -> None:
    """Print the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, default=Path("models/default"))
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--data", help="a labelled file; default: random ids")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    artifact = read_artifact(parsed.artifact)
    sequences = sequences_of(artifact, parsed.texts, parsed.data, parsed.seed)
    print(f"texts={len(sequences)}; tokens={sum(map(len, sequences))}; batch_size={parsed.batch_size};")
    for name, figures in differences(artifact, sequences, parsed.batch_size).items():
        print(f"{name}: " + " ".join(f"{key}={value:.3g};" for key, value in figures.items()))


if __name__ == "__main__":
    main()
