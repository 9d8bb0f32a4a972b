"""A GPT-2 of two layers and width 16, as a base model, a classifier and an artifact."""

import json
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from classifier.artifact import Artifact, Golden, Manifest
from classifier.artifact_writer import write_artifact
from classifier.encoding import Encoder, TextCleaning
from classifier.labels import Labels
from classifier.model import GPT2Classifier, load_base
from tests.support import texts
from training.report.golden import GOLDEN_TEXTS
from training.report.predict import predict_logits

LABELS = Labels(texts.LABELS)
VOCABULARY = 400


def write_tokenizer(path: Path) -> None:
    """Train a byte-level BPE of 400 tokens on the tests' own sentences."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        texts.corpus(), vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], show_progress=False
    )
    bpe.save(str(path))


def write_base_model(directory: Path, tokenizer: Path) -> None:
    """Write a language model with random weights and a fixed seed."""
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=128, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(7)
    GPT2LMHeadModel(config).save_pretrained(directory)
    (directory / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}), encoding="utf-8"
    )


def tiny_classifier(base_model: Path) -> GPT2Classifier:
    """Return a classifier whose weights are large enough that a wrong position moves its logits visibly."""
    torch.manual_seed(11)
    model = load_base(str(base_model), LABELS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0)
    model.eval()
    return model


def artifact_of(model: GPT2Classifier, tokenizer: Tokenizer, directory: Path) -> Artifact:
    """Write a model as an artifact whose golden logits are the model's own."""
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
