"""Fine-tuning: the weights that are trained, their learning rates, the loss, and the weights that are kept."""

import hashlib
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

from classifier.model import GPT2Classifier
from training.config import TrainConfig
from training.data.soft_labels import ROWS, UNLABELLED, SoftLabels
from training.fit.batches import Collator, Epoch, LengthGroupedBatches, TokenizedTexts, Tokens
from training.fit.checkpoints import claim
from training.fit.distributed import is_main, leave, share, state
from training.fit.loop import OrderedTrainer, arguments, setting_of_machine, weights_sha256
from training.fit.losses import class_weights, dense_losses, with_teacher
from training.fit.weights import AveragedWeights, BestWeights


def fine_tune(
    model: GPT2Classifier,
    config: TrainConfig,
    train: tuple[Sequence[Tokens], Sequence[int]],
    val: tuple[Sequence[Tokens], Sequence[int]],
    soft: SoftLabels | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place. It ends with the weights of the evaluation with the lowest validation loss.

    With `config.average` it ends with the mean of the weights after each of the last steps instead. With
    `config.checkpoints`, a run that was killed continues from its newest complete checkpoint and ends with exactly the
    weights of a run that was not.

    Args:
        model: a float32 model with an initialised head.
        config: the recipe.
        train: token ids of whole texts, and label ids.
        val: the same of the validation texts, by which the weights are chosen.
        soft: gives rows with a teacher's probabilities, which are trained on instead of `train`.

    Returns:
        The log of the Trainer: one record per logged step or evaluation.

    Raises:
        ConfigError: the directory has checkpoints of another run.
        DivergedError: the loss or the gradients are no longer finite.
    """
    if config.head == "flatten" and config.precision == "bfloat16" and is_main():
        sys.stderr.write("warning: the head flatten trains in float32, because bfloat16 cannot express its mask\n")
    _set_dropout(model, config.dropout)
    freeze(model, embeddings=config.freeze_embeddings, layers=config.freeze_layers)
    with _checkpoint_directory(config) as directory:
        with state().main_process_first():
            claim(directory, _identity(config, model, train, val) | (soft.identity() if soft else {}), derived=[ROWS])
            rows = soft.rows(directory) if soft else None
        kept = AveragedWeights(config.average) if config.average else BestWeights(directory, config.patience)
        epoch = Epoch()
        crop_seed = config.seed if config.crops else None
        texts = rows or TokenizedTexts(*train, config.max_seq_len, crop_seed=crop_seed, epoch=epoch)
        held_out = TokenizedTexts(*val, config.max_seq_len)
        trainer = ClassifierTrainer(
            config,
            class_weights(train[1], max(train[1]) + 1) if config.class_weights else None,
            stored=kept,
            batches=LengthGroupedBatches(
                texts.lengths(), config.batch_size, config.seed, epoch, state().process_index, state().num_processes
            ),
            epoch=epoch,
            eval_lengths=held_out.lengths(),
            model=model,
            args=_arguments(config, directory),
            train_dataset=texts,
            eval_dataset=held_out,
            data_collator=Collator(model.config.pad_token_id),
        )
        log = trainer.train_on(directory)
        kept.restore(model)
    leave()
    return log


@contextmanager
def _checkpoint_directory(config: TrainConfig) -> Iterator[Path]:
    """Yield the settings' directory, which is kept, or a temporary one beside the output."""
    if config.checkpoints:
        yield Path(config.checkpoints).absolute()
        return
    if not is_main():
        yield Path(share(""))
        state().wait_for_everyone()
        return
    output = Path(config.output).absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.checkpoints.", dir=output.parent) as directory:
        yield Path(share(directory))
        state().wait_for_everyone()


def _identity(
    config: TrainConfig, model: GPT2Classifier, *parts: tuple[Sequence[Tokens], Sequence[int]]
) -> dict[str, Any]:
    """Return everything on which the trained weights depend."""
    settings = {key: value for key, value in asdict(config).items() if key not in WITHOUT_EFFECT}
    settings |= setting_of_machine(config) | {"first_weights_sha256": weights_sha256(model)}
    digest = hashlib.sha256()
    for sequences, labels in parts:
        for ids, label in zip(sequences, labels, strict=True):
            digest.update(struct.pack("<qq", label, len(ids)))
            digest.update(np.asarray(ids, dtype="<i4").tobytes())
    return settings | {"tokens_sha256": digest.hexdigest()}


WITHOUT_EFFECT = frozenset(
    {
        "data", "output", "encoding", "name", "checkpoints", "save_steps", "weights_dtype", "unsure_error",
        "overwrite", "report", "baseline", "sources", "limits", "window_stride", "allow_leaks", "base_model",
        "allow_classifier_base", "teacher_labels", "unlabelled",
    }
)  # fmt: skip
"""Settings that do not change the trained weights, or change them only through the tokens and the first weights."""


def _arguments(config: TrainConfig, directory: Path) -> TrainingArguments:
    return arguments(
        config,
        directory,
        num_train_epochs=config.epochs,
        lr_scheduler_type="constant_with_warmup" if config.average else "linear",
        warmup_steps=config.warmup,
        eval_strategy="epoch",
        save_strategy="steps" if config.save_steps else "epoch",
        save_steps=config.save_steps or 500,
    )


class ClassifierTrainer(OrderedTrainer):
    """A Trainer with the loss and the learning rates of the recipe."""

    def __init__(self, config: TrainConfig, weights_c: torch.Tensor | None, **keywords: Any) -> None:
        self._config = config
        self._weights = weights_c
        super().__init__(**keywords)
        # The Trainer then counts the texts of a step over all its batches and processes, and divides by nothing itself.
        self.model_accepts_loss_kwargs = True

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create AdamW over the groups of `learning_rates`; the Trainer's own optimizer has one rate for all."""
        if not getattr(self, "optimizer", None):
            config = self._config
            groups = learning_rates(self.model, config.lr, config.layer_lr_decay, config.weight_decay)
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, fused=True)
        return self.optimizer

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the sum of the weighted losses of this process's texts, divided by the number of texts of the step.

        Gradients of several processes are averaged, hence the factor.

        Args:
            model: the model.
            inputs: a batch of this process.
            return_outputs: False.
            num_items_in_batch: number of texts of the step, over all batches and processes.
        """
        config, labels = self._config, inputs["labels"]
        soft_btc = inputs.get("soft_labels")
        tensors = {key: value for key, value in inputs.items() if key not in ("labels", "soft_labels")}
        if config.head == "flatten":
            logits_bc = model(**tensors).logits.float()
            loss_b = torch.nn.functional.cross_entropy(
                logits_bc, labels, label_smoothing=config.label_smoothing, reduction="none"
            )
        else:
            logits_btc = model(**tensors, every_token=True).logits.float()
            mask_bt = inputs["attention_mask"]
            known_b = labels.clamp(min=0)  # for a row without a label, any one will do: the loss is left out below
            loss_b = dense_losses(logits_btc, mask_bt, known_b, config.dense_from, config.label_smoothing)
        if self._weights is not None:
            loss_b = loss_b * self._weights.to(labels.device)[labels]
        if soft_btc is not None:
            soft_b = dense_losses(logits_btc, mask_bt, soft_btc, config.dense_from, 0.0)
            loss_b = with_teacher(loss_b, soft_b, labels != UNLABELLED, config.teacher_weight)
        return loss_b.sum() * (self.args.world_size / num_items_in_batch)

    def eval_sums(self, model: Any, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the sum of the plain cross-entropy after the last token, and the number of right answers."""
        labels = inputs.pop("labels")
        logits_bc = model(**inputs).logits.float()
        loss = torch.nn.functional.cross_entropy(logits_bc, labels, reduction="sum")
        return {"loss": loss, "accuracy": (logits_bc.argmax(-1) == labels).sum()}


