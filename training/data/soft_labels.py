"""Soft labels: rows of tokens with a teacher's probabilities, for training to follow beside the labels.

The teacher is a logistic regression on the vectors of a sentence encoder, fitted on the training texts alone. It reads
several beginnings of every row by themselves, and a token's probabilities are those of the first beginning that
contains it.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer
from torch.utils.data import Dataset

from classifier.encoding import TextCleaning
from training.config import TrainConfig
from training.data.passages import Passage, with_cuts
from training.data.read import Example
from training.data.taught import IDENTITY, SHARD, Shards, shard_path, tokenizer_sha256
from training.data.teacher import SentenceEncoder
from training.errors import ConfigError

SHORTEST_CUT = 8
"""Tokens of the shortest crop, and of the shortest beginning before the last one of a row."""
C = 10.0
"""Inverse strength of the regression's regularisation; vectors have norm 1."""
ROWS = "soft-rows.safetensors"
"""Name of the rows beside the checkpoints."""
UNLABELLED = -1
"""Label id of a row without a label."""
_SENTENCE = re.compile(r"(?<=[.!?]) +(?=\W?[A-Z0-9])")


class SoftRows(Dataset[dict[str, Any]]):
    """Rows with label ids, cuts and the teacher's probabilities, as `SoftLabels` writes them.

    An item has `input_ids` (T,) int32; `labels`, an int, `UNLABELLED` if there is none; `cuts` (K,) int32, the numbers
    of tokens of the beginnings, ascending; and `probs` (K, C) float32.
    """

    def __init__(self, path: Path) -> None:
        there = load_file(path)
        self._labels, self._lengths = there["labels"], there["lengths"]
        self._ids = np.split(there["ids"], np.cumsum(self._lengths)[:-1])
        ends = np.cumsum(there["cut_counts"])[:-1]
        self._cuts, self._probs = np.split(there["cuts"], ends), np.split(there["probs"], ends)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "input_ids": self._ids[index],
            "labels": int(self._labels[index]),
            "cuts": self._cuts[index],
            "probs": self._probs[index],
        }

    def lengths(self) -> NDArray[np.int32]:
        """Return the number of tokens of each row, (rows,)."""
        lengths: NDArray[np.int32] = self._lengths
        return lengths


def for_each_token(row: Mapping[str, Any]) -> NDArray[np.float32]:
    """Return the probabilities (T, C) of every token of a row: those of the first beginning that contains it."""
    place_t = np.searchsorted(row["cuts"], np.arange(1, len(row["input_ids"]) + 1))
    probs_tc: NDArray[np.float32] = row["probs"][place_t]
    return probs_tc


def left_padded(rows: Sequence[NDArray[np.float32]]) -> torch.Tensor:
    """Return (B, T, C) float32 from B arrays (T, C), with zeros on the left."""
    padded_btc = np.zeros((len(rows), max(map(len, rows)), rows[0].shape[1]), dtype=np.float32)
    for place, row in enumerate(rows):
        padded_btc[place, len(padded_btc[place]) - len(row) :] = row
    return torch.from_numpy(padded_btc)


