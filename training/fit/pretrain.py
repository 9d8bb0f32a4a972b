"""Pre-training of a compact GPT-2 language model on a text corpus, for machines that cannot download `gpt2`."""

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, TrainingArguments

from classifier.errors import ModelError
from classifier.model import load_base_tokenizer
from training.config import BaseConfig, PretrainConfig
from training.data.corpus import END_OF_TEXT, Blocks, TokenFile, identities, tokenise, train_tokenizer
from training.data.files import name_of
from training.errors import ConfigError
from training.fit.batches import Epoch, LengthGroupedBatches
from training.fit.checkpoints import check_place, claim
from training.fit.distributed import is_main, leave, state
from training.fit.loop import OrderedTrainer, arguments, setting_of_machine, weights_sha256

WITHOUT_EFFECT = frozenset({"output", "checkpoints", "save_steps", "eval_steps", "weights_dtype", "sources"})
"""Settings that do not change the trained weights."""
OF_THE_BASE = frozenset({"vocab_size", "layers", "hidden_size", "heads", "positions"})
"""Settings that are taken from the base model if there is one."""
DERIVED = ("tokenizer.json", "tokens.json", "train.tokens", "val.tokens")
"""Files beside the checkpoints that depend on corpus and vocabulary."""
Model = TypeVar("Model", bound=GPT2LMHeadModel)
NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
"""Each text is seen about once, so the model cannot overfit."""


