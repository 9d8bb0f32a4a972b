"""One training run, from files to artifact, in the order in which it happens."""

import datetime
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer

from classifier.artifact import Artifact, Manifest, read_artifact
from classifier.artifact_writer import check_writable_target, write_artifact
from classifier.calibration import Calibration
from classifier.decoding import probabilities
from classifier.encoding import Encoder, TextCleaning, load_tokenizer
from classifier.flatten import HEADS
from classifier.labels import Labels
from classifier.model import GPT2Classifier, load_base, load_base_tokenizer
from training.config import TrainConfig
from training.data.read import fingerprint
from training.data.soft_labels import SoftLabels
from training.data.splits import Splits, load_splits, refuse_leaks
from training.errors import ConfigError, DataError, Problem
from training.fit.checkpoints import check_place
from training.fit.distributed import is_main
from training.fit.loop import training_precision
from training.fit.tokens import TokenRows, tokenise
from training.fit.trainer import fine_tune
from training.report import metrics
from training.report.baseline import BaselineAnswers, answer
from training.report.calibration import cut_logits, fit_calibration
from training.report.card import model_card
from training.report.evaluate import accuracy_by_words, measure, measure_baseline
from training.report.golden import golden
from training.report.html import ReportData, remove_report, try_report
from training.report.predict import predict_logits
from training.report.provenance import input_of, provenance


@dataclass(frozen=True)
class _Part:
    """One split, read and tokenised."""

    texts: list[str]
    label_ids: list[int]
    tokens: TokenRows
    """Tokens of whole texts."""


@dataclass(frozen=True)
class _Inputs:
    """The checked inputs of a run."""

    config: TrainConfig
    splits: Splits
    model: GPT2Classifier
    tokenizer: Tokenizer
    encoder: Encoder
    parts: dict[str, _Part]


@dataclass(frozen=True)
class _Results:
    """Calibration on the validation split, and results on the test split."""

    calibration: Calibration
    probs_bc: NDArray[np.float64]
    """Calibrated probabilities of the test texts."""
    metrics: dict[str, Any]


def run(config: TrainConfig) -> Artifact | None:
    """Train, measure, and write the artifact.

    Everything that can be refused is refused before the first step: output, data, base model.

    Returns:
        The artifact; None in all but one of the processes that torchrun starts.

    Raises:
        TrainingError, ClassifierError: with a message for the person who started the run.
    """
    inputs = _prepare(config)
    train, val = inputs.parts["train"], inputs.parts["val"]
    baseline = None
    if config.baseline and is_main():
        with _stage("baseline"):
            baseline = _baseline(inputs)
    with _stage("train"):
        known = (train.tokens, train.label_ids), (val.tokens, val.label_ids)
        log = fine_tune(inputs.model, config, *known, _soft_labels(inputs))
    if not is_main():
        return None
    # The weights are rounded before anything is measured, so that all figures are those of the stored weights.
    stored_dtype = getattr(torch, config.weights_dtype)
    inputs.model.to(stored_dtype).float()
    with _stage("measure"):
        results = _measure(inputs, baseline)
        made = provenance(config, inputs.splits, inputs.model, log)
        manifest = _manifest(inputs, results, made)
    with _stage("write"):
        remove_report(report_directory(config))
        artifact = write_artifact(
            Path(config.output),
            model=inputs.model.to(stored_dtype),
            tokenizer=inputs.tokenizer,
            manifest=manifest,
            card=model_card(manifest),
            overwrite=config.overwrite,
        )
    if config.report:
        inputs.model.float()
        with _stage("report"):
            try_report(lambda: _report(inputs, results, manifest, log), report_directory(config))
    return artifact


def _soft_labels(inputs: _Inputs) -> SoftLabels | None:
    """Return the training texts with the teacher of the settings; None without a teacher."""
    config, train = inputs.config, inputs.parts["train"]
    if not config.teacher_labels:
        return None
    dtype = getattr(torch, training_precision(config))
    return SoftLabels(
        config,
        inputs.splits.train,
        train.label_ids,
        len(inputs.splits.labels),
        inputs.tokenizer,
        inputs.encoder.cleaning,
        dtype,
    )


