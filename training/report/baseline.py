"""The baseline: TF-IDF and logistic regression, which a GPT-2 has to beat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

WORDS, CHARACTERS = "words and pairs of words", "two to four neighbouring characters"
FEATURES: dict[str, dict[str, Any]] = {
    WORDS: {"ngram_range": (1, 2), "min_df": 2},
    CHARACTERS: {"analyzer": "char_wb", "ngram_range": (2, 4)},
}
"""The kinds of features, and their options in scikit-learn."""
CHANCE = 0.05
"""Characters must beat words on the validation texts by more than chance, at this level of a two-sided sign test."""
MAX_CHARACTERS = {WORDS: 20_000_000, CHARACTERS: 5_000_000}
"""Characters of training texts, which bound memory and time: four times BBC News, 55,000 texts of 60 words.

All features are counted before some are taken, and texts without spaces have many more of neighbouring characters.
"""
CHOICE_CHARACTERS = 5_000_000
"""Characters of training texts and of validation texts by which the features are chosen."""
MAX_WEIGHTS = 5_000_000
"""Features times labels. L-BFGS keeps about 25 copies in float64, 1 GB."""
CHUNK_TEXTS = 10_000
"""Texts that are classified at once."""


@dataclass(frozen=True)
class BaselineAnswers:
    """The baseline's answers to test texts, and how it came to them."""

    features: str
    """Key of `FEATURES`."""
    trained_on: int
    """Number of training and validation texts that it was fitted on."""
    predicted: list[int]
    model: str = "TF-IDF + logistic regression"


def answer(
    train: tuple[Sequence[str], Sequence[int]],
    val: tuple[Sequence[str], Sequence[int]],
    test: Sequence[str],
    *,
    balanced: bool = False,
) -> BaselineAnswers:
    """Choose the features by the validation texts, fit on training and validation texts, and answer the test texts.

    Args:
        train: texts and label ids.
        val: texts and label ids.
        test: texts.
        balanced: weight each text by the rarity of its label, as `--class-weights` does.
    """
    features = WORDS if words_suffice(train, val, balanced=balanced) else CHARACTERS
    texts, label_ids = [*train[0], *val[0]], [*train[1], *val[1]]
    pipeline = fit_baseline(texts, label_ids, features, balanced=balanced)
    trained_on = len(_sample(texts, label_ids, MAX_CHARACTERS[pipeline.steps[0][0]]))
    return BaselineAnswers(pipeline.steps[0][0], trained_on, baseline_predictions(pipeline, test))


def words_suffice(
    train: tuple[Sequence[str], Sequence[int]], val: tuple[Sequence[str], Sequence[int]], *, balanced: bool = False
) -> bool:
    """Return whether words answer the validation texts no worse than characters do, but for chance.

    Words do not suffice where no space separates them, as in Chinese. Both kinds of features learn from at most
    `CHOICE_CHARACTERS`, and answer as many.

    Args:
        train: texts and label ids.
        val: texts and label ids.
        balanced: weight each text by the rarity of its label.
    """
    texts, label_ids = _take(*val, CHOICE_CHARACTERS)
    sample = _take(*train, CHOICE_CHARACTERS)
    by_words, by_characters = (
        np.equal(baseline_predictions(fit_baseline(*sample, features, balanced=balanced), texts), label_ids)
        for features in (WORDS, CHARACTERS)
    )
    better, worse = int((by_characters & ~by_words).sum()), int((by_words & ~by_characters).sum())
    return better <= worse or binomtest(better, better + worse).pvalue > CHANCE


def fit_baseline(
    texts: Sequence[str], label_ids: Sequence[int], features: str = WORDS, *, balanced: bool = False
) -> Pipeline:
    """Fit a logistic regression on the TF-IDF of one kind of features, whose name is that of the pipeline's first step.

    If no word occurs in two texts, these are characters. If the texts have more than `MAX_CHARACTERS`, the regression
    learns from a random part of them. Of rare features it takes no more than `MAX_WEIGHTS` allow.

    Args:
        texts: B texts.
        label_ids: B label ids.
        features: key of `FEATURES`.
        balanced: weight each text by the rarity of its label.
    """
    sample, ids = _take(texts, label_ids, MAX_CHARACTERS[features])
    most = MAX_WEIGHTS // len(set(ids))
    vectorizer = TfidfVectorizer(sublinear_tf=True, strip_accents="unicode", max_features=most, **FEATURES[features])
    regression = LogisticRegression(C=20.0, max_iter=2000, class_weight="balanced" if balanced else None)
    pipeline = Pipeline([(features, vectorizer), ("regression", regression)])
    try:
        return pipeline.fit(sample, ids)
    except ValueError:
        if features == CHARACTERS:
            raise
        return fit_baseline(texts, label_ids, CHARACTERS, balanced=balanced)


def baseline_predictions(pipeline: Pipeline, texts: Sequence[str]) -> list[int]:
    """Return one label id per text."""
    chunks = (texts[i : i + CHUNK_TEXTS] for i in range(0, len(texts), CHUNK_TEXTS))
    return [int(label) for chunk in chunks for label in pipeline.predict(chunk)]


def _take(texts: Sequence[str], label_ids: Sequence[int], characters: int) -> tuple[list[str], list[int]]:
    rows = _sample(texts, label_ids, characters)
    return [texts[i] for i in rows], [label_ids[i] for i in rows]


def _sample(texts: Sequence[str], label_ids: Sequence[int], characters: int) -> NDArray[np.intp]:
    """Return the rows of a random sample of at most so many characters, with at least one text of each label."""
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    if lengths.sum() <= characters:
        return np.arange(len(texts))
    order = np.random.default_rng(0).permutation(len(texts))
    _, first = np.unique(np.asarray(label_ids)[order], return_index=True)
    order = np.r_[order[first], np.delete(order, first)]
    fits = lengths[order].cumsum() <= characters
    fits[: len(first)] = True
    return np.sort(order[fits])