def freeze(model: GPT2Classifier, *, embeddings: bool, layers: int) -> None:
    """Exclude the embeddings of tokens and positions, or the lowest blocks, from training."""
    transformer = model.transformer
    frozen = [*(transformer.wte, transformer.wpe) * embeddings, *transformer.h[:layers]]
    for module in frozen:
        module.requires_grad_(False)


def learning_rates(model: GPT2Classifier, lr: float, layer_decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups: head and last norm at `lr`, each block at `layer_decay` of the one above it.

    Weight decay applies to matrices, not to biases and norms. BEiT and ELECTRA are fine-tuned with the same rule: low
    layers carry general knowledge of language, high layers that of the task of pre-training.
    """
    depth = len(model.transformer.h)
    groups: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        parts = name.split(".")
        below_top = depth - int(parts[2]) if parts[1] == "h" else depth + 1 if parts[1] in ("wte", "wpe") else 0
        groups.setdefault((below_top, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": lr * layer_decay**below_top, "weight_decay": weight_decay if decays else 0.0}
        for (below_top, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _set_dropout(model: GPT2Classifier, dropout: float) -> None:
    """Set the dropout of embeddings and residuals, and switch off that of attention.

    With dropout, attention takes PyTorch's unfused path on a CPU: 8.5 s instead of 4.2 s per step, and three times the
    memory. The configuration keeps its values, which tell how the base was made.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    for block in model.transformer.h:
        block.attn.attn_dropout.p = 0.0
