"""What the model sees while it learns: rows of tokens, their order, and batches of them."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset, Sampler

from classifier.encoding import pad


@dataclass
class Epoch:
    """The number of the pass over the training texts, from 0; shared by what must know it."""

    number: int = 0


class TokenizedTexts(Dataset[dict[str, Any]]):
    """Each text's beginning, or a random stretch of it, and its label id.

    Args:
        texts: token ids of whole texts.
        label_ids: one a text.
        max_tokens: tokens of one row at most.
        crop_seed: if given, every other time a longer text is asked for, it gives a stretch that begins anywhere.
        epoch: which stretch depends on seed, epoch and text alone, so that a resumed run sees the same ones.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[int]],
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

    def length(self, index: int) -> int:
        """Tokens of a row."""
        return min(len(self._rows[index][0]), self._max_tokens)


class HasLengths(Protocol):
    """Rows of known lengths."""

    def __len__(self) -> int: ...
    def length(self, index: int) -> int:
        """Tokens of a row."""


class LengthGroupedOrder(Sampler[int]):
    """A random order in which neighbours are of like length, so that batches waste little on padding.

    Texts are shuffled, sorted within stretches of `BATCHES_SORTED` batches, and the batches shuffled again. The order
    depends on seed and epoch alone: transformers' own sampler draws it from the global generator, and a run resumed
    within an epoch would go on in another order.
    """

    BATCHES_SORTED = 50

    def __init__(self, texts: HasLengths, batch_size: int, seed: int, epoch: Epoch) -> None:
        self._texts = texts
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"order:{self._seed}:{self._epoch.number}")
        order = list(range(len(self._texts)))
        rng.shuffle(order)
        size = self._batch_size
        batches: list[list[int]] = []
        for start in range(0, len(order), size * self.BATCHES_SORTED):
            stretch = sorted(order[start : start + size * self.BATCHES_SORTED], key=self._texts.length)
            batches += [stretch[i : i + size] for i in range(0, len(stretch), size)]
        # the one short batch stays last: a loader cuts the order every `size` texts
        short = [batches.pop()] if len(batches[-1]) < size else []
        rng.shuffle(batches)
        return iter([index for batch in [*batches, *short] for index in batch])


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
