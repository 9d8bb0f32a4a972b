import pytest
import torch

from training.fit.losses import class_weights, dense_losses, with_teacher


def test_loss_after_the_last_token_is_plain_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 3), torch.tensor([2, 0])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0]])
    last = torch.stack([logits[0, 3], logits[1, 1]])
    expected = torch.nn.functional.cross_entropy(last, labels, reduction="none")
    torch.testing.assert_close(dense_losses(logits, mask, labels, 0, 0.0), expected)


def test_dense_loss_by_hand() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 3), torch.tensor([2, 0])
    mask = torch.tensor([[0, 1, 1, 1], [1, 0, 0, 0]])
    losses = -logits.log_softmax(-1)
    # the first text is asked after its 2nd and 3rd token, the second, shorter than that, after its last
    inner = torch.stack([(losses[0, 2, 2] + losses[0, 3, 2]) / 2, losses[1, 0, 0]])
    final = torch.stack([losses[0, 3, 2], losses[1, 0, 0]])
    torch.testing.assert_close(dense_losses(logits, mask, labels, 2, 0.0), 0.5 * inner + 0.5 * final)


def test_class_weights_have_a_mean_of_1_over_the_texts() -> None:
    assert class_weights([0, 0, 0, 1], 3).tolist() == pytest.approx([2 / 3, 2.0, 0.0])
    assert class_weights([0] * 99 + [1], 2).tolist() == pytest.approx([100 / 198, 50.0])


def test_what_stands_in_padding_never_reaches_the_loss() -> None:
    logits, labels = torch.randn(1, 3, 2), torch.tensor([1])
    mask = torch.tensor([[0, 1, 1]])
    clean = dense_losses(logits, mask, labels, 1, 0.0)
    logits[0, 0] = float("nan")
    torch.testing.assert_close(dense_losses(logits, mask, labels, 1, 0.0), clean)


def test_probabilities_for_every_token_are_followed() -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 4, 3), torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0]])
    targets = torch.rand(2, 4, 3).softmax(-1)
    losses = -(targets * logits.log_softmax(-1)).sum(-1)
    inner = torch.stack([(losses[0, 2] + losses[0, 3]) / 2, losses[1, 1]])
    final = torch.stack([losses[0, 3], losses[1, 1]])
    torch.testing.assert_close(dense_losses(logits, mask, targets, 2, 0.0), 0.5 * inner + 0.5 * final)
    labels = torch.tensor([2, 0])
    certain = torch.nn.functional.one_hot(labels, 3).float()[:, None].expand(2, 4, 3)
    torch.testing.assert_close(dense_losses(logits, mask, certain, 2, 0.0), dense_losses(logits, mask, labels, 2, 0.0))


def test_rows_without_a_label_follow_the_teacher_alone() -> None:
    hard, soft = torch.tensor([1.0, float("nan")]), torch.tensor([3.0, 5.0])
    losses = with_teacher(hard, soft, torch.tensor([True, False]), 0.25)
    assert losses.tolist() == [0.75 * 1.0 + 0.25 * 3.0, 0.25 * 5.0]
