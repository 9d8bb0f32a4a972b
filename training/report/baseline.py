"""The baseline: TF-IDF and logistic regression, which a GPT-2 has to beat."""

from collections.abc import Sequence
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline


def fit_baseline(texts: Sequence[str], label_ids: Sequence[int]) -> Pipeline:
    """Fit a logistic regression on the TF-IDF of words and pairs of words.

    If no word occurs in two texts, it uses characters and pairs of characters instead.
    """

    def made(**words: Any) -> Pipeline:
        vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), strip_accents="unicode", **words)
        pipeline = make_pipeline(vectorizer, LogisticRegression(C=20.0, max_iter=2000))
        pipeline.fit(list(texts), list(label_ids))
        return pipeline

    try:
        return made(min_df=2)
    except ValueError:  # no word occurs in two texts: there are few texts, or the script has no spaces
        return made(min_df=1, token_pattern=r"\w|\S")


def baseline_predictions(pipeline: Any, texts: Sequence[str]) -> list[int]:
    """Return one label id per text."""
    return [int(label) for label in pipeline.predict(list(texts))]
