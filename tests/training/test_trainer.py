from collections import Counter

import pytest
import torch

from classifier.model import GPT2Classifier, infer_sequences
from training.config import TrainConfig
from training.trainer import (
    Collator,
    Epoch,
    LengthGroupedOrder,
    TokenizedTexts,
    _set_dropout,
    class_weights,
    classification_loss,
)


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
    order = LengthGroupedOrder(texts, 8, 3, epoch)
    first = list(order)
    assert sorted(first) == list(range(103)) and list(order) == first
    batches = [[min(lengths[i], 90) for i in first[s : s + 8]] for s in range(0, 103, 8)]
    assert sum(max(b) * len(b) for b in batches) < 1.1 * sum(map(sum, batches))
    epoch.number = 1
    assert list(order) != first


def test_loss_after_the_last_token_is_plain_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 3), torch.tensor([2, 0])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0]])
    expected = torch.nn.functional.cross_entropy(torch.stack([logits[0, 3], logits[1, 1]]), labels)
    torch.testing.assert_close(classification_loss(logits, mask, labels, 0, 0.0), expected)


def test_dense_loss_by_hand() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 3), torch.tensor([2, 0])
    mask = torch.tensor([[0, 1, 1, 1], [1, 0, 0, 0]])
    losses = -logits.log_softmax(-1)
    # the first text is asked after its 2nd and 3rd token, the second, shorter than that, after its last
    inner = ((losses[0, 2, 2] + losses[0, 3, 2]) / 2 + losses[1, 0, 0]) / 2
    final = (losses[0, 3, 2] + losses[1, 0, 0]) / 2
    torch.testing.assert_close(classification_loss(logits, mask, labels, 2, 0.0), 0.5 * inner + 0.5 * final)


def test_class_weights_make_rare_labels_count_as_much_as_common_ones() -> None:
    weights = class_weights([0, 0, 0, 1], 3)
    assert weights.tolist() == pytest.approx([2 / 3, 2.0, 0.0])
    torch.manual_seed(0)
    logits, labels, mask = torch.randn(4, 2, 3), torch.tensor([0, 0, 0, 1]), torch.ones(4, 2, dtype=torch.int64)
    losses = torch.nn.functional.cross_entropy(logits[:, -1], labels, reduction="none")
    expected = (losses[:3].mean() + losses[3]) / 2
    torch.testing.assert_close(classification_loss(logits, mask, labels, 0, 0.0, weights), expected)


def test_what_stands_in_padding_never_reaches_the_loss() -> None:
    logits, labels = torch.randn(1, 3, 2), torch.tensor([1])
    mask = torch.tensor([[0, 1, 1]])
    clean = classification_loss(logits, mask, labels, 1, 0.0)
    logits[0, 0] = float("nan")
    torch.testing.assert_close(classification_loss(logits, mask, labels, 1, 0.0), clean)


def test_every_token_answers_are_those_of_the_prefixes(model: GPT2Classifier) -> None:
    """What dense supervision rests on, and what a causal model promises."""
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        dense = model(ids, torch.ones_like(ids), every_token=True).logits[0]
    prefixes = torch.cat([infer_sequences(model, [[5, 6, 7, 8][: n + 1]]) for n in range(4)])
    torch.testing.assert_close(dense, prefixes, atol=1e-4, rtol=1e-5)


def test_dropout_is_set_everywhere_but_in_attention(model: GPT2Classifier) -> None:
    import copy

    changed = copy.deepcopy(model)
    _set_dropout(changed, 0.3)
    attention = {block.attn.attn_dropout for block in changed.transformer.h}
    assert {module.p for module in attention} == {0.0}
    others = [m for m in changed.modules() if isinstance(m, torch.nn.Dropout) and m not in attention]
    assert len(others) > 3 and {module.p for module in others} == {0.3}


def test_default_config_is_valid() -> None:
    assert TrainConfig().max_seq_len == 512
