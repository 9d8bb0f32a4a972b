import random

import numpy as np
import pytest

from tests.support.texts import news_rows
from training.report import baseline
from training.report.baseline import (
    CHARACTERS,
    FEATURES,
    WORDS,
    answer,
    baseline_predictions,
    fit_baseline,
    words_suffice,
)

NAMES = ["business", "politics", "sport"]


def news(count: int, seed: int = 0) -> tuple[list[str], list[int]]:
    rows = news_rows(count, seed=seed)
    return [row["text"] for row in rows], [NAMES.index(row["label"]) for row in rows]


def unspaced(count: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Return texts of Chinese characters without spaces, whose label two neighbouring characters of three tell."""
    rng = random.Random(seed)
    words = [["股票", "市场"], ["议会", "选举"], ["球队", "进球"]]
    common = [chr(code) for code in range(0x4E00, 0x4E40)]
    texts, label_ids = [], []
    for i in range(count):
        parts = [rng.choice(common) for _ in range(20)] + [rng.choice(words[i % 3])]
        rng.shuffle(parts)
        texts.append(f"今天,{''.join(parts)}")
        label_ids.append(i % 3)
    return texts, label_ids


def test_baseline_learns_what_words_tell() -> None:
    test = news(30, seed=5)
    found = answer(news(150), news(30, seed=7), test[0])
    assert (found.features, found.trained_on) == (WORDS, 180)
    assert sum(p == label for p, label in zip(found.predicted, test[1], strict=True)) >= 28


def test_texts_without_spaces_are_read_by_characters() -> None:
    train, test = unspaced(300), unspaced(60, seed=5)
    found = answer(train, unspaced(60, seed=7), test[0])
    assert found.features == CHARACTERS
    assert sum(p == label for p, label in zip(found.predicted, test[1], strict=True)) >= 57


def test_texts_without_common_words_are_read_by_characters() -> None:
    train = [f"{c}{i}x" for i in range(5) for c in "ab"], [0, 1] * 5
    val = [f"{c}{i}y" for i in range(5) for c in "ab"], train[1]
    found = answer(train, val, ["a9x", "b9x"])
    assert (found.features, found.predicted) == (CHARACTERS, [0, 1])


def test_characters_must_be_better_by_more_than_chance() -> None:
    train = unspaced(300)
    assert words_suffice(train, unspaced(6, seed=7))
    assert not words_suffice(train, unspaced(30, seed=7))


def test_balanced_weights_favour_the_rare_label() -> None:
    """Thirty texts "rain" of the common label and twenty of the rare one, which weighs nine times as much."""
    data = ["wind"] * 150 + ["rain"] * 50, [0] * 180 + [1] * 20
    assert answer(data, data, ["rain"]).predicted == [0]
    assert answer(data, data, ["rain"], balanced=True).predicted == [1]


def test_a_large_corpus_is_sampled_with_every_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "MAX_CHARACTERS", dict.fromkeys(FEATURES, 4_000))
    monkeypatch.setattr(baseline, "CHOICE_CHARACTERS", 4_000)
    monkeypatch.setattr(baseline, "CHUNK_TEXTS", 7)
    texts, label_ids = news(400)
    texts, label_ids = [*texts, "a weather report"], [*label_ids, 3]
    found = answer((texts, label_ids), news(100, seed=7), texts)
    assert 10 < found.trained_on < 100 and len(found.predicted) == 401
    pipeline = fit_baseline(texts, label_ids)
    assert pipeline.classes_.tolist() == [0, 1, 2, 3]
    assert np.mean(np.equal(baseline_predictions(pipeline, texts), label_ids)) > 0.8


def test_many_labels_leave_fewer_features_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "MAX_WEIGHTS", 90)
    assert len(fit_baseline(*news(100))[0].vocabulary_) == 30
