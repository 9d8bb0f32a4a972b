"""The head `flatten`: a linear layer over the hidden states of all T left-padded positions, side by side.

It is the classifier of an often-copied article (`SimpleGPT2SequenceClassifier`: `gpt2model.*`, `fc1.*`), kept so that
checkpoints made with it can be served and give the same answers as before. The head also reads the padding, so its
answers depend on the hidden states of padding, which differ between versions of transformers. Prefer the head
`last_token`, which has C x D weights instead of C x T x D, reads any length, and never sees padding.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from transformers import GPT2Config
from transformers.modeling_outputs import SequenceClassifierOutput

from classifier.errors import ModelError
from classifier.model import GPT2Classifier

PaddedRows = Literal["transformers-4", "transformers-5"]
"""The version of transformers that determines the attention output of padded positions.

These positions precede the real tokens, so they may attend to no real token, and the versions differ in the result:

transformers-4 (until 4.47, eager): the mean over the padding before it, itself, and all real tokens after it. The
    smallest float was added to the scores of later positions and to those of padding, which made all scores equal to
    which it was added once.
transformers-5 (scaled dot-product): zero.
"""


class FlattenClassifier(GPT2Classifier):
    """GPT-2 and a linear head over (T, D) hidden states, T being `config.flatten_tokens`.

    `config.padded_rows` is one of `PaddedRows`. Positions are numbered 0..T-1 by column, padding included, which is the
    default of GPT2Model. The weights cannot be loaded as transformers' `GPT2ForSequenceClassification`, whose head has
    another shape.
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.score = torch.nn.Linear(config.n_embd * config.flatten_tokens, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        every_token: bool = False,
    ) -> SequenceClassifierOutput:
        """Return the logits of each row.

        Args:
            input_ids: (B, T') int64, padded on the left, T' <= T; padded further to T here.
            attention_mask: (B, T'), 1 on real tokens; at least one in each row.
            position_ids: ignored.
            labels: (B,) int64 label ids; adds the mean cross-entropy in nats as `loss`.
            every_token: must be False, because there is one answer per row.

        Returns:
            `logits` (B, C) in the weights' dtype.

        Raises:
            ModelError: a row of more than T tokens, or `every_token`.
        """
        tokens = self.config.flatten_tokens
        missing = tokens - input_ids.shape[1]
        if every_token or missing < 0:
            raise ModelError(f"the head 'flatten' answers once for a row of at most {tokens} tokens")
        ids_bt = torch.nn.functional.pad(input_ids, (missing, 0), value=self.config.pad_token_id)
        mask_bt = torch.nn.functional.pad(attention_mask, (missing, 0), value=0)
        hidden_btd = self.transformer(
            ids_bt,
            attention_mask=_additive_mask(mask_bt, self.config.padded_rows).to(self.transformer.wte.weight.dtype),
            position_ids=torch.arange(tokens, device=ids_bt.device)[None],
            use_cache=False,
        ).last_hidden_state
        logits_bc = self.score(hidden_btd.flatten(1))
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits_bc.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits_bc)


HEADS: Mapping[str, type[GPT2Classifier]] = {"last_token": GPT2Classifier, "flatten": FlattenClassifier}
"""The class of each head that a manifest can name."""


def _additive_mask(mask_bt: torch.Tensor, padded_rows: PaddedRows) -> torch.Tensor:
    """Return what is added to attention scores: (B, T) mask to (B, 1, T, T) float32."""
    tokens = mask_bt.shape[1]
    past_11tt = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device=mask_bt.device).tril()
    real_b11t = (mask_bt == 1)[:, None, None, :]
    if padded_rows == "transformers-5":
        return torch.where(past_11tt & real_b11t, 0.0, -torch.inf)
    smallest = torch.finfo(torch.float32).min  # a score added to it is lost in rounding; twice it is -inf
    return torch.where(past_11tt, 0.0, smallest) + torch.where(real_b11t, 0.0, smallest)
