"""Training data as the model sees it: rows of tokens, the batches of an epoch, and batches as tensors."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from classifier.encoding import pad
from training.data.soft_labels import for_each_token, left_padded
from training.data.taught import SHARD, TaughtPassages
from training.errors import ConfigError

Tokens = Sequence[int] | NDArray[np.int32]
"""Token ids of one text."""


@dataclass
class Epoch:
    """Number of the current pass over the training texts, from 0; one object is shared by all that depend on it."""

    number: int = 0


class TokenizedTexts(Dataset[dict[str, Any]]):
    """The beginning of each text, or a random stretch of it, with its label id.

    Args:
        texts: token ids of whole texts. They are not copied, so a sequence that keeps them in one array stays compact.
        label_ids: one label id per text.
        max_tokens: most tokens of one row.
        crop_seed: if given, a longer text is cut to a random stretch in half of the cases, else to its beginning. The
            stretch depends only on seed, epoch and text, so that a resumed run sees the same stretches.
        epoch: the current epoch.
    """

    def __init__(
        self,
        texts: Sequence[Tokens],
        label_ids: Sequence[int],
        max_tokens: int,
        *,
        crop_seed: int | None = None,
        epoch: Epoch | None = None,
    ) -> None:
        self._texts = texts
        self._label_ids = label_ids
        self._max_tokens = max_tokens
        self._crop_seed = crop_seed
        self._epoch = epoch or Epoch()

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = self._texts[index]
        spare = len(ids) - self._max_tokens
        start = 0
        if self._crop_seed is not None and spare > 0:
            rng = random.Random(f"{self._crop_seed}:{self._epoch.number}:{index}")
            start = rng.randint(0, spare) if rng.random() < 0.5 else 0
        return {"input_ids": ids[start : start + self._max_tokens], "labels": self._label_ids[index]}

    def lengths(self) -> NDArray[np.int32]:
        """Return the number of tokens of each row, (rows,)."""
        lengths = np.fromiter(map(len, self._texts), dtype=np.int32, count=len(self._texts))
        return np.minimum(lengths, self._max_tokens)


class LengthGroupedBatches(Sampler[list[int]]):
    """The batches of an epoch as indices of rows, of similar lengths in a batch, so that little is wasted on padding.

    Rows are shuffled, sorted by length within stretches of `BATCHES_SORTED` batches, cut into batches whose sizes
    differ by at most one, and the batches are shuffled. They depend only on seed and epoch, so that a resumed run sees
    the same ones, and not on the number of processes: each process takes its share of every batch.

    Args:
        lengths: number of tokens of each row, (rows,).
        batch_size: most rows of a batch, in all processes together.
        seed: seed of the order.
        epoch: the current epoch.
        process: number of this process, from 0.
        processes: number of processes that share each batch.

    Raises:
        ConfigError: the smallest batch has fewer rows than there are processes.
    """

    BATCHES_SORTED = 50

    def __init__(
        self,
        lengths: NDArray[np.int32],
        batch_size: int,
        seed: int,
        epoch: Epoch,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._lengths = lengths
        self._batches = -(-len(lengths) // batch_size)
        self._seed = seed
        self._epoch = epoch
        self._process, self._processes = process, processes
        if processes > len(lengths) // self._batches:
            raise ConfigError(
                f"{processes} processes cannot share batches of {len(lengths) // self._batches} rows; use fewer "
                "processes or a larger --batch-size"
            )

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self._seed, self._epoch.number))
        edges = np.arange(self._batches + 1) * len(self._lengths) // self._batches
        order = rng.permutation(len(self._lengths))
        stretches = np.repeat(np.arange(self._batches) // self.BATCHES_SORTED, np.diff(edges))
        order = order[np.lexsort((self._lengths[order], stretches))]
        for batch in rng.permutation(self._batches):
            yield order[edges[batch] + self._process : edges[batch + 1] : self._processes].tolist()


class Collator:
    """Makes a left-padded batch of int64 tensors from rows of `TokenizedTexts` or `SoftRows`.

    Of the latter it also has `soft_labels` (B, T, C) float32, the probabilities for every token.
    """

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = pad([row["input_ids"] for row in rows], self._pad_id, "left")
        more = {"soft_labels": left_padded([for_each_token(row) for row in rows])} if "probs" in rows[0] else {}
        return more | {
            "input_ids": torch.from_numpy(batch.ids_bt),
            "attention_mask": torch.from_numpy(batch.mask_bt),
            "position_ids": torch.from_numpy(batch.positions_bt),
            "labels": torch.tensor([row["labels"] for row in rows], dtype=torch.int64),
        }


class EqualBatches(Sampler[list[int]]):
    """The batches of an epoch of taught passages, with equal numbers of tokens and little padding.

    Passages are sorted by length within stretches of `SHARDS_SORTED` shards and cut into parts that have about equally
    many tokens, so that processes do not wait for each other. A batch has one part for each process, from different
    ranges of lengths, which take turns. The first epoch takes the shards in order, and teaches those that are not yet
    on disk; the processes share that work.

    Args:
        passages: the passages.
        batch_size: passages of a batch on average, in all processes together.
        seed: seed of the order.
        epoch: the current epoch.
        process: number of this process, from 0.
        processes: number of processes that share each batch.
        wait: waits for all processes.
    """

    SHARDS_SORTED = 8

    def __init__(
        self,
        passages: TaughtPassages,
        batch_size: int,
        seed: int,
        epoch: Epoch,
        process: int,
        processes: int,
        wait: Callable[[], None],
    ) -> None:
        self._passages = passages
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = epoch
        self._process, self._processes = process, processes
        self._wait = wait
        if processes > batch_size:
            raise ConfigError(f"{processes} processes cannot share batches of {batch_size} passages")

    def __len__(self) -> int:
        return sum(self._batches(len(shards)) for shards in self._stretches(np.arange(self._passages.shards)))

    def _stretches(self, shards: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return [shards[start : start + self.SHARDS_SORTED] for start in range(0, len(shards), self.SHARDS_SORTED)]

    def _batches(self, shards: int) -> int:
        return max(1, shards * SHARD // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self._seed, self._epoch.number))
        shards = np.arange(self._passages.shards)
        for stretch in self._stretches(shards if self._epoch.number == 0 else rng.permutation(shards)):
            self.teach(stretch.tolist())
            rows = np.concatenate([shard * SHARD + np.arange(SHARD) for shard in stretch])
            lengths = np.concatenate([self._passages.lengths(shard) for shard in stretch.tolist()])
            order = rng.permutation(len(rows))
            order = order[np.argsort(lengths[order], kind="stable")]
            batches = self._batches(len(stretch))
            edges = equal_edges(lengths[order], batches * self._processes)
            places = np.stack([rng.permutation(batches) for _ in range(self._processes)])
            for batch in range(batches):
                band = (self._process + batch) % self._processes
                part = band * batches + places[band, batch]
                yield rows[order[edges[part] : edges[part + 1]]].tolist()

    def teach(self, shards: Sequence[int]) -> None:
        """Draw and teach the shards that are not yet on disk, each in one of the processes, and wait for all."""
        missing = self._passages.missing(shards)
        self._wait()  # all processes must have looked before any of them writes
        for shard in missing[self._process :: self._processes]:
            self._passages.teach(shard)
        self._wait()


def equal_edges(lengths: NDArray[np.int32], parts: int) -> NDArray[np.int64]:
    """Return where to cut rows into parts with about equally many tokens and at least one row each.

    Args:
        lengths: number of tokens of each row, (rows,), at least as many rows as parts.
        parts: number of parts.

    Returns:
        The first row of each part and the number of rows, (parts + 1,), strictly ascending.
    """
    tokens = np.cumsum(lengths)
    edges = np.r_[0, np.searchsorted(tokens, tokens[-1] * np.arange(1, parts) / parts) + 1, len(lengths)]
    least = np.arange(parts + 1)
    edges = np.minimum(np.maximum.accumulate(edges - least), len(lengths) - parts) + least
    return edges.astype(np.int64)
