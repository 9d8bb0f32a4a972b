"""One training run, from files to artifact: the whole path in the order in which it happens."""

import datetime
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from classifier.artifact import Artifact, Calibration, Golden, Manifest, check_writable_target, write_artifact
from classifier.decoding import probabilities
from classifier.encoding import EncodedText, Encoder, TextCleaning
from classifier.labels import Labels
from classifier.model import GPT2Classifier, load_base, load_base_tokenizer
from training import metrics
from training.baseline import baseline_predictions, fit_baseline
from training.card import model_card
from training.config import TrainConfig
from training.data import Columns, Example, fingerprint
from training.errors import ConfigError, DataError, Problem
from training.golden import GOLDEN_TEXTS
from training.predict import predict_logits
from training.splits import Splits, load_splits, refuse_leaks
from training.trainer import fine_tune

NOT_RECORDED = frozenset({"data", "output", "overwrite", "base_model"})
"""Settings that name places on the trainer's machine; base_model and data are recorded by name only."""

WHOLE_TEXT = 1 << 40
"""More tokens than any text has: one window holds all of it, and training takes its rows from there."""


def run(config: TrainConfig) -> Artifact:
    """Train, measure, write.

    Everything that can be refused is refused before the first step: the output's place, the data, the base model.

    Raises:
        TrainingError, ClassifierError: with a message for the person who started the run.
    """
    started = time.monotonic()
    if not config.data or not config.output:
        raise ConfigError("both data and output must be given (--data, --output)")
    check_writable_target(Path(config.output), overwrite=config.overwrite)
    splits = _load(config)
    transformers.set_seed(config.seed)
    model = load_base(config.base_model, splits.labels)
    _check_sizes(config, model)
    cleaning = TextCleaning(lowercase=config.lowercase)
    tokenizer = load_base_tokenizer(config.base_model)
    encoder = Encoder(tokenizer, cleaning, config.max_seq_len, config.resolved_stride())
    whole = Encoder(tokenizer, cleaning, WHOLE_TEXT, WHOLE_TEXT)
    encoded = {part: _encode(whole, part, examples) for part, examples in splits.items()}
    ids = {part: [splits.labels.id_of(e.label) for e in examples] for part, examples in splits.items()}
    sequences = {part: [text.windows[0].ids for text in texts] for part, texts in encoded.items()}
    log = fine_tune(model, config, (sequences["train"], ids["train"]), (sequences["val"], ids["val"]))

    # From here on the weights are what the artifact stores: rounded once, before anything is measured.
    stored = model.to(getattr(torch, config.weights_dtype))
    model = stored.float()
    texts = {part: [e.text for e in examples] for part, examples in splits.items()}
    val_logits = predict_logits(model, encoder, texts["val"])
    temperature = metrics.fit_temperature(val_logits, ids["val"])
    val_probs = probabilities(val_logits, temperature)
    unsure_below = metrics.unsure_threshold(val_probs, ids["val"], config.unsure_error)
    test_logits = predict_logits(model, encoder, texts["test"])
    measured = _measure(test_logits, ids["test"], splits.labels, temperature, unsure_below)
    if config.baseline:
        measured["baseline"] = _baseline(texts, ids, splits.labels)
    golden_logits = predict_logits(model, encoder, GOLDEN_TEXTS)
    manifest = Manifest(
        name=config.name or Path(config.output).name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        labels=list(splits.labels.names),
        max_tokens=config.max_seq_len,
        window_stride=config.resolved_stride(),
        cleaning=cleaning,
        calibration=Calibration(temperature=temperature),
        unsure_below=unsure_below,
        golden=[
            Golden(text=t, logits=[float(x) for x in row]) for t, row in zip(GOLDEN_TEXTS, golden_logits, strict=True)
        ],
        metrics=measured,
        provenance=_provenance(config, splits, model, log, time.monotonic() - started),
        reference=_reference(test_logits, temperature, encoded["test"], splits.labels),
    )
    return write_artifact(
        Path(config.output),
        model=model.to(getattr(torch, config.weights_dtype)),
        tokenizer=tokenizer,
        manifest=manifest,
        card=model_card(manifest),
        overwrite=config.overwrite,
    )


