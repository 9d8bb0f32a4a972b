import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from classifier.encoding import TextCleaning
from tests.support.texts import LABELS, documents, news_rows
from tests.support.tiny_teacher import write_teacher
from tests.unit.training.data.test_passages import joined, passages_of
from training.config import TrainConfig
from training.data.read import Example
from training.data.soft_labels import UNLABELLED, SoftLabels, for_each_token, left_padded
from training.data.taught import TaughtPassages, claim_vectors, tokenizer_sha256
from training.data.teacher import SentenceEncoder
from training.errors import ConfigError


@pytest.fixture
def soft(tmp_path: Path, tokenizer: Tokenizer) -> SoftLabels:
    write_teacher(tmp_path / "teacher")
    config = TrainConfig(teacher_labels=str(tmp_path / "teacher"), max_seq_len=32, short_crops=4, seed=3)
    rows = news_rows(90, seed=8)
    examples = [
        Example(f"Title {i} of it\n\n{row['text'].replace(' the ', '. The ')}", row["label"], None, i, titled=True)
        for i, row in enumerate(rows)
    ]
    ids = [LABELS.index(row["label"]) for row in rows]
    return SoftLabels(config, examples, ids, len(LABELS), tokenizer, TextCleaning(), torch.float32)


def test_rows_are_texts_titles_and_short_stretches(tmp_path: Path, soft: SoftLabels, tokenizer: Tokenizer) -> None:
    rows = soft.rows(tmp_path)
    assert len(rows) == 90 * 6
    lengths = rows.lengths()
    first = [rows[i] for i in range(6)]
    cleaned = soft.cleaning.clean(soft.examples[0].text)
    texts = [tokenizer.decode(row["input_ids"].tolist()) for row in first]
    assert cleaned.startswith(texts[0]) and texts[1] == "Title 0 of it"
    assert all(text in cleaned for text in texts)
    assert len(set(lengths[2::6].tolist())) > 8 and lengths.max() <= 32  # all lengths among the stretches
    assert [row["labels"] for row in first] == [soft.label_ids[0]] * 6
    for row in first:
        assert row["probs"].shape == (len(row["cuts"]), 3) and row["cuts"][-1] == len(row["input_ids"])
        np.testing.assert_allclose(row["probs"].sum(1), 1, atol=1e-5)
    # the teacher's regression knows something about the labels of the texts that it was fitted on
    right = [rows[i]["probs"][-1].argmax() == rows[i]["labels"] for i in range(0, len(rows), 6)]
    assert np.mean(right) > 0.5  # three labels
    # written once, and read again by a run that goes on
    content = next(tmp_path.glob("soft-rows*")).read_bytes()
    again = dataclasses.replace(soft, config=dataclasses.replace(soft.config, seed=4)).rows(tmp_path)
    assert len(again) == len(rows) and next(tmp_path.glob("soft-rows*")).read_bytes() == content


def test_labels_that_no_training_text_has_get_no_probability(tmp_path: Path, soft: SoftLabels) -> None:
    kept = [i for i, label in enumerate(soft.label_ids) if label != 1]
    some = dataclasses.replace(
        soft, examples=[soft.examples[i] for i in kept], label_ids=[soft.label_ids[i] for i in kept]
    )
    probs = some.rows(tmp_path)[0]["probs"]
    assert probs.shape[1] == 3 and not probs[:, 1].any() and probs[:, 2].any()


def test_tokens_take_the_probabilities_of_the_first_beginning_that_contains_them() -> None:
    row = {"input_ids": np.arange(6), "cuts": np.array([2, 5, 6]), "probs": np.eye(3, dtype=np.float32)}
    assert for_each_token(row).argmax(1).tolist() == [0, 0, 1, 1, 1, 2]
    short = {"input_ids": np.arange(2), "cuts": np.array([2]), "probs": np.eye(3, dtype=np.float32)[1:2]}
    padded = left_padded([for_each_token(row), for_each_token(short)])
    assert padded.shape == (2, 6, 3) and padded[1].sum(-1).tolist() == [0, 0, 0, 0, 1, 1]


def test_unlabelled_passages_are_as_many_for_each_label(tmp_path: Path, soft: SoftLabels, tokenizer: Tokenizer) -> None:
    vectors, teacher = tmp_path / "vectors", SentenceEncoder(soft.config.teacher_labels)
    passages = passages_of(tmp_path, tokenizer, joined(list(documents())))
    claim_vectors(vectors, {"teacher_sha256": teacher.sha256, "tokenizer_sha256": tokenizer_sha256(tokenizer)})
    taught = TaughtPassages(vectors, "train", passages, teacher, 9)
    for shard in (0, 1, 3):  # the third is still missing: what is behind it is not yet read
        taught.teach(shard)
    more = dataclasses.replace(soft.config, unlabelled=str(vectors), unlabelled_passages=300)
    rows = dataclasses.replace(soft, config=more).rows(tmp_path)
    assert len(rows) == 90 * 6 + 300
    added = [rows[i] for i in range(90 * 6, len(rows))]
    assert {row["labels"] for row in added} == {UNLABELLED} and max(len(row["input_ids"]) for row in added) <= 32
    counts = np.bincount([row["probs"][-1].argmax() for row in added])
    assert counts.tolist() == [100, 100, 100]
    claim_vectors(tmp_path / "other", {"teacher_sha256": "x", "tokenizer_sha256": tokenizer_sha256(tokenizer)})
    for directory, message in ((tmp_path / "other", "another teacher"), (tmp_path, "no passages that distil wrote")):
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(soft, config=dataclasses.replace(more, unlabelled=str(directory)))
