import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from classifier.errors import ModelError
from tests.support.texts import corpus
from tests.support.tiny_teacher import WIDTH, write_teacher
from training.data.teacher import SentenceEncoder

TEXTS = [*corpus()][:40]


@pytest.mark.parametrize("mode", ["pooling_mode_mean_tokens", "pooling_mode_cls_token"])
def test_vector_is_the_pooled_state_of_the_text_alone(tmp_path: Path, mode: str) -> None:
    write_teacher(tmp_path, mode)
    vectors = SentenceEncoder(str(tmp_path)).encode(TEXTS)
    assert vectors.shape == (40, WIDTH) and vectors.dtype == np.float32
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path).eval()
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.inference_mode():
            states = model(**tokenizer(text, truncation=True, max_length=64, return_tensors="pt")).last_hidden_state[0]
        pooled = states.mean(0) if "mean" in mode else states[0]
        assert vector @ vector == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(vector, (pooled / pooled.norm()).numpy(), atol=1e-5)


def test_what_is_beyond_the_longest_text_is_ignored(tmp_path: Path) -> None:
    write_teacher(tmp_path, max_tokens=12)
    long = [" ".join(TEXTS[:4]), " ".join(TEXTS[:5])]
    whole, cut = (SentenceEncoder(str(tmp_path), max_tokens=n).encode(long) for n in (128, 0))
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-6)
    assert np.abs(whole[0] - whole[1]).max() > 1e-3


def test_directories_that_are_no_such_encoder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        SentenceEncoder(str(tmp_path / "none"))
    write_teacher(tmp_path, "pooling_mode_weightedmean_tokens")
    with pytest.raises(ModelError, match="needs pooling_mode_weightedmean_tokens"):
        SentenceEncoder(str(tmp_path))
    write_teacher(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(ModelError, match="needs Dense"):
        SentenceEncoder(str(tmp_path))
