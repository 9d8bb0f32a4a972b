"""Distillation: a compact GPT-2 learns the vectors that a sentence encoder gives to all beginnings of a text."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from training.config import DistilConfig
from training.data.corpus import TokenFile, tokenise
from training.data.passages import Passages
from training.data.taught import SHARD, TaughtPassages, claim_vectors, collate, tokenizer_sha256
from training.data.teacher import SentenceEncoder
from training.errors import ConfigError
from training.fit.batches import Epoch, EqualBatches
from training.fit.checkpoints import check_place, claim
from training.fit.distributed import is_main, leave, state
from training.fit.loop import OrderedTrainer, training_precision
from training.fit.pretrain import (
    WITHOUT_EFFECT,
    base_arguments,
    check_output,
    fast_tokenizer,
    identity_of,
    new_model,
    recipe_of,
    tokenizer_of,
    write_base,
)
from training.fit.student import Student
from training.report.predict import full_float32
from training.report.probe import last_states, probe

OF_THE_PASSAGES = ("min_tokens", "max_tokens", "mixing", "seed", "val_fraction", "teacher_tokens")
"""Settings on which passages and vectors depend."""
LENGTHS = (8, 16, 32, 64, 128, 256, 512)
"""Ends, in tokens, of the ranges of lengths that cosines are measured in."""


def distil(config: DistilConfig) -> dict[str, float] | None:
    """Train a student on the teacher's vectors, and write it as a base to fine-tune from, without the projection.

    A run that was killed continues from its checkpoints and ends with the weights of a run that was not. A checkpoint
    is itself a base model, and a run that has one as base model also starts from its projection.

    Returns:
        `cosine` to the teacher, the mean over the beginnings of held-out passages, and those by length, as
        `cosine_16` of 9 to 16 tokens; the accuracies of `probe`; `passages_seen`, `parameters` and `seconds` (of
        this process). None in all but one of torchrun's processes.

    Raises:
        TrainingError, ClassifierError: with a message for the person who started the run.
    """
    started = time.monotonic()
    if not config.corpus or not config.output or not config.teacher:
        raise ConfigError("teacher, corpus and output must be given (--teacher, --corpus, --output)")
    output, directory = Path(config.output).absolute(), config.checkpoint_directory()
    check_place(directory, output)
    transformers.set_seed(config.seed)
    # the precision in which it reads is that of training
    teacher = SentenceEncoder(
        config.teacher, getattr(torch, training_precision(config)), max_tokens=config.teacher_tokens
    )
    with state().main_process_first():  # the others reuse what it writes
        if is_main():
            check_output(output)
        identity = _identity(config, teacher)
        records = [f"corpus-{number}/tokens.json" for number in range(len(config.corpus))]
        claim(directory, identity, derived=("tokenizer.json", *records))
        tokenizer = tokenizer_of(config, directory)
        student = new_model(config, tokenizer, Student, teacher_width=teacher.width)
        files = [_tokens(config, number, tokenizer, student, directory) for number in range(len(config.corpus))]
        vectors = Path(config.vectors).absolute() if config.vectors else directory / "vectors"
        of_passages = {key: identity[key] for key in (*OF_THE_PASSAGES, "corpus", "teacher_sha256", "precision")}
        claim_vectors(vectors, of_passages | {"tokenizer_sha256": tokenizer_sha256(tokenizer)})
    student.language_model_weight = config.language_model
    if not torch.cuda.is_available():
        student.set_attn_implementation("eager")  # 1.2 times as fast as the fused kernel of CPUs, in bfloat16
    train, val = (
        TaughtPassages(vectors, part, _passages(config, tokens, tokenizer, student), teacher, shards)
        for part, tokens, shards in (
            ("train", [train for train, _ in files], -(-config.passages // SHARD)),
            ("val", [val for _, val in files], 1),
        )
    )
    trainer = _trainer(config, directory, student, tokenizer, train, val)
    trainer.train_on(directory)
    leave()
    if not is_main():
        return None
    stored_dtype = getattr(torch, config.weights_dtype)
    student.to(
        stored_dtype
    ).float()  # rounded before it is measured, so that the figures are those of the stored weights
    base = student.base_model_of()
    with full_float32():
        measured = cosines(student, val, config.batch_size)
        measured |= probe(last_states(base, tokenizer, config.max_tokens), config.probe)
    measured |= {
        "passages_seen": float(round((trainer.state.epoch or 0) * len(train))),
        "parameters": float(sum(p.numel() for p in base.parameters())),
        "seconds": round(time.monotonic() - started, 1),
    }
    write_base(output, base.to(stored_dtype), tokenizer, _card(config, base, measured))
    return measured


def _identity(config: DistilConfig, teacher: SentenceEncoder) -> dict[str, Any]:
    """Return everything on which the trained weights depend."""
    without_effect = WITHOUT_EFFECT | {"vectors", "probe", "teacher"}
    return identity_of(config, without_effect) | {"teacher_sha256": teacher.sha256}


def _tokens(
    config: DistilConfig, number: int, tokenizer: Tokenizer, student: Student, directory: Path
) -> tuple[TokenFile, TokenFile]:
    """Return the tokens of one file of the corpus for training and for validation."""
    place = directory / f"corpus-{number}"
    place.mkdir(exist_ok=True)
    end: int = student.config.eos_token_id
    return tokenise(config.corpus[number : number + 1], tokenizer, end, place, config.val_fraction, config.seed)


def _passages(config: DistilConfig, files: list[TokenFile], tokenizer: Tokenizer, student: Student) -> Passages:
    return Passages(
        files,
        tokenizer,
        student.config.eos_token_id,
        mixing=config.mixing,
        min_tokens=config.min_tokens,
        max_tokens=config.max_tokens,
        seed=config.seed,
    )


def _trainer(
    config: DistilConfig,
    directory: Path,
    student: Student,
    tokenizer: Tokenizer,
    train: TaughtPassages,
    val: TaughtPassages,
) -> "DistilTrainer":
    epoch = Epoch()
    process, processes = state().process_index, state().num_processes
    wait = state().wait_for_everyone
    batches = EqualBatches(train, config.batch_size, config.seed, epoch, process, processes, wait)
    EqualBatches(val, config.batch_size, config.seed, epoch, process, processes, wait).teach([0])
    return DistilTrainer(
        batches,
        epoch,
        val.lengths(0),
        model=student,
        args=base_arguments(config, directory),
        train_dataset=train,
        eval_dataset=val,
        data_collator=collate,
        processing_class=fast_tokenizer(tokenizer, student),
    )


class DistilTrainer(OrderedTrainer):
    """A Trainer that measures the cosine to the teacher on held-out passages."""

    def eval_sums(self, model: Any, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the sum over passages of the mean of 1 - cosine over the beginnings of each."""
        cosine_k = model(**inputs).cosine.float()
        per_row_b = torch.bincount(inputs["rows"])
        return {"loss": ((1 - cosine_k) / per_row_b[inputs["rows"]]).sum()}


