from tests.support.texts import news_rows
from training.report.baseline import baseline_predictions, fit_baseline


def test_baseline_learns_what_words_tell() -> None:
    labels = {"business": 0, "politics": 1, "sport": 2}
    train, test = news_rows(150), news_rows(30, seed=5)
    pipeline = fit_baseline([row["text"] for row in train], [labels[row["label"]] for row in train])
    predicted = baseline_predictions(pipeline, [row["text"] for row in test])
    assert sum(p == labels[row["label"]] for p, row in zip(predicted, test, strict=True)) >= 28


def test_baseline_of_texts_without_common_words_falls_back_to_characters() -> None:
    pipeline = fit_baseline([f"{c}{i}x" for i in range(5) for c in "ab"], [0, 1] * 5)
    assert baseline_predictions(pipeline, ["a9x", "b9x"]) == [0, 1]
