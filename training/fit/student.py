"""A GPT-2 that learns the vectors of a sentence encoder after every beginning of a text."""

from typing import Any

import torch
from torch.nn.functional import cross_entropy, normalize
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import ModelOutput

SIMILARITIES = 2.0
"""Weight of the squared error of the similarities within a batch, beside 1 - cosine."""


class Student(GPT2LMHeadModel):
    """GPT-2 and a projection of its hidden states to the width of the teacher's vectors, `config.teacher_width`.

    The projection is a part of checkpoints, not of the base model that a run ends with.
    """

    language_model_weight = 0.0
    """Weight of the mean cross-entropy of the next token in nats."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.projection = torch.nn.Linear(config.n_embd, config.teacher_width, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        rows: torch.Tensor,
        columns: torch.Tensor,
        vectors: torch.Tensor,
    ) -> ModelOutput:
        """Return the loss of a batch of passages and the cosine of each beginning to the teacher.

        The loss is the mean of 1 - cosine, plus `SIMILARITIES` times the mean squared difference between the cosines
        of all pairs of beginnings and those of the teacher's vectors.

        Args:
            input_ids: (B, T) int64, padded on the right: no token reads what follows it.
            labels: (B, T) int64, the same with -100 on padding.
            rows: (K,) int64, the row of each beginning.
            columns: (K,) int64, the column of its last token.
            vectors: (K, D) float32 with norm 1, of the teacher.

        Returns:
            `loss`, a scalar, and `cosine` (K,) float32.
        """
        hidden_btd = self.transformer(input_ids, use_cache=False).last_hidden_state
        projected_kd = self.projection(hidden_btd[rows, columns])
        with torch.autocast(input_ids.device.type, enabled=False):
            student_kd = normalize(projected_kd.float(), dim=-1)
            cosine_k = (student_kd * vectors).sum(-1)
            error_kk = student_kd @ student_kd.T - vectors @ vectors.T
            loss = (1 - cosine_k).mean() + SIMILARITIES * error_kk.square().mean()
        if self.language_model_weight:
            logits_btv = self.lm_head(hidden_btd[:, :-1])
            loss = loss + self.language_model_weight * cross_entropy(
                logits_btv.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100
            )
        return ModelOutput(loss=loss, cosine=cosine_k)

    def base_model_of(self) -> GPT2LMHeadModel:
        """Return the language model without the projection; it shares the weights."""
        config: dict[str, Any] = self.config.to_dict()
        del config["teacher_width"], config["architectures"]
        base = GPT2LMHeadModel(GPT2Config(**config))
        base.transformer = self.transformer
        base.tie_weights()
        return base
