import numpy as np
import pytest
from tokenizers import Tokenizer

from classifier import encoding
from classifier.encoding import TextCleaning
from training.data.read import Example
from training.errors import DataError
from training.fit.tokens import tokenise


def examples(*texts: str) -> list[Example]:
    return [Example(text, "a", None, row) for row, text in enumerate(texts, start=1)]


def test_chunks_give_the_tokens_of_each_text(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["goal", "a match in the final", "tax", "parliament vote", "x"]
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    monkeypatch.setattr(encoding, "TEXTS_AT_ONCE", 2)
    rows = tokenise(tokenizer, TextCleaning(), "train", examples(*texts))
    assert [row.tolist() for row in rows] == expected and len(rows) == 5
    assert rows[0].dtype == np.int32 and rows.lengths.tolist() == [len(ids) for ids in expected]
    assert rows[0].base is rows[4].base  # one array for all texts


def test_all_empty_texts_of_all_chunks_are_reported(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "TEXTS_AT_ONCE", 2)
    with pytest.raises(DataError, match=r"2 problems.*\n.*train, row 1, .*\n.*train, row 4,"):
        tokenise(tokenizer, TextCleaning(), "train", examples("\u0085", "goal", "goal", "\u0085"))