def calibrate(directory: Path, data: str) -> Artifact:
    """Fit the calibration of an artifact again, measure it again, and replace it; its weights stay as they are.

    Args:
        directory: the artifact.
        data: the labelled texts that it was trained on, which are split as they were then.

    Raises:
        ArtifactError: the artifact is unusable.
        ConfigError: its recipe is that of another version of this program.
        DataError: these are not the texts that it was trained on.
    """
    artifact = read_artifact(directory)
    made = artifact.manifest.provenance
    try:
        config = TrainConfig(**made.get("recipe", {}), data=data, output=str(directory), overwrite=True)
    except TypeError as exc:
        raise ConfigError(f"{directory}: its recipe cannot be read by this version: {exc}") from exc
    splits = load_splits(config)
    if fingerprint(e for _, examples in splits.items() for e in examples) != made.get("data_fingerprint"):
        raise DataError(Problem(data, f"these are not the texts that {artifact.manifest.name} was trained on"))
    inputs = _inputs(config, splits, artifact.model(), load_tokenizer(directory / "tokenizer.json"))
    results = _measure(inputs, _baseline(inputs) if config.baseline else None)
    manifest = _manifest(inputs, results, made).model_copy(
        update={"name": artifact.manifest.name, "created": artifact.manifest.created}
    )
    stored = inputs.model.to(getattr(torch, config.weights_dtype))
    card = model_card(manifest)
    return write_artifact(
        directory, model=stored, tokenizer=inputs.tokenizer, manifest=manifest, card=card, overwrite=True
    )


@contextmanager
def _stage(name: str) -> Iterator[None]:
    """Print the duration of a stage of the run as a `key=value;` line."""
    started = time.monotonic()
    yield
    if is_main():
        sys.stdout.write(f"stage={name}; seconds={time.monotonic() - started:.1f};\n")
        sys.stdout.flush()


def report_directory(config: TrainConfig) -> Path:
    """Return the directory of the report: beside the artifact, which must not carry the test texts."""
    return Path(config.output).with_name(Path(config.output).name + "-report")


def _prepare(config: TrainConfig) -> _Inputs:
    if not config.data or not config.output:
        raise ConfigError("both data and output must be given (--data, --output)")
    if is_main():
        check_writable_target(Path(config.output), overwrite=config.overwrite)
    if config.checkpoints:
        check_place(Path(config.checkpoints), Path(config.output))
    with _stage("data"):
        splits = load_splits(config)
    if is_main():
        sys.stderr.write(f"data: {splits}\n")
    if config.allow_leaks:
        sys.stderr.writelines(f"warning: {leak}\n" for leak in splits.leaks)
    else:
        refuse_leaks(splits.leaks)
    transformers.set_seed(config.seed)
    flatten = {"flatten_tokens": config.max_seq_len, "padded_rows": "transformers-4"}
    model = load_base(
        config.base_model,
        splits.labels,
        allow_classifier=config.allow_classifier_base,
        kind=HEADS[config.head],
        extra_config=flatten if config.head == "flatten" else None,
    )
    if model.base_was_classifier and is_main():
        sys.stderr.write(
            f"warning: base model {config.base_model!r} is a classifier already. Its head is replaced by a new one; "
            "the other weights may have been trained on texts of the test, whose figures are then too good\n"
        )
    tokenizer = load_base_tokenizer(config.base_model)
    _check_sizes(config, model, tokenizer)
    return _inputs(config, splits, model, tokenizer)


def _inputs(config: TrainConfig, splits: Splits, model: GPT2Classifier, tokenizer: Tokenizer) -> _Inputs:
    cleaning = TextCleaning(lowercase=config.lowercase)
    with _stage("tokenise"):
        parts = {
            part: _Part(
                [e.text for e in examples],
                [splits.labels.id_of(e.label) for e in examples],
                tokenise(tokenizer, cleaning, part, examples),
            )
            for part, examples in splits.items()
        }
    encoder = Encoder(tokenizer, cleaning, config.max_seq_len, config.resolved_stride())
    return _Inputs(config, splits, model, tokenizer, encoder, parts)


