import numpy as np
import pytest

from classifier.artifact import Artifact
from classifier.decoding import combine_windows
from classifier.encoding import EncodedText
from classifier.errors import EncodingError
from classifier.model import GPT2Classifier, infer_sequences
from tests.support.texts import news_rows
from training.report import predict
from training.report.predict import predict_logits


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
