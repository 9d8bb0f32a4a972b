"""The training loop: transformers' Trainer with this project's batches and progress lines."""

import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from classifier.encoding import pad
from classifier.model import GPT2Classifier, last_tokens
from training.config import TrainConfig


class TokenizedTexts(Dataset[dict[str, Any]]):
    """Each text's beginning, or a random stretch of it, and its label id.

    Args:
        texts: token ids of whole texts.
        label_ids: one a text.
        max_tokens: tokens of one row at most.
        crops: every other time a longer text is asked for, a stretch that begins anywhere. Drawn from torch's global
            generator, whose state checkpoints keep.
    """

    def __init__(
        self, texts: Sequence[Sequence[int]], label_ids: Sequence[int], max_tokens: int, *, crops: bool = False
    ) -> None:
        self._rows = list(zip(texts, label_ids, strict=True))
        self._max_tokens = max_tokens
        self._crops = crops

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids, label = self._rows[index]
        spare = len(ids) - self._max_tokens
        start = 0
        if self._crops and spare > 0 and torch.rand(()) < 0.5:
            start = int(torch.randint(spare + 1, ()))
        return {"input_ids": ids[start : start + self._max_tokens], "labels": label}


class Collator:
    """Rows of `TokenizedTexts` to a left-padded batch of int64 tensors."""

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = pad([row["input_ids"] for row in rows], self._pad_id, "left")
        return {
            "input_ids": torch.from_numpy(batch.ids_bt),
            "attention_mask": torch.from_numpy(batch.mask_bt),
            "position_ids": torch.from_numpy(batch.positions_bt),
            "labels": torch.tensor([row["labels"] for row in rows], dtype=torch.int64),
        }


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
    """Train `model` in place; it ends with the weights of the epoch whose validation loss was lowest.

    Args:
        model: float32, head initialised.
        config: the recipe.
        train: token ids of whole texts, and label ids.
        val: the same, used to choose the epoch.

    Returns:
        The Trainer's log: one record a logged step or evaluation.
    """
    interactive = sys.stderr.isatty()
    _set_dropout(model, config.dropout)
    output = Path(config.output).absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    # Checkpoints stand beside the output, on the same disk, and go whatever happens: Ctrl-C leaves nothing.
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.checkpoints.", dir=output.parent) as checkpoints:
        arguments = TrainingArguments(
            output_dir=checkpoints,
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            per_device_eval_batch_size=config.batch_size,
            gradient_accumulation_steps=config.gradient_accumulation,
            learning_rate=config.lr,
            lr_scheduler_type="linear",
            warmup_steps=math.ceil(config.warmup * _steps(config, len(train[0]))),
            weight_decay=config.weight_decay,
            label_smoothing_factor=0.0,  # the model computes its own loss, see ClassifierTrainer
            max_grad_norm=config.max_grad_norm,
            seed=config.seed,
            data_seed=config.seed,
            bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
            train_sampling_strategy="group_by_length",
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            greater_is_better=False,
            logging_steps=10,
            disable_tqdm=not interactive,
            report_to="none",
            label_names=["labels"],
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        trainer = ClassifierTrainer(
            model=model,
            args=arguments,
            train_dataset=TokenizedTexts(*train, config.max_seq_len, crops=config.crops),
            eval_dataset=TokenizedTexts(*val, config.max_seq_len),
            data_collator=Collator(model.config.pad_token_id),
            compute_metrics=_accuracy,
            callbacks=None if interactive else [LogLines()],
        )
        if not interactive:
            trainer.remove_callback(PrinterCallback)
        trainer.label_smoothing = config.label_smoothing
        trainer.dense_from = config.dense_from
        trainer.train()
        return list(trainer.state.log_history)


class ClassifierTrainer(Trainer):
    """Trainer whose loss is cross-entropy after the last real token; see `classification_loss` for training."""

    label_smoothing = 0.0
    dense_from = 0

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs["labels"]
        tensors = {key: value for key, value in inputs.items() if key != "labels"}
        if model.training and not return_outputs:
            logits_btc = model(**tensors, every_token=True).logits.float()
            mask = inputs["attention_mask"]
            return classification_loss(logits_btc, mask, labels, self.dense_from, self.label_smoothing)
        logits_bc = model(**tensors).logits.float()
        loss = torch.nn.functional.cross_entropy(logits_bc, labels)
        return (loss, {"loss": loss, "logits": logits_bc}) if return_outputs else loss


def classification_loss(
    logits_btc: torch.Tensor, mask_bt: torch.Tensor, labels: torch.Tensor, dense_from: int, label_smoothing: float
) -> torch.Tensor:
    """Mean cross-entropy in nats of B texts.

    A causal model can be asked after every token. Asking it there too makes its answers good on prefixes, and gives a
    few thousand texts the weight of a few hundred thousand questions.

    Args:
        logits_btc: (B, T, C) float32.
        mask_bt: (B, T), 1 on real tokens.
        labels: (B,) int64.
        dense_from: 0: the loss after each text's last token. n: half of that, and half of the mean over the text's
            tokens from the n-th on (the last one always among them), each text weighing the same.
        label_smoothing: probability mass spread over all labels.
    """
    texts, tokens, _ = logits_btc.shape
    rows = torch.arange(texts, device=labels.device)
    last_b = last_tokens(mask_bt)
    cross_entropy = torch.nn.functional.cross_entropy
    final = cross_entropy(logits_btc[rows, last_b], labels, label_smoothing=label_smoothing)
    if not dense_from:
        return final
    losses_bt = cross_entropy(
        logits_btc.flatten(0, 1), labels.repeat_interleave(tokens), label_smoothing=label_smoothing, reduction="none"
    ).view(texts, tokens)
    asked_bt = (mask_bt == 1) & (mask_bt.long().cumsum(-1) >= dense_from)
    asked_bt[rows, last_b] = True
    inner_b = (losses_bt * asked_bt).sum(1) / asked_bt.sum(1)
    return 0.5 * final + 0.5 * inner_b.mean()


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