def _load(config: TrainConfig) -> Splits:
    columns = Columns(
        config.text_column, config.label_column, config.title_column, config.group_column, config.use_title
    )
    splits, leaks = load_splits(
        Path(config.data),
        columns,
        encoding=config.encoding,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        seed=config.seed,
    )
    if leaks and config.allow_leaks:
        for leak in leaks:
            sys.stderr.write(f"warning: {leak}\n")
    else:
        refuse_leaks(leaks)
    return splits


def _check_sizes(config: TrainConfig, model: GPT2Classifier) -> None:
    if config.hidden_size and config.hidden_size != model.config.n_embd:
        raise ConfigError(
            f"hidden-size is {config.hidden_size}, but base model {config.base_model!r} is "
            f"{model.config.n_embd} wide; leave hidden-size out to take the base's"
        )
    if config.max_seq_len > model.config.n_positions:
        raise ConfigError(
            f"max-seq-len is {config.max_seq_len}, but base model {config.base_model!r} has "
            f"{model.config.n_positions} positions"
        )


def _encode(encoder: Encoder, part: str, examples: Sequence[Example]) -> list[EncodedText]:
    """The examples' tokens; texts that clean-up leaves empty are reported all at once."""
    encoded, problems = [], []
    for example, result in zip(examples, encoder.encode([e.text for e in examples]), strict=True):
        if isinstance(result, EncodedText):
            encoded.append(result)
        else:
            problems.append(Problem(part, example.row, 0, "text", str(result)))
    if problems:
        raise DataError(problems)
    return encoded


def _measure(
    logits: NDArray[np.float32], truth: Sequence[int], labels: Labels, temperature: float, unsure_below: float
) -> dict[str, Any]:
    predicted = logits.argmax(axis=1).tolist()
    measured = metrics.classification_metrics(truth, predicted, labels.names)
    return measured | {"calibration": metrics.calibration_metrics(logits, truth, temperature, unsure_below)}


def _baseline(texts: dict[str, list[str]], ids: dict[str, list[int]], labels: Labels) -> dict[str, Any]:
    """The baseline gets the validation rows to train on, too: it has no epoch or temperature to choose by them."""
    pipeline = fit_baseline(texts["train"] + texts["val"], ids["train"] + ids["val"])
    predicted = baseline_predictions(pipeline, texts["test"])
    scores = metrics.classification_metrics(ids["test"], predicted, labels.names)
    return {"model": "TF-IDF + logistic regression", **{key: scores[key] for key in ("accuracy", "macro_f1")}}


def _provenance(
    config: TrainConfig, splits: Splits, model: GPT2Classifier, log: Sequence[dict[str, float]], seconds: float
) -> dict[str, Any]:
    recipe = {key: value for key, value in asdict(config).items() if key not in NOT_RECORDED}
    return {
        "data": Path(config.data).name,
        "data_fingerprint": fingerprint(e for _, examples in splits.items() for e in examples),
        "split_sizes": splits.sizes(),
        "near_duplicate_groups": splits.groups,
        "base_model": Path(config.base_model).name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": recipe,
        "best_val_loss": min((entry["eval_loss"] for entry in log if "eval_loss" in entry), default=None),
        "training_seconds": round(seconds, 1),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "git_commit": _git_commit(),
    }


def _reference(
    logits: NDArray[np.float32], temperature: float, encoded: Sequence[EncodedText], labels: Labels
) -> dict[str, Any]:
    """What the test split looks like to the model; traffic that looks otherwise has drifted."""
    probs = probabilities(logits, temperature)
    quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
    shares = np.bincount(probs.argmax(axis=1), minlength=len(labels)) / len(probs)
    return {
        "rows": len(probs),
        "label_shares": dict(zip(labels.names, shares.round(6).tolist(), strict=True)),
        "quantiles": quantiles,
        "confidence": np.quantile(probs.max(axis=1), quantiles).round(6).tolist(),
        "tokens": np.quantile([text.tokens for text in encoded], quantiles).round(1).tolist(),
    }


def _git_commit() -> str | None:
    """The commit of the code that trains, if it runs from a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