@torch.inference_mode()
def cosines(student: Student, passages: TaughtPassages, batch_size: int) -> dict[str, float]:
    """Return the mean cosine to the teacher over all beginnings of passages, and by their number of tokens."""
    student.eval()
    order = np.argsort(np.concatenate([passages.lengths(shard) for shard in range(passages.shards)]), kind="stable")
    found, lengths = [], []
    for start in range(0, len(order), batch_size):
        batch: Mapping[str, torch.Tensor] = collate([passages[i] for i in order[start : start + batch_size].tolist()])
        lengths.append(batch["columns"].numpy() + 1)
        batch = {name: tensor.to(student.device) for name, tensor in batch.items()}
        found.append(student(**batch).cosine.cpu().numpy())
    return _by_length(np.concatenate(found), np.concatenate(lengths))


def _by_length(cosine_k: NDArray[np.float32], length_k: NDArray[np.int64]) -> dict[str, float]:
    means = {"cosine": float(cosine_k.mean())}
    for low, high in zip((0, *LENGTHS), (*LENGTHS, 1 << 60), strict=False):
        inside = (length_k > low) & (length_k <= high)
        if inside.any():
            means[f"cosine_{high}" if high in LENGTHS else "cosine_longer"] = float(cosine_k[inside].mean())
    return means


def _card(config: DistilConfig, model: GPT2LMHeadModel, measured: Mapping[str, float]) -> str:
    shape = model.config
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in measured.items())
    return f"""# {Path(config.output).name}

A GPT-2 language model to fine-tune from: {shape.n_layer} layers, width {shape.n_embd}, {shape.n_head} heads, vocabulary
{shape.vocab_size}, {shape.n_positions} positions, {measured["parameters"] / 1e6:.2f} million parameters. After each
token, its hidden state was trained to give the vector of a sentence encoder for the text so far, by a linear projection
that is not part of the model. Passages have up to {config.max_tokens} tokens.

| | |
| --- | --- |
{rows}

Cosines are to the teacher's vectors, on held-out passages, by tokens read up to the number named. Probes are accuracies
of logistic regressions on the frozen states: cross-validated on the first file, then fitted on it.

{config.sources}

{recipe_of(config)}
"""
