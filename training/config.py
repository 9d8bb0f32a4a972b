"""Settings of `python -m training train`, `pretrain` and `distil`: typed, ranged, with units.

They come from a TOML file and the command line. The command line wins over the file, the file over the default, and a
key that does not exist is an error.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from training.errors import ConfigError
from training.options import check, setting

MAX_SEED = 2**32 - 1
"""The largest seed that NumPy's generator accepts."""
PRECISIONS = ("auto", "float32", "bfloat16")
PRECISION_HELP = (
    "precision of matrix products during training; the weights themselves stay float32. auto: bfloat16 where the "
    "hardware is fast at it (CUDA from Ampere on, CPUs with AMX or AVX-512 BF16), else float32"
)
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class DataConfig:
    """Labelled texts: where they are, and how they are laid out in their files."""

    data: str = setting(
        "",
        "a file (CSV, TSV, JSON Lines, Parquet), a directory with train, val and test files, or a directory with one "
        "folder of .txt files per label; a local path or any URL that fsspec opens",
    )
    text_column: str = setting("text", "column of the texts")
    label_column: str = setting("", "column of the labels; default: 'label' or 'category'")
    title_column: str = setting("", "column of the titles; default: 'title' if there is one")
    group_column: str = setting(
        "",
        "column whose equal values keep rows on one side of the split, in addition to near-duplicates; default: "
        "'near_dup_group', which holds near-duplicate groups, so that none are searched, or 'group'",
    )
    use_title: bool = setting(True, "put the title before the text")
    encoding: str = setting("utf-8", "encoding of text files")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class TrainConfig(DataConfig):
    """One training run.

    Raises:
        ConfigError: a value is out of its range, or two values contradict each other.
    """

    output: str = setting("", "directory of the artifact")
    val_fraction: float = setting(0.1, "fraction of the rows for validation, if no file is given", low=0.01, high=0.5)
    test_fraction: float = setting(0.1, "fraction of the rows for the test, if no file is given", low=0.01, high=0.5)
    folds: int = setting(
        0, "number of folds of about equal size; one of them is the test, instead of test-fraction; 0: no folds", low=0
    )
    fold: int = setting(0, "the fold that is the test, counted from 0", low=0)
    near_duplicates: bool = setting(
        True, "search texts that tell the same story and keep them on one side of the split; copies always stay there"
    )
    allow_leaks: bool = setting(False, "train even if texts of one given split also occur in another")

    # Model
    base_model: str = setting("gpt2", "GPT-2 to start from: a Hugging Face name or a local directory")
    allow_classifier_base: bool = setting(
        False, "start even from a classifier: its head is replaced, but it may have been trained on texts of the test"
    )
    hidden_size: int = setting(0, "expected width of the base model; 0 accepts any width", low=0)
    max_seq_len: int = setting(
        512, "tokens of one window; longer texts are cut in training and read in several windows afterwards", low=1
    )
    head: str = setting(
        "last_token",
        "last_token: a linear layer on the last token; flatten: one on all max-seq-len left-padded positions",
        choices=("last_token", "flatten"),
    )
    window_stride: int = setting(0, "tokens between the starts of windows; 0: three quarters of max-seq-len", low=0)
    crops: bool = setting(
        False, "train on a random stretch of a longer text half of the time; otherwise always on its beginning"
    )
    lowercase: bool = setting(False, "lower-case every text, also when serving")
    sources: str = setting("", "origin and licences of the texts and the base model, for the model card")
    limits: str = setting("", "what the model must not be used for, for the model card")
    name: str = setting("", "name of the model; default: the name of the output directory")

    # Optimisation
    epochs: float = setting(3.0, "passes over the training texts", low=0.001, high=1000)
    batch_size: int = setting(16, "texts per batch, over all processes together", low=1, high=4096)
    gradient_accumulation: int = setting(1, "batches summed before the weights are updated", low=1, high=4096)
    lr: float = setting(2e-4, "peak learning rate of AdamW", low=1e-9, high=1.0)
    warmup: float = setting(0.1, "fraction of all steps in which the learning rate rises from 0", low=0.0, high=0.9)
    weight_decay: float = setting(0.01, "weight decay of AdamW, on matrices only", low=0.0, high=1.0)
    average: float = setting(
        0.0,
        "fraction of all steps, at the end, over which the weights are averaged at a constant learning rate; 0: the "
        "learning rate falls to 0, and the weights of the best evaluation are kept",
        low=0.0,
        high=1.0,
    )
    label_smoothing: float = setting(0.0, "probability mass spread over all labels", low=0.0, high=0.5)
    dropout: float = setting(
        0.1, "dropout in embeddings and residuals during training; attention has none", low=0.0, high=0.9
    )
    precision: str = setting("auto", PRECISION_HELP, choices=PRECISIONS)
    class_weights: bool = setting(False, "weight each text by the rarity of its label, for unbalanced data")
    patience: int = setting(0, "stop after this many evaluations (one per epoch) without improvement; 0: never", low=0)
    dense_from: int = setting(
        0, "take half of the loss after every token from this one on; 0: all of it after the last token", low=0
    )
    teacher_labels: str = setting(
        "",
        "local directory of a sentence encoder as teacher: the loss also follows the probabilities of a logistic "
        "regression on its vectors, fitted on the training texts alone",
    )
    teacher_weight: float = setting(
        0.5, "fraction of the loss of a labelled text that follows the teacher's probabilities", low=0.0, high=1.0
    )
    short_crops: int = setting(
        3,
        "with a teacher: stretches of 8 tokens up to max-seq-len of each training text that are rows of their own, "
        "beside its beginning and its title alone",
        low=0,
    )
    unlabelled: str = setting(
        "", "directory of vectors that `distil` wrote with the same teacher and tokenizer, for unlabelled passages"
    )
    unlabelled_passages: int = setting(
        20_000,
        "unlabelled passages, as many for each label by the teacher's answers; their loss is teacher-weight "
        "times that of its probabilities",
        low=1,
    )
    freeze_embeddings: bool = setting(
        False,
        "do not train the embeddings, so that words that training never sees stay comparable with the others",
    )
    freeze_layers: int = setting(0, "number of lowest blocks that are not trained", low=0)
    layer_lr_decay: float = setting(
        1.0,
        "factor from the learning rate of a block to that of the block below it, embeddings last; 1: one rate for all",
        low=0.01,
        high=1,
    )
    max_grad_norm: float = setting(1.0, "norm to which larger gradients are scaled down", low=0.0)
    seed: int = setting(
        42, "seed of the split, the first weights of the head, dropout and the order of texts", low=0, high=MAX_SEED
    )

    # Checkpoints
    checkpoints: str = setting("", "directory of checkpoints; a run continues from its own checkpoints there")
    save_steps: int = setting(0, "steps between checkpoints; 0: one checkpoint per epoch", low=0)

    # Artifact
    weights_dtype: str = setting("float32", "precision of the stored weights", choices=DTYPES)
    unsure_error: float = setting(
        0.02, "allowed share of wrong answers among those that are not marked unsure", low=0.0, high=1.0
    )
    overwrite: bool = setting(False, "replace an existing artifact at the output")
    report: bool = setting(True, "write report.html, metrics.json and plots to OUTPUT-report/")
    baseline: bool = setting(True, "also fit TF-IDF + logistic regression on the same split, for comparison")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_fraction + self.test_fraction > 0.8:
            raise ConfigError("val-fraction and test-fraction leave less than a fifth of the rows for training")
        if self.folds == 1 or self.fold > max(0, self.folds - 1):
            raise ConfigError(f"fold {self.fold} of {self.folds}: folds are at least 2, and fold is below their number")
        if self.window_stride > self.max_seq_len:
            raise ConfigError(
                f"window-stride {self.window_stride} is above max-seq-len {self.max_seq_len}: texts would have gaps"
            )
        if self.average and self.patience:
            raise ConfigError("average needs the last steps, but patience may stop before them: set one of the two")
        if self.head == "flatten" and self.dense_from:
            raise ConfigError("head flatten gives one answer per text: dense-from needs head last_token")
        if self.head == "flatten" and self.teacher_labels:
            raise ConfigError("head flatten gives one answer per text: teacher-labels needs head last_token")
        if self.unlabelled and not self.teacher_labels:
            raise ConfigError("unlabelled passages need a teacher: give teacher-labels")

    def resolved_stride(self) -> int:
        """Return the number of tokens between the starts of windows."""
        return self.window_stride or max(1, self.max_seq_len * 3 // 4)


@dataclass(frozen=True)
class BaseConfig:
    """One run that makes a base model from a text corpus; `PretrainConfig` and `DistilConfig` add to it."""

    # Text
    corpus: tuple[str, ...] = setting(
        (),
        "text files: local paths or any URLs that fsspec opens, optionally .gz, .bz2 or .xz; a line <|endoftext|> "
        "separates documents",
    )
    output: str = setting("", "directory of the base model")
    val_fraction: float = setting(0.01, "fraction of the documents held out for validation", low=1e-6, high=0.5)
    sources: str = setting("", "origin and licences of the text, for the README of the model")

    # Model
    base_model: str = setting("", "model to continue from, with its tokenizer and shape; default: a new model")
    vocab_size: int = setting(16384, "tokens of the byte-level BPE that is trained on the corpus", low=257)
    layers: int = setting(6, "number of transformer blocks", low=1)
    hidden_size: int = setting(320, "width of the model, a multiple of heads", low=1)
    heads: int = setting(5, "number of attention heads", low=1)
    positions: int = setting(1024, "longest text that the model can read, in tokens", low=1)

    # Optimisation
    batch_size: int = setting(16, "rows per batch, over all processes together", low=1, high=4096)
    gradient_accumulation: int = setting(1, "batches summed before the weights are updated", low=1, high=4096)
    steps: int = setting(2000, "optimiser steps", low=1)
    lr: float = setting(1.5e-3, "peak learning rate of AdamW", low=1e-9, high=1.0)
    warmup: float = setting(0.04, "fraction of all steps in which the learning rate rises from 0", low=0.0, high=0.9)
    decay: float = setting(
        0.7, "fraction of all steps, at the end, in which the learning rate falls to a fiftieth", low=0.0, high=1.0
    )
    weight_decay: float = setting(0.1, "weight decay of AdamW, on matrices only", low=0.0, high=1.0)
    max_grad_norm: float = setting(1.0, "norm to which larger gradients are scaled down", low=0.0)
    precision: str = setting("auto", PRECISION_HELP, choices=PRECISIONS)
    seed: int = setting(
        42, "seed of the first weights, the order of rows and the choice of held-out documents", low=0, high=MAX_SEED
    )

    # Checkpoints
    checkpoints: str = setting("", "directory of checkpoints and tokens, which is kept; default: OUTPUT-checkpoints")
    save_steps: int = setting(200, "steps between checkpoints", low=1)
    eval_steps: int = setting(500, "steps between measurements on the held-out documents", low=1)
    weights_dtype: str = setting("float16", "precision of the stored weights", choices=DTYPES)

    def __post_init__(self) -> None:
        check(self)
        if self.hidden_size % self.heads:
            raise ConfigError(f"hidden-size {self.hidden_size} is not a multiple of heads {self.heads}")
        if self.row_tokens > self.positions and not self.base_model:
            raise ConfigError(f"rows of {self.row_tokens} tokens are above positions {self.positions}")
        if self.warmup + self.decay > 1:
            raise ConfigError(f"warmup {self.warmup} and decay {self.decay} together exceed the whole run")

    @property
    def row_tokens(self) -> int:
        """Tokens of the longest row that is trained on."""
        raise NotImplementedError

    def checkpoint_directory(self) -> Path:
        """Return the absolute directory of checkpoints."""
        output = Path(self.output).absolute()
        return Path(self.checkpoints).absolute() if self.checkpoints else output.with_name(output.name + "-checkpoints")


@dataclass(frozen=True)
class PretrainConfig(BaseConfig):
    """One pre-training run.

    Raises:
        ConfigError: a value is out of its range, or two values contradict each other.
    """

    block: int = setting(512, "tokens per row", low=2)

    @property
    def row_tokens(self) -> int:
        return self.block


@dataclass(frozen=True)
class DistilConfig(BaseConfig):
    """One run in which a student learns the vectors of a teacher.

    Raises:
        ConfigError: a value is out of its range, or two values contradict each other.
    """

    # Teacher
    teacher: str = setting("", "local directory of a sentence encoder that transformers loads")
    teacher_tokens: int = setting(
        0, "most tokens that the teacher reads of a text; 0: as many as its directory says", low=0
    )
    vectors: str = setting(
        "",
        "directory of passages and vectors, which other runs with the same teacher, corpus and tokenizer may share; "
        "default: `vectors` in the directory of checkpoints",
    )

    # Passages
    passages: int = setting(200_000, "passages that are drawn, in shards of 1024; more steps read them again", low=1)
    mixing: float = setting(
        0.3,
        "exponent of a corpus file's size in the probability that a passage comes from it; 1: in proportion to its "
        "bytes, 0: from all files equally often",
        low=0.0,
        high=1.0,
    )
    min_tokens: int = setting(8, "tokens of the shortest stretch, and of the shortest beginning of one", low=1)
    max_tokens: int = setting(512, "tokens of the longest passage", low=8)
    probe: tuple[str, ...] = setting(
        (),
        "files of labelled texts: at the end, a logistic regression on the frozen vectors is cross-validated on the "
        "first, and one that is fitted on all of the first is measured on each of the others",
    )

    # Optimisation
    batch_size: int = setting(
        128,
        "passages per batch on average, over all processes together; batches have equal numbers of tokens",
        low=1,
        high=65536,
    )
    steps: int = setting(5000, "optimiser steps", low=1)
    lr: float = setting(1e-3, "peak learning rate of AdamW", low=1e-9, high=1.0)
    weight_decay: float = setting(0.05, "weight decay of AdamW, on matrices only", low=0.0, high=1.0)
    language_model: float = setting(
        0.0, "weight of the language model's loss, the mean cross-entropy of the next token in nats", low=0.0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_tokens > self.max_tokens:
            raise ConfigError(f"min-tokens {self.min_tokens} is above max-tokens {self.max_tokens}")

    @property
    def row_tokens(self) -> int:
        return self.max_tokens


Config = TypeVar("Config", TrainConfig, PretrainConfig, DistilConfig)


def load_config(kind: type[Config], file: Path | None, overrides: Mapping[str, Any]) -> Config:
    """Return the settings of a TOML file, with `overrides` on top.

    Raises:
        ConfigError: the file is missing or is not TOML, a key does not exist, or a value has the wrong type or range.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{file}: no such file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as exc:
            raise ConfigError(f"{file}: cannot be read as TOML: {exc}") from exc
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"{file}: unknown setting {', '.join(unknown)}; known are {', '.join(known)}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return kind(**values | dict(overrides))
    except ConfigError as exc:
        raise ConfigError(f"{file}: {exc}" if file else str(exc)) from exc
