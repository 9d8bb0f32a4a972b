"""What is measured: artifacts, made once under the work directory, and BBC articles.

    python -m benchmarks.artifacts --work .bench

GPT-2 small with random weights is as fast as with trained ones, and needs no download. Its matrices are three times as
large as GPT-2's first ones: with those, all texts have nearly the same logits, and a wrong forward would not show.
"""

import csv
import json
import random
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GPT2Config

from benchmarks.errors import BenchmarkError
from benchmarks.options import GPT2_SMALL, parser, run, say
from classifier.artifact import MANIFEST, Artifact, Golden, Manifest, read_artifact, write_artifact
from classifier.encoding import EncodedText, Encoder, OnLong
from classifier.errors import ClassifierError
from classifier.labels import Labels
from classifier.model import GPT2Classifier, load_base_tokenizer
from training.report.golden import GOLDEN_TEXTS
from training.report.predict import predict_logits

LABELS = Labels(("business", "entertainment", "politics", "sport", "tech"))
END_OF_TEXT = 50256
LARGER = 3.0


@dataclass(frozen=True)
class Shape:
    """What the work of a forward follows from."""

    layers: int
    width: int
    parameters: int


def resolve(artifact: str, options: Namespace) -> Path:
    """The directory that `--artifact` means; GPT-2 small is made if it is not there."""
    if artifact == GPT2_SMALL:
        return gpt2_small(options.work, options.tokenizer)
    directory = Path(artifact)
    if not (directory / MANIFEST).is_file():
        raise BenchmarkError(f"{directory} is no artifact: it has no {MANIFEST}")
    return directory.absolute()


def gpt2_small(work: Path, tokenizer: Path) -> Path:
    """An artifact of GPT-2 small's shape, random weights (seed 0), GPT-2's tokenizer, up to 1024 tokens."""
    directory = (work / "artifacts" / GPT2_SMALL).absolute()
    if (directory / MANIFEST).is_file():
        return directory
    if not (tokenizer / "vocab.json").is_file():
        raise BenchmarkError(
            f"{tokenizer}/vocab.json: no such file; --tokenizer names GPT-2's vocab.json and merges.txt"
        )
    say(f"making an artifact of GPT-2 small's shape: {directory}")
    torch.manual_seed(0)
    config = GPT2Config(pad_token_id=END_OF_TEXT, id2label=LABELS.id2label, label2id=dict(LABELS.label2id))
    config.problem_type = "single_label_classification"
    model = GPT2Classifier(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "wte" not in name and "wpe" not in name:
                parameter.mul_(LARGER)
    manifest = Manifest(
        name=GPT2_SMALL,
        created="2026-01-01T00:00:00+00:00",
        labels=list(LABELS.names),
        max_tokens=1024,
        window_stride=768,
        golden=[Golden(text="to be replaced", logits=[0.0] * len(LABELS.names))],
    )
    _write(directory, model, load_base_tokenizer(str(tokenizer)), manifest)
    return directory


def truncating(artifact: Path, tokens: int, work: Path) -> Path:
    """The same model reading only the first `tokens` tokens of any text; what servers that truncate are compared
    with."""
    source = read_artifact(artifact)
    directory = (work / "artifacts" / f"{artifact.name}-{source.weights_sha256[:12]}-{tokens}").absolute()
    if (directory / MANIFEST).is_file():
        return directory
    say(f"making an artifact that truncates to {tokens} tokens: {directory}")
    on_long: OnLong = "truncate"
    manifest = source.manifest.model_copy(
        update={"max_tokens": tokens, "window_stride": tokens, "on_long": on_long, "files": {}}
    )
    _write(directory, source.model(), Tokenizer.from_file(str(artifact / "tokenizer.json")), manifest, _dtype(source))
    return directory


def shape_of(artifact: Path) -> Shape:
    """From config.json and the weights' size."""
    config = json.loads((artifact / "config.json").read_text(encoding="utf-8"))
    layers, width = config["n_layer"], config["n_embd"]
    inner = 12 * layers * width**2
    return Shape(layers, width, inner + width * (config["vocab_size"] + config["n_positions"]))


def articles(path: Path, count: int, seed: int) -> list[str]:
    """A seeded sample of BBC articles, white space collapsed, so that every server reads the same characters."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            texts = [" ".join(row["text"].split()) for row in csv.DictReader(file)]
    except OSError as exc:
        raise BenchmarkError(f"{path}: {exc.strerror}; --data names a CSV file with a column text") from exc
    except KeyError as exc:
        raise BenchmarkError(f"{path} has no column {exc}; --data names a CSV file with a column text") from exc
    if not texts:
        raise BenchmarkError(f"{path} has no rows")
    unique = list(dict.fromkeys(texts))
    return random.Random(seed).sample(unique, min(count, len(unique)))


def long_texts(texts: Sequence[str], encoder: Encoder, tokens: int, count: int) -> list[str]:
    """Texts of just over `tokens` tokens, made of articles end to end; each begins with another article."""
    made = []
    for first in range(count):
        parts: list[str] = []
        have = 0
        while have <= tokens:
            text = texts[(first + len(parts)) % len(texts)]
            parts.append(text)
            have += len(token_ids([text], encoder)[0])
        made.append(" ".join(parts))
    return made


def token_ids(texts: Sequence[str], encoder: Encoder, limit: int | None = None) -> list[list[int]]:
    """Ids of each text's first `limit` tokens; of all that one window holds if None."""
    ids = []
    for text, result in zip(texts, encoder.encode(texts, "truncate"), strict=True):
        if not isinstance(result, EncodedText):
            raise BenchmarkError(f"a text of {len(text)} characters cannot be encoded: {result}")
        ids.append(list(result.windows[0].ids[:limit]))
    return ids


def _dtype(artifact: Artifact) -> torch.dtype:
    config = json.loads((artifact.directory / "config.json").read_text(encoding="utf-8"))
    return getattr(torch, config.get("dtype") or "float32")  # type: ignore[no-any-return]


def _write(
    directory: Path, model: GPT2Classifier, tokenizer: Tokenizer, manifest: Manifest, dtype: torch.dtype = torch.float32
) -> None:
    """With the golden logits that this model truly gives in float32."""
    encoder = Encoder(tokenizer, manifest.cleaning, manifest.max_tokens, manifest.window_stride, manifest.on_long)
    rows = predict_logits(model, encoder, GOLDEN_TEXTS)
    golden = [Golden(text=t, logits=[float(x) for x in row]) for t, row in zip(GOLDEN_TEXTS, rows, strict=True)]
    try:
        write_artifact(
            directory,
            model=model.to(dtype),
            tokenizer=tokenizer,
            manifest=manifest.model_copy(update={"golden": golden}),
            card=f"# {manifest.name}\n\nMade by benchmarks/artifacts.py for measurements.\n",
        )
    except ClassifierError as exc:
        raise BenchmarkError(str(exc)) from exc


def main() -> None:
    options = parser(__doc__).parse_args()
    directory = resolve(options.artifact, options)
    for path in (directory, truncating(directory, 128, options.work)):
        print(path)
        spread = torch.tensor([golden.logits for golden in read_artifact(path).manifest.golden])
        print(f"logits of the golden texts: from {spread.min():.2f} to {spread.max():.2f}; ", end="")
        print(f"labels {spread.argmax(1).tolist()}; least spread of a label's {spread.std(0).min():.3f}")


if __name__ == "__main__":
    run(main)
