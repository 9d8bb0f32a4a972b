"""TF-IDF and logistic regression: what a GPT-2 has to beat to earn its place."""

from collections.abc import Sequence
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline


def fit_baseline(texts: Sequence[str], label_ids: Sequence[int]) -> Pipeline:
    """Fit words and pairs of words, weighted by TF-IDF, and a multinomial logistic regression.

    Characters and pairs of them where no word stands in two texts.
    """

    def made(**words: Any) -> Pipeline:
        vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), strip_accents="unicode", **words)
        pipeline = make_pipeline(vectorizer, LogisticRegression(C=20.0, max_iter=2000))
        pipeline.fit(list(texts), list(label_ids))
        return pipeline

    try:
        return made(min_df=2)
    except ValueError:  # no word stands in two texts: few texts, or a script without spaces
        return made(min_df=1, token_pattern=r"\w|\S")


def baseline_predictions(pipeline: Any, texts: Sequence[str]) -> list[int]:
    """Label ids, one a text."""
    return [int(label) for label in pipeline.predict(list(texts))]
