"""Training data as the model sees it: rows of tokens, their order, and batches of them."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from classifier.encoding import pad

Tokens = Sequence[int] | NDArray[np.int32]
"""Token ids of one text."""


@dataclass
class Epoch:
    """Number of the current pass over the training texts, from 0; one object is shared by all that depend on it."""

    number: int = 0


class TokenizedTexts(Dataset[dict[str, Any]]):
    """The beginning of each text, or a random stretch of it, with its label id.

    Args:
        texts: token ids of whole texts.
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
        self._rows = list(zip(texts, label_ids, strict=True))
        self._max_tokens = max_tokens
        self._crop_seed = crop_seed
        self._epoch = epoch or Epoch()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids, label = self._rows[index]
        spare = len(ids) - self._max_tokens
        start = 0
        if self._crop_seed is not None and spare > 0:
            rng = random.Random(f"{self._crop_seed}:{self._epoch.number}:{index}")
            start = rng.randint(0, spare) if rng.random() < 0.5 else 0
        return {"input_ids": ids[start : start + self._max_tokens], "labels": label}

    def lengths(self) -> list[int]:
        """Return the number of tokens of each row."""
        return [min(len(ids), self._max_tokens) for ids, _ in self._rows]


class LengthGroupedOrder(Sampler[int]):
    """A random order in which neighbours have similar lengths, so that batches waste little on padding.

    Rows are shuffled, sorted within stretches of `BATCHES_SORTED` batches, and the batches are shuffled again. The
    order depends only on seed and epoch. The sampler of transformers draws from the global generator, so a run that
    resumes within an epoch would continue in another order.
    """

    BATCHES_SORTED = 50

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, epoch: Epoch) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"order:{self._seed}:{self._epoch.number}")
        order = list(range(len(self._lengths)))
        rng.shuffle(order)
        size = self._batch_size
        batches: list[list[int]] = []
        for start in range(0, len(order), size * self.BATCHES_SORTED):
            stretch = sorted(order[start : start + size * self.BATCHES_SORTED], key=self._lengths.__getitem__)
            batches += [stretch[i : i + size] for i in range(0, len(stretch), size)]
        # The one short batch stays last, because the loader cuts the order every `size` rows.
        short = [batches.pop()] if len(batches[-1]) < size else []
        rng.shuffle(batches)
        return iter([index for batch in [*batches, *short] for index in batch])


class Collator:
    """Makes a left-padded batch of int64 tensors from rows of `TokenizedTexts`."""

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
