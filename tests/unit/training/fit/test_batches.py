from collections import Counter

from training.fit.batches import Collator, Epoch, LengthGroupedOrder, TokenizedTexts


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


def test_order_is_a_permutation_of_like_lengths_that_seed_and_epoch_decide() -> None:
    lengths = [1 + (7 * i) % 97 for i in range(103)]
    texts = TokenizedTexts([(0,) * n for n in lengths], [0] * 103, max_tokens=90)
    epoch = Epoch()
    order = LengthGroupedOrder(texts.lengths(), 8, 3, epoch)
    first = list(order)
    assert sorted(first) == list(range(103)) and list(order) == first
    batches = [[min(lengths[i], 90) for i in first[s : s + 8]] for s in range(0, 103, 8)]
    assert sum(max(b) * len(b) for b in batches) < 1.1 * sum(map(sum, batches))
    epoch.number = 1
    assert list(order) != first
