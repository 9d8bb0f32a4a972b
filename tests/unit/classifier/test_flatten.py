from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config

from classifier.encoding import pad
from classifier.errors import ModelError
from classifier.flatten import FlattenClassifier, PaddedRows
from classifier.model import infer, infer_sequences
from tests.support.article_model import SimpleGPT2SequenceClassifier, old_forward, tiny

TOKENS = 24
sequences = st.lists(st.lists(st.integers(0, 399), min_size=1, max_size=TOKENS), min_size=1, max_size=6)


@cache
def article() -> SimpleGPT2SequenceClassifier:
    return tiny(max_seq_len=TOKENS)


@cache
def ours(padded_rows: PaddedRows) -> FlattenClassifier:
    """Return our classifier with the article's weights."""
    base: GPT2Config = article().gpt2model.config
    extra = {"flatten_tokens": TOKENS, "padded_rows": padded_rows, "pad_token_id": 0, "num_labels": 3}
    model = FlattenClassifier(GPT2Config(**(base.to_dict() | extra)))
    names = {"gpt2model": "transformer", "fc1": "score"}
    state = {names[key.split(".", 1)[0]] + "." + key.split(".", 1)[1]: v for key, v in article().state_dict().items()}
    model.load_state_dict(state)
    model.eval()
    return model


@settings(max_examples=40, deadline=None)
@given(sequences)
def test_both_versions_of_the_articles_arithmetic_are_met(rows: list[list[int]]) -> None:
    batch = pad([*rows, [1] * TOKENS], 0, "left")  # as wide as the article pads
    ids, mask = torch.from_numpy(batch.ids_bt), torch.from_numpy(batch.mask_bt)
    with torch.inference_mode():
        new, old = article()(ids, mask), old_forward(article(), ids, mask)
    torch.testing.assert_close(infer(ours("transformers-5"), batch), new, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(infer(ours("transformers-4"), batch), old, atol=1e-4, rtol=1e-5)


def test_the_two_versions_differ_on_padded_rows_only() -> None:
    """Without a difference, the test above could not fail."""
    four, five = ours("transformers-4"), ours("transformers-5")
    assert (infer_sequences(four, [[5, 6]]) - infer_sequences(five, [[5, 6]])).abs().max() > 0.05
    full = [list(range(TOKENS))]
    torch.testing.assert_close(infer_sequences(four, full), infer_sequences(five, full))


@settings(max_examples=40, deadline=None)
@given(sequences)
def test_logits_do_not_depend_on_neighbours(rows: list[list[int]]) -> None:
    model = ours("transformers-4")
    together = infer_sequences(model, rows)
    assert torch.isfinite(together).all()
    alone = torch.cat([infer_sequences(model, [row]) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-5)


def test_what_it_cannot_do_is_refused() -> None:
    model = ours("transformers-4")
    with pytest.raises(ModelError, match="at most 24 tokens"):
        infer_sequences(model, [[1] * (TOKENS + 1)])
    with pytest.raises(ModelError, match="answers once"):
        model(torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.int64), every_token=True)
