import tracemalloc
from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.data.taught import SHARD
from training.errors import ConfigError
from training.fit.batches import Collator, Epoch, EqualBatches, LengthGroupedBatches, TokenizedTexts, equal_edges


def test_batches_are_left_padded_with_positions() -> None:
    data = TokenizedTexts([(1, 2, 3, 9, 9), (4,)], [1, 0], max_tokens=3)
    batch = Collator(0)([data[i] for i in range(len(data))])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [0, 0, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert batch["labels"].tolist() == [1, 0]


def test_crops_begin_anywhere_and_half_of_them_at_the_beginning() -> None:
    epoch = Epoch()
    data = TokenizedTexts([tuple(range(10))], [0], max_tokens=4, crop_seed=1, epoch=epoch)
    rows = []
    for epoch.number in range(400):
        rows.append(data[0]["input_ids"])
        assert data[0]["input_ids"] == rows[-1]  # the same within an epoch, however often it is asked for
    assert all(row == tuple(range(row[0], row[0] + 4)) for row in rows)
    starts = Counter(row[0] for row in rows)
    assert set(starts) == set(range(7)) and 200 < starts[0] < 275
    short = TokenizedTexts([(1, 2)], [0], max_tokens=4, crop_seed=1)
    assert all(short[0]["input_ids"] == (1, 2) for _ in range(20))


LENGTHS = np.array([1 + (7 * i) % 97 for i in range(103)], dtype=np.int32)


def test_batches_of_an_epoch_hold_each_row_once_with_like_lengths() -> None:
    texts = TokenizedTexts([(0,) * n for n in LENGTHS], [0] * 103, max_tokens=90)
    epoch = Epoch()
    order = LengthGroupedBatches(texts.lengths(), 8, 3, epoch)
    first = list(order)
    assert list(order) == first and len(order) == len(first) == 13
    assert sorted(chain(*first)) == list(range(103)) and {len(batch) for batch in first} == {7, 8}
    lengths = [[min(LENGTHS[i], 90) for i in batch] for batch in first]
    assert sum(max(b) * len(b) for b in lengths) < 1.1 * sum(map(sum, lengths))
    epoch.number = 1
    assert list(order) != first


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_processes_share_the_batches_of_one_process(processes: int) -> None:
    alone = list(LengthGroupedBatches(LENGTHS, 8, 3, Epoch()))
    shares = [list(LengthGroupedBatches(LENGTHS, 8, 3, Epoch(), process, processes)) for process in range(processes)]
    assert all(all(parts) for parts in zip(*shares, strict=True)), "no process is without a row"
    assert [sorted(chain(*parts)) for parts in zip(*shares, strict=True)] == [sorted(batch) for batch in alone]
    with pytest.raises(ConfigError, match="8 processes cannot share batches of 7 rows"):
        LengthGroupedBatches(LENGTHS, 8, 3, Epoch(), 0, 8)


def test_a_million_rows_are_batched_in_seconds_and_megabytes() -> None:
    lengths = np.random.default_rng(0).integers(1, 120, 1_000_000, dtype=np.int32)
    tracemalloc.start()
    try:
        batches = iter(LengthGroupedBatches(lengths, 16, 3, Epoch()))
        first = next(batches)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(first) == 16 and peak < 50 * lengths.nbytes / 4, "some arrays of one number a row, and no lists"


def test_rows_of_one_array_are_read_without_lists() -> None:
    tokens = np.arange(9, dtype=np.int32)
    data = TokenizedTexts([tokens[:5], tokens[5:6]], np.array([1, 0]), max_tokens=3)  # type: ignore[arg-type]
    assert np.shares_memory(data[0]["input_ids"], tokens) and data.lengths().tolist() == [3, 1]
    batch = Collator(0)([data[0], data[1]])
    assert batch["input_ids"].tolist() == [[0, 1, 2], [0, 0, 5]] and batch["labels"].tolist() == [1, 0]


class _Passages:
    """Passages of some lengths, in place of taught ones; it counts what is taught."""

    def __init__(self, shards: int) -> None:
        self.shards = shards
        self.taught: list[int] = []
        self._rng = np.random.default_rng(7)
        self._lengths = [np.exp(self._rng.uniform(2, 6, SHARD)).astype(np.int32) for _ in range(shards)]

    def missing(self, shards: list[int]) -> list[int]:
        return [shard for shard in shards if shard not in self.taught]

    def teach(self, shard: int) -> None:
        self.taught.append(shard)

    def lengths(self, shard: int) -> NDArray[np.int32]:
        return self._lengths[shard]


@pytest.mark.parametrize("processes", [1, 2])
def test_equal_batches_hold_each_passage_once_and_equally_many_tokens(processes: int) -> None:
    passages: Any = _Passages(11)
    epoch = Epoch()
    shares = [EqualBatches(passages, 64, 1, epoch, process, processes, lambda: None) for process in range(processes)]
    lengths = np.concatenate(passages._lengths)
    seen = []
    for epoch.number in range(2):
        parts = [list(share) for share in shares]
        assert {len(part) for part in parts} == {len(shares[0])} == {11 * SHARD // 64}
        assert sorted(chain.from_iterable(chain.from_iterable(parts))) == list(range(11 * SHARD))
        padded = np.array([len(rows) * lengths[rows].max() for part in parts for rows in part])
        assert padded.sum() < 1.03 * lengths.sum()  # little padding
        assert padded.std() < 0.1 * padded.mean()
        if processes == 2:  # the parts of a batch are short and long ones
            differ = [lengths[a].mean() / lengths[b].mean() for a, b in zip(*parts, strict=True)]
            assert np.mean([max(x, 1 / x) for x in differ]) > 2
        seen.append(parts)
    assert seen[0] != seen[1]
    epoch.number = 1
    assert [list(share) for share in shares] == seen[1]


def test_equal_batches_teach_what_is_missing_when_it_is_needed() -> None:
    passages: Any = _Passages(9)
    batches = iter(EqualBatches(passages, 64, 1, Epoch(), 0, 1, lambda: None))
    next(batches)
    assert passages.taught == list(range(EqualBatches.SHARDS_SORTED))
    both: Any = _Passages(5)
    halves = [EqualBatches(both, 64, 1, Epoch(), process, 2, lambda: None) for process in range(2)]
    halves[1].teach([0, 1, 2, 3])
    assert both.taught == [1, 3]  # the other process has the rest
    with pytest.raises(ConfigError, match="3 processes cannot share"):
        EqualBatches(passages, 2, 1, Epoch(), 0, 3, lambda: None)


@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=60), data=st.data())
def test_equal_edges_leave_no_part_empty(lengths: list[int], data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, len(lengths)))
    edges = equal_edges(np.array(sorted(lengths), dtype=np.int32), parts)
    assert len(edges) == parts + 1 and edges[0] == 0 and edges[-1] == len(lengths)
    assert (np.diff(edges) >= 1).all()