def _measure(inputs: _Inputs, baseline: BaselineAnswers | None) -> _Results:
    val, test = inputs.parts["val"], inputs.parts["test"]
    val_logits = predict_logits(inputs.model, inputs.encoder, val.texts)
    labels, groups = inputs.splits.labels, inputs.splits.group_ids
    cuts = cut_logits(inputs.model, inputs.encoder, val.texts)
    unsure_error = inputs.config.unsure_error
    calibration = fit_calibration(val_logits, val.tokens.lengths, cuts, val.label_ids, groups["val"], unsure_error)
    test_logits = predict_logits(inputs.model, inputs.encoder, test.texts)
    tokens = test.tokens.lengths
    measured = measure(test_logits, test.label_ids, labels, tokens, calibration, groups["test"])
    if baseline is not None:
        predicted = test_logits.argmax(axis=1).tolist()
        measured["baseline"] = measure_baseline(baseline, test.label_ids, predicted, labels, groups["test"])
    return _Results(calibration, probabilities(metrics.calibrated(test_logits, tokens, calibration)), measured)


def _manifest(inputs: _Inputs, results: _Results, made: dict[str, Any]) -> Manifest:
    config, labels = inputs.config, inputs.splits.labels
    return Manifest(
        name=config.name or Path(config.output).name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        labels=list(labels.names),
        head="flatten" if config.head == "flatten" else "last_token",
        max_tokens=config.max_seq_len,
        window_stride=config.resolved_stride(),
        input=input_of(inputs.splits),
        cleaning=inputs.encoder.cleaning,
        calibration=results.calibration,
        golden=golden(inputs.model, inputs.encoder),
        # the matrix of 600 labels would be most of the manifest; the report has it
        metrics={key: value for key, value in results.metrics.items() if key != "confusion"},
        provenance=made,
        reference=_reference(results.probs_bc, inputs.parts["test"].tokens.lengths, labels),
    )


def _report(inputs: _Inputs, results: _Results, manifest: Manifest, log: Sequence[Mapping[str, float]]) -> ReportData:
    test, made = inputs.parts["test"], manifest.provenance
    facts = {key: value for key, value in made.items() if not isinstance(value, dict)}
    by_words = accuracy_by_words(inputs.model, inputs.encoder, test.texts, test.label_ids)
    return ReportData(
        title=manifest.name,
        labels=manifest.labels,
        texts=test.texts,
        truth=test.label_ids,
        probs_bc=results.probs_bc,
        metrics=results.metrics,
        held_out=made["held_out"],
        by_words=by_words | {0: results.metrics["accuracy"]},
        rows=[e.row for e in inputs.splits.test],
        log=log,
        facts=facts | made["recipe"] | facts,  # where both name a fact, as the precision, the actual one is shown
    )


def _check_sizes(config: TrainConfig, model: GPT2Classifier, tokenizer: Tokenizer) -> None:
    shape, base, tokens = model.config, f"base model {config.base_model!r}", tokenizer.get_vocab_size()
    frozen, width, length = config.freeze_layers, config.hidden_size, config.max_seq_len
    if frozen > shape.n_layer:
        raise ConfigError(f"freeze-layers is {frozen}, but {base} has {shape.n_layer} blocks")
    if width and width != shape.n_embd:
        advice = "leave hidden-size out to accept any width"
        raise ConfigError(f"hidden-size is {width}, but {base} is {shape.n_embd} wide; {advice}")
    if tokens > shape.vocab_size:
        raise ConfigError(f"{base}: its tokenizer has {tokens} tokens, but its embedding has only {shape.vocab_size}")
    if length > shape.n_positions:
        advice = "set max-seq-len to at most this number"
        raise ConfigError(f"max-seq-len is {length}, but {base} has {shape.n_positions} positions; {advice}")


def _baseline(inputs: _Inputs) -> BaselineAnswers:
    train, val, test = (inputs.parts[name] for name in ("train", "val", "test"))
    balanced = inputs.config.class_weights
    return answer((train.texts, train.label_ids), (val.texts, val.label_ids), test.texts, balanced=balanced)


def _reference(probs_bc: NDArray[np.float64], lengths: NDArray[np.int64], labels: Labels) -> dict[str, Any]:
    """Return the distributions of labels, confidence and tokens on the test split, for comparison with traffic."""
    quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
    shares = np.bincount(probs_bc.argmax(axis=1), minlength=len(labels)) / len(probs_bc)
    return {
        "rows": len(probs_bc),
        "label_shares": dict(zip(labels.names, shares.round(6).tolist(), strict=True)),
        "quantiles": quantiles,
        "confidence": np.quantile(probs_bc.max(axis=1), quantiles).round(6).tolist(),
        "tokens": np.quantile(lengths, quantiles).round(1).tolist(),
    }
