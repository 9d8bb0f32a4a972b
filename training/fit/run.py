"""One training run, from files to artifact: the whole path in the order in which it happens."""

import datetime
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer

from classifier.artifact import Artifact, Calibration, Golden, Manifest
from classifier.artifact_writer import check_writable_target, write_artifact
from classifier.decoding import probabilities
from classifier.encoding import EncodedText, Encoder, TextCleaning
from classifier.flatten import HEADS
from classifier.labels import Labels
from classifier.model import GPT2Classifier, load_base, load_base_tokenizer
from training.config import TrainConfig
from training.data.read import Columns, Example
from training.data.sources import local_copy
from training.data.splits import Splits, load_splits, refuse_leaks
from training.errors import ConfigError, DataError, Problem
from training.fit.checkpoints import check_place
from training.fit.distributed import is_main
from training.fit.trainer import fine_tune
from training.report import metrics
from training.report.baseline import baseline_predictions, fit_baseline
from training.report.card import model_card
from training.report.evaluate import accuracy_by_words, measure
from training.report.golden import GOLDEN_TEXTS
from training.report.html import ReportData, write_report
from training.report.predict import predict_logits
from training.report.provenance import provenance

WHOLE_TEXT = 1 << 40
"""More tokens than any text has: one window holds all of it, and training takes its rows from there."""


@dataclass(frozen=True)
class _Part:
    """One split, read and tokenised."""

    texts: list[str]
    ids: list[int]
    """Label ids."""
    encoded: list[EncodedText]

    @property
    def sequences(self) -> list[Sequence[int]]:
        return [text.windows[0].ids for text in self.encoded]


@dataclass(frozen=True)
class _Work:
    """A run's inputs, all of them checked."""

    config: TrainConfig
    splits: Splits
    model: GPT2Classifier
    tokenizer: Tokenizer
    encoder: Encoder
    parts: dict[str, _Part]


@dataclass(frozen=True)
class _Figures:
    """What validation and test rows say about the trained model."""

    temperature: float
    unsure_below: float
    test_logits: NDArray[np.float32]
    golden_logits: NDArray[np.float32]
    metrics: dict[str, Any]


def run(config: TrainConfig) -> Artifact | None:
    """Train, measure, write.

    Everything that can be refused is refused before the first step: the output's place, the data, the base model.

    Returns:
        The artifact; None in all but one of the processes that torchrun starts.

    Raises:
        TrainingError, ClassifierError: with a message for the person who started the run.
    """
    started = time.monotonic()
    work = _prepare(config)
    train, val = work.parts["train"], work.parts["val"]
    baseline = _baseline(work.parts, work.splits.labels) if config.baseline and is_main() else None
    log = fine_tune(work.model, config, (train.sequences, train.ids), (val.sequences, val.ids))
    if not is_main():
        return None
    # From here on the weights are what the artifact stores: rounded once, before anything is measured.
    stored_dtype = getattr(torch, config.weights_dtype)
    work.model.to(stored_dtype).float()
    figures = _measure(work, baseline)
    manifest = _manifest(work, figures, provenance(config, work.splits, work.model, log, time.monotonic() - started))
    if config.report:
        write_report(_report(work, figures, manifest, log), report_directory(config))
    return write_artifact(
        Path(config.output),
        model=work.model.to(stored_dtype),
        tokenizer=work.tokenizer,
        manifest=manifest,
        card=model_card(manifest),
        overwrite=config.overwrite,
    )


def _prepare(config: TrainConfig) -> _Work:
    if not config.data or not config.output:
        raise ConfigError("both data and output must be given (--data, --output)")
    if is_main():
        check_writable_target(Path(config.output), overwrite=config.overwrite)
    if config.checkpoints:
        check_place(Path(config.checkpoints), Path(config.output))
    splits = _load(config)
    transformers.set_seed(config.seed)
    flat: dict[str, Any] = {"flatten_tokens": config.max_seq_len, "padded_rows": "transformers-4"}
    model = load_base(
        config.base_model,
        splits.labels,
        kind=HEADS["flatten" if config.head == "flatten" else "last_token"],
        extra_config=flat if config.head == "flatten" else None,
    )
    tokenizer = load_base_tokenizer(config.base_model)
    _check_sizes(config, model, tokenizer)
    cleaning = TextCleaning(lowercase=config.lowercase)
    whole = Encoder(tokenizer, cleaning, WHOLE_TEXT, WHOLE_TEXT)
    parts = {
        part: _Part(
            [e.text for e in examples],
            [splits.labels.id_of(e.label) for e in examples],
            _encode(whole, part, examples),
        )
        for part, examples in splits.items()
    }
    encoder = Encoder(tokenizer, cleaning, config.max_seq_len, config.resolved_stride())
    return _Work(config, splits, model, tokenizer, encoder, parts)


def _measure(work: _Work, baseline: dict[str, Any] | None) -> _Figures:
    labels, val, test = work.splits.labels, work.parts["val"], work.parts["test"]
    val_logits = predict_logits(work.model, work.encoder, val.texts)
    temperature = metrics.fit_temperature(val_logits, val.ids)
    val_probs = probabilities(val_logits, temperature)
    unsure_below = metrics.unsure_threshold(val_probs, val.ids, work.config.unsure_error)
    test_logits = predict_logits(work.model, work.encoder, test.texts)
    measured = measure(test_logits, test.ids, labels, temperature, unsure_below)
    if baseline is not None:
        measured["baseline"] = baseline
    golden_logits = predict_logits(work.model, work.encoder, GOLDEN_TEXTS)
    return _Figures(temperature, unsure_below, test_logits, golden_logits, measured)


