"""Pre-training of a compact GPT-2 language model on a text corpus, for machines that cannot download `gpt2`."""

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from classifier.errors import ModelError
from classifier.model import load_base_tokenizer
from training.config import PretrainConfig
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
    output = Path(config.output).absolute()
    directory = (
        Path(config.checkpoints).absolute() if config.checkpoints else output.with_name(output.name + "-checkpoints")
    )
    check_place(directory, output)
    transformers.set_seed(config.seed)
    with state().main_process_first():  # the others reuse what it writes
        if is_main():
            _check_output(output)
        claim(directory, _identity(config), derived=DERIVED)
        tokenizer = _tokenizer(config, directory)
        model = _model(config, tokenizer)
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
    _write(config, output, model.to(stored_dtype), tokenizer, measured)
    return measured


def _check_output(output: Path) -> None:
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
    settings = {key: value for key, value in asdict(config).items() if key not in WITHOUT_EFFECT}
    settings |= {"corpus": identities(config.corpus)} | setting_of_machine(config)
    if config.base_model:
        settings["base_weights_sha256"] = weights_sha256(_base(config))
    return settings


def _tokenizer(config: PretrainConfig, directory: Path) -> Tokenizer:
    """Return the tokenizer of the base model, or one that is trained once and kept beside the checkpoints."""
    if config.base_model:
        return load_base_tokenizer(config.base_model)
    path = directory / "tokenizer.json"
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        train_tokenizer(config.corpus, config.vocab_size).save(str(unfinished))
        os.replace(unfinished, path)
    return Tokenizer.from_file(str(path))


def _model(config: PretrainConfig, tokenizer: Tokenizer) -> GPT2LMHeadModel:
    """Return the base model in float32, or a new model with random weights."""
    if config.base_model:
        model = _base(config)
        if config.block > model.config.n_positions:
            raise ConfigError(
                f"block {config.block} is above the {model.config.n_positions} positions of the base model"
            )
        if tokenizer.get_vocab_size() > model.config.vocab_size:
            raise ConfigError(f"base model {config.base_model!r}: its tokenizer has more tokens than its embedding")
        return model
    end = tokenizer.token_to_id(END_OF_TEXT)
    return GPT2LMHeadModel(
        GPT2Config(
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
    )


def _base(config: PretrainConfig) -> GPT2LMHeadModel:
    try:
        return GPT2LMHeadModel.from_pretrained(
            config.base_model, dtype=torch.float32, use_safetensors=True, **NO_DROPOUT
        )
    except (OSError, ValueError, RuntimeError) as exc:
        raise ModelError(f"base model {config.base_model!r} cannot be loaded: {exc}") from exc


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
        args=arguments(
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
        ),
        train_dataset=blocks,
        eval_dataset=held_out,
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


def _write(
    config: PretrainConfig, output: Path, model: GPT2LMHeadModel, tokenizer: Tokenizer, measured: Mapping[str, float]
) -> None:
    """Write the directory that `from_pretrained` reads, whole or not at all."""
    unfinished = output.with_name(f".{output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    end = tokenizer.id_to_token(model.config.eos_token_id)
    model.save_pretrained(unfinished)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end).save_pretrained(
        unfinished
    )
    (unfinished / "README.md").write_text(_card(config, model, measured), encoding="utf-8")
    if output.exists():
        output.rmdir()  # it is empty, otherwise it would have been refused
    os.replace(unfinished, output)


def _card(config: PretrainConfig, model: GPT2LMHeadModel, measured: Mapping[str, float]) -> str:
    shape = model.config
    left_out = {"corpus", "output", "checkpoints", "sources"} | (OF_THE_BASE if config.base_model else set())
    recipe: dict[str, Any] = {key: value for key, value in asdict(config).items() if key not in left_out}
    recipe["corpus"] = [name_of(source) for source in config.corpus]
    recipe["base_model"] = name_of(config.base_model)
    return f"""# {Path(config.output).name}

A GPT-2 language model to fine-tune from: {shape.n_layer} layers, width {shape.n_embd}, {shape.n_head} heads, vocabulary
{shape.vocab_size}, {shape.n_positions} positions of which the first {config.block} were trained,
{measured["parameters"] / 1e6:.2f} million parameters.

Validation loss: {measured["val_loss"]:.3f} nats per token, {measured["val_bits_per_byte"]:.3f} bits per byte, after
{measured["tokens_seen"] / 1e6:.1f} million tokens.

{config.sources}

```json
{json.dumps(recipe, indent=2)}
```
"""