@dataclass(frozen=True)
class SoftLabels:
    """The training texts and the teacher that gives them probabilities.

    Args:
        config: the recipe.
        examples: the training texts.
        label_ids: the label id of each.
        labels: number of labels.
        tokenizer: the model's tokenizer.
        cleaning: the clean-up of every text.
        dtype: precision of the teacher's forward.

    Raises:
        ModelError: the teacher cannot be loaded.
        ConfigError: the unlabelled passages are not those of `distil`, or of another teacher or tokenizer.
    """

    config: TrainConfig
    examples: Sequence[Example]
    label_ids: Sequence[int]
    labels: int
    tokenizer: Tokenizer
    cleaning: TextCleaning
    dtype: torch.dtype

    def __post_init__(self) -> None:
        wanted = {"teacher_sha256": self.teacher.sha256, "tokenizer_sha256": tokenizer_sha256(self.tokenizer)}
        for key, value in wanted.items():
            if self.config.unlabelled and self._passages.get(key) != value:
                kind = key.removesuffix("_sha256")
                raise ConfigError(f"the passages of unlabelled {self.config.unlabelled} are of another {kind}")

    @cached_property
    def teacher(self) -> SentenceEncoder:
        """The sentence encoder, which reads as much as it did for the unlabelled passages."""
        return SentenceEncoder(
            self.config.teacher_labels, self.dtype, max_tokens=self._passages.get("teacher_tokens", 0)
        )

    @cached_property
    def _passages(self) -> dict[str, Any]:
        """What `distil` wrote about its passages; nothing without `unlabelled`."""
        if not self.config.unlabelled:
            return {}
        path = Path(self.config.unlabelled) / IDENTITY
        try:
            identity: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise ConfigError(f"unlabelled {self.config.unlabelled} has no passages that distil wrote: {exc}") from exc
        return identity

    def identity(self) -> dict[str, Any]:
        """Return what the rows depend on besides settings and training texts."""
        return {"teacher_sha256": self.teacher.sha256, "unlabelled": self._passages}

    def rows(self, directory: Path) -> SoftRows:
        """Return the rows, which are written to the directory once and reused afterwards."""
        path = directory / ROWS
        if not path.exists():
            self._write(path)
        return SoftRows(path)

    def _write(self, path: Path) -> None:
        """Fit the teacher's regression, and write all rows with its probabilities, whole or not at all."""
        passages, labels = self._labelled()
        counts = [len(passage.cuts) for passage in passages]
        vectors_kd = self.teacher.encode([beginning for passage in passages for beginning in passage.beginnings])
        regression = LogisticRegression(C=C, max_iter=2000).fit(vectors_kd, np.repeat(labels, counts))
        ids = [passage.ids for passage in passages]
        cuts = [np.array(passage.cuts, dtype=np.int32) for passage in passages]
        if self.config.unlabelled:
            chosen = self._unlabelled(regression)
            ids += [passage["input_ids"] for passage in chosen]
            cuts += [passage["cuts"] for passage in chosen]
            labels += [UNLABELLED] * len(chosen)
            vectors_kd = np.concatenate([vectors_kd, *(passage["vectors"] for passage in chosen)])
        probs_kc = np.zeros((len(vectors_kd), self.labels), dtype=np.float32)
        probs_kc[:, regression.classes_] = regression.predict_proba(vectors_kd)
        unfinished = path.with_suffix(".unfinished")
        save_file(
            {
                "ids": np.concatenate(ids).astype(np.int32),
                "lengths": np.array([len(row) for row in ids], dtype=np.int32),
                "labels": np.array(labels, dtype=np.int32),
                "cuts": np.concatenate(cuts),
                "cut_counts": np.array([len(row) for row in cuts], dtype=np.int32),
                "probs": probs_kc,
            },
            unfinished,
        )
        unfinished.replace(path)

    def _labelled(self) -> tuple[list[Passage], list[int]]:
        """Return the rows of the labelled texts, and the label id of each."""
        rng = np.random.default_rng(self.config.seed)
        passages: list[Passage] = []
        labels: list[int] = []
        for example, label in zip(self.examples, self.label_ids, strict=True):
            texts, limits = zip(*self._texts(example, rng), strict=True)
            encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
            for text, encoding, limit in zip(texts, encodings, limits, strict=True):
                if passage := with_cuts(text, encoding, rng, min_tokens=SHORTEST_CUT, max_tokens=limit):
                    passages.append(passage)
                    labels.append(label)
        return passages, labels

    def _texts(self, example: Example, rng: np.random.Generator) -> Iterator[tuple[str, int]]:
        """Yield the texts that one labelled text gives, each with the most tokens that are taken of it.

        These are the text, its title alone, and stretches that begin with a sentence: one as long as a window with
        `crops`, and `short_crops` whose lengths are log-uniform.
        """
        longest = self.config.max_seq_len
        cleaned = self.cleaning.clean(example.text)
        yield cleaned, longest
        if example.titled:
            yield self.cleaning.clean(example.text.partition("\n\n")[0]), longest
        starts = [0, *(match.end() for match in _SENTENCE.finditer(cleaned))]
        lengths = np.exp(rng.uniform(np.log(min(SHORTEST_CUT, longest)), np.log(longest), self.config.short_crops))
        for length in [*[longest] * self.config.crops, *lengths.round().astype(int).tolist()]:
            yield cleaned[starts[rng.integers(len(starts))] :], length

    def _unlabelled(self, regression: LogisticRegression) -> list[dict[str, Any]]:
        """Return passages of which equally many have each label, by the teacher's answer to the whole passage."""
        config, directory = self.config, Path(self.config.unlabelled)
        written = itertools.takewhile(lambda shard: shard_path(directory, "train", shard).exists(), itertools.count())
        shards = Shards(directory, "train", sum(1 for _ in written))
        answers = np.full(len(shards), UNLABELLED)
        for shard in range(shards.shards):
            there = shards.shard(shard)
            last = there["cut_starts"] + there["cut_counts"] - 1
            fits = there["lengths"] <= config.max_seq_len
            answer = regression.predict(there["vectors"][last].astype(np.float32))
            answers[shard * SHARD : (shard + 1) * SHARD] = np.where(fits, answer, UNLABELLED)
        rng = np.random.default_rng(config.seed)
        each = config.unlabelled_passages // len(regression.classes_)
        chosen: list[int] = []
        for label in regression.classes_:
            candidates = np.flatnonzero(answers == label)
            chosen += rng.permutation(candidates)[:each].tolist()
        return [shards[index] for index in sorted(chosen)]  # in order, so that each shard is read once
