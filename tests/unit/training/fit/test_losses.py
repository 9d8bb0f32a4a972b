import pytest
import torch

from training.fit.losses import class_weights, classification_loss


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
