"""The training loop: transformers' Trainer with this project's batches and progress lines."""

import hashlib
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers import (
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from classifier.model import GPT2Classifier, last_tokens
from training.batches import Collator, Epoch, LengthGroupedOrder, TokenizedTexts
from training.checkpoints import BestWeights, claim, latest_complete, mark_complete
from training.config import TrainConfig


class LogLines(TrainerCallback):
    """Progress as plain `key=value;` lines, for places that are no terminal; log collectors parse them."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            numbers = {key: value for key, value in logs.items() if isinstance(value, int | float)}
            fields = [f"{'train_loss' if key == 'loss' else key}={value:.6g};" for key, value in numbers.items()]
            sys.stdout.write(f"step={state.global_step}/{state.max_steps}; {' '.join(fields)}\n")
            sys.stdout.flush()


def fine_tune(
    model: GPT2Classifier,
    config: TrainConfig,
    train: tuple[Sequence[Sequence[int]], Sequence[int]],
    val: tuple[Sequence[Sequence[int]], Sequence[int]],
) -> list[dict[str, float]]:
    """Train `model` in place; it ends with the weights of the evaluation whose validation loss was lowest.

    With `config.checkpoints`, a run that was killed goes on from its newest complete checkpoint and ends with the
    very weights of a run that was not.

    Args:
        model: float32, head initialised.
        config: the recipe.
        train: token ids of whole texts, and label ids.
        val: the same, used to choose the weights.

    Returns:
        The Trainer's log: one record a logged step or evaluation.

    Raises:
        ConfigError: the checkpoints there are another run's.
    """
    _set_dropout(model, config.dropout)
    with _checkpoint_directory(config) as directory:
        claim(directory, _identity(config, train, val))
        best = BestWeights(directory, config.patience)
        interactive = sys.stderr.isatty()
        trainer = ClassifierTrainer(
            config,
            TokenizedTexts(*val, config.max_seq_len),
            train,
            model=model,
            args=_arguments(config, directory, len(train[0]), interactive),
            data_collator=Collator(model.config.pad_token_id),
            compute_metrics=_accuracy,
            callbacks=[best] if interactive else [best, LogLines()],
        )
        if not interactive:
            trainer.remove_callback(PrinterCallback)
        newest = latest_complete(directory)
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        best.restore(model)
        return list(trainer.state.log_history)


@contextmanager
def _checkpoint_directory(config: TrainConfig) -> Iterator[Path]:
    """The one that was asked for, which stays; else one beside the output, which goes whatever happens."""
    if config.checkpoints:
        yield Path(config.checkpoints).absolute()
        return
    output = Path(config.output).absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.checkpoints.", dir=output.parent) as directory:
        yield Path(directory)


def _identity(config: TrainConfig, *parts: tuple[Sequence[Sequence[int]], Sequence[int]]) -> dict[str, Any]:
    """What the trained weights depend on."""
    settings = {key: value for key, value in asdict(config).items() if key not in WITHOUT_EFFECT}
    digest = hashlib.sha256()
    for sequences, labels in parts:
        for ids, label in zip(sequences, labels, strict=True):
            digest.update(f"{label}:{','.join(map(str, ids))};".encode())
    return settings | {"tokens_sha256": digest.hexdigest()}


WITHOUT_EFFECT = frozenset(
    {
        "data", "output", "encoding", "name", "checkpoints", "save_steps", "weights_dtype", "unsure_error",
        "overwrite", "report", "baseline", "sources", "window_stride", "allow_leaks",
    }
)  # fmt: skip
"""Settings that do not change the trained weights, or only through the tokens."""


def _arguments(config: TrainConfig, directory: Path, texts: int, interactive: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(directory),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.lr,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(config.warmup * _steps(config, texts)),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        eval_strategy="epoch",
        save_strategy="steps" if config.save_steps else "epoch",
        save_steps=config.save_steps or 500,
        save_total_limit=2,
        logging_steps=10,
        disable_tqdm=not interactive,
        report_to="none",
        label_names=["labels"],
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


class ClassifierTrainer(Trainer):
    """Trainer with this project's order of texts, loss, and complete checkpoints."""

    def __init__(
        self,
        config: TrainConfig,
        val: TokenizedTexts,
        train: tuple[Sequence[Sequence[int]], Sequence[int]],
        callbacks: Sequence[TrainerCallback],
        **keywords: Any,
    ) -> None:
        self._config = config
        epoch = Epoch()
        texts = TokenizedTexts(*train, config.max_seq_len, crop_seed=config.seed if config.crops else None, epoch=epoch)
        self._weights = class_weights(train[1], max(train[1]) + 1) if config.class_weights else None
        self._order = LengthGroupedOrder(texts, config.batch_size, config.seed, epoch)
        super().__init__(train_dataset=texts, eval_dataset=val, callbacks=[_CountEpochs(epoch), *callbacks], **keywords)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self._order

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            mark_complete(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """See `classification_loss`; in evaluation the plain cross-entropy after the last token."""
        labels = inputs["labels"]
        tensors = {key: value for key, value in inputs.items() if key != "labels"}
        if model.training and not return_outputs:
            logits_btc = model(**tensors, every_token=True).logits.float()
            settings = self._config
            return classification_loss(
                logits_btc,
                inputs["attention_mask"],
                labels,
                settings.dense_from,
                settings.label_smoothing,
                None if self._weights is None else self._weights.to(labels.device),
            )
        logits_bc = model(**tensors).logits.float()
        loss = torch.nn.functional.cross_entropy(logits_bc, labels)
        return (loss, {"loss": loss, "logits": logits_bc}) if return_outputs else loss


class _CountEpochs(TrainerCallback):
    """A resumed run begins within an epoch: its number is the whole part of the Trainer's count."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._epoch.number = int(state.epoch or 0)


def classification_loss(
    logits_btc: torch.Tensor,
    mask_bt: torch.Tensor,
    labels: torch.Tensor,
    dense_from: int,
    label_smoothing: float,
    weights_c: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean cross-entropy in nats of B texts.

    A causal model can be asked after every token. Asking it there too makes its answers good on prefixes, and gives a
    few thousand texts the weight of a few hundred thousand questions.

    Args:
        logits_btc: (B, T, C) float32.
        mask_bt: (B, T), 1 on real tokens.
        labels: (B,) int64.
        dense_from: 0: the loss after each text's last token. n: half of that, and half of the mean over the text's
            tokens from the n-th on (the last one always among them).
        label_smoothing: probability mass spread over all labels.
        weights_c: (C,) what a text of each label weighs in the mean; all the same if not given.
    """
    texts, tokens, _ = logits_btc.shape
    rows = torch.arange(texts, device=labels.device)
    last_b = last_tokens(mask_bt)
    losses_bt = torch.nn.functional.cross_entropy(
        logits_btc.flatten(0, 1), labels.repeat_interleave(tokens), label_smoothing=label_smoothing, reduction="none"
    ).view(texts, tokens)
    loss_b = losses_bt[rows, last_b]
    if dense_from:
        asked_bt = (mask_bt == 1) & (mask_bt.long().cumsum(-1) >= dense_from)
        asked_bt[rows, last_b] = True
        # where, not a product: what stands in padding may be anything
        inner_b = losses_bt.where(asked_bt, 0.0).sum(1) / asked_bt.sum(1)
        loss_b = 0.5 * loss_b + 0.5 * inner_b
    if weights_c is None:
        return loss_b.mean()
    weights_b = weights_c[labels]
    return (loss_b * weights_b).sum() / weights_b.sum()


def class_weights(label_ids: Sequence[int], labels: int) -> torch.Tensor:
    """Inverse frequency, (C,) float32, the mean over texts being 1; 0 for a label without texts."""
    counts = torch.bincount(torch.tensor(label_ids), minlength=labels)
    present = counts > 0
    return torch.where(present, len(label_ids) / (present.sum() * counts.clamp(min=1)), 0.0).float()


def _set_dropout(model: GPT2Classifier, dropout: float) -> None:
    """Set the dropout of embeddings and residuals, and none in attention.

    Attention with dropout takes PyTorch's unfused path on a CPU: 8.5 s a step instead of 4.2 s, at three times the
    memory. The configuration's own values stay, they say how the base was made.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    for block in model.transformer.h:
        block.attn.attn_dropout.p = 0.0


def _steps(config: TrainConfig, texts: int) -> float:
    return max(1, texts / config.batch_size / config.gradient_accumulation) * config.epochs


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    logits, labels = prediction.predictions, prediction.label_ids
    return {"accuracy": float((np.asarray(logits).argmax(axis=1) == np.asarray(labels)).mean())}
