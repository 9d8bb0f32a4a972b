"""What every test gets: a clean environment, a tiny base model, a tiny artifact."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer

from classifier.artifact import Artifact, Golden, Manifest, read_artifact, write_artifact
from classifier.encoding import Encoder, TextCleaning
from classifier.labels import Labels
from classifier.model import GPT2Classifier, load_base
from tests.support.texts import corpus, news_rows
from training.report.golden import GOLDEN_TEXTS
from training.report.predict import predict_logits

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores Ctrl-C for what it runs in the background, and children inherit that: theirs must work.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
LABELS = Labels(("business", "politics", "sport"))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    import os

    for name in list(os.environ):
        if name.startswith(("SERVICE_", "SAGEMAKER_", "SM_")):
            monkeypatch.delenv(name)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 400 tokens, trained on the tests' own sentences."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(corpus(), vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
    bpe.save(str(path))
    return path


@pytest.fixture
def tokenizer(tokenizer_path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tokenizer_path))


@pytest.fixture(scope="session")
def base_model(tokenizer_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 language model's directory: two layers, width 16, random weights with a fixed seed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    directory = tmp_path_factory.mktemp("base")
    config = GPT2Config(vocab_size=400, n_positions=128, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(7)
    GPT2LMHeadModel(config).save_pretrained(directory)
    (directory / "tokenizer.json").write_bytes(tokenizer_path.read_bytes())
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}), encoding="utf-8"
    )
    return directory


@pytest.fixture(scope="session")
def model(base_model: Path) -> GPT2Classifier:
    """A tiny classifier whose weights are large enough that a wrong position moves its logits visibly."""
    torch.manual_seed(11)
    model = load_base(str(base_model), LABELS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0)
    model.eval()
    return model


def artifact_of(model: GPT2Classifier, tokenizer: Tokenizer, directory: Path) -> Artifact:
    """Write `model` as an artifact with true golden logits."""
    encoder = Encoder(tokenizer, TextCleaning(), max_tokens=64, window_stride=48)
    logits = predict_logits(model, encoder, GOLDEN_TEXTS)
    manifest = Manifest(
        name="tiny",
        created="2026-01-01T00:00:00+00:00",
        labels=list(LABELS.names),
        max_tokens=64,
        window_stride=48,
        golden=[Golden(text=t, logits=[float(x) for x in row]) for t, row in zip(GOLDEN_TEXTS, logits, strict=True)],
    )
    return write_artifact(directory, model=model, tokenizer=tokenizer, manifest=manifest, card="# tiny\n")


@pytest.fixture(scope="session")
def artifact(model: GPT2Classifier, tokenizer_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A whole artifact; tests that damage it take `artifact_copy`."""
    return artifact_of(model, Tokenizer.from_file(str(tokenizer_path)), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def artifact_copy(artifact: Artifact, tmp_path: Path) -> Artifact:
    import shutil

    return read_artifact(shutil.copytree(artifact.directory, tmp_path / "copy"))


@pytest.fixture
def news_csv(tmp_path: Path) -> Path:
    """60 short rows of three labels, all different."""
    import csv

    path = tmp_path / "news.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["category", "text"])
        writer.writerows((row["label"], row["text"]) for row in news_rows(60))
    return path


@pytest.fixture
def shared() -> Iterator[Path]:
    """The data directory that stands beside the checkout on machines that have the data."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the data that is not part of the repository (../shared/data)")
    yield SHARED
