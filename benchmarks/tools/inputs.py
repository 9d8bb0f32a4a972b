"""The inputs of the benchmarks: artifacts, which are made once under the work directory, and news articles.

GPT-2 small with random weights is as fast as with trained ones and needs no download. Its matrices are three times as
large as GPT-2's initial ones: with those, all texts have nearly the same logits, and a wrong forward would not show.
"""

import csv
import json
import random
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import GPT2Config

from benchmarks.tools.command_line import DEFAULT_ARTIFACT, GPT2_SMALL, say
from benchmarks.tools.errors import BenchmarkError
from classifier.artifact import MANIFEST, Golden, Manifest, read_artifact
from classifier.artifact_writer import write_artifact
from classifier.encoding import EncodedText, Encoder
from classifier.errors import ClassifierError
from classifier.labels import Labels
from classifier.model import GPT2Classifier
from training.data.bbc import prepare
from training.errors import TrainingError
from training.report.golden import GOLDEN_TEXTS
from training.report.predict import predict_logits

LABELS = Labels(("business", "entertainment", "politics", "sport", "tech"))
SCALE = 3.0


def resolve(options: Namespace) -> Path:
    """Return the directory that `--artifact` means; GPT-2 small is made if it does not exist."""
    if options.artifact == GPT2_SMALL:
        return gpt2_small(options.work)
    directory = Path(options.artifact)
    if not (directory / MANIFEST).is_file():
        raise BenchmarkError(f"--artifact {directory} is not an artifact: it has no {MANIFEST}")
    return directory.absolute()


def gpt2_small(work: Path) -> Path:
    """Return an artifact in the shape of GPT-2 small: random weights (seed 0), up to 1024 tokens.

    Its tokenizer is that of models/default, so that nothing has to be downloaded.
    """
    directory = (work / "artifacts" / GPT2_SMALL).absolute()
    if (directory / MANIFEST).is_file():
        return directory
    say(f"making an artifact in the shape of GPT-2 small (500 MB): {directory}")
    tokenizer = Tokenizer.from_file(str(DEFAULT_ARTIFACT / "tokenizer.json"))
    end = config_of(DEFAULT_ARTIFACT)["pad_token_id"]
    torch.manual_seed(0)
    config = GPT2Config(pad_token_id=end, id2label=LABELS.id2label, label2id=dict(LABELS.label2id))
    config.problem_type = "single_label_classification"
    model = GPT2Classifier(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "wte" not in name and "wpe" not in name:
                parameter.mul_(SCALE)
    manifest = Manifest(
        name=GPT2_SMALL,
        created="2026-01-01T00:00:00+00:00",
        labels=list(LABELS.names),
        max_tokens=1024,
        window_stride=768,
        golden=[Golden(text="replaced below", logits=[0.0] * len(LABELS.names))],
    )
    _write(directory, model, tokenizer, manifest)
    return directory


def truncating(artifact: Path, tokens: int, work: Path) -> Path:
    """Return an artifact of the same model that reads only the first `tokens` tokens of a text, as the other servers
    do."""
    source = read_artifact(artifact)
    directory = (work / "artifacts" / f"{artifact.name}-{source.weights_sha256[:12]}-{tokens}").absolute()
    if (directory / MANIFEST).is_file():
        return directory
    say(f"making an artifact that truncates to {tokens} tokens: {directory}")
    changes = {"max_tokens": tokens, "window_stride": tokens, "on_long": "truncate", "files": {}}
    dtype = getattr(torch, config_of(artifact).get("dtype") or "float32")
    tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
    _write(directory, source.model(), tokenizer, source.manifest.model_copy(update=changes), dtype)
    return directory


def config_of(artifact: Path) -> dict[str, Any]:
    """Return the model's config.json."""
    config: dict[str, Any] = json.loads((artifact / "config.json").read_text(encoding="utf-8"))
    return config


def articles(options: Namespace, count: int, seed: int) -> list[str]:
    """Return a seeded sample of the articles of `--data`, white space collapsed so that all servers read the same."""
    path = options.data or _bbc(options.work)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            texts = [" ".join(row["text"].split()) for row in csv.DictReader(file)]
    except (OSError, KeyError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it has no column text"
        raise BenchmarkError(f"{path}: {reason}; --data names a CSV file with a column text") from exc
    if not texts:
        raise BenchmarkError(f"{path} has no rows; --data names a CSV file with a column text")
    unique = list(dict.fromkeys(texts))
    return random.Random(seed).sample(unique, min(count, len(unique)))


def long_texts(texts: Sequence[str], encoder: Encoder, tokens: int, count: int) -> list[str]:
    """Return texts of just over `tokens` tokens, made of concatenated articles; each begins with another article."""
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


def token_ids(texts: Sequence[str], encoder: Encoder) -> list[list[int]]:
    """Return the ids of each text's first window."""
    ids = []
    for text, result in zip(texts, encoder.encode(texts, "truncate"), strict=True):
        if not isinstance(result, EncodedText):
            raise BenchmarkError(f"a text of {len(text)} characters cannot be encoded: {result}")
        ids.append(list(result.windows[0].ids))
    return ids


def _bbc(work: Path) -> Path:
    """Return the CSV of the BBC archive that `python -m training prepare` writes. It is fetched once."""
    path = work / "bbc.csv"
    if not path.is_file():
        say(f"downloading the BBC archive (3 MB): {path}")
        try:
            prepare(path)
        except TrainingError as exc:
            raise BenchmarkError(f"{exc}; --data FILE takes another CSV file with a column text") from exc
    return path


def _write(
    directory: Path, model: GPT2Classifier, tokenizer: Tokenizer, manifest: Manifest, dtype: torch.dtype = torch.float32
) -> None:
    """Write an artifact with the golden logits that this model gives in float32."""
    encoder = Encoder(tokenizer, manifest.cleaning, manifest.max_tokens, manifest.window_stride, manifest.on_long)
    rows = predict_logits(model, encoder, GOLDEN_TEXTS)
    golden = [Golden(text=t, logits=[float(x) for x in row]) for t, row in zip(GOLDEN_TEXTS, rows, strict=True)]
    try:
        write_artifact(
            directory,
            model=model.to(dtype),
            tokenizer=tokenizer,
            manifest=manifest.model_copy(update={"golden": golden}),
            card=f"# {manifest.name}\n\nMade by benchmarks/tools/inputs.py for measurements.\n",
        )
    except ClassifierError as exc:
        raise BenchmarkError(str(exc)) from exc
