"""Passages with the vectors that a teacher gives to their beginnings, computed once and kept on disk.

DIR/identity.json               everything on which the passages and the vectors depend
DIR/train-00012.safetensors     one shard, written whole or not at all
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from torch.utils.data import Dataset

from training.data.files import replace_text
from training.data.passages import Passages
from training.data.teacher import SentenceEncoder
from training.errors import ConfigError

IDENTITY = "identity.json"
SHARD = 1024
"""Passages of a shard: a minute of a teacher's work, and enough to fill batches of equal lengths."""
SHARDS_IN_MEMORY = 16
"""Shards that are read at once, 4 MB each for vectors of width 384."""


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """Return what tells apart the tokenizers of passages."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def claim_vectors(directory: Path, identity: Mapping[str, Any]) -> None:
    """Claim a directory for passages and vectors, or check that its shards are the wanted ones.

    Raises:
        ConfigError: it has shards of other passages or of another teacher, or cannot be written.
    """
    path, wanted = directory / IDENTITY, json.loads(json.dumps(identity))
    if not path.exists():
        replace_text(path, json.dumps(wanted, indent=2))
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    if differing := sorted(key for key in wanted.keys() | there.keys() if wanted.get(key) != there.get(key)):
        shown = "; ".join(f"{key} is {there.get(key)!r} there and {wanted.get(key)!r} here" for key in differing)
        raise ConfigError(
            f"{directory} has vectors of another teacher or other passages: {shown}. Remove it, or choose another "
            "--vectors"
        )


def shard_path(directory: Path, name: str, shard: int) -> Path:
    """Return the file of a shard."""
    return directory / f"{name}-{shard:05}.safetensors"


class Shards(Dataset[dict[str, Any]]):
    """Taught passages on disk.

    An item has `input_ids` (T,) int32, `cuts` (K,) int32, the number of tokens of each beginning, and `vectors` (K, D)
    float16.

    Args:
        directory: directory of the shards.
        name: prefix of the shards' names.
        shards: number of shards.
    """

    def __init__(self, directory: Path, name: str, shards: int) -> None:
        self._directory, self._name = directory, name
        self.shards = shards
        self.shard = lru_cache(SHARDS_IN_MEMORY)(self._read)

    def __len__(self) -> int:
        return self.shards * SHARD

    def lengths(self, shard: int) -> NDArray[np.int32]:
        """Return the number of tokens of each passage of a shard, (SHARD,)."""
        lengths: NDArray[np.int32] = self.shard(shard)["lengths"]
        return lengths

    def __getitem__(self, index: int) -> dict[str, Any]:
        there, row = self.shard(index // SHARD), index % SHARD
        token, cut = there["starts"][row], there["cut_starts"][row]
        cuts = slice(cut, cut + there["cut_counts"][row])
        return {
            "input_ids": there["ids"][token : token + there["lengths"][row]],
            "cuts": there["cuts"][cuts],
            "vectors": there["vectors"][cuts],
        }

    def path(self, shard: int) -> Path:
        return shard_path(self._directory, self._name, shard)

    def _read(self, shard: int) -> dict[str, NDArray[Any]]:
        there = load_file(self.path(shard))
        return there | {
            "starts": np.cumsum(there["lengths"]) - there["lengths"],
            "cut_starts": np.cumsum(there["cut_counts"]) - there["cut_counts"],
        }


class TaughtPassages(Shards):
    """Shards of passages that are drawn and taught when they are first asked for.

    Args:
        directory: directory of the shards, claimed by `claim_vectors`.
        name: prefix of the shards' names.
        passages: source of the passages.
        teacher: gives the vectors.
        shards: number of shards.
    """

    def __init__(self, directory: Path, name: str, passages: Passages, teacher: SentenceEncoder, shards: int) -> None:
        super().__init__(directory, name, shards)
        self._passages, self._teacher = passages, teacher

    def missing(self, shards: Sequence[int]) -> list[int]:
        """Return which of some shards are not yet on disk."""
        return [shard for shard in shards if not self.path(shard).exists()]

    def teach(self, shard: int) -> None:
        """Draw the passages of a shard, compute their vectors, and write both."""
        passages = self._passages.draw(shard, SHARD)
        vectors_kd = self._teacher.encode([text for passage in passages for text in passage.beginnings])
        # another run may share the directory and teach the same shard at the same time
        unfinished = self.path(shard).with_suffix(f".{os.getpid()}.unfinished")
        save_file(
            {
                "ids": np.concatenate([passage.ids for passage in passages]),
                "lengths": np.array([len(passage.ids) for passage in passages], dtype=np.int32),
                "cuts": np.array([cut for passage in passages for cut in passage.cuts], dtype=np.int32),
                "cut_counts": np.array([len(passage.cuts) for passage in passages], dtype=np.int32),
                "vectors": vectors_kd.astype(np.float16),
            },
            unfinished,
        )
        os.replace(unfinished, self.path(shard))


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Return a batch of passages, padded on the right, which a causal model needs no mask for.

    Returns:
        `input_ids` (B, T) int64; `labels` (B, T), the same with -100 on padding; `rows` and `columns` (K,) int64, the
        places of the last tokens of all K beginnings; `vectors` (K, D) float32.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    ids_bt = np.zeros((len(rows), max(lengths)), dtype=np.int64)
    labels_bt = np.full_like(ids_bt, -100)
    for i, row in enumerate(rows):
        ids_bt[i, : lengths[i]] = labels_bt[i, : lengths[i]] = row["input_ids"]
    return {
        "input_ids": torch.from_numpy(ids_bt),
        "labels": torch.from_numpy(labels_bt),
        "rows": torch.from_numpy(np.repeat(np.arange(len(rows)), [len(row["cuts"]) for row in rows])),
        "columns": torch.from_numpy(np.concatenate([row["cuts"] for row in rows]).astype(np.int64) - 1),
        "vectors": torch.from_numpy(np.concatenate([row["vectors"] for row in rows]).astype(np.float32)),
    }
