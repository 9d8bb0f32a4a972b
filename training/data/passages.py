"""Passages drawn from a corpus, for a student that learns a teacher's vectors of their beginnings.

A passage begins where a sentence begins. It is a headline, one sentence, or a stretch whose length is log-uniform, so
that every length is as frequent as its double. Each passage has several cuts: after its last token, and after about a
half, a quarter and so on of the tokens, always at the end of a word. A causal student answers at all of them in one
forward; a teacher reads each beginning by itself, in all about twice the tokens of the passage.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from classifier.encoding import TextCleaning
from training.data.corpus import TokenFile

HEADLINES, SENTENCES = 0.1, 0.25
"""Fractions of passages that are the first line of a document, and one sentence."""
SHORTEST = 3
"""Tokens of the shortest passage."""
LONGEST_LINE = 64
"""Tokens of a first line that may be a headline; a longer one is a paragraph, of which this many are taken."""
HALVES = (0.3, 0.7)
"""Range of the fraction of a cut at which the next shorter one lies."""

_ENDS_SENTENCE = re.compile(r"[.!?][\"')\]]*$")
_CLOSES = frozenset({'"', "'", ")", "âĢĿ", "âĢĻ"})
"""Closing quotes as byte-level tokens write them."""
_SPACE, _NEWLINE = "Ġ", "Ċ"


@dataclass(frozen=True)
class Passage:
    """Token ids, and the beginnings of the passage that the teacher reads."""

    ids: NDArray[np.int32]
    cuts: list[int]
    """Number of tokens of each beginning, ascending; the last is the whole passage."""
    beginnings: list[str]
    """Text of each beginning."""


class _Vocabulary:
    """What the tokens of a byte-level vocabulary say about words and sentences, one bool per id."""

    def __init__(self, tokenizer: Tokenizer, end_id: int) -> None:
        size = tokenizer.get_vocab_size()
        tokens = [tokenizer.id_to_token(i) or "" for i in range(size)]
        self.newline = np.array([_NEWLINE in token for token in tokens])
        self.begins_word = np.array([token[:1] in (_SPACE, _NEWLINE) for token in tokens])
        self.begins_word[end_id] = True
        self.ends_sentence = np.array([bool(_ENDS_SENTENCE.search(token)) for token in tokens])
        self.closes = np.array([token in _CLOSES for token in tokens])
        first = [token.removeprefix(_SPACE)[:1] for token in tokens]
        self.may_begin_sentence = self.begins_word & np.array([not (c.isalpha() and c.islower()) for c in first])


class _Source:
    """One token file with the places of its documents and sentences."""

    def __init__(self, file: TokenFile, vocabulary: _Vocabulary, end_id: int) -> None:
        self.tokens = np.fromfile(file.path, dtype=file.dtype)
        self.bytes = file.bytes
        is_end = self.tokens == end_id
        self.ends = np.flatnonzero(is_end)
        self.documents = np.r_[0, self.ends[:-1] + 1]
        newline = vocabulary.newline[self.tokens]
        self.lines = np.flatnonzero(newline | is_end)
        after_line = np.r_[True, (newline | is_end)[:-1]]
        closed = vocabulary.ends_sentence[self.tokens]
        closed[1:] |= vocabulary.closes[self.tokens[1:]] & closed[:-1]
        after_sentence = np.r_[False, closed[:-1]] & vocabulary.may_begin_sentence[self.tokens]
        self.sentences = np.flatnonzero((after_line | after_sentence) & ~is_end & ~newline)


class Passages:
    """Passages of several token files, each drawn from a seed and the number of its shard alone.

    Args:
        files: token files of one tokenizer; empty documents are not among them.
        tokenizer: a byte-level BPE.
        end_id: the token id after each document.
        mixing: exponent of a file's size in the probability that a passage comes from it; 1: in proportion to the
            bytes, 0: all files equally.
        min_tokens: tokens of the shortest stretch and of the shortest inner cut.
        max_tokens: tokens of the longest passage.
        seed: seed of all draws.
    """

    def __init__(
        self,
        files: Sequence[TokenFile],
        tokenizer: Tokenizer,
        end_id: int,
        *,
        mixing: float,
        min_tokens: int,
        max_tokens: int,
        seed: int,
    ) -> None:
        self._vocabulary = _Vocabulary(tokenizer, end_id)
        self._sources = [_Source(file, self._vocabulary, end_id) for file in files]
        weights = np.array([source.bytes for source in self._sources], dtype=float) ** mixing
        self._weights = weights / weights.sum()
        self._tokenizer = tokenizer
        self._cleaning = TextCleaning()
        self._min_tokens, self._max_tokens = min_tokens, max_tokens
        self._seed = seed

    def draw(self, shard: int, count: int) -> list[Passage]:
        """Return the passages of one shard."""
        rng = np.random.default_rng((self._seed, shard))
        passages: list[Passage] = []
        while len(passages) < count:
            texts = [self._text(rng) for _ in range(count - len(passages))]
            for text, encoding in zip(
                texts, self._tokenizer.encode_batch(texts, add_special_tokens=False), strict=True
            ):
                passage = with_cuts(text, encoding, rng, min_tokens=self._min_tokens, max_tokens=self._max_tokens)
                if passage and len(passage.ids) >= SHORTEST:
                    passages.append(passage)
        return passages

    def _text(self, rng: np.random.Generator) -> str:
        """Return the cleaned text of a headline, a sentence or a stretch."""
        source = self._sources[rng.choice(len(self._sources), p=self._weights)]
        kind = rng.random()
        if kind < HEADLINES:
            start = int(rng.choice(source.documents))
            stop = min(_following(source.lines, start), start + LONGEST_LINE)
        else:
            start = int(rng.choice(source.sentences))
            if kind < HEADLINES + SENTENCES:
                stop = min(_following(source.sentences, start + 1), _following(source.ends, start))
            else:
                length = np.exp(rng.uniform(np.log(self._min_tokens), np.log(self._max_tokens + 1)))
                stop = min(start + int(length), _following(source.ends, start))
        stop = min(stop, start + self._max_tokens)
        while stop > start + 1 and not self._ends_word(source, stop):
            stop -= 1
        ids: Any = source.tokens[start:stop]
        return self._cleaning.clean(self._tokenizer.decode(ids.tolist()))

    def _ends_word(self, source: _Source, stop: int) -> bool:
        return stop >= len(source.tokens) or bool(self._vocabulary.begins_word[source.tokens[stop]])


def with_cuts(
    text: str, encoding: Encoding, rng: np.random.Generator, *, min_tokens: int, max_tokens: int
) -> Passage | None:
    """Return the beginning of a text as a passage with its cuts; None for a text without tokens.

    Args:
        text: a cleaned text.
        encoding: its tokens.
        rng: draws the cuts.
        min_tokens: tokens of the shortest cut before the last one.
        max_tokens: most tokens of the passage.
    """
    stops = [stop for _, stop in encoding.offsets[:max_tokens]]
    if not stops:
        return None
    words = [count for count, stop in enumerate(stops, 1) if text[stop : stop + 1] in ("", " ")]
    places = np.array(words or [len(stops)])  # a script without spaces may be cut anywhere
    cuts = [int(places[-1])]
    while (wanted := cuts[-1] * rng.uniform(*HALVES)) >= min_tokens:
        place = int(np.searchsorted(places, wanted, side="right")) - 1
        if place < 0 or places[place] < min_tokens:
            break
        cuts.append(int(places[place]))
    cuts.reverse()
    return Passage(np.array(encoding.ids[: cuts[-1]], dtype=np.int32), cuts, [text[: stops[cut - 1]] for cut in cuts])


def _following(places: NDArray[Any], start: int) -> int:
    """Return the first of some ascending places at or after `start`; far behind all of them if there is none."""
    index = int(np.searchsorted(places, start))
    return int(places[index]) if index < len(places) else 1 << 60
