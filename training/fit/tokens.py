"""Tokens of many texts in one array: a Python list takes ten times the memory, and a corpus has 10**8 tokens."""

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from classifier.encoding import EncodedText, Encoder, TextCleaning
from training.data.read import Example
from training.errors import DataError, Problem

WHOLE_TEXT = 1 << 40
"""More tokens than any text has, so that one window holds a whole text, from which training cuts its rows."""


class TokenRows(Sequence[NDArray[np.int32]]):
    """Token ids of B texts, end to end.

    Args:
        ids: int32, the ids of all texts.
        lengths: (B,) int64, the number of ids of each text.
    """

    def __init__(self, ids: NDArray[np.int32], lengths: NDArray[np.int64]) -> None:
        self.lengths = lengths
        self._ids = ids
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> NDArray[np.int32]:  # type: ignore[override]  # no slices
        end = self._ends[index]
        return self._ids[end - self.lengths[index] : end]


def tokenise(tokenizer: Tokenizer, cleaning: TextCleaning, part: str, examples: Sequence[Example]) -> TokenRows:
    """Return the tokens of whole texts.

    Raises:
        DataError: texts are empty after clean-up; it lists all of them.
    """
    encoder = Encoder(tokenizer, cleaning, WHOLE_TEXT, WHOLE_TEXT)
    ids = array("i")
    lengths: list[int] = []
    problems: list[Problem] = []
    for example, result in zip(examples, encoder.encode_each(e.text for e in examples), strict=True):
        if isinstance(result, EncodedText):
            ids.extend(result.windows[0].ids)
            lengths.append(result.tokens)
        else:
            problems.append(Problem(part, str(result), example.row, field="text"))
    if problems:
        raise DataError(*problems)
    return TokenRows(np.frombuffer(ids, dtype=np.int32), np.array(lengths, dtype=np.int64))