def _manifest(work: _Work, figures: _Figures, made: dict[str, Any]) -> Manifest:
    config, labels = work.config, work.splits.labels
    return Manifest(
        name=config.name or Path(config.output).name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        labels=list(labels.names),
        head="flatten" if config.head == "flatten" else "last_token",
        max_tokens=config.max_seq_len,
        window_stride=config.resolved_stride(),
        cleaning=work.encoder.cleaning,
        calibration=Calibration(temperature=figures.temperature),
        unsure_below=figures.unsure_below,
        golden=[
            Golden(text=text, logits=[float(x) for x in row])
            for text, row in zip(GOLDEN_TEXTS, figures.golden_logits, strict=True)
        ],
        metrics=figures.metrics,
        provenance=made,
        reference=_reference(figures, work.parts["test"].encoded, labels),
    )


def _report(work: _Work, figures: _Figures, manifest: Manifest, log: Sequence[Mapping[str, float]]) -> ReportData:
    test = work.parts["test"]
    made = manifest.provenance
    return ReportData(
        title=manifest.name,
        labels=manifest.labels,
        texts=test.texts,
        truth=test.ids,
        probs_bc=probabilities(figures.test_logits, figures.temperature),
        metrics=figures.metrics,
        by_words=accuracy_by_words(work.model, work.encoder, test.texts, test.ids) | {0: figures.metrics["accuracy"]},
        rows=[e.row for e in work.splits.test],
        log=log,
        facts={key: value for key, value in made.items() if not isinstance(value, dict)} | made["recipe"],
    )


def report_directory(config: TrainConfig) -> Path:
    """Beside the artifact: what is served should not carry its test texts."""
    return Path(config.output).with_name(Path(config.output).name + "-report")


def _load(config: TrainConfig) -> Splits:
    columns = Columns(
        config.text_column, config.label_column, config.title_column, config.group_column, config.use_title
    )
    with local_copy(config.data) as data:
        splits, leaks = load_splits(
            data,
            columns,
            encoding=config.encoding,
            val_fraction=config.val_fraction,
            test_fraction=config.test_fraction,
            seed=config.seed,
            near_duplicates=config.near_duplicates,
        )
    if leaks and config.allow_leaks:
        for leak in leaks:
            sys.stderr.write(f"warning: {leak}\n")
    else:
        refuse_leaks(leaks)
    return splits


def _check_sizes(config: TrainConfig, model: GPT2Classifier, tokenizer: Tokenizer) -> None:
    if config.freeze_layers > model.config.n_layer:
        raise ConfigError(
            f"freeze-layers is {config.freeze_layers}, but base model {config.base_model!r} has "
            f"{model.config.n_layer} blocks"
        )
    if config.hidden_size and config.hidden_size != model.config.n_embd:
        raise ConfigError(
            f"hidden-size is {config.hidden_size}, but base model {config.base_model!r} is "
            f"{model.config.n_embd} wide; leave hidden-size out to take the base's"
        )
    if tokenizer.get_vocab_size() > model.config.vocab_size:
        raise ConfigError(
            f"base model {config.base_model!r}: its tokenizer has {tokenizer.get_vocab_size()} tokens, its embedding "
            f"only {model.config.vocab_size}"
        )
    if config.max_seq_len > model.config.n_positions:
        raise ConfigError(
            f"max-seq-len is {config.max_seq_len}, but base model {config.base_model!r} has "
            f"{model.config.n_positions} positions; set max-seq-len to at most that"
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


def _baseline(parts: Mapping[str, _Part], labels: Labels) -> dict[str, Any]:
    """The baseline gets the validation rows to train on, too: it has no epoch or temperature to choose by them."""
    train, val, test = parts["train"], parts["val"], parts["test"]
    predicted = baseline_predictions(fit_baseline(train.texts + val.texts, train.ids + val.ids), test.texts)
    scores = metrics.classification_metrics(test.ids, predicted, labels.names)
    return {
        "model": "TF-IDF + logistic regression",
        **{key: scores[key] for key in ("accuracy", "macro_f1")},
        "intervals": metrics.bootstrap_intervals(test.ids, predicted, len(labels)),
    }


def _reference(figures: _Figures, encoded: Sequence[EncodedText], labels: Labels) -> dict[str, Any]:
    """What the test split looks like to the model; traffic that looks otherwise has drifted."""
    probs = probabilities(figures.test_logits, figures.temperature)
    quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
    shares = np.bincount(probs.argmax(axis=1), minlength=len(labels)) / len(probs)
    return {
        "rows": len(probs),
        "label_shares": dict(zip(labels.names, shares.round(6).tolist(), strict=True)),
        "quantiles": quantiles,
        "confidence": np.quantile(probs.max(axis=1), quantiles).round(6).tolist(),
        "tokens": np.quantile([text.tokens for text in encoded], quantiles).round(1).tolist(),
    }
