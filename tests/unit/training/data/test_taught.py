from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.support.texts import documents
from tests.support.tiny_teacher import WIDTH, write_teacher
from tests.unit.training.data.test_passages import joined, passages_of
from training.data.passages import Passages
from training.data.taught import SHARD, TaughtPassages, claim_vectors
from training.data.teacher import SentenceEncoder
from training.errors import ConfigError


@pytest.fixture
def passages(tmp_path: Path, tokenizer: Tokenizer) -> Passages:
    return passages_of(tmp_path, tokenizer, joined(list(documents())))


def test_a_shard_keeps_passages_and_vectors(tmp_path: Path, passages: Passages) -> None:
    write_teacher(tmp_path / "teacher")
    teacher = SentenceEncoder(str(tmp_path / "teacher"))
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "train-00001.unfinished").write_bytes(b"half")
    taught = TaughtPassages(tmp_path / "v", "train", passages, teacher, 3)
    assert taught.missing([0, 1, 2]) == [0, 1, 2] and len(taught) == 3 * SHARD
    taught.teach(1)
    assert taught.missing([0, 1, 2]) == [0, 2]
    expected = passages.draw(1, SHARD)
    assert taught.lengths(1).tolist() == [len(passage.ids) for passage in expected]
    for place in (0, 17, SHARD - 1):
        row, passage = taught[SHARD + place], expected[place]
        assert row["input_ids"].tolist() == passage.ids.tolist() and row["cuts"].tolist() == passage.cuts
        assert row["vectors"].shape == (len(passage.cuts), WIDTH) and row["vectors"].dtype == np.float16
        np.testing.assert_allclose(row["vectors"], teacher.encode(passage.beginnings), atol=1e-3)
    content = (tmp_path / "v" / "train-00001.safetensors").read_bytes()
    taught.teach(1)  # as a run that was killed and goes on
    assert (tmp_path / "v" / "train-00001.safetensors").read_bytes() == content


def test_vectors_of_another_teacher_are_refused(tmp_path: Path) -> None:
    claim_vectors(tmp_path / "v", {"teacher_sha256": "a", "seed": 1})
    claim_vectors(tmp_path / "v", {"teacher_sha256": "a", "seed": 1})
    with pytest.raises(ConfigError, match=r"teacher_sha256 is 'a' there and 'b' here.*choose another --vectors"):
        claim_vectors(tmp_path / "v", {"teacher_sha256": "b", "seed": 1})
