"""Every setting of a training run: typed, ranged, with its unit, from a TOML file and the command line.

The command line wins over the file, the file over the default. A key that does not exist is an error.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from training.errors import ConfigError


def _setting(
    default: Any, text: str, *, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    """A field with its help text and its range; both ends belong to the range."""
    return dataclasses.field(default=default, metadata={"help": text, "low": low, "high": high, "choices": choices})


MAX_SEED = 2**32 - 1
"""NumPy's generator takes no larger one."""
PRECISIONS = ("auto", "float32", "bfloat16")
PRECISION_HELP = (
    "of matrix products while training; the weights that learn stay float32. auto: bfloat16 where the hardware is "
    "fast at it (CUDA from Ampere on, CPUs with AMX or AVX-512 BF16), else float32"
)


@dataclass(frozen=True)
class TrainConfig:
    """One training run. See `python -m training train --help`, which is made from these texts.

    Raises:
        ConfigError: a value out of its range, or two values that contradict each other.
    """

    # Data
    data: str = _setting(
        "",
        "a file to split (CSV, TSV, JSON Lines, Parquet), a directory with train, val and test files, or with a "
        "folder of .txt files for each label; local, or anything fsspec opens",
    )
    output: str = _setting("", "the artifact's directory")
    text_column: str = _setting("text", "column of the texts")
    label_column: str = _setting("", "column of the labels; default: 'label' or 'category'")
    title_column: str = _setting("", "column of the titles; default: 'title' where there is one")
    group_column: str = _setting(
        "", "column of near-duplicate groups; default: 'near_dup_group' or 'group', else computed"
    )
    use_title: bool = _setting(True, "put the title in front of the text")
    encoding: str = _setting("utf-8", "encoding of text files")
    val_fraction: float = _setting(0.1, "part of the rows for validation, where no file is given", low=0.01, high=0.5)
    test_fraction: float = _setting(0.1, "part of the rows for the test, where no file is given", low=0.01, high=0.5)
    near_duplicates: bool = _setting(True, "keep texts that tell the same story on one side of the split")
    allow_leaks: bool = _setting(False, "go on although texts of one given split stand in another")

    # Model
    base_model: str = _setting("gpt2", "a Hugging Face name or a local directory with a GPT-2")
    hidden_size: int = _setting(0, "width of the base model, checked against it; 0: whatever it has", low=0)
    max_seq_len: int = _setting(
        512, "tokens of a text read at once; longer texts are cut in training and read by windows after it", low=1
    )
    head: str = _setting(
        "last_token",
        "last_token: a linear layer on the last token; flatten: on all max-seq-len left-padded positions",
        choices=("last_token", "flatten"),
    )
    window_stride: int = _setting(0, "tokens between the starts of windows; 0: three quarters of max-seq-len", low=0)
    crops: bool = _setting(
        False, "train on a random stretch of max-seq-len tokens of a longer text, every other time; else its beginning"
    )
    lowercase: bool = _setting(False, "lower-case every text, in serving too")
    sources: str = _setting("", "where texts and base model come from, and their licences; stands in the model card")
    limits: str = _setting("", "what the model is not for; stands in the model card")
    name: str = _setting("", "the model's name in its card; default: the output directory's name")

    # Optimisation
    epochs: float = _setting(3.0, "passes over the training texts", low=0.001, high=1000)
    batch_size: int = _setting(16, "texts a step and process", low=1, high=4096)
    gradient_accumulation: int = _setting(1, "steps summed before the weights move", low=1, high=4096)
    lr: float = _setting(2e-4, "peak learning rate of AdamW", low=1e-9, high=1.0)
    warmup: float = _setting(0.1, "part of all steps in which the learning rate rises from 0", low=0.0, high=0.9)
    weight_decay: float = _setting(0.01, "AdamW's weight decay, on matrices", low=0.0, high=1.0)
    average: float = _setting(
        0.0,
        "part of all steps, the last ones, whose weights are averaged, at a learning rate that stays; 0: it falls "
        "to 0 and the weights of the best evaluation are kept",
        low=0.0,
        high=1.0,
    )
    label_smoothing: float = _setting(0.0, "probability mass spread over all labels", low=0.0, high=0.5)
    dropout: float = _setting(
        0.1, "dropout in embeddings and residuals while training; none in attention", low=0.0, high=0.9
    )
    precision: str = _setting("auto", PRECISION_HELP, choices=PRECISIONS)
    class_weights: bool = _setting(False, "weigh each text by how rare its label is, for data with few of some label")
    patience: int = _setting(0, "stop after so many evaluations (one an epoch) without a better one; 0: never", low=0)
    dense_from: int = _setting(
        0, "half of the loss is taken after every token from this one on; 0: all of it after the last token", low=0
    )
    freeze_embeddings: bool = _setting(
        False, "keep the base's embeddings: words that training never sees stay comparable with those it does"
    )
    freeze_layers: int = _setting(0, "keep the base's lowest blocks, this many", low=0)
    layer_lr_decay: float = _setting(
        1.0,
        "each block learns this much slower than the one above it, embeddings slowest; 1: all alike",
        low=0.01,
        high=1,
    )
    max_grad_norm: float = _setting(1.0, "gradients are scaled down to this norm", low=0.0)
    seed: int = _setting(
        42, "of the split, the head's first weights, dropout and the order of texts", low=0, high=MAX_SEED
    )

    checkpoints: str = _setting("", "directory for checkpoints; a run that finds its own there goes on from them")
    save_steps: int = _setting(0, "steps between checkpoints; 0: one an epoch", low=0)

    # Artifact
    weights_dtype: str = _setting(
        "float32", "precision in which the weights are stored", choices=("float32", "float16", "bfloat16")
    )
    unsure_error: float = _setting(
        0.02, "share of wrong answers allowed among those not marked unsure", low=0.0, high=1.0
    )
    overwrite: bool = _setting(False, "replace an artifact that stands at the output")
    report: bool = _setting(True, "write OUTPUT-report/ with report.html, metrics.json and plots")
    baseline: bool = _setting(True, "also fit TF-IDF + logistic regression on the same split, for comparison")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if self.val_fraction + self.test_fraction > 0.8:
            raise ConfigError("val-fraction and test-fraction leave less than a fifth of the rows to train on")
        if self.window_stride > self.max_seq_len:
            raise ConfigError(
                f"window-stride {self.window_stride} is above max-seq-len {self.max_seq_len}: texts would have gaps"
            )

        if self.average and self.patience:
            raise ConfigError("average takes the last steps, patience may stop before them: give one of the two")
        if self.head == "flatten" and self.dense_from:
            raise ConfigError("head flatten answers once a text: dense-from needs the head last_token")

    def resolved_stride(self) -> int:
        """Tokens between the starts of windows."""
        return self.window_stride or max(1, self.max_seq_len * 3 // 4)


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training run. See `python -m training pretrain --help`, which is made from these texts.

    Raises:
        ConfigError: a value out of its range, or two values that contradict each other.
    """

    # Text
    corpus: tuple[str, ...] = _setting(
        (),
        "text files, local or anything fsspec opens, .gz and .xz too; documents end with a line <|endoftext|>",
    )
    output: str = _setting("", "the base model's directory")
    val_fraction: float = _setting(0.01, "part of the documents held out to measure on", low=1e-6, high=0.5)
    sources: str = _setting("", "where the text comes from, and its licences; stands in the README beside the model")

    # Model
    base_model: str = _setting("", "go on from this model, with its tokenizer and shape; default: begin anew")
    vocab_size: int = _setting(16384, "tokens of the byte-level BPE trained on the corpus", low=257)
    layers: int = _setting(6, "transformer blocks", low=1)
    hidden_size: int = _setting(320, "width; a multiple of heads", low=1)
    heads: int = _setting(5, "attention heads", low=1)
    positions: int = _setting(1024, "longest text that the model can ever read, in tokens", low=1)

    # Optimisation
    block: int = _setting(512, "tokens of one row", low=2)
    batch_size: int = _setting(16, "rows a step and process", low=1, high=4096)
    gradient_accumulation: int = _setting(1, "steps summed before the weights move", low=1, high=4096)
    steps: int = _setting(2000, "optimiser steps", low=1)
    lr: float = _setting(1.5e-3, "peak learning rate of AdamW", low=1e-9, high=1.0)
    warmup: float = _setting(0.04, "part of all steps in which the learning rate rises from 0", low=0.0, high=0.9)
    decay: float = _setting(0.7, "part of all steps, the last ones, in which it falls to a fiftieth", low=0.0, high=1.0)
    weight_decay: float = _setting(0.1, "AdamW's weight decay, on matrices", low=0.0, high=1.0)
    max_grad_norm: float = _setting(1.0, "gradients are scaled down to this norm", low=0.0)
    precision: str = _setting("auto", PRECISION_HELP, choices=PRECISIONS)
    seed: int = _setting(
        42, "of the first weights, the order of blocks and the documents held out", low=0, high=MAX_SEED
    )

    checkpoints: str = _setting("", "directory for checkpoints and tokens, which stay; default: OUTPUT-checkpoints")
    save_steps: int = _setting(200, "steps between checkpoints", low=1)
    eval_steps: int = _setting(500, "steps between measurements on the documents held out", low=1)
    weights_dtype: str = _setting(
        "float16", "precision in which the weights are stored", choices=("float32", "float16", "bfloat16")
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if self.hidden_size % self.heads:
            raise ConfigError(f"hidden-size {self.hidden_size} is not a multiple of heads {self.heads}")
        if self.block > self.positions and not self.base_model:
            raise ConfigError(f"block {self.block} is above positions {self.positions}")
        if self.warmup + self.decay > 1:
            raise ConfigError(f"warmup {self.warmup} and decay {self.decay} are more than the whole run together")


Config = TypeVar("Config", TrainConfig, PretrainConfig)


def load_config(kind: type[Config], file: Path | None, overrides: Mapping[str, Any]) -> Config:
    """Settings from a TOML file, with `overrides` on top.

    Raises:
        ConfigError: the file is missing or no TOML, a key does not exist, or a value has the wrong type or range.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{file}: no such file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as exc:
            raise ConfigError(f"{file}: not readable as TOML: {exc}") from exc
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"{file}: unknown setting {', '.join(unknown)}; known are {', '.join(fields)}")
    merged: dict[str, Any] = values | dict(overrides)
    merged = {key: tuple(value) if isinstance(value, list) else value for key, value in merged.items()}
    try:
        return kind(**merged)
    except ConfigError as exc:
        raise ConfigError(f"{file}: {exc}" if file else str(exc)) from exc


def _check(field: "dataclasses.Field[Any]", value: Any) -> None:
    flag = field.name.replace("_", "-")
    if field.type == tuple[str, ...]:
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{flag} must be a list of strings, is {value!r}")
        return
    kinds = (int, float) if field.type is float else (field.type,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and field.type is not bool):  # type: ignore[arg-type]
        raise ConfigError(f"{flag} must be {field.type.__name__}, is {value!r}")  # type: ignore[union-attr]
    low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
    if choices and value not in choices:
        raise ConfigError(f"{flag} must be one of {', '.join(choices)}, is {value!r}")
    if low is not None and not value >= low:
        raise ConfigError(f"{flag} must be at least {low}, is {value}")
    if high is not None and not value <= high:
        raise ConfigError(f"{flag} must be at most {high}, is {value}")
