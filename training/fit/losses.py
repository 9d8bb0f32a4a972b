"""Losses of fine-tuning, over plain tensors."""

from collections.abc import Sequence

import torch

from classifier.model import last_tokens


def dense_losses(
    logits_btc: torch.Tensor, mask_bt: torch.Tensor, targets: torch.Tensor, dense_from: int, label_smoothing: float
) -> torch.Tensor:
    """Return the cross-entropy of B texts in nats, (B,), from the logits after every token.

    A causal model can answer after every token. Training it to do so makes its answers good on prefixes, and turns a
    few thousand texts into a few hundred thousand training examples.

    Args:
        logits_btc: (B, T, C) float32.
        mask_bt: (B, T), 1 on real tokens.
        targets: (B,) int64 label ids, or (B, T, C) float32 probabilities for every token.
        dense_from: 0: the loss after the last token of each text. n: half of that, and half of the mean over the tokens
            from the n-th on, which always include the last one.
        label_smoothing: probability mass spread over all labels.
    """
    texts, tokens, _ = logits_btc.shape
    rows = torch.arange(texts, device=mask_bt.device)
    last_b = last_tokens(mask_bt)
    per_token = targets.repeat_interleave(tokens) if targets.ndim == 1 else targets.flatten(0, 1)
    losses_bt = torch.nn.functional.cross_entropy(
        logits_btc.flatten(0, 1), per_token, label_smoothing=label_smoothing, reduction="none"
    ).view(texts, tokens)
    loss_b = losses_bt[rows, last_b]
    if dense_from:
        asked_bt = (mask_bt == 1) & (mask_bt.long().cumsum(-1) >= dense_from)
        asked_bt[rows, last_b] = True
        # a product would not do, because the loss of padding may be any number, even NaN
        inner_b = losses_bt.where(asked_bt, 0.0).sum(1) / asked_bt.sum(1)
        loss_b = 0.5 * loss_b + 0.5 * inner_b
    return loss_b


def with_teacher(hard_b: torch.Tensor, soft_b: torch.Tensor, labelled_b: torch.Tensor, weight: float) -> torch.Tensor:
    """Return the losses of B texts in nats, (B,), which follow the labels and a teacher's probabilities.

    Args:
        hard_b: (B,) cross-entropy to the labels; of rows without a label, it may be any number.
        soft_b: (B,) cross-entropy to the teacher's probabilities.
        labelled_b: (B,) bool, true for rows with a label.
        weight: fraction of the loss that follows the teacher.
    """
    return (1 - weight) * hard_b.where(labelled_b, 0.0) + weight * soft_b


def class_weights(label_ids: Sequence[int], labels: int) -> torch.Tensor:
    """Return inverse frequencies, (C,) float32, with a mean of 1 over the texts; 0 for a label without texts.

    The weighted losses of a batch are divided by its number of texts, not by the sum of its weights: a batch of one
    text, or of one label, would otherwise be trained as if there were no weights.
    """
    counts = torch.bincount(torch.as_tensor(label_ids), minlength=labels)
    present = counts > 0
    return torch.where(present, len(label_ids) / (present.sum() * counts.clamp(min=1)), 0.0).float()
