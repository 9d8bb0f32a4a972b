from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from classifier.artifact import Artifact
from classifier.decoding import combine_windows
from classifier.encoding import EncodedText
from classifier.errors import EncodingError
from classifier.model import GPT2Classifier, infer_sequences
from tests.support.texts import news_rows
from training.report import predict
from training.report.predict import predict_logits

SWITCHES: Any = torch.backends  # torch's type stubs lack the settings of precision


def test_batched_logits_equal_each_text_alone(
    model: GPT2Classifier, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "BATCH_TOKENS", 200)  # several batches, several windows a text
    encoder = artifact.encoder()
    texts = [row["text"] * (i % 4 + 1) for i, row in enumerate(news_rows(20))]
    logits = predict_logits(model, encoder, texts)
    assert logits.shape == (20, 3) and logits.dtype == np.float32
    for row, encoded in zip(logits, encoder.encode(texts), strict=True):
        assert isinstance(encoded, EncodedText)
        alone = np.stack([infer_sequences(model, [w.ids])[0].numpy() for w in encoded.windows])
        expected = combine_windows(alone, [len(w.ids) for w in encoded.windows])
        np.testing.assert_allclose(row, expected, atol=1e-4)


def test_text_that_cannot_be_encoded_is_named(model: GPT2Classifier, artifact: Artifact) -> None:
    with pytest.raises(EncodingError, match="text 1: the text is empty"):
        predict_logits(model, artifact.encoder(), ["a goal", " "])


def _reduced_overall() -> None:
    torch.set_float32_matmul_precision("medium")


def _reduced_for_one_backend() -> None:
    SWITCHES.mkldnn.matmul.fp32_precision = "bf16"


def _reduced_generically() -> None:
    SWITCHES.cuda.matmul.fp32_precision = SWITCHES.mkldnn.matmul.fp32_precision = "none"
    SWITCHES.fp32_precision = "tf32"


@pytest.mark.parametrize("reduce", [_reduced_overall, _reduced_for_one_backend, _reduced_generically])
def test_products_are_full_float32_whatever_was_set_before(
    model: GPT2Classifier, artifact: Artifact, monkeypatch: pytest.MonkeyPatch, reduce: Callable[[], None]
) -> None:
    """The setting is checked during the forward, because not every CPU has reduced products that show in logits."""
    backends = SWITCHES.cuda.matmul, SWITCHES.mkldnn.matmul
    seen = []

    def infer_and_record(*arguments: Any) -> torch.Tensor:
        seen.append([torch.get_float32_matmul_precision(), *(backend.fp32_precision for backend in backends)])
        return infer_sequences(*arguments)

    monkeypatch.setattr(predict, "infer_sequences", infer_and_record)
    expected = predict_logits(model, artifact.encoder(), ["a goal"])
    try:
        reduce()
        before = [backend.fp32_precision for backend in backends]
        logits = predict_logits(model, artifact.encoder(), ["a goal"])
        after = [backend.fp32_precision for backend in backends]
    finally:
        SWITCHES.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
    assert after == before and any(precision != "ieee" for precision in before)
    assert seen == [["highest", "ieee", "ieee"]] * 2
    np.testing.assert_array_equal(logits, expected)


def test_texts_are_encoded_in_chunks_and_keep_their_order(
    model: GPT2Classifier, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [row["text"] * (i % 4 + 1) for i, row in enumerate(news_rows(20))]
    expected = predict_logits(model, artifact.encoder(), texts)
    encoder = artifact.encoder()
    encode, sizes = encoder.encode, []

    def encode_and_record(chunk: Sequence[str]) -> list[EncodedText | EncodingError]:
        sizes.append(len(chunk))
        return encode(chunk)

    monkeypatch.setattr(encoder, "encode", encode_and_record)
    monkeypatch.setattr(predict, "CHUNK_TEXTS", 8)
    np.testing.assert_allclose(predict_logits(model, encoder, texts), expected, atol=1e-5)
    assert sizes == [8, 8, 4]
    with pytest.raises(EncodingError, match="text 9: the text is empty"):
        predict_logits(model, encoder, [*texts[:9], ""])