def pretrain(config: PretrainConfig) -> dict[str, float] | None:
    """Train a tokenizer and a language model on a corpus, and write both as a base to fine-tune from.

    A run that was killed continues from its checkpoints and ends with the weights of a run that was not.

    Returns:
        `val_loss` in nats per token and `val_bits_per_byte` of UTF-8 text, both including document ends; `tokens_seen`,
        `parameters` and `seconds` (of this process). None in all but one of torchrun's processes.

    Raises:
        TrainingError, ClassifierError: with a message for the person who started the run.
    """
    started = time.monotonic()
    if not config.corpus or not config.output:
        raise ConfigError("both corpus and output must be given (--corpus, --output)")
    output, directory = Path(config.output).absolute(), config.checkpoint_directory()
    check_place(directory, output)
    transformers.set_seed(config.seed)
    with state().main_process_first():  # the others reuse what it writes
        if is_main():
            check_output(output)
        claim(directory, _identity(config), derived=DERIVED)
        tokenizer = tokenizer_of(config, directory)
        model: GPT2LMHeadModel = new_model(config, tokenizer)
        end: int = model.config.eos_token_id
        train, val = tokenise(config.corpus, tokenizer, end, directory, config.val_fraction, config.seed)
    trainer = _trainer(config, directory, model, train, val)
    trainer.train_on(directory)
    leave()
    if not is_main():
        return None
    stored_dtype = getattr(torch, config.weights_dtype)
    model.to(stored_dtype).float()  # rounded before it is measured, so that the figures are those of the stored weights
    val_loss = validation_loss(model, Blocks(val, config.block), config.batch_size)
    measured = {
        "val_loss": val_loss,
        "val_bits_per_byte": val_loss * val.tokens / val.bytes / math.log(2),
        "tokens_seen": float(round((trainer.state.epoch or 0) * (train.tokens // config.block)) * config.block),
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "seconds": round(time.monotonic() - started, 1),
    }
    write_base(output, model.to(stored_dtype), tokenizer, _card(config, model, measured))
    return measured


def check_output(output: Path) -> None:
    """Refuse an output that cannot be written, before training begins."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} already exists; choose another --output")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent):
            pass
    except OSError as exc:
        raise ConfigError(f"{output} cannot be written: {exc}") from exc


def _identity(config: PretrainConfig) -> dict[str, Any]:
    """Return everything on which the trained weights depend."""
    return identity_of(config, WITHOUT_EFFECT)


def identity_of(config: BaseConfig, without_effect: Collection[str]) -> dict[str, Any]:
    """Return the settings, the corpus, the machine's setting and the base model's weights."""
    settings = {key: value for key, value in asdict(config).items() if key not in without_effect}
    settings |= {"corpus": identities(config.corpus)} | setting_of_machine(config)
    if config.base_model:
        settings["base_weights_sha256"] = weights_sha256(_base(config, GPT2LMHeadModel))
    return settings


def tokenizer_of(config: BaseConfig, directory: Path) -> Tokenizer:
    """Return the tokenizer of the base model, or one that is trained once and kept beside the checkpoints."""
    if config.base_model:
        return load_base_tokenizer(config.base_model)
    path = directory / "tokenizer.json"
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        train_tokenizer(config.corpus, config.vocab_size).save(str(unfinished))
        os.replace(unfinished, path)
    return Tokenizer.from_file(str(path))


def new_model(config: BaseConfig, tokenizer: Tokenizer, kind: type[Model] = GPT2LMHeadModel, **more: Any) -> Model:
    """Return the base model in float32, or a new model with random weights.

    Args:
        config: names the base model, or gives the shape of a new one.
        tokenizer: the tokenizer, whose size a new model takes.
        kind: the class of the model.
        more: further fields of its configuration.
    """
    if config.base_model:
        model = _base(config, kind, **more)
        if config.row_tokens > model.config.n_positions:
            raise ConfigError(
                f"rows of {config.row_tokens} tokens are above the {model.config.n_positions} positions of the base "
                "model"
            )
        if tokenizer.get_vocab_size() > model.config.vocab_size:
            raise ConfigError(f"base model {config.base_model!r}: its tokenizer has more tokens than its embedding")
        return model
    end = tokenizer.token_to_id(END_OF_TEXT)
    shape = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_positions=config.positions,
        n_embd=config.hidden_size,
        n_layer=config.layers,
        n_head=config.heads,
        activation_function="gelu_pytorch_tanh",  # the formula of GPT-2 in one fused kernel
        bos_token_id=end,
        eos_token_id=end,
        **NO_DROPOUT,
    )
    shape.update(more)
    fresh: Model = kind(shape)
    return fresh


def _base(config: BaseConfig, kind: type[Model], **more: Any) -> Model:
    try:
        shape = GPT2Config.from_pretrained(config.base_model)
        shape.update(NO_DROPOUT | more)
        model: Model = kind.from_pretrained(config.base_model, config=shape, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as exc:
        raise ModelError(f"base model {config.base_model!r} cannot be loaded: {exc}") from exc
    return model


def _trainer(
    config: PretrainConfig, directory: Path, model: GPT2LMHeadModel, train: TokenFile, val: TokenFile
) -> OrderedTrainer:
    blocks, epoch = Blocks(train, config.block), Epoch()
    held_out = Blocks(val, config.block)
    if not len(blocks) or not len(held_out):
        raise ConfigError(
            f"the corpus gives {len(blocks)} blocks of {config.block} tokens to train on and {len(held_out)} to "
            "validate on; use more text, a smaller --block or another --val-fraction"
        )
    return OrderedTrainer(
        LengthGroupedBatches(
            np.full(len(blocks), config.block, dtype=np.int32),
            config.batch_size,
            config.seed,
            epoch,
            state().process_index,
            state().num_processes,
        ),
        epoch,
        np.full(len(held_out), config.block, dtype=np.int32),
        model=model,
        args=base_arguments(config, directory),
        train_dataset=blocks,
        eval_dataset=held_out,
    )


def base_arguments(config: BaseConfig, directory: Path) -> TrainingArguments:
    """Return the arguments of a Trainer whose learning rate rises, stays, and falls in a line."""
    return arguments(
        config,
        directory,
        max_steps=config.steps,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={
            "num_decay_steps": round(config.decay * config.steps),
            "decay_type": "linear",
            "min_lr_ratio": 0.02,
        },
        warmup_steps=config.warmup,
        adam_beta2=0.95,  # as in GPT-3: the noisy gradients of language models need a shorter memory
        eval_strategy="steps",
        eval_steps=config.eval_steps,
        save_strategy="steps",
        save_steps=config.save_steps,
    )


@torch.inference_mode()
def validation_loss(model: GPT2LMHeadModel, blocks: Blocks, batch_size: int) -> float:
    """Return the mean cross-entropy of the next token in nats, computed by the model's own forward without autocast."""
    model.eval()
    losses = [
        model(input_ids=batch["input_ids"].to(model.device), labels=batch["labels"].to(model.device)).loss.repeat(
            len(batch["labels"])
        )
        for batch in DataLoader(blocks, batch_size)
    ]
    return float(torch.cat(losses).mean())


def write_base(output: Path, model: GPT2LMHeadModel, tokenizer: Tokenizer, card: str) -> None:
    """Write the directory that `from_pretrained` reads, whole or not at all."""
    unfinished = output.with_name(f".{output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    fast_tokenizer(tokenizer, model).save_pretrained(unfinished)
    (unfinished / "README.md").write_text(card, encoding="utf-8")
    if output.exists():
        output.rmdir()  # it is empty, otherwise it would have been refused
    os.replace(unfinished, output)


def fast_tokenizer(tokenizer: Tokenizer, model: GPT2LMHeadModel) -> PreTrainedTokenizerFast:
    """Return the tokenizer as transformers saves it beside the model."""
    end = tokenizer.id_to_token(model.config.eos_token_id)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)


def _card(config: PretrainConfig, model: GPT2LMHeadModel, measured: Mapping[str, float]) -> str:
    shape = model.config
    return f"""# {Path(config.output).name}

A GPT-2 language model to fine-tune from: {shape.n_layer} layers, width {shape.n_embd}, {shape.n_head} heads, vocabulary
{shape.vocab_size}, {shape.n_positions} positions of which the first {config.block} were trained,
{measured["parameters"] / 1e6:.2f} million parameters.

Validation loss: {measured["val_loss"]:.3f} nats per token, {measured["val_bits_per_byte"]:.3f} bits per byte, after
{measured["tokens_seen"] / 1e6:.1f} million tokens.

{config.sources}

{recipe_of(config)}
"""


def recipe_of(config: BaseConfig) -> str:
    """Return the settings for a README, as a block of JSON without the paths of this machine."""
    left_out = {"output", "checkpoints", "sources", "vectors"} | (OF_THE_BASE if config.base_model else set())
    recipe: dict[str, Any] = {}
    for key, value in asdict(config).items():
        if key in ("corpus", "probe"):
            recipe[key] = [name_of(source) for source in value]
        elif key not in left_out:
            recipe[key] = name_of(value) if key in ("base_model", "teacher") else value
    return f"```json\n{json.dumps(recipe, indent=2)}\n```"
